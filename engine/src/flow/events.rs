//! What happens in flows, told as it happens to whoever listens: the screen,
//! the log, a test. It must never slow a run: a listener that is too slow
//! misses lines and hears how many.

use std::fmt;

use tokio::sync::broadcast;

use super::key::run_id_text;
use super::state::{Outcome, RunState, TaskState};
use crate::task::{Notice, WriteOutcome};
use crate::time::Time;

/// Lines kept for a slow listener.
const EVENTS_MAX: usize = 4_096;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowEvent {
    /// When (wall clock).
    pub at: Time,
    /// The topology.
    pub topology: String,
    /// The flow.
    pub flow: String,
    /// The run, once there is one.
    pub run: Option<i64>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A trigger has fired and the firing is durable.
    Firing {
        /// The trigger.
        trigger: String,
        /// Its key.
        key: String,
        /// What became of it.
        outcome: Outcome,
        /// Why, where nothing started.
        reason: String,
    },
    /// A run begins, or goes on after a restart.
    RunStarted {
        /// Whether it had begun before a restart.
        again: bool,
    },
    /// An attempt begins.
    TaskStarted {
        /// The task.
        task: String,
        /// From 1.
        attempt: u32,
    },
    /// A task's state has changed.
    Task {
        /// The task.
        task: String,
        /// Where it stands now.
        state: TaskState,
        /// Why, for a person.
        reason: String,
    },
    /// A ticket was opened.
    Ticket {
        /// Its number.
        number: i64,
        /// Its severity.
        severity: String,
        /// Its title.
        title: String,
    },
    /// An alert, or an `emit`.
    Notice(Notice),
    /// A device write has ended.
    Write {
        /// The point.
        target: String,
        /// The value before; empty if it was not read.
        before: String,
        /// The value to be written.
        value: String,
        /// How.
        outcome: WriteOutcome,
    },
    /// A run waits, pauses or has ended.
    Run {
        /// Where it stands now.
        state: RunState,
        /// Why, for a person.
        reason: String,
    },
}

impl fmt::Display for FlowEvent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.flow)?;
        if let Some(run) = self.run {
            write!(out, " {}", run_id_text(run))?;
        }
        write!(out, ": {}", self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Firing { trigger, key, outcome, reason } => {
                let of = if key.is_empty() { String::new() } else { format!(" for {key}") };
                write!(out, "trigger {trigger} fired{of}: {outcome}{}", because(reason))
            }
            What::RunStarted { again: false } => write!(out, "run starts"),
            What::RunStarted { again: true } => write!(out, "run goes on after a restart"),
            What::TaskStarted { task, attempt: 1 } => write!(out, "task {task} starts"),
            What::TaskStarted { task, attempt } => write!(out, "task {task} starts, attempt {attempt}"),
            What::Task { task, state, reason } => write!(out, "task {task} {state}{}", because(reason)),
            What::Ticket { number, severity, title } => write!(out, "ticket {number} ({severity}): {title}"),
            What::Notice(notice) => write!(out, "{} ({}): {}", notice.kind, notice.severity, notice.text),
            What::Write { target, before, value, outcome } => {
                let from = if before.is_empty() { "?" } else { before.as_str() };
                write!(out, "{target}: {from} → {value}, ")?;
                match outcome {
                    WriteOutcome::Done { read_back } => write!(out, "written, read back {read_back}"),
                    WriteOutcome::Refused { reason } => write!(out, "not written: {reason}"),
                    WriteOutcome::Unknown { reason } => write!(out, "nobody knows whether written: {reason}"),
                    WriteOutcome::Skipped { mode } => write!(out, "not written, mode is {mode}"),
                }
            }
            What::Run { state, reason } => write!(out, "run {state}{}", because(reason)),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

/// Where events are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowEvents(broadcast::Sender<FlowEvent>);

impl Default for FlowEvents {
    fn default() -> FlowEvents {
        FlowEvents(broadcast::Sender::new(EVENTS_MAX))
    }
}

impl FlowEvents {
    /// Hears everything from now on; `Lagged(n)` says that n lines were missed.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<FlowEvent> {
        self.0.subscribe()
    }

    /// Tells whoever listens.
    pub fn say(&self, event: FlowEvent) {
        tracing::debug!(topology = %event.topology, "{event}");
        // Nobody listening is fine.
        drop(self.0.send(event));
    }
}
