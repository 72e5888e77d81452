//! An edge between two parts: bounded in events and in bytes. A sender waits
//! while it is full; nothing is dropped here.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::event::Event;

/// Most events on an edge.
pub const EDGE_EVENTS_MAX: usize = 64;

/// Most bytes of rows on an edge. A single larger batch passes alone.
pub const EDGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes are counted in pages, because a semaphore counts in `u32`.
const PAGE_BYTES: usize = 1024;

/// Makes an edge with these bounds.
#[must_use]
pub fn edge(events_max: usize, bytes_max: usize) -> (EdgeSender, EdgeReceiver) {
    let (sender, receiver) = mpsc::channel(events_max);
    let pages_max = u32::try_from(bytes_max.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX).max(1);
    let room = Arc::new(Semaphore::new(usize::try_from(pages_max).unwrap_or(1)));
    let sending = EdgeSender { sender, room: Arc::clone(&room), pages_max };
    (sending, EdgeReceiver { receiver, room })
}

/// The end of an edge that rows go into.
#[derive(Debug, Clone)]
pub struct EdgeSender {
    sender: mpsc::Sender<(Event, u32)>,
    room: Arc<Semaphore>,
    pages_max: u32,
}

/// The reader is gone: it failed or was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl EdgeSender {
    /// Sends an event, waiting while the edge is full; answers how long it
    /// waited.
    ///
    /// # Errors
    /// `Closed`, when nobody reads any more.
    pub async fn send(&self, event: Event) -> Result<Duration, Closed> {
        let pages = self.pages(&event);
        // The common case takes no clock.
        let fits =
            pages == 0 || self.room.available_permits() >= usize::try_from(pages).unwrap_or(usize::MAX);
        let started = (!fits || self.sender.capacity() == 0).then(Instant::now);
        if pages > 0 {
            self.room.acquire_many(pages).await.map_err(|_| Closed)?.forget();
        }
        self.sender.send((event, pages)).await.map_err(|_| Closed)?;
        Ok(started.map_or(Duration::ZERO, |started| started.elapsed()))
    }

    fn pages(&self, event: &Event) -> u32 {
        match event {
            Event::Batch(batch) => {
                let bytes: usize = batch
                    .columns()
                    .iter()
                    .map(|column| column.to_data().get_slice_memory_size().unwrap_or(PAGE_BYTES))
                    .sum();
                u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX).clamp(1, self.pages_max)
            }
            Event::Watermark(_) | Event::Barrier(_) | Event::End => 0,
        }
    }
}

/// The end of an edge that rows come out of.
#[derive(Debug)]
pub struct EdgeReceiver {
    receiver: mpsc::Receiver<(Event, u32)>,
    room: Arc<Semaphore>,
}

impl EdgeReceiver {
    /// The next event; `None` when the sender is gone without an `End`.
    pub async fn recv(&mut self) -> Option<Event> {
        let (event, pages) = self.receiver.recv().await?;
        self.release(pages);
        Some(event)
    }

    /// As `recv`, for a reader of several edges.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let polled = self.receiver.poll_recv(context);
        polled.map(|received| {
            received.map(|(event, pages)| {
                self.release(pages);
                event
            })
        })
    }

    /// The next event if one is there already.
    pub fn try_recv(&mut self) -> Option<Event> {
        let (event, pages) = self.receiver.try_recv().ok()?;
        self.release(pages);
        Some(event)
    }

    /// Events that wait here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    fn release(&self, pages: u32) {
        self.room.add_permits(usize::try_from(pages).unwrap_or(0));
    }
}

impl Drop for EdgeReceiver {
    fn drop(&mut self) {
        // Wakes a sender that waits for room.
        self.room.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, RecordBatch};

    fn batch(rows: usize) -> Event {
        let column = Arc::new(Int64Array::from(vec![1; rows])) as arrow::array::ArrayRef;
        Event::Batch(RecordBatch::try_from_iter([("a", column)]).expect("one column"))
    }

    #[tokio::test]
    async fn a_full_edge_makes_the_sender_wait_and_loses_nothing() {
        // Room for 2 KiB: two batches of 1,000 bytes.
        let (sender, mut receiver) = edge(64, 2_048);
        for _ in 0..2 {
            sender.send(batch(125)).await.expect("there is room");
        }
        let waiting = tokio::time::timeout(Duration::from_millis(50), sender.send(batch(125)));
        assert!(waiting.await.is_err(), "full in bytes");
        assert!(receiver.recv().await.is_some());
        sender.send(batch(125)).await.expect("room again");
        assert_eq!(receiver.len(), 2);
    }

    #[tokio::test]
    async fn a_batch_larger_than_the_edge_passes_alone() {
        let (sender, mut receiver) = edge(64, 1_024);
        sender.send(batch(10_000)).await.expect("alone");
        assert!(receiver.try_recv().is_some());
    }

    #[tokio::test]
    async fn a_sender_hears_that_its_reader_is_gone() {
        let (sender, receiver) = edge(64, 1_024);
        sender.send(batch(128)).await.expect("there is room");
        let waiting = tokio::spawn(async move { sender.send(batch(128)).await });
        tokio::task::yield_now().await;
        drop(receiver);
        let result = tokio::time::timeout(Duration::from_secs(5), waiting).await.expect("does not hang");
        assert_eq!(result.expect("no panic"), Err(Closed));
    }
}
