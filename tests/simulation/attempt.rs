//! Many cases on all cores; one that fails is made small and kept.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidegate_engine::expression::Expressions;

use crate::case::Case;
use crate::life::{self, Told, Totals};

/// Cases tried while one that failed is made smaller.
const TRIES_MAX: usize = 400;

/// Runs a case; a panic is a failure like any other.
pub(crate) fn attempt(case: &Case, expressions: &Arc<dyn Expressions>) -> Result<Told, String> {
    let run = std::panic::catch_unwind(AssertUnwindSafe(|| life::run(case, expressions)));
    run.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panics: {}", text.unwrap_or_default()))
    })
}

/// Runs a case twice: the same choices make the same steps.
pub(crate) fn attempt_twice(case: &Case, expressions: &Arc<dyn Expressions>) -> Result<Told, String> {
    let first = attempt(case, expressions)?;
    let second = attempt(case, expressions)?;
    let differ = first.trace.iter().zip(&second.trace).position(|(a, b)| a != b);
    match differ {
        None if first.trace.len() == second.trace.len() => Ok(first),
        at => Err(format!("repeats: it did not, from step {at:?} of {} on", first.trace.len())),
    }
}

/// Runs cases on as many threads as there are cores, every twentieth one twice.
/// Answers what they came to, or the first one that failed.
pub(crate) fn all(
    cases: &(dyn Fn(u64) -> Option<Case> + Sync),
    expressions: &Arc<dyn Expressions>,
) -> Result<Totals, (Case, String)> {
    let (next, failed, totals) = (AtomicU64::new(0), Mutex::new(None), Mutex::new(Totals::default()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases(number) else { return };
            let told = if number % 20 == 0 {
                attempt_twice(&case, expressions)
            } else {
                attempt(&case, expressions)
            };
            match told {
                Ok(told) => totals.lock().expect("no panic").add(&told.totals),
                Err(what) => {
                    next.store(u64::MAX / 2, Ordering::Relaxed);
                    failed.lock().expect("no panic").get_or_insert((case, what));
                    return;
                }
            }
        }
    };
    on_all_cores(&work);
    let failed = failed.into_inner().expect("no panic");
    failed.map_or_else(|| Ok(totals.into_inner().expect("no panic")), Err)
}

/// The same work on every core.
pub(crate) fn on_all_cores(work: &(dyn Fn() + Sync)) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

/// The smallest case near this one that still fails, and how.
pub(crate) fn shrink(mut case: Case, mut what: String, expressions: &Arc<dyn Expressions>) -> (Case, String) {
    let mut tries = 0;
    'smaller: loop {
        for smaller in case.smaller() {
            tries += 1;
            if tries > TRIES_MAX {
                return (case, what);
            }
            if let Err(now) = attempt(&smaller, expressions) {
                (case, what) = (smaller, now);
                continue 'smaller;
            }
        }
        return (case, what);
    }
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/simulation/failed.txt")
}

/// Cases that failed once: they are run first, for ever.
pub(crate) fn failed_once() -> Vec<Case> {
    let text = std::fs::read_to_string(file()).expect("tests/simulation/failed.txt");
    let cases = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    cases.filter(|line| !line.is_empty()).map(|line| line.parse().expect("a case")).collect()
}

/// Keeps a case that failed, with how.
pub(crate) fn keep(case: &Case, what: &str) {
    let first = what.lines().next().unwrap_or_default();
    let mut file =
        std::fs::OpenOptions::new().append(true).open(file()).expect("tests/simulation/failed.txt");
    writeln!(file, "{case}  # {first}").expect("room for a line");
}
