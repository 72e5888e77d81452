//! The keys of `[flow.x]`, and those that every task has.

use crate::flow::admission::Overlap;
use crate::flow::run::OnFail;
use crate::topology::key::{Key, Kind, optional, required};

/// Keys of `[flow.x]`.
pub const FLOW_KEYS: &[Key] = &[
    optional("params", Kind::Map(&Kind::Text), "what a trigger must `give`: names and types"),
    optional("timeout", Kind::Duration, "the run is ended after this time; no limit if left out"),
    optional(
        "one_per",
        Kind::Expression,
        "one run at a time for each value of this expression over the parameters; \"topology\": one in all",
    ),
    optional(
        "overlap",
        Kind::Word(Overlap::WORDS),
        "what a firing does while a run is open; \"skip\" with `one_per`, else \"allow\"",
    ),
    optional(
        "mode",
        Kind::Word(MODES),
        "whether devices are written: \"dry-run\" if left out; `http`, tickets and mail run in every mode",
    ),
    optional(
        "max_age",
        Kind::Duration,
        "an armed run that writes devices does not start when its firing is older, \"1m\" if left out",
    ),
    required("task", Kind::List(&Kind::Any), "what is done, in this order"),
    optional("finally", Kind::List(&Kind::Any), "done at the end, however the run ended"),
];

/// The words of `mode`.
const MODES: &[&str] = &["dry-run", "shadow", "armed"];

/// Keys that every task has.
pub const TASK_KEYS: &[Key] = &[
    required("id", Kind::Text, "the task's name: later tasks see its result under it"),
    required("type", Kind::Text, "which kind of task"),
    optional(
        "after",
        Kind::List(&Kind::Text),
        "the tasks it waits for; the one above if left out, none with []",
    ),
    optional("if", Kind::Expression, "a condition; the task is skipped unless it is true"),
    optional("run", Kind::Word(&["always"]), "\"always\": even if every task before it was skipped"),
    optional("timeout", Kind::Duration, "longest time of one attempt, \"60s\" if left out"),
    optional("retry", Kind::Table(RETRY_KEYS), "how failed attempts are repeated; three times if left out"),
    optional(
        "on_fail",
        Kind::Word(OnFail::WORDS),
        "what happens when attempts run out, \"pause\" for a person if left out",
    ),
];

/// Keys of `retry`.
pub const RETRY_KEYS: &[Key] = &[
    optional("times", Kind::Int(0, 1_000), "attempts after the first one, 3 if left out"),
    optional(
        "wait",
        Kind::List(&Kind::Duration),
        "wait before each of them, the last one for all further ones; \"1s\" if left out",
    ),
    optional("factor", Kind::Number, "each further wait is so many times longer; 2 without `wait`, else 1"),
    optional("max_wait", Kind::Duration, "longest wait, \"5m\" if left out"),
    optional("jitter", Kind::Number, "part of a wait that is left to chance, 0 to 1; 0.1 if left out"),
    optional("on", Kind::List(&Kind::Text), "only these classes of errors, e.g. [\"network\", \"5xx\"]"),
    optional("never", Kind::List(&Kind::Text), "not these classes of errors"),
];
