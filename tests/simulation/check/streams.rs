//! Rows in, rows out.

use std::collections::BTreeMap;

use crate::scenario::{Kind, Scenario};
use crate::world::{Row, START_US, State, World};

use super::bag;

/// A row as a sink has it.
fn text(row: &Row) -> String {
    format!("{} {} {}", row.number, row.key, row.time_us)
}

pub(super) fn published(state: &State, name: &str) -> Vec<String> {
    state.remotes.get(name).map(|remote| remote.published.clone()).unwrap_or_default()
}

/// Rows that may be lost because bytes of a log have changed: a record holds a
/// whole read. Its reader tells of a gap, but for the last record: there a
/// changed byte looks like an end that was torn off before anybody was told.
fn lost_max(state: &State, index: usize) -> usize {
    if index == 0 { 12 * state.damaged } else { 0 }
}

/// Nothing stays prepared for an epoch that will never come.
pub(super) fn nothing_stays_prepared(_: &Scenario, world: &World) -> Result<(), String> {
    for (name, remote) in &world.lock().remotes {
        let left: usize = remote.prepared.values().map(Vec::len).sum();
        if left > 0 {
            return Err(format!("{left} rows of {name} are prepared and not published"));
        }
    }
    Ok(())
}

/// What a peer was told we have, we have; and in the end it was told all.
pub(super) fn nothing_acknowledged_is_lost(scenario: &Scenario, world: &World) -> Result<(), String> {
    let state = world.lock();
    let raw = bag(&published(&state, "raw"));
    let peers = scenario.sources.iter().enumerate().filter(|(_, kind)| **kind != Kind::List);
    for (index, _) in peers {
        let outside = &state.sources[&format!("in{index}")];
        let kept = outside.rows[..outside.acknowledged].iter().filter(|row| scenario.keeps(row));
        let lost: Vec<&Row> = kept.filter(|row| !raw.contains_key(&text(row))).collect();
        if lost.len() > lost_max(&state, index) {
            return Err(format!("{} acknowledged rows are lost, {:?} …", lost.len(), lost.first()));
        }
        if outside.acknowledged != outside.rows.len() {
            return Err(format!("in{index}: {} of {} are", outside.acknowledged, outside.rows.len()));
        }
    }
    Ok(())
}

/// Every row is there, once where nobody sends it again.
pub(super) fn outputs_are_exact(scenario: &Scenario, world: &World) -> Result<(), String> {
    nothing_is_there_twice(scenario, world)?;
    let state = world.lock();
    let raw = bag(&published(&state, "raw"));
    for index in 0..scenario.sources.len() {
        let rows = &state.sources[&format!("in{index}")].rows;
        let lost = rows.iter().filter(|row| scenario.keeps(row) && !raw.contains_key(&text(row)));
        let lost: Vec<&Row> = lost.collect();
        if lost.len() > lost_max(&state, index) {
            return Err(format!("{} rows are lost, {:?} …", lost.len(), lost[0]));
        }
    }
    Ok(())
}

/// No row that nobody sent, none twice that came once.
pub(super) fn nothing_is_there_twice(scenario: &Scenario, world: &World) -> Result<(), String> {
    let state = world.lock();
    let mut sent = BTreeMap::new();
    // What is flushed for a peer's acknowledgement takes the rows of others along.
    let is_once = scenario.exact && !scenario.sources.contains(&Kind::Quick);
    for (index, kind) in scenario.sources.iter().enumerate() {
        let rows = state.sources[&format!("in{index}")].rows.iter().filter(|row| scenario.keeps(row));
        sent.extend(rows.map(|row| (text(row), *kind)));
    }
    for (row, times) in bag(&published(&state, "raw")) {
        match sent.get(&row) {
            None => return Err(format!("row {row} came that nobody sent")),
            Some(Kind::List) if times > 1 && is_once => return Err(format!("row {row} came {times} times")),
            Some(_) => {}
        }
    }
    Ok(())
}

/// Input = output + late + rejects + filtered: what sinks saw of the rows is
/// what windows counted and what was late, and nothing else was rejected.
pub(super) fn rows_balance(scenario: &Scenario, world: &World) -> Result<(), String> {
    let state = world.lock();
    for index in 0..scenario.sources.len() {
        let rejects = published(&state, &format!("rejects{index}"));
        if let Some(row) = rejects.iter().find(|row| !row.contains("gap:_records") || state.damaged == 0) {
            return Err(format!("a row of in{index} is rejected: {row}"));
        }
    }
    // Hopping windows count a row several times; what is written twice is counted twice.
    if scenario.window.size != scenario.window.slide
        || !scenario.exact
        || scenario.sources.contains(&Kind::Quick)
    {
        return Ok(());
    }
    let seen = published(&state, "raw").len() as i64;
    let late = published(&state, "late").len() as i64;
    let rows = |window: &String| window.split(' ').nth(3).and_then(|rows| rows.parse::<i64>().ok());
    let counted: i64 = published(&state, "windows").iter().filter_map(rows).sum();
    if seen != counted + late {
        return Err(format!("{seen} rows in, {counted} in windows, {late} late"));
    }
    Ok(())
}

/// A clock that is set makes nothing happen all at once: epochs keep their
/// distance.
pub(super) fn no_timer_storm(scenario: &Scenario, world: &World) -> Result<(), String> {
    // Who waits for its acknowledgement has epochs between.
    if scenario.sources.contains(&Kind::Quick) {
        return Ok(());
    }
    let passed_us = world.true_us() - START_US;
    let epochs = passed_us as u64 / (scenario.interval_ms * 1_000) + 3 * (scenario.lives.len() as u64 + 1);
    let markers = world.lock().remotes.values().map(|remote| remote.marker).max().unwrap_or(0);
    if markers > epochs {
        return Err(format!("{markers} epochs in {} s", passed_us / 1_000_000));
    }
    Ok(())
}
