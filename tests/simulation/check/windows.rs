//! Windows against a recomputation row by row.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::{Kind, Scenario, Window};
use crate::source::DISORDER;
use crate::world::World;

use super::streams::published;
use super::{Bag, bag, differences};

/// Each window of a key once. Rows that were acknowledged between checkpoints
/// are not in the windows of a checkpoint: those may come twice.
pub(super) fn each_window_once(scenario: &Scenario, world: &World) -> Result<(), String> {
    if !scenario.exact || scenario.sources.contains(&Kind::Quick) {
        return Ok(());
    }
    let mut seen = BTreeSet::new();
    for window in published(&world.lock(), "windows") {
        let name: Vec<&str> = window.split(' ').take(3).collect();
        if !seen.insert(name.join(" ")) {
            return Err(format!("window {window} came again"));
        }
    }
    Ok(())
}

/// Where nothing depends on the schedule, windows and late rows are those of a
/// recomputation; written again, they are the same again.
pub(super) fn windows_equal_a_recomputation(scenario: &Scenario, world: &World) -> Result<(), String> {
    if !scenario.is_determined() {
        return Ok(());
    }
    let state = world.lock();
    let (windows, late) = recompute(scenario, &state.sources["in0"].rows);
    for (what, expected, name) in [("windows", windows, "windows"), ("late rows", late, "late")] {
        let mut found = bag(&published(&state, name));
        if !scenario.exact {
            found.values_mut().for_each(|times| *times = 1);
        }
        if let Some(differ) = differences(&expected, &found) {
            return Err(format!("{what} differ: {differ}"));
        }
    }
    Ok(())
}

/// The windows, and the rows that are late for all of theirs.
fn recompute(scenario: &Scenario, rows: &[crate::world::Row]) -> (Bag, Bag) {
    let Window { size, slide, offset } = scenario.window;
    let mut sums: BTreeMap<(i64, &str), (i64, i64)> = BTreeMap::new();
    let (mut watermark, mut late) = (i64::MIN, Vec::new());
    for row in rows {
        let counts = scenario.keeps(row);
        let mut is_late = true;
        let mut start = (row.time_us - offset).div_euclid(slide) * slide + offset;
        while start > row.time_us - size {
            if start + size > watermark {
                is_late = false;
                if counts {
                    let sum = sums.entry((start, &row.key)).or_default();
                    *sum = (sum.0 + 1, sum.1 + row.number);
                }
            }
            start -= slide;
        }
        if is_late && counts {
            late.push(format!("{} {} {}", row.number, row.key, row.time_us));
        }
        watermark = watermark.max(row.time_us - DISORDER.as_micros() as i64);
    }
    let line = |((start, key), (rows, total)): ((i64, &str), (i64, i64))| {
        format!("{start} {} {key} {rows} {total}", start + size)
    };
    let windows: Vec<String> = sums.into_iter().map(line).collect();
    (bag(&windows), bag(&late))
}
