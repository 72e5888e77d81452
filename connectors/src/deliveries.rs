//! What became of messages that a sink gave to a client which reports later: a
//! count of those without a report, the rows refused for good, the first
//! reason to start anew. Reports arrive on the client's side; the sink waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_engine::error::{ConnectorError, RejectedRow};
use tokio::sync::Notify;

/// Shared by a sink and its client's reports.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    open: AtomicUsize,
    ended: Mutex<Ended>,
    progress: Notify,
}

#[derive(Debug, Default)]
struct Ended {
    refused: Vec<RejectedRow>,
    lost: Option<String>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more message is on its way.
    pub(crate) fn sent(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// The client did not take it after all.
    pub(crate) fn unsent(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Messages without a report.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// A message arrived, or (`refused`) never will.
    pub(crate) fn done(&self, row: usize, refused: Option<String>) {
        if let Some(reason) = refused {
            self.lock().refused.push(RejectedRow { row, reason });
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.progress.notify_one();
    }

    /// A message may not have arrived: everything is to be written again.
    pub(crate) fn lose(&self, reason: String) {
        self.lock().lost.get_or_insert(reason);
        self.progress.notify_one();
    }

    /// Why everything is to be written again, if it is.
    pub(crate) fn lost(&self) -> Option<String> {
        self.lock().lost.clone()
    }

    /// Waits until some report came. A report between the caller's look and
    /// this call is not missed.
    pub(crate) async fn progress(&self) {
        self.progress.notified().await;
    }

    /// Waits until every message has its report.
    ///
    /// # Errors
    /// `Lost`; or `Rejected` with the rows refused since the last call, when
    /// all others have arrived.
    pub(crate) async fn settle(&self) -> Result<(), ConnectorError> {
        while self.open() > 0 && self.lost().is_none() {
            self.progress().await;
        }
        let mut ended = self.lock();
        if let Some(reason) = ended.lost.take() {
            return Err(ConnectorError::Lost(reason));
        }
        let mut refused = std::mem::take(&mut ended.refused);
        if refused.is_empty() {
            return Ok(());
        }
        refused.sort_by_key(|row| row.row);
        Err(ConnectorError::Rejected(refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn settles_when_all_are_reported_and_names_the_refused() {
        let deliveries = Deliveries::default();
        for _ in 0..3 {
            deliveries.sent();
        }
        deliveries.done(2, Some("too large".into()));
        deliveries.done(0, Some("not allowed".into()));
        assert_eq!(deliveries.open(), 1);
        deliveries.done(1, None);
        let Err(ConnectorError::Rejected(rows)) = deliveries.settle().await else {
            panic!("two were refused")
        };
        assert_eq!(rows.iter().map(|row| row.row).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(deliveries.settle().await, Ok(()), "told once");
    }

    #[tokio::test]
    async fn a_loss_ends_the_wait() {
        let deliveries = Deliveries::default();
        deliveries.sent();
        deliveries.lose("gone".into());
        assert_eq!(deliveries.settle().await, Err(ConnectorError::Lost("gone".into())));
    }
}
