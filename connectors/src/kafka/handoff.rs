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
    /// Rows of one partition.
    Rows(Rows),
    /// The partitions that are ours from here on.
    Partitions(Vec<u32>),
    /// Everything up to the ends found at the start was read.
    End,
    /// The reading stopped.
    Failed(ConnectorError),
}

/// The queue.
#[derive(Debug)]
pub(super) struct Handoff {
    queue: Mutex<Queue>,
    capacity: usize,
    room: Condvar,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// What each round of reading gave, the oldest first; none is empty.
    rounds: VecDeque<VecDeque<Given>>,
    /// Partition of the rows that were taken last: until more is asked for they
    /// may be on their way.
    in_hand: Option<u32>,
}

impl Handoff {
    /// A queue that has room for `capacity` rounds.
    pub(super) fn new(capacity: usize) -> Handoff {
        Handoff { queue: Mutex::default(), capacity, room: Condvar::new(), filled: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another round fits.
    pub(super) fn has_room(&self) -> bool {
        self.lock().rounds.len() < self.capacity
    }

    /// Waits for room, at most `wait`; answers whether there is some.
    pub(super) fn wait_room(&self, wait: Duration) -> bool {
        let queue = self.lock();
        let full = |queue: &mut Queue| queue.rounds.len() >= self.capacity;
        let (queue, _) =
            self.room.wait_timeout_while(queue, wait, full).unwrap_or_else(PoisonError::into_inner);
        queue.rounds.len() < self.capacity
    }

    /// Adds the rows of a round. The sender asks for room first.
    pub(super) fn push_rows(&self, rows: Vec<Rows>) {
        self.push_round(rows.into_iter().map(Given::Rows).collect());
    }

    /// Adds an item whatever the room: it is small, and may be the last one.
    pub(super) fn push(&self, given: Given) {
        self.push_round(VecDeque::from([given]));
    }

    fn push_round(&self, round: VecDeque<Given>) {
        if !round.is_empty() {
            self.lock().rounds.push_back(round);
            self.filled.notify_one();
        }
    }

    /// Whether rows of this partition have not reached the engine yet.
    pub(super) fn has_rows_of(&self, partition: u32) -> bool {
        let queue = self.lock();
        let is_of = |given: &Given| matches!(given, Given::Rows(rows) if rows.partition == partition);
        queue.in_hand == Some(partition) || queue.rounds.iter().flatten().any(is_of)
    }

    /// Waits until there is something to take.
    ///
    /// # Errors
    /// The reading stopped before.
    pub(super) async fn first(&self) -> Result<(), ConnectorError> {
        loop {
            let filled = self.filled.notified();
            match self.lock().rounds.front().and_then(VecDeque::front) {
                Some(Given::Failed(error)) => return Err(error.clone()),
                Some(Given::Rows(_) | Given::Partitions(_) | Given::End) => return Ok(()),
                None => {}
            }
            filled.await;
        }
    }

    /// The next item, waiting for it. Losing the future loses no item.
    pub(super) async fn take(&self) -> Given {
        loop {
            let filled = self.filled.notified();
            if let Some(given) = self.try_take() {
                return given;
            }
            filled.await;
        }
    }

    fn try_take(&self) -> Option<Given> {
        let mut queue = self.lock();
        queue.in_hand = None;
        let round = queue.rounds.front_mut()?;
        let given = round.pop_front();
        if round.is_empty() {
            queue.rounds.pop_front();
            self.room.notify_one();
        }
        if let Some(Given::Rows(rows)) = &given {
            queue.in_hand = Some(rows.partition);
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;
    use tidegate_engine::source::Position;

    fn rows(partition: u32) -> Rows {
        let batch = RecordBatch::new_empty(Arc::new(Schema::empty()));
        Rows { partition, batch, rejects: None, position: Position::of(&()), received: None }
    }

    #[tokio::test]
    async fn a_full_queue_has_room_again_when_the_reader_took_its_first_round() {
        let handoff = Arc::new(Handoff::new(1));
        handoff.push_rows(vec![rows(3), rows(5)]);
        assert!(!handoff.wait_room(Duration::ZERO));
        let sender = Arc::clone(&handoff);
        let waiting = std::thread::spawn(move || sender.wait_room(Duration::from_secs(10)));
        for partition in [3, 5] {
            assert!(handoff.has_rows_of(5));
            let taken = tokio::time::timeout(Duration::from_secs(10), handoff.take()).await;
            assert!(matches!(taken, Ok(Given::Rows(rows)) if rows.partition == partition));
        }
        assert!(waiting.join().expect("the waiting thread ends"));
        assert!(handoff.has_rows_of(5) && !handoff.has_rows_of(3), "taken, and perhaps on its way");
        handoff.push(Given::End);
        assert!(matches!(handoff.take().await, Given::End));
        assert!(!handoff.has_rows_of(5));
    }
}
