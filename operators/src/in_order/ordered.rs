//! The core of an operator that judges rows in event-time order.

use arrow::array::{ArrayRef, RecordBatch};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;

use super::{Share, shape};

/// What an operator does with rows that come in event-time order.
pub(crate) trait Ordered: Send {
    /// Rows that event time has reached: sorted by time, equal times in order of
    /// arrival. Rows behind the watermark come in order of arrival; unless
    /// `late_before` says otherwise, none is older than the newest of its key.
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError>;

    /// Event time has come to `now_us`, and every row up to it has been handed
    /// over; more rows at `now_us` itself may come. What falls due at an instant
    /// does so before rows of that instant, so that the cut of batches does not
    /// matter: `on_rows` looks for it too.
    fn on_time(&mut self, _now_us: i64, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    /// All rows have been handed over, and no more will come in this run.
    fn on_end(&mut self, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    /// `None`: a row is late if it is older than the newest one judged of its
    /// key, so that a device whose clock is behind is judged by its own time.
    /// `Some`: every row older than this is late and no other, for cores that
    /// act when time passes, or to whom the order within a bound is the same.
    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        None
    }

    /// The watermark that readers may be told when the input's is `input_us`:
    /// earlier where rows older than that may still be emitted.
    fn output_watermark(&self, input_us: i64) -> i64 {
        input_us
    }

    /// As `Operator::reads`; key, time and expressions are added.
    fn reads(&self) -> Option<Vec<usize>> {
        None
    }

    /// The key is gone, its number will be that of another one: what is owed to
    /// it leaves now.
    fn forget(&mut self, _key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        Ok(())
    }

    /// The state, whole. These keys are the ones that are known; after a restore
    /// each has the number of its place in this list.
    fn save(&mut self, _keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        Ok(Vec::new())
    }

    /// Whether all of the state is rows of keys, and a key's rows change with its
    /// rows alone, not as time passes. Then a large state is told in changes, and
    /// each batch of `save` has a first column `key` (uint32, ascending): the
    /// place of a row's key in that list.
    fn is_by_key(&self) -> bool {
        false
    }

    /// What the batches of `save` hold, in their order, the last one for all behind
    /// it; `None` if keys have something in common that copies cannot share.
    fn shares(&self) -> Option<&'static [Share]> {
        self.is_by_key().then_some(&[Share::Keyed(0)])
    }

    /// Whether nothing is kept of a key that would not be the same anew.
    fn is_spent(&self, _key: u32) -> bool {
        false
    }

    /// As `Operator::state_bytes`, beside the keys and the rows that wait.
    fn bytes(&self) -> usize {
        0
    }

    /// Takes back what `save` gave.
    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        if state.is_empty() { Ok(()) } else { Err(shape()) }
    }
}

/// Rows as a core gets them; all parts are of one length.
pub(crate) struct Rows<'a> {
    /// The columns of the input.
    pub(crate) batch: &'a RecordBatch,
    /// What the core's expressions give, in their order.
    pub(crate) values: &'a [ArrayRef],
    /// Event times in microseconds.
    pub(crate) times: &'a [i64],
    /// Numbers of the rows' keys: small, given again when a key is forgotten.
    pub(crate) keys: &'a [u32],
}

impl Rows<'_> {
    /// Time and key of each row, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i64, u32)> + '_ {
        self.times.iter().copied().zip(self.keys.iter().copied())
    }
}
