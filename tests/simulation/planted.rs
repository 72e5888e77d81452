//! A simulator that finds nothing proves nothing: each bug, planted in the real
//! code, must be noticed within so many seeds.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tidegate_engine::expression::Expressions;
use tidegate_engine::testing::planted::{Bug, plant};

use crate::attempt::{attempt, on_all_cores};
use crate::case::Case;

/// Seeds within which a bug must be noticed.
const SEEDS_MAX: u64 = 200;

/// Bugs that so many seeds have not been seen to notice yet: planted by name only.
const NOT_YET: &[Bug] = &[
    Bug::TornEndKept,
    Bug::TrimmedToNewest,
    Bug::SourceCommittedBeforeManifest,
    Bug::BarrierNotAligned,
    Bug::BarrierOvertaken,
    Bug::WatermarkBack,
    Bug::OutcomeForgotten,
    Bug::OpenWriteForgotten,
    Bug::DeadlineIgnored,
];

/// How a bug was noticed.
struct Noticed {
    bug: Bug,
    /// The seed and the broken promise; `None` if nobody noticed.
    by: Option<(u64, String)>,
}

impl fmt::Display for Noticed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match &self.by {
            Some((seed, by)) => format!("{:>3} seeds, by {by}", seed + 1),
            None => "NOT NOTICED".to_owned(),
        };
        write!(out, "{:<32} {by} ({})", format!("{:?}", self.bug), self.bug.what())
    }
}

/// Plants the bugs whose name holds this word; all must be noticed.
pub(crate) fn run(word: &str, expressions: &Arc<dyn Expressions>) {
    let started = Instant::now();
    let is_asked = |bug: &Bug| !word.is_empty() || !NOT_YET.contains(bug);
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| format!("{bug:?}").contains(word)).filter(is_asked).collect();
    let (next, noticed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    on_all_cores(&|| {
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            plant(Some(*bug));
            let by = (0..SEEDS_MAX).find_map(|seed| {
                let what = attempt(&Case::of(seed), expressions).err()?;
                Some((seed, what.split([':', '\n']).next().unwrap_or_default().to_owned()))
            });
            plant(None);
            let noted = Noticed { bug: *bug, by };
            println!("{noted}");
            noticed.lock().expect("no panic").push(noted);
        }
    });
    let noticed = noticed.into_inner().expect("no panic");
    let missed: Vec<Bug> =
        noticed.iter().filter(|noticed| noticed.by.is_none()).map(|noticed| noticed.bug).collect();
    let real = started.elapsed().as_secs_f64();
    assert!(missed.is_empty(), "not noticed within {SEEDS_MAX} seeds: {missed:?}");
    let seeds: u64 = noticed.iter().filter_map(|noticed| noticed.by.as_ref()).map(|(seed, _)| seed + 1).sum();
    println!("{} planted bugs, each noticed, after {seeds} seeds in {real:.0} s", noticed.len());
}
