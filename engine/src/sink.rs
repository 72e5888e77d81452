//! The contract of a sink: where rows go out. Back-off, reopening, dead
//! letters and metrics belong to the driver.

use arrow::array::RecordBatch;
use async_trait::async_trait;

use crate::dead_letters::DeadLetters;
use crate::error::ConnectorError;

/// A life that goes on from a state that is older than what was delivered
/// leaves out so many epochs: one a second for 34 years.
pub const EPOCHS_IN_DOUBT: u64 = 1 << 30;

/// Writes rows to the outside.
#[async_trait]
pub trait Sink: Send {
    /// Connects. Called again after `Lost`; then every batch since the last
    /// successful `flush` is written again.
    ///
    /// # Errors
    /// `Lost`: back off and open again; `Fatal`: the topology fails.
    async fn open(&mut self) -> Result<(), ConnectorError>;

    /// Takes rows with the schema of its input; may keep them until `flush`.
    ///
    /// # Errors
    /// `Rejected`: these rows, and only these, were refused; the others of
    /// the batch were taken.
    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError>;

    /// After it returns, everything written so far survives a crash of ours.
    /// Called at each checkpoint's barrier with its epoch, and between two of
    /// them, when no more rows are waiting or a peer waits for their
    /// acknowledgement, with an epoch after the last one and not after the next
    /// one: several times for one epoch, never for one that a barrier has ended.
    ///
    /// # Errors
    /// As `write`; the rows of `Rejected` are counted over all batches written
    /// since the last `flush`, in order, and every other row has survived.
    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError>;

    /// The checkpoint of `epoch` is durable: publish what `flush(epoch)`
    /// and earlier ones prepared. Idempotent; called after the first `open`
    /// with the epoch that the topology goes on from (0 if it is new): what was
    /// prepared for a later epoch is to be forgotten, its rows come again.
    ///
    /// # Errors
    /// `Lost`: tried again.
    async fn commit(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// How rows get out.
    fn delivery(&self) -> Delivery {
        Delivery::AtLeastOnce
    }

    /// Whether a row replaces an earlier one of its key, so that results may be
    /// given several times.
    fn upserts(&self) -> bool {
        false
    }

    /// A person accepts that rows come twice: a remote side that is ahead of the
    /// state is no reason to stop. Epochs of this life are so far behind those of
    /// the state (`EPOCHS_IN_DOUBT`) that none of them is there already. Called
    /// before `open`.
    fn accept_duplicates(&mut self) {}

    /// Where rows go that are refused after `flush` has returned; called once,
    /// before `open`. What `write` and `flush` say was refused needs no help.
    fn set_dead_letters(&mut self, _dead: DeadLetters) {}

    /// What keeps committed rows from the outside now, if anything does: shown as
    /// the node's state. Asked after each `commit`.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Lets go of the peer in good order, after a last `flush` and `commit`.
    ///
    /// # Errors
    /// Logged; the topology stops all the same.
    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// What a sink promises, and where its rows wait for a peer that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A row may go out again after a crash. It waits in memory and holds its
    /// sources up, unless the node has a queue.
    AtLeastOnce,
    /// Each row once. It waits in a log of the sink's own.
    ExactlyOnce,
    /// Each row once, in files of this machine that are published with their
    /// checkpoint: there is nobody to wait for.
    Published,
    /// On this machine, at once; rows since the last checkpoint come again after
    /// a crash.
    Local,
}

/// A sink, built and not yet open.
pub struct SinkPart {
    /// The sink.
    pub sink: Box<dyn Sink>,
}
