//! Commits of consumer offsets: asked for on the async side when rows are
//! durable, done on the consumer's thread. The newest request is the only one
//! that matters, so a slow broker piles nothing up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Committer, Position};

use super::position::Offsets;

/// The newest request, and how the last commit ended.
#[derive(Debug, Default)]
pub(super) struct CommitDesk {
    state: Mutex<State>,
    asked: Condvar,
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Offsets>,
    failure: Option<String>,
}

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
        self.lock().failure = failure;
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
