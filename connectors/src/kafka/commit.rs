//! Commits of consumer offsets: asked for on the async side when rows are
//! durable, done on the consumer's thread. The newest request is the only one
//! that matters, so a slow broker piles nothing up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Committer, Position};
use tokio::time::Instant;

use super::position::Offsets;

/// The newest request, and how the last commit ended.
#[derive(Debug, Default)]
pub(super) struct CommitDesk {
    state: Mutex<State>,
    asked: Condvar,
    waiting: AtomicBool,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Offsets>,
    failure: Option<String>,
    failed_at: Option<Instant>,
}

/// Wait before a failed commit is made again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl CommitDesk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request; answers why the last commit failed, if it did.
    fn ask(&self, offsets: Offsets) -> Option<String> {
        let mut state = self.lock();
        state.asked = Some(offsets);
        self.waiting.store(true, Ordering::Release);
        self.asked.notify_one();
        state.failure.take()
    }

    /// The newest request, if there is one.
    pub(super) fn take(&self) -> Option<Offsets> {
        // Looked at once per round of reading: an atomic, not the lock.
        if !self.waiting.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.lock().asked.take()
    }

    /// Waits for a request, at most `wait`.
    pub(super) fn wait(&self, wait: Duration) -> Option<Offsets> {
        let state = self.lock();
        let none = |state: &mut State| state.asked.is_none();
        let (mut state, _) =
            self.asked.wait_timeout_while(state, wait, none).unwrap_or_else(PoisonError::into_inner);
        self.waiting.store(false, Ordering::Release);
        state.asked.take()
    }

    /// Says how a commit ended.
    pub(super) fn report(&self, failure: Option<String>) {
        let mut state = self.lock();
        state.failed_at = failure.is_some().then(Instant::now);
        state.failure = failure;
        self.failed.store(state.failed_at.is_some(), Ordering::Release);
    }

    /// Whether it is time to make a failed commit again; said once for each.
    pub(super) fn is_again(&self, now: Instant) -> bool {
        if !self.failed.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.lock();
        let again = state.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= AGAIN_AFTER);
        if again {
            state.failed_at = None;
            self.failed.store(false, Ordering::Release);
        }
        again
    }
}

/// The engine's side: "everything up to here is durable".
pub(super) struct KafkaCommitter {
    /// Where requests are left.
    pub(super) desk: Arc<CommitDesk>,
}

#[async_trait]
impl Committer for KafkaCommitter {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        let offsets: Offsets = position.read()?;
        match self.desk.ask(offsets) {
            None => Ok(()),
            Some(failure) => Err(ConnectorError::Lost(format!("an earlier offset commit failed: {failure}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::position::Place;
    use super::*;

    #[test]
    fn a_failed_commit_is_made_again_after_a_while() {
        let desk = CommitDesk::default();
        let later = || Instant::now() + AGAIN_AFTER;
        assert!(!desk.is_again(later()));
        desk.report(Some("a rebalance is in progress".into()));
        assert!(!desk.is_again(Instant::now()), "at once would be a storm");
        assert!(desk.is_again(later()));
        assert!(!desk.is_again(later()), "it is on its way");
        desk.report(Some("again".into()));
        desk.report(None);
        assert!(!desk.is_again(later()), "the last one went well");
    }

    #[tokio::test]
    async fn the_newest_request_wins_and_a_failure_is_told_once() {
        let desk = Arc::new(CommitDesk::default());
        let mut committer = KafkaCommitter { desk: Arc::clone(&desk) };
        let at = |next| Offsets(vec![Place("t".into(), 0, Some(next))]);
        committer.commit(&Position::of(&at(1))).await.expect("nothing failed yet");
        committer.commit(&Position::of(&at(2))).await.expect("nothing failed yet");
        assert_eq!(desk.take(), Some(at(2)));
        assert_eq!(desk.take(), None);
        assert_eq!(desk.wait(Duration::ZERO), None);
        desk.report(Some("coordinator away".into()));
        assert!(committer.commit(&Position::of(&at(3))).await.is_err());
        committer.commit(&Position::of(&at(4))).await.expect("told once");
    }
}
