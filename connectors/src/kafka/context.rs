//! The callbacks of the consumer: partitions come and go, commits end, the
//! brokers' errors and figures arrive. All of them run inside `poll` on the
//! consumer's own thread. An error here never stops the topology: librdkafka
//! goes on trying, and so do we.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::Silence;
use tidegate_engine::time::Clock;
use tokio::time::Instant;

use super::commit::CommitDesk;
use super::figures::Figures;
use super::handoff::{Given, Handoff};
use super::reports::is_refusal;
use super::slots::Slots;
use super::start::Start;
use crate::seldom::Seldom;

/// How long one look for new commit requests takes while partitions are given
/// back.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// How long a question about a partition's end may take.
const WATERMARKS_MAX: Duration = Duration::from_secs(10);

/// What the reading thread and the async side share.
pub(super) struct Link {
    /// Rows on their way to `next`.
    pub(super) handoff: Handoff,
    /// Commits on their way to the brokers.
    pub(super) desk: Arc<CommitDesk>,
    /// Set to end the reading.
    pub(super) stop: AtomicBool,
    /// The engine takes nothing: what waits for it is not known.
    pub(super) stalled: AtomicBool,
    slots: Mutex<Slots>,
}

impl Link {
    /// Nothing read, committed or stopped yet.
    pub(super) fn new(rounds_max: usize, desk: Arc<CommitDesk>, slots: Slots) -> Link {
        Link {
            handoff: Handoff::new(rounds_max),
            desk,
            stop: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            slots: Mutex::new(slots),
        }
    }

    /// The partitions. Never held across `poll`.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the reading shall end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Silence for Link {
    fn known_until(&self, partition: u32) -> Option<Instant> {
        if self.stalled.load(Ordering::Acquire) {
            return None;
        }
        // In the order in which rows go: gathered, then handed over.
        let known = self.slots().known_until(partition)?;
        (!self.handoff.has_rows_of(partition)).then_some(known)
    }
}

/// How a source reads, beside its client's settings.
#[derive(Clone)]
pub(super) struct Reading {
    /// Where unknown partitions begin.
    pub(super) start: Start,
    /// Longest wait for rows of revoked partitions to become durable.
    pub(super) drain: Duration,
    /// Ends at the ends of now.
    pub(super) once: bool,
}

/// Callbacks and the partitions they change.
pub(super) struct Context {
    pub(super) node: String,
    pub(super) reading: Reading,
    pub(super) link: Arc<Link>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seldom: Seldom,
    failure: Mutex<Option<ConnectorError>>,
    /// Partitions were assigned at least once (it may have been none).
    pub(super) was_assigned: AtomicBool,
    /// Partitions came since the reader last looked: a paused reader pauses them too.
    pub(super) has_new: AtomicBool,
}

impl Context {
    pub(super) fn new(node: &str, reading: Reading, link: Arc<Link>, clock: Arc<dyn Clock>) -> Context {
        Context {
            node: node.to_owned(),
            reading,
            link,
            clock,
            seldom: Seldom::default(),
            failure: Mutex::new(None),
            was_assigned: AtomicBool::new(false),
            has_new: AtomicBool::new(false),
        }
    }

