//! What the parts of a running topology say to its job, and the job to them.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::ledger::Report;
use crate::event::Barrier;

/// A part's word to the job.
#[derive(Debug)]
pub(super) struct FromPart {
    pub(super) part: Arc<str>,
    pub(super) word: Word,
}

/// What a part says.
#[derive(Debug)]
pub(super) enum Word {
    /// Its share of an epoch.
    Report(u64, Report),
    /// It has ended; this counts for all later epochs.
    Ended(Report),
    /// Rows have come whose acknowledgement the peer waits for.
    WantsCommit,
    /// It cannot go on: the topology fails, naming it.
    Failed(String),
}

/// A part's line to the job.
#[derive(Clone, Debug)]
pub(super) struct JobLine {
    pub(super) part: Arc<str>,
    pub(super) sender: mpsc::Sender<FromPart>,
}

impl JobLine {
    /// Tells the job. A job that is gone has nothing left to hear.
    pub(super) async fn say(&self, word: Word) {
        let gone = self.sender.send(FromPart { part: Arc::clone(&self.part), word }).await.is_err();
        if gone {
            tracing::debug!(node = %self.part, "the job is gone");
        }
    }
}

/// The job's word to a source or sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Report your position and send this barrier.
    Barrier(Barrier),
    /// Everything before this epoch's barrier is durable.
    Commit(u64),
    /// Rows before this epoch's barrier are durable in sinks, and in no checkpoint.
    Acknowledge(u64),
    /// End as if the outside had ended.
    Drain,
}

/// Commands that may wait for a part.
pub(super) const COMMANDS_MAX: usize = 16;
