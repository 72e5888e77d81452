//! The contract of an operator: a synchronous function with memory. It has no
//! clock, no channel and no way to wait, so it can be tested as a function.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::error::OperatorError;
use crate::lookup::LookupPlan;
use crate::partition::Partition;
use crate::schema::StreamSchema;
use crate::time::Time;

/// Turns rows into rows. State lives in ordinary fields.
///
/// The runtime forwards watermarks, barriers and ends by itself; an operator
/// cannot forget them. All methods are called from one thread at a time.
pub trait Operator: Send {
    /// Rows of the input with this index (the order of `from`).
    ///
    /// # Errors
    /// The topology fails. A bad row is no error: emit it to the port `rejects`.
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError>;

    /// Event time has come to `time` on all inputs: no row before it will come.
    /// Called with growing times only.
    ///
    /// # Errors
    /// The topology fails.
    fn on_watermark(&mut self, _time: Time, _out: &mut Output) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// All inputs have ended; called once, after a last `on_watermark`.
    ///
    /// # Errors
    /// The topology fails.
    fn on_end(&mut self, _out: &mut Output) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// Goes on where a method answered `Progress::More`; what was emitted so
    /// far has been sent.
    ///
    /// # Errors
    /// The topology fails.
    fn resume(&mut self, _out: &mut Output) -> Result<Progress, OperatorError> {
        Ok(Progress::Done)
    }

    /// The watermark this operator can promise its readers when its inputs
    /// promise `input`: the same, or earlier while it holds rows back.
    fn output_watermark(&self, input: Time) -> Time {
        input
    }

    /// Whether it holds rows back that no watermark lets go, since they wait for a
    /// table: readers do not hear that the inputs are idle before those have left.
    fn waits(&self) -> bool {
        false
    }

    /// Whether rows of this input may come now. What comes on an input that must
    /// wait stays on its edge, except for rows before a barrier that other inputs
    /// have brought: a checkpoint must not wait for a table. Some input must be
    /// accepted. Asked where an input is a table.
    fn accepts(&self, _input: usize) -> bool {
        true
    }

    /// Columns of its inputs whose values it looks at itself, by index; `None`
    /// if it may look at any. Rows it only passes on, on a port of its input's
    /// shape, do not count: their readers are asked. Its state holds nothing of
    /// other columns: they may come and go while it is kept.
    fn reads(&self) -> Option<Vec<usize>> {
        None
    }

    /// What rows are looked up with, where that is all a node does: it is run by
    /// the runtime instead of this operator, since asking needs waiting.
    fn lookup(&mut self) -> Option<LookupPlan> {
        None
    }

    /// By what rows may be shared among copies of this operator; `None` if it
    /// must see all of them.
    fn partition(&self) -> Option<Partition> {
        None
    }

    /// The state as record batches; empty if there is none. Must not disturb
    /// the state: results are the same with and without snapshots.
    ///
    /// # Errors
    /// The checkpoint fails; the topology goes on.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        Ok(Vec::new())
    }

    /// What has changed since the last `snapshot`, `changes` or `restore`, for a
    /// state that is too large to be given whole each time; `None` asks for a
    /// whole one. Must not disturb the state.
    ///
    /// # Errors
    /// As `snapshot`.
    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        Ok(None)
    }

    /// How many bytes of memory the state takes, about: what grows with keys and
    /// rows counts. Asked often, so it must not look at every row.
    fn state_bytes(&self) -> usize {
        0
    }

    /// Makes one snapshot of a snapshot and the changes behind it, on any
    /// thread; an operator that answers `changes` has it.
    fn compaction(&self) -> Option<Compaction> {
        None
    }

    /// Takes the state of `snapshot` back, and of `changes` behind it in order,
    /// before any other call.
    ///
    /// # Errors
    /// The topology does not start. The default refuses anything non-empty, so
    /// that state cannot be lost in silence.
    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        if state.is_empty() {
            return Ok(());
        }
        Err(OperatorError::new("the checkpoint holds state, but this operator keeps none"))
    }
}

/// Makes one snapshot of a snapshot and the changes behind it.
pub type Compaction = Arc<dyn Fn(&[RecordBatch]) -> Result<Vec<RecordBatch>, OperatorError> + Send + Sync>;

/// Whether a method has finished its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Finished.
    Done,
    /// There is more to emit: call `resume` once the output has been sent.
    More,
}

/// What an operator emitted during one call, in order. Emitting never waits;
/// back-pressure is applied between calls.
#[derive(Debug, Default)]
pub struct Output {
    emitted: Vec<(usize, RecordBatch)>,
}

/// The port every operator has.
pub const MAIN_PORT: usize = 0;

impl Output {
    /// Sends rows to the main port. An empty batch is not sent.
    pub fn emit(&mut self, batch: RecordBatch) {
        self.emit_to(MAIN_PORT, batch);
    }

    /// Sends rows to the port with this index in `OperatorPart::ports`.
    pub fn emit_to(&mut self, port: usize, batch: RecordBatch) {
        if batch.num_rows() > 0 {
            self.emitted.push((port, batch));
        }
    }

    /// Takes what was emitted, as (port, rows), in order.
    pub fn drain(&mut self) -> impl Iterator<Item = (usize, RecordBatch)> + '_ {
        self.emitted.drain(..)
    }

    /// Whether nothing was emitted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.emitted.is_empty()
    }
}

/// A stream that leaves an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// `""` for the main port, else the word after the dot in `from = "x.late"`.
    pub name: String,
    /// Its rows.
    pub stream: StreamSchema,
}

/// A stream that enters an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The name in `from`, e.g. `press` or `load.late`.
    pub name: String,
    /// Its rows.
    pub stream: StreamSchema,
}

/// An operator, built and not yet running.
pub struct OperatorPart {
    /// The operator.
    pub operator: Box<dyn Operator>,
    /// Its output streams; the first is the main port, named `""`.
    pub ports: Vec<Port>,
}
