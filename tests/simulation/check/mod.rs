//! The invariants, after the calm. Each has a name, and each failure begins
//! with it.

pub(crate) mod effects;
pub(crate) mod runs;
mod streams;
mod triggers;
mod windows;

use std::collections::BTreeMap;

use crate::case::Case;
use crate::scenario::Scenario;
use crate::world::World;

/// Counts of equal things.
pub(crate) type Bag = BTreeMap<String, i64>;

fn bag(rows: &[String]) -> Bag {
    let mut bag = Bag::new();
    for row in rows {
        *bag.entry(row.clone()).or_default() += 1;
    }
    bag
}

/// What two bags differ in, a few examples of it.
fn differences(expected: &Bag, found: &Bag) -> Option<String> {
    let of = |a: &Bag, b: &Bag| -> Vec<String> {
        a.iter().filter(|(text, n)| b.get(*text) != Some(n)).map(|(text, _)| text.clone()).take(3).collect()
    };
    let (missing, wrong) = (of(expected, found), of(found, expected));
    (expected != found).then(|| format!("missing {missing:?}, wrong {wrong:?}"))
}

/// What a name stands for.
type Check = fn(&Scenario, &World) -> Result<(), String>;

/// Of streams.
const STREAMS: &[(&str, Check)] = &[
    ("nothing_stays_prepared", streams::nothing_stays_prepared),
    ("nothing_acknowledged_is_lost", streams::nothing_acknowledged_is_lost),
    ("outputs_are_exact", streams::outputs_are_exact),
    ("rows_balance", streams::rows_balance),
    ("each_window_once", windows::each_window_once),
    ("windows_equal_a_recomputation", windows::windows_equal_a_recomputation),
    ("no_timer_storm", streams::no_timer_storm),
];

/// Of triggers, flows and devices.
const FLOWS: &[(&str, Check)] = &[
    ("nothing_starts_twice", runs::nothing_starts_twice),
    ("timers_fire_once_and_not_early", triggers::firings_equal_a_recomputation),
    ("every_run_has_one_final_state", runs::every_run_has_one_final_state),
    ("runs_of_a_group_do_not_overlap", runs::runs_of_a_group_do_not_overlap),
    ("no_run_begins_too_late", runs::no_run_begins_too_late),
    ("waits_are_waited", runs::waits_are_waited),
    ("succeeded_runs_have_told", runs::succeeded_runs_have_told),
    ("effects_at_most_once", effects::at_most_once),
    ("no_effect_after_its_deadline", effects::in_time),
    ("no_effect_outside_its_limits", effects::within_limits),
    ("every_write_is_settled", effects::settled),
    ("outcomes_are_true", effects::outcomes_are_true),
];

/// Everything that must hold.
pub(crate) fn all(case: &Case, scenario: &Scenario, world: &World) -> Result<(), String> {
    nothing_was_broken(world)?;
    let flows = scenario.flow.as_ref().map_or(&[][..], |_| FLOWS);
    for (name, check) in STREAMS.iter().chain(flows) {
        check(scenario, world).map_err(|what| format!("{name}: {what} ({case})"))?;
    }
    Ok(())
}

/// What was seen while it ran: `probe` watches `watermarks_never_go_back`, sinks
/// watch `goes_on_from_the_newest_whole_checkpoint`.
fn nothing_was_broken(world: &World) -> Result<(), String> {
    world.lock().broken.first().map_or(Ok(()), |broken| Err(broken.clone()))
}

/// What must hold although the topology refuses to go on: what is out is right.
pub(crate) fn refused(scenario: &Scenario, world: &World) -> Result<(), String> {
    nothing_was_broken(world)?;
    streams::nothing_is_there_twice(scenario, world)?;
    windows::each_window_once(scenario, world)
}
