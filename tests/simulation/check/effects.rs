//! Device writes: what the device did against what the journal says.

use std::collections::BTreeMap;

use crate::device::{Effect, LIMITS};
use crate::scenario::Scenario;
use crate::world::World;

use super::runs::{journal, lines};

/// A line of the journal about a write.
struct Line {
    key: String,
    value: f64,
    before: String,
    deadline_us: i64,
    recorded_us: i64,
    outcome: Option<String>,
    run_ended: bool,
}

fn writes(world: &World) -> Vec<Line> {
    let query = "SELECT key, value, before, deadline, writes.recorded_at, outcome, runs.ended_at IS NOT NULL
                 FROM writes LEFT JOIN runs ON runs.id = writes.run_id ORDER BY writes.id";
    lines(&journal(world), query, |row| {
        Ok(Line {
            key: row.get(0)?,
            value: row.get::<_, String>(1)?.parse().expect("a number"),
            before: row.get(2)?,
            deadline_us: row.get(3)?,
            recorded_us: row.get(4)?,
            outcome: row.get(5)?,
            run_ended: row.get(6)?,
        })
    })
}

/// Commands as the device had them: what it did late, or otherwise than it was
/// told, is not the daemon's doing.
fn effects(world: &World) -> Vec<Effect> {
    world.lock().device.effects.clone()
}

/// A key has one effect at most; another one only where the device itself undid
/// the first by a command that it executed late, so that it reads as before.
pub(super) fn at_most_once(_: &Scenario, world: &World) -> Result<(), String> {
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    let effects = effects(world);
    for (place, effect) in effects.iter().enumerate().filter(|(_, effect)| effect.is_plain()) {
        let Some(first) = done.insert(effect.key.clone(), place) else { continue };
        if effects[first..place].iter().all(Effect::is_plain) {
            return Err(format!("{} has two effects: {effects:?}", effect.key));
        }
    }
    Ok(())
}

/// Nothing is sent but after an intent, and before its deadline.
pub(super) fn in_time(scenario: &Scenario, world: &World) -> Result<(), String> {
    let has_jumps = scenario.lives.iter().any(|life| life.jump.is_some());
    let writes = writes(world);
    for effect in effects(world) {
        let fits = |line: &&Line| {
            // A clock that was set back says nothing about before and after.
            let intended = has_jumps || line.recorded_us <= effect.sent_us;
            line.key == effect.key && intended && effect.sent_us < line.deadline_us
        };
        if !writes.iter().any(|line| fits(&line)) {
            return Err(format!("{effect:?} has no intent that allows it"));
        }
    }
    Ok(())
}

pub(super) fn within_limits(_: &Scenario, world: &World) -> Result<(), String> {
    let is_outside = |effect: &Effect| !(LIMITS.0..=LIMITS.1).contains(&effect.wanted);
    match effects(world).iter().find(|effect| is_outside(effect)) {
        Some(effect) => Err(format!("{effect:?} is outside {LIMITS:?}")),
        None => Ok(()),
    }
}

/// When a run has ended its writes have an outcome, and of an unknown one
/// somebody was told.
pub(super) fn settled(_: &Scenario, world: &World) -> Result<(), String> {
    let tickets: Vec<String> = lines(&journal(world), "SELECT key FROM tickets", |row| row.get(0));
    for line in writes(world) {
        match &line.outcome {
            None if line.run_ended => return Err(format!("the write {} of an ended run is open", line.key)),
            Some(outcome) if outcome.starts_with("{\"Unknown") => {
                if !tickets.contains(&format!("{}/unknown", line.key)) {
                    return Err(format!("nobody was told of {}: {outcome}", line.key));
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

/// What is called done was done; of what is called refused nothing was done.
pub(super) fn outcomes_are_true(_: &Scenario, world: &World) -> Result<(), String> {
    let effects = effects(world);
    let mut by_key: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for line in writes(world) {
        by_key.entry(line.key.clone()).or_default().push(line);
    }
    for (key, lines) in by_key {
        let has =
            |word: &str| lines.iter().any(|line| line.outcome.as_ref().is_some_and(|o| o.contains(word)));
        let done = effects.iter().any(|effect| effect.key == key);
        // A value that somebody else has set is there, too.
        let is_there = lines.iter().any(|line| {
            line.before.parse() == Ok(line.value) || effects.iter().any(|effect| effect.value == line.value)
        });
        if has("Done") && !done && !is_there {
            return Err(format!("{key} is called done and was not"));
        }
        let only_refused =
            lines.iter().all(|line| line.outcome.as_ref().is_some_and(|o| o.contains("Refused")));
        if only_refused && effects.iter().any(|effect| effect.key == key && effect.is_plain()) {
            return Err(format!("{key} is called refused and was done"));
        }
    }
    Ok(())
}
