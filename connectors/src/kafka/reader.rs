//! The consumer's own thread: polls, decodes, hands over, commits. It never
//! stops polling for longer than a second, however long the sink takes: a
//! consumer that does not poll is thrown out of its group.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use tidegate_engine::error::ConnectorError;
use tokio::time::Instant;

use super::context::{Context, Link};
use super::handoff::Given;

/// Longest wait for a message: how late a stop or a commit may be noticed.
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// Wait for more while the hand-off has no room for what is gathered.
const CROWDED_WAIT: Duration = Duration::from_millis(5);

/// A full hand-off is waited for this long before fetching is paused: pausing
/// throws fetched messages away, so it is for long stalls only.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

/// Wait for room between two polls while paused.
const PAUSED_WAIT: Duration = Duration::from_millis(100);

/// How long the last commit may take at a stop.
const LAST_COMMIT: Duration = Duration::from_secs(2);

/// Polls without a message, one after the other, before the queue counts as
/// empty: each may have been taken up by an event that is no message.
const EMPTY_POLLS: u32 = 3;

/// Fails `next` if the thread ends in any way the source did not ask for.
struct Leaving(Arc<Link>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let message = "the kafka reader met a fault of its own".to_owned();
            self.0.handoff.push(Given::Failed(ConnectorError::Fatal(message)));
        }
    }
}

/// Reads until the source says stop, or until something must be reported.
pub(super) fn run(consumer: BaseConsumer<Context>, link: &Arc<Link>) {
    let leaving = Leaving(Arc::clone(link));
    let reader = Reader { consumer, link: Arc::clone(link) };
    if let Err(error) = reader.read() {
        link.handoff.push(Given::Failed(error));
    }
    reader.last_commit();
    drop(leaving);
    // Dropping the consumer leaves the group: it may take a while, on this thread only.
    drop(reader);
}

struct Reader {
    consumer: BaseConsumer<Context>,
    link: Arc<Link>,
}

impl Reader {
    fn context(&self) -> &Context {
        self.consumer.context()
    }

    fn read(&self) -> Result<(), ConnectorError> {
        let mut ended = false;
        while !self.link.is_stopping() {
            self.commit();
            self.fill()?;
            if let Some(error) = self.context().take_failure() {
                return Err(error);
            }
            if ended {
                // Only commits are still to come.
                self.context().slots().finish(self.context().clock.now())?;
                continue;
            }
            self.hand_over()?;
            if self.context().reading.once && self.is_at_end() {
                self.link.handoff.push(Given::End);
                self.pause()?;
                ended = true;
            }
        }
        Ok(())
    }

    /// Polls until a round is full or nothing more is ready.
    fn fill(&self) -> Result<(), ConnectorError> {
        let gathered = !self.context().slots().is_empty();
        let mut wait = if gathered { CROWDED_WAIT } else { IDLE_WAIT };
        let mut empty = 0;
        loop {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    if self.gather(&message) {
                        return Ok(());
                    }
                    wait = Duration::ZERO;
                    empty = 0;
                }
                // Statistics or a line of its log were there instead of a message.
                None if empty < EMPTY_POLLS => {
                    wait = Duration::ZERO;
                    empty += 1;
                }
                Some(Err(error)) => return self.on_error(&error),
                None => {
                    self.context().slots().drained();
                    return Ok(());
                }
            }
        }
    }

    /// Decodes a message; answers whether the round is full.
    fn gather(&self, message: &BorrowedMessage<'_>) -> bool {
        let mut slots = self.context().slots();
        slots.add(message);
        slots.is_full()
    }

    fn hand_over(&self) -> Result<(), ConnectorError> {
        let (empty, full) = {
            let slots = self.context().slots();
            (slots.is_empty(), slots.is_full())
        };
        if empty {
            return Ok(());
        }
        if !self.link.handoff.has_room() {
            if !full {
                return Ok(());
            }
            self.stall()?;
        }
        self.context().hand_over()
    }

    /// Waits for room; after a second with fetching paused, still polling.
    fn stall(&self) -> Result<(), ConnectorError> {
        self.link.stalled.store(true, Ordering::Release);
        let waited = if self.link.handoff.wait_room(PAUSE_AFTER) { Ok(()) } else { self.pause_until_room() };
        self.link.stalled.store(false, Ordering::Release);
        waited
    }

    fn pause_until_room(&self) -> Result<(), ConnectorError> {
        metrics::counter!("tidegate_kafka_pauses_total", "node" => self.context().node.clone()).increment(1);
        self.pause()?;
        while !self.link.is_stopping() && !self.link.handoff.wait_room(PAUSED_WAIT) {
            self.commit();
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => drop(self.gather(&message)),
                Some(Err(error)) => self.on_error(&error)?,
                None => {}
            }
            if self.context().has_new.swap(false, Ordering::AcqRel) {
                self.pause()?;
            }
        }
        let all = self.consumer.assignment().map_err(pausing)?;
        self.consumer.resume(&all).map_err(pausing)
    }

    fn pause(&self) -> Result<(), ConnectorError> {
        let all = self.consumer.assignment().map_err(pausing)?;
        self.consumer.pause(&all).map_err(pausing)
    }

    fn is_at_end(&self) -> bool {
        let context = self.context();
        context.was_assigned.load(Ordering::Acquire) && context.slots().are_at_end()
    }

    /// What stops the reading, and what is only worth a line.
    fn on_error(&self, error: &KafkaError) -> Result<(), ConnectorError> {
        let context = self.context();
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(ConnectorError::Lost(format!("kafka: {error}")));
        }
        let unknown = matches!(
            error.rdkafka_error_code(),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
        );
        if unknown && context.reading.once {
            return Err(ConnectorError::Fatal(format!("kafka: a topic does not exist: {error}")));
        }
        // The context has said it.
        Ok(())
    }

    fn commit(&self) {
        match self.link.desk.take() {
            Some(offsets) => self.context().slots().note_durable(&offsets),
            None if self.link.desk.is_again(Instant::now()) => {}
            None => return,
        }
        let list = self.context().slots().take_uncommitted(false);
        if list.count() == 0 {
            return;
        }
        // `Ok` says only that it was queued: the callback hears how it ended.
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            self.context().commit_callback(Err(error), &list);
        }
    }

    /// At a stop: what became durable last is committed if a broker answers soon.
    fn last_commit(&self) {
        let deadline = Instant::now() + LAST_COMMIT;
        self.commit();
        while self.context().slots().has_uncommitted() && Instant::now() < deadline {
            drop(self.consumer.poll(IDLE_WAIT));
            self.commit();
        }
    }
}

fn pausing(error: impl std::fmt::Display) -> ConnectorError {
    ConnectorError::Lost(format!("kafka: cannot pause or resume: {error}"))
}
