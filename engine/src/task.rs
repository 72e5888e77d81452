//! The contract of a flow's task: one act on the outside, retried, timed out
//! and journalled by the flow engine.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::error::TaskError;
use crate::expression::{Expression, Scope};
use crate::schema::StreamSchema;
use crate::table::NamedTable;
use crate::time::{Clock, Time};

/// Most bytes of a task's result.
pub const RESULT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One act. Must be safe to call again with the same idempotency key.
#[async_trait]
pub trait Task: Send + Sync {
    /// Does it.
    ///
    /// # Errors
    /// Says whether to try again, give up, or ask a person.
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError>;

    /// Goes on after a `TaskStep::Wait` has ended, with the data it left.
    ///
    /// # Errors
    /// As `start`.
    async fn resume(&self, _context: &TaskContext, _data: &[u8]) -> Result<TaskStep, TaskError> {
        Ok(TaskStep::Done(Vec::new()))
    }

    /// What a repeat after a crash needs: `Effect::Pure` and `Effect::Keyed`
    /// are simply started again.
    fn effect(&self) -> Effect;
}

/// What an attempt came to.
#[derive(Debug)]
pub enum TaskStep {
    /// Finished, with the rows that later tasks see under this task's id.
    Done(Vec<RecordBatch>),
    /// Not finished: the journal keeps `data` and `resume` is called when the
    /// wait is over, even by another process.
    Wait(WaitFor, Vec<u8>),
}

/// What a waiting task waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// This instant of the wall clock.
    Until(Time),
}

/// What happens on the outside if a task is started twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Pure,
    /// The peer can tell by the idempotency key that it is a repeat.
    Keyed,
    /// A device is set to an absolute value that can be read back: journalled
    /// INTENT, write, read-back, DONE.
    Device,
}

/// What a task may use.
#[derive(Clone)]
pub struct TaskContext {
    /// One row with the columns of the task's `Scope`: parameters, `run.id`,
    /// `run.fired_at`, and the first row of each earlier task's result.
    pub values: RecordBatch,
    /// The rows that fired the trigger.
    pub trigger_rows: Vec<RecordBatch>,
    /// Results of the tasks that came before, by task id.
    pub results: Vec<(String, Vec<RecordBatch>)>,
    /// The run.
    pub run_id: String,
    /// The flow's name.
    pub flow: String,
    /// This task's id.
    pub task_id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The same for every attempt of this task of this run, and for no other.
    pub idempotency_key: String,
    /// When the trigger fired (wall clock of the journal).
    pub fired_at: Time,
    /// When this attempt must have ended.
    pub deadline: Time,
    /// Whether devices are really written.
    pub mode: Mode,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where effects and tickets are made durable.
    pub ledger: Arc<dyn EffectLedger>,
}

/// Whether device writes happen, the most careful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing is sent; the journal says what would have been.
    DryRun,
    /// As `DryRun`; written beside a live controller to compare.
    Shadow,
    /// Writes are sent.
    Armed,
}

/// The part of the journal that a task may write: durable when it returns.
#[async_trait]
pub trait EffectLedger: Send + Sync {
    /// Records that a device write is about to be sent. Must be durable before
    /// the first byte leaves. Answers an instant, and records nothing, if
    /// another key wrote the point less than `every_min` ago or is writing it
    /// now: not before that instant.
    ///
    /// # Errors
    /// The write must not be sent.
    async fn intent(
        &self,
        key: &str,
        intent: &WriteIntent,
        every_min: Duration,
    ) -> Result<Option<Time>, TaskError>;

    /// The device writes recorded with this key, oldest first; one without an
    /// outcome may have happened.
    ///
    /// # Errors
    /// The journal cannot be read.
    async fn writes(&self, key: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError>;

    /// Records how the device writes with this key that have no outcome ended.
    ///
    /// # Errors
    /// The journal cannot be written.
    async fn outcome(&self, key: &str, outcome: &WriteOutcome) -> Result<(), TaskError>;

    /// Records a device write that was decided without sending anything:
    /// refused by a limit, or skipped by the mode.
    ///
    /// # Errors
    /// The journal cannot be written.
    async fn not_sent(
        &self,
        key: &str,
        intent: &WriteIntent,
        outcome: &WriteOutcome,
    ) -> Result<(), TaskError>;

    /// Opens a ticket (one per idempotency key) and answers its number.
    ///
    /// # Errors
    /// The journal cannot be written.
    async fn open_ticket(&self, key: &str, ticket: &Ticket) -> Result<i64, TaskError>;

    /// Publishes a row to the readers of `emit = NAME` and to the alert log.
    ///
    /// # Errors
    /// The journal cannot be written.
    async fn notify(&self, key: &str, notice: &Notice) -> Result<(), TaskError>;
}

/// A device write that is about to be sent.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WriteIntent {
    /// The point, e.g. `tcp://plc:502/1/holding:40`.
    pub target: String,
    /// The value to be written, as text that reads back.
    pub value: String,
    /// The value the device had before, read just before.
    pub before: String,
    /// Never sent after this instant.
    pub deadline: i64,
}

/// How a device write ended.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum WriteOutcome {
    /// Written, and read back as written.
    Done {
        /// The value read back.
        read_back: String,
    },
    /// Not sent, or refused by the device before any effect.
    Refused {
        /// Why.
        reason: String,
    },
    /// Nobody can tell: a person decides.
    Unknown {
        /// Why.
        reason: String,
    },
    /// Not sent because the mode is not `armed`.
    Skipped {
        /// `dry-run` or `shadow`.
        mode: String,
    },
}

/// A ticket for a person.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Ticket {
    /// One line.
    pub title: String,
    /// `low`, `medium`, `high` or `critical`.
    pub severity: String,
    /// More text; may be empty.
    pub body: String,
}

/// Something that people or other parts should hear of.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// `alert`, or the name of an `emit`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened.
    pub text: String,
}

/// One line of the daemon's `[writes]`: a point that flows may write.
#[derive(Clone, Debug)]
pub struct WriteRule {
    /// The point, as `WriteIntent::target`.
    pub target: String,
    /// Smallest value allowed.
    pub min: f64,
    /// Largest value allowed.
    pub max: f64,
    /// Shortest time between two writes.
    pub every_min: Duration,
}

/// A task, built and not yet run.
pub struct TaskPart {
    /// The task.
    pub task: Box<dyn Task>,
    /// Columns of its result, seen by later tasks under this task's id.
    pub result: StreamSchema,
}

/// What a task's build function knows of its flow.
#[derive(Clone, Debug)]
pub struct TaskScope {
    /// Columns that templates and expressions may name: parameters,
    /// `run.id`, `run.fired_at`, `other_task.column`.
    pub values: Scope,
    /// The rows that fired the trigger, as the SQL table `trigger`.
    pub trigger: Option<StreamSchema>,
    /// Earlier tasks' results, as SQL tables of that name.
    pub results: Vec<(String, StreamSchema)>,
    /// The topology's tables, as SQL tables of their names.
    pub tables: Vec<NamedTable>,
}

/// A column and what computes it, for `give = { name = "expr" }`.
pub type Given = (String, Arc<dyn Expression>);
