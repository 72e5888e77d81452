//! From the consumer's own thread to the async side: a short queue whose
//! sender can wait a while and go on polling, so that back-pressure never
//! costs the group membership. Items are whole batches: one lock per batch.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::Rows;
use tokio::sync::Notify;

/// What the reading thread has for `Source::next`.
#[derive(Debug)]
pub(super) enum Given {
    /// The rows of one round of reading, one item per partition.
    Rows(Vec<Rows>),
    /// Everything up to the ends found at the start was read.
    End,
    /// The reading stopped.
    Failed(ConnectorError),
}

/// The queue.
#[derive(Debug)]
pub(super) struct Handoff {
    queue: Mutex<VecDeque<Given>>,
    capacity: usize,
    room: Condvar,
    filled: Notify,
}

impl Handoff {
    /// A queue that has room for `capacity` rounds.
    pub(super) fn new(capacity: usize) -> Handoff {
        Handoff {
            queue: Mutex::new(VecDeque::with_capacity(capacity + 1)),
            capacity,
            room: Condvar::new(),
            filled: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Given>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another round fits.
    pub(super) fn has_room(&self) -> bool {
        self.lock().len() < self.capacity
    }

    /// Waits for room, at most `wait`; answers whether there is some.
    pub(super) fn wait_room(&self, wait: Duration) -> bool {
        let queue = self.lock();
        let full = |queue: &mut VecDeque<Given>| queue.len() >= self.capacity;
        let (queue, _) =
            self.room.wait_timeout_while(queue, wait, full).unwrap_or_else(PoisonError::into_inner);
        queue.len() < self.capacity
    }

    /// Adds an item. The sender asks for room first; ends, failures and the
    /// last rows of revoked partitions are added whatever the room.
    pub(super) fn push(&self, given: Given) {
        self.lock().push_back(given);
        self.filled.notify_one();
    }

    /// The next item, waiting for it. Losing the future loses no item.
    pub(super) async fn take(&self) -> Given {
        loop {
            let filled = self.filled.notified();
            if let Some(given) = self.lock().pop_front() {
                self.room.notify_one();
                return given;
            }
            filled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_full_queue_has_room_again_when_the_reader_took_something() {
        let handoff = Arc::new(Handoff::new(1));
        handoff.push(Given::Rows(Vec::new()));
        assert!(!handoff.wait_room(Duration::ZERO));
        let sender = Arc::clone(&handoff);
        let waiting = std::thread::spawn(move || sender.wait_room(Duration::from_secs(10)));
        let taken = tokio::time::timeout(Duration::from_secs(10), handoff.take()).await;
        assert!(matches!(taken, Ok(Given::Rows(_))));
        assert!(waiting.join().expect("the waiting thread ends"));
        handoff.push(Given::End);
        assert!(matches!(handoff.take().await, Given::End));
    }
}