    /// The partitions. Never held across `poll`.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.link.slots()
    }

    /// Why the reading must stop, if it must.
    pub(super) fn take_failure(&self) -> Option<ConnectorError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: ConnectorError) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    /// New partitions: each gets the offset it begins at.
    fn take_over(
        &self,
        consumer: &BaseConsumer<Context>,
        list: &mut TopicPartitionList,
    ) -> Result<(), ConnectorError> {
        let mut unknown = TopicPartitionList::new();
        for place in list.clone().elements() {
            let (topic, partition) = (place.topic(), place.partition());
            let resume = self.slots().slot(topic, partition).and_then(|slot| slot.resume.take());
            match resume {
                Some(offset) => {
                    list.set_partition_offset(topic, partition, Offset::Offset(offset)).map_err(lost)?
                }
                None => drop(unknown.add_partition(topic, partition)),
            }
        }
        self.reading.start.place(consumer, &mut unknown).map_err(lost)?;
        for place in unknown.elements() {
            list.set_partition_offset(place.topic(), place.partition(), place.offset()).map_err(lost)?;
        }
        self.note_assigned(consumer, list)?;
        for place in unknown.elements() {
            if let (Some(slot), Offset::Offset(offset)) =
                (self.slots().slot(place.topic(), place.partition()), place.offset())
            {
                slot.committed = Some(offset);
            }
        }
        // "Latest" must mean the first start only: what we decided is remembered by the group.
        if self.reading.start == Start::Latest && unknown.count() > 0 {
            consumer.commit(&unknown, CommitMode::Async).map_err(lost)?;
        }
        Ok(())
    }

    fn note_assigned(
        &self,
        consumer: &BaseConsumer<Context>,
        list: &TopicPartitionList,
    ) -> Result<(), ConnectorError> {
        for place in list.elements() {
            let (topic, partition) = (place.topic(), place.partition());
            let ends = if self.reading.once {
                Some(consumer.fetch_watermarks(topic, partition, WATERMARKS_MAX).map_err(lost)?)
            } else {
                None
            };
            let offset = if let Offset::Offset(offset) = place.offset() { Some(offset) } else { None };
            let mut slots = self.slots();
            let Some(slot) = slots.slot(topic, partition) else { continue };
            slot.assigned = true;
            (slot.next, slot.handed, slot.durable) = (offset, offset, offset);
            (slot.told, slot.heard_at) = (None, None);
            if let Some((low, high)) = ends {
                slot.end = Some(high);
                // Nothing to read: the end is reached without a message.
                slot.next = offset.or((low >= high).then_some(high));
            }
        }
        Ok(())
    }

    /// Partitions go: what was read of them is handed over, and the brokers
    /// hear how far it is durable before another member continues.
    fn give_back(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let wait = !consumer.assignment_lost() && !self.link.is_stopping();
        if wait && let Err(error) = self.hand_over() {
            return self.fail(error);
        }
        let remaining = self.slots().ours_without(list);
        self.link.handoff.push(Given::Partitions(remaining));
        if wait {
            self.drain(consumer, list);
        }
        let mut slots = self.slots();
        for place in list.elements() {
            slots.revoke(place.topic(), place.partition());
        }
    }

    /// Gathered rows go to the engine. Under the lock: whoever asks about silence
    /// finds them here or there.
    pub(super) fn hand_over(&self) -> Result<(), ConnectorError> {
        let mut slots = self.slots();
        self.link.handoff.push_rows(slots.finish(self.clock.now())?);
        Ok(())
    }

    /// Until the group knows that everything we handed over is durable. A commit
    /// that fails, as commits in a rebalance may, is made again.
    fn drain(&self, consumer: &BaseConsumer<Context>, revoked: &TopicPartitionList) {
        let deadline = Instant::now() + self.reading.drain;
        loop {
            let list = self.slots().take_uncommitted(true);
            if list.count() > 0 {
                let ended = consumer.commit(&list, CommitMode::Sync);
                self.commit_callback(ended, &list);
            }
            // A member that the group has given up has nothing left to say.
            let given_up = consumer.assignment_lost() || self.link.is_stopping();
            if given_up || self.slots().are_settled(revoked) {
                return;
            }
            if Instant::now() >= deadline {
                tracing::warn!(
                    node = self.node,
                    "rows of revoked partitions are not durable yet; the next member reads them again"
                );
                return;
            }
            if let Some(offsets) = self.link.desk.wait(DRAIN_LOOK) {
                self.slots().note_durable(&offsets);
            }
        }
    }
}

/// A question that the brokers did not answer: the consumer starts anew.
fn lost(error: impl std::fmt::Display) -> ConnectorError {
    ConnectorError::Lost(format!("kafka: cannot find where partitions begin: {error}"))
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let serious = matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
        );
        if !serious {
            tracing::debug!(node = self.node, facility, "librdkafka: {line}");
        } else if let Some(left_out) = self.seldom.may_say(facility) {
            tracing::warn!(node = self.node, facility, left_out, "librdkafka: {line}");
        }
    }

    /// Most pass by themselves: one line now and then, and a count. A password
    /// or certificate that is refused is read anew.
    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        let kind = code.map_or_else(|| "other".to_owned(), |code| format!("{code:?}"));
        metrics::counter!("tidegate_kafka_errors_total", "node" => self.node.clone(), "error" => kind.clone())
            .increment(1);
        if is_refusal(&error) {
            self.fail(ConnectorError::Lost(format!("kafka: {reason}")));
        } else if let Some(left_out) = self.seldom.may_say(&kind) {
            tracing::warn!(node = self.node, error = %error, reason, left_out, "kafka source goes on trying");
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Some(figures) = Figures::read(statistics) else { return };
        let mut slots = self.slots();
        figures.note(&mut slots, Instant::now());
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let lag = slots.lag() as f64;
        metrics::gauge!("tidegate_kafka_lag_rows", "node" => self.node.clone()).set(lag);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Context>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        metrics::counter!("tidegate_kafka_rebalances_total", "node" => self.node.clone()).increment(1);
        let assigns = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        tracing::info!(node = self.node, partitions = list.count(), assigns, "kafka group rebalances");
        if assigns && let Err(error) = self.take_over(consumer, list) {
            self.fail(error);
        } else if !assigns {
            self.give_back(consumer, list);
        }
        let done = match (assigns, cooperative) {
            (true, true) => consumer.incremental_assign(list),
            (true, false) => consumer.assign(list),
            (false, true) => consumer.incremental_unassign(list),
            (false, false) => consumer.unassign(),
        };
        if let Err(error) = done {
            self.fail(ConnectorError::Lost(format!("kafka: the group's assignment was refused: {error}")));
        }
        if assigns {
            self.link.handoff.push(Given::Partitions(self.slots().ours_without(&TopicPartitionList::new())));
            self.was_assigned.store(true, Ordering::Release);
            self.has_new.store(true, Ordering::Release);
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let ended = if result.is_ok() { "ok" } else { "failed" };
        metrics::counter!("tidegate_kafka_commits_total", "node" => self.node.clone(), "result" => ended)
            .increment(1);
        self.slots().note_commit(offsets, result.is_ok());
        self.link.desk.report(result.err().map(|error| error.to_string()));
    }
}
