//! What a run hears, what it asks for, and where its tasks stand. Plain data.

use crate::flow::state::{Resolution, TaskState};
use crate::time::Time;

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEvent {
    /// It begins, or goes on after a restart.
    Begin,
    /// The `if` of a task was looked at.
    Decided(usize, Result<bool, String>),
    /// An attempt has succeeded.
    Done(usize),
    /// An attempt has ended, but the task goes on at a time.
    Suspended(usize, Time, Vec<u8>),
    /// An attempt has failed.
    Failed(usize, Failure),
    /// Time has passed: something may be due.
    Woke,
    /// A person, or a newer run, wants it to stop.
    Cancel(String),
    /// A person wants a paused run to try again.
    Retry,
    /// A person says what became of a task that nobody knows of.
    Resolved {
        /// The task's id.
        task: String,
        /// What became of it.
        resolution: Resolution,
        /// Who said so.
        who: String,
    },
}

/// How an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// `network`, `timeout`, `5xx` …
    pub class: String,
    /// What happened.
    pub message: String,
}

/// What may be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It may work later.
    Transient(Option<Time>),
    /// It took too long; it may work later.
    TimedOut,
    /// It will not work.
    Fatal,
    /// It may have had an effect.
    Unknown,
    /// It was aborted because the run closes.
    Aborted,
}

/// What the driver must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look at the `if` of this task and answer `Decided`.
    Decide(usize),
    /// Begin this attempt, or go on with it after a wait; answer `Done`,
    /// `Suspended` or `Failed`.
    Start {
        /// The task.
        task: usize,
        /// The attempt, from 1.
        attempt: u32,
        /// Data of the wait that has ended.
        resume: Option<Vec<u8>>,
    },
    /// End the attempt under way as soon as possible; answer as for `Start`.
    Abort(usize),
    /// This task's state has changed: keep it.
    Task(usize),
    /// The run's state has changed: keep it.
    Run,
}

/// Where a task of a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskCell {
    /// Where it stands.
    pub state: TaskState,
    /// The attempt under way or the last one; 0 before the first.
    pub attempt: u32,
    /// Failed attempts that count against `retry.times`.
    pub failures: u32,
    /// When it goes on by itself.
    pub wait_until: Option<Time>,
    /// What the resumed attempt gets.
    pub wait_data: Option<Vec<u8>>,
    /// Why, for a person.
    pub reason: String,
}

impl Default for TaskCell {
    fn default() -> TaskCell {
        TaskCell {
            state: TaskState::Waiting,
            attempt: 0,
            failures: 0,
            wait_until: None,
            wait_data: None,
            reason: String::new(),
        }
    }
}
