//! Runs, as the journal has them after all.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};

use crate::scenario::{Does, Scenario};
use crate::world::World;

/// How late a run may begin although it was not too old a moment ago, in
/// microseconds.
const SLACK_US: i64 = 5_000_000;

pub(super) fn journal(world: &World) -> Connection {
    Connection::open(world.folder.journal()).expect("the journal")
}

pub(super) fn lines<T>(
    journal: &Connection,
    query: &str,
    make: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Vec<T> {
    let mut statement = journal.prepare(query).expect("a right query");
    let rows = statement.query_map(params![], make).expect("the tables");
    rows.map(|row| row.expect("a right row")).collect()
}

fn has_jumps(scenario: &Scenario) -> bool {
    scenario.lives.iter().any(|life| life.jump.is_some())
}

/// The final states that were ever seen: they never change.
#[derive(Default)]
pub(crate) struct Ended(BTreeMap<i64, String>);

impl Ended {
    /// Looks at the journal between two lives.
    pub(crate) fn look(&mut self, world: &World) -> Result<(), String> {
        if !world.folder.path().exists() {
            return Ok(());
        }
        let query = "SELECT id, state FROM runs WHERE ended_at IS NOT NULL";
        let now: BTreeMap<i64, String> =
            lines(&journal(world), query, |row| Ok((row.get(0)?, row.get(1)?))).into_iter().collect();
        for (id, state) in &self.0 {
            if now.get(id) != Some(state) {
                return Err(format!("every_run_has_one_final_state: {id} was {state}, is {:?}", now.get(id)));
            }
        }
        self.0 = now;
        Ok(())
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

/// A firing has one run at most, and a run one firing that started it.
pub(super) fn nothing_starts_twice(_: &Scenario, world: &World) -> Result<(), String> {
    let query = "SELECT count(*), count(DISTINCT run_key) FROM runs";
    let counts = lines(&journal(world), query, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    match counts[..] {
        [(runs, keys)] if runs == keys => {}
        _ => return Err(format!("runs and firings that started them: {counts:?}")),
    }
    let query = "SELECT count(*) FROM runs WHERE NOT EXISTS (
                     SELECT 1 FROM firings WHERE firings.run_key = runs.run_key AND firings.run_id = runs.id)";
    let orphans = lines(&journal(world), query, |row| row.get::<_, i64>(0));
    if orphans == [0] { Ok(()) } else { Err(format!("{orphans:?} runs have no firing")) }
}

/// Everything has ended, but for what a person must decide and nobody does.
pub(super) fn every_run_has_one_final_state(scenario: &Scenario, world: &World) -> Result<(), String> {
    let has_people = scenario.flow.as_ref().is_some_and(|flow| flow.has_people);
    let query = "SELECT id, state, reason FROM runs WHERE ended_at IS NULL";
    let open = lines(&journal(world), query, |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    });
    // What is held waits for a run that waits for a person.
    let waits = |state: &str| state == "paused" || state == "queued";
    match open.iter().find(|(_, state, _)| has_people || !waits(state)) {
        Some(run) => Err(format!("a run has not ended: {run:?}")),
        None => Ok(()),
    }
}

/// One run of a group at a time, where the flow says so.
pub(super) fn runs_of_a_group_do_not_overlap(scenario: &Scenario, world: &World) -> Result<(), String> {
    let allows = scenario.flow.as_ref().is_some_and(|flow| flow.overlap == "allow");
    if allows || has_jumps(scenario) {
        return Ok(());
    }
    let query = "SELECT group_key, started_at, ifnull(ended_at, 9223372036854775807) FROM runs
                 WHERE started_at IS NOT NULL AND ended_at IS NOT started_at ORDER BY group_key, started_at";
    let runs = lines(&journal(world), query, |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
    });
    for pair in runs.windows(2) {
        let [(group, _, ended), (next, started, _)] = pair else { continue };
        if group == next && started < ended {
            return Err(format!("of {group}: one ends at {ended}, the next begins at {started}"));
        }
    }
    Ok(())
}

/// Late writes are worse than none.
pub(super) fn no_run_begins_too_late(scenario: &Scenario, world: &World) -> Result<(), String> {
    let Some(flow) = scenario.flow.as_ref().filter(|flow| flow.writes() && !has_jumps(scenario)) else {
        return Ok(());
    };
    let query = "SELECT id, started_at - fired_at FROM runs WHERE started_at IS NOT NULL
                 AND reason NOT LIKE 'expired%' AND started_at IS NOT ended_at";
    let ages = lines(&journal(world), query, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    match ages.iter().find(|(_, age)| *age > flow.max_age_s * 1_000_000 + SLACK_US) {
        Some((id, age)) => Err(format!("run {id} began {} s after its firing", age / 1_000_000)),
        None => Ok(()),
    }
}

/// What waits for a time waits for it.
pub(super) fn waits_are_waited(scenario: &Scenario, world: &World) -> Result<(), String> {
    let Some(Does::WaitAndTell(seconds)) = scenario.flow.as_ref().map(|flow| flow.does) else {
        return Ok(());
    };
    if has_jumps(scenario) {
        return Ok(());
    }
    let query =
        "SELECT runs.id, notices.recorded_at - runs.started_at FROM notices JOIN runs ON runs.id = run_id";
    let waits = lines(&journal(world), query, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
    match waits.iter().find(|(_, waited)| *waited < seconds * 1_000_000) {
        Some((id, waited)) => Err(format!("run {id} waited {waited} us")),
        None => Ok(()),
    }
}

/// What a run was to tell stands in the journal.
pub(super) fn succeeded_runs_have_told(_: &Scenario, world: &World) -> Result<(), String> {
    let query = "SELECT id FROM runs WHERE state = 'succeeded'
                 AND NOT EXISTS (SELECT 1 FROM notices WHERE notices.run_id = runs.id)";
    let silent = lines(&journal(world), query, |row| row.get::<_, i64>(0));
    if silent.is_empty() { Ok(()) } else { Err(format!("runs {silent:?} have told nothing")) }
}
