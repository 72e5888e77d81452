//! What a Kafka source knows of each partition: how far it was read, handed
//! over and made durable, and the rows being gathered. Plain memory: it never
//! talks to a broker.

use std::sync::Arc;

use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use tidegate_engine::codec::Decoder;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Position, Rows};
use tidegate_engine::time::Time;
use tokio::time::Instant;

use super::columns::{Column, OwnRows};
use super::position::{Offsets, Place};
use crate::format::{Origin, RowFormat};

/// Messages gathered before they are handed over, all partitions together.
const MESSAGES_MAX: usize = 8_192;

/// Payload bytes gathered before they are handed over.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Turns payloads of one node into rows.
#[derive(Clone)]
pub(super) struct RowMaker {
    /// Name of the node.
    pub(super) node: String,
    /// The payload's format.
    pub(super) format: Arc<RowFormat>,
    /// Columns added to the payload's.
    pub(super) columns: Arc<[Column]>,
}

/// Every partition seen, by the engine's dense partition index.
pub(super) struct Slots {
    maker: RowMaker,
    all: Vec<Slot>,
    /// The slot of the last message: neighbours mostly share a partition.
    last: usize,
    messages: usize,
    bytes: usize,
    /// Messages taken from librdkafka's queue so far.
    served: u64,
}

/// One partition.
pub(super) struct Slot {
    /// Its topic.
    pub(super) topic: String,
    /// Its number.
    pub(super) partition: i32,
    /// Whether it is ours now.
    pub(super) assigned: bool,
    /// Where the checkpoint says to go on; used once.
    pub(super) resume: Option<i64>,
    /// The offset after the last message read.
    pub(super) next: Option<i64>,
    /// The offset after the last message handed over.
    pub(super) handed: Option<i64>,
    /// The offset up to which the engine said its rows are durable.
    pub(super) durable: Option<i64>,
    /// The offset last sent to the group's commit.
    pub(super) asked: Option<i64>,
    /// The offset up to which the group's commit succeeded.
    pub(super) committed: Option<i64>,
    /// With `--once`: the offset at which it ends.
    pub(super) end: Option<i64>,
    /// What librdkafka said of it since it is ours.
    pub(super) told: Option<Told>,
    /// When its broker last answered; `None` while that does not.
    pub(super) heard_at: Option<Instant>,
    decoder: Box<dyn Decoder>,
    own: OwnRows,
    messages: usize,
}

/// librdkafka's word on a partition: its figures overtake its messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// The broker's end.
    pub(super) end: i64,
    /// Everything up to here was fetched, markers of transactions included.
    pub(super) fetched: i64,
    /// What was fetched is read when as many messages were served.
    pub(super) read_at: u64,
}

impl Slots {
    /// Slots for the partitions of a checkpoint, each with its index of then.
    pub(super) fn new(maker: RowMaker, resume: &Offsets) -> Slots {
        let mut slots = Slots { maker, all: Vec::new(), last: 0, messages: 0, bytes: 0, served: 0 };
        for Place(topic, partition, next) in &resume.0 {
            let index = slots.add_slot(topic, *partition);
            if let Some(slot) = slots.all.get_mut(index) {
                slot.resume = *next;
            }
        }
        slots
    }

    fn add_slot(&mut self, topic: &str, partition: i32) -> usize {
        self.all.push(Slot {
            topic: topic.to_owned(),
            partition,
            assigned: false,
            resume: None,
            next: None,
            handed: None,
            durable: None,
            asked: None,
            committed: None,
            end: None,
            told: None,
            heard_at: None,
            decoder: self.maker.format.decoder(),
            own: OwnRows::new(&self.maker.columns),
            messages: 0,
        });
        self.all.len() - 1
    }

    fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.all.iter().position(|slot| slot.partition == partition && slot.topic == topic)
    }

    /// The slot of a partition, made if it is new.
    pub(super) fn slot(&mut self, topic: &str, partition: i32) -> Option<&mut Slot> {
        let index = self.find(topic, partition).unwrap_or_else(|| self.add_slot(topic, partition));
        self.all.get_mut(index)
    }

    /// All partitions, to change.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.all.iter_mut()
    }

    /// Decodes a message into its partition's rows. A message without a payload
    /// (a tombstone) gives none; its offset counts all the same.
    pub(super) fn add(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition) = (message.topic(), message.partition());
        let same = |slot: &Slot| slot.partition == partition && slot.topic == topic;
        if !self.all.get(self.last).is_some_and(same) {
            self.last = self.find(topic, partition).unwrap_or_else(|| self.add_slot(topic, partition));
        }
        let Some(slot) = self.all.get_mut(self.last) else { return };
        let offset = message.offset();
        if let Some(payload) = message.payload() {
            let rows = slot.decoder.decode(payload, &|_| format!("{topic}/{partition}@{offset}"));
            slot.own.append(message, rows);
            self.bytes += payload.len();
        }
        slot.next = Some(offset + 1);
        slot.messages += 1;
        self.messages += 1;
        self.served += 1;
    }

    /// Whether nothing is gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether enough is gathered for one round.
    pub(super) fn is_full(&self) -> bool {
        self.messages >= MESSAGES_MAX || self.bytes >= BYTES_MAX
    }

    /// The gathered rows, partition by partition, each with the position after
    /// it and everything before it.
    ///
    /// # Errors
    /// As `RowFormat::rows`.
    pub(super) fn finish(&mut self, now: Time) -> Result<Vec<Rows>, ConnectorError> {
        let mut rounds = Vec::new();
        for index in 0..self.all.len() {
            let Some(slot) = self.all.get_mut(index).filter(|slot| slot.messages > 0) else { continue };
            let decoded = slot.decoder.finish();
            let own = slot.own.finish();
            slot.messages = 0;
            slot.handed = slot.next;
            let position = Position::of(&self.offsets());
            let partition = u32::try_from(index).unwrap_or(u32::MAX);
            let origin = Origin { node: &self.maker.node, partition, position, now };
            rounds.push(self.maker.format.rows(decoded, own, origin)?);
        }
        self.messages = 0;
        self.bytes = 0;
        Ok(rounds)
    }

    /// Where a checkpoint taken now goes on.
    fn offsets(&self) -> Offsets {
        let place = |slot: &Slot| Place(slot.topic.clone(), slot.partition, slot.handed.or(slot.resume));
        Offsets(self.all.iter().map(place).collect())
    }

    /// Throws gathered rows of a partition away and forgets where it stood: it
    /// belongs to another member of the group.
    pub(super) fn revoke(&mut self, topic: &str, partition: i32) {
        let Some(slot) = self.slot(topic, partition) else { return };
        let gathered = std::mem::take(&mut slot.messages);
        slot.decoder.finish();
        slot.own.finish();
        slot.assigned = false;
        slot.resume = None;
        (slot.next, slot.handed, slot.durable) = (None, None, None);
        (slot.asked, slot.committed) = (None, None);
        (slot.told, slot.heard_at) = (None, None);
        self.messages = self.messages.saturating_sub(gathered);
    }

    /// The indices of the partitions that are ours, but for some that go.
    pub(super) fn ours_without(&self, going: &TopicPartitionList) -> Vec<u32> {
        let stays = |slot: &Slot| going.find_partition(&slot.topic, slot.partition).is_none();
        let ours = (0_u32..).zip(&self.all).filter(|(_, slot)| slot.assigned && stays(slot));
        ours.map(|(index, _)| index).collect()
    }

    /// Remembers what is durable.
    pub(super) fn note_durable(&mut self, offsets: &Offsets) {
        for slot in self.all.iter_mut().filter(|slot| slot.assigned) {
            // A partition that went and came back must not be set back by an older checkpoint.
            slot.durable = slot.durable.max(offsets.next(&slot.topic, slot.partition));
        }
    }

    /// Offsets that are durable and that the group does not know; without
    /// those that are on their way to it, unless asked for `all`.
    pub(super) fn take_uncommitted(&mut self, all: bool) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for slot in self.all.iter_mut().filter(|slot| slot.is_uncommitted()) {
            if let Some(next) = slot.durable.filter(|_| all || slot.asked < slot.durable) {
                slot.asked = slot.durable;
                // The list is new and the offset a plain number: it cannot be refused.
                drop(list.add_partition_offset(&slot.topic, slot.partition, Offset::Offset(next)));
            }
        }
        list
    }

    /// A commit has ended. What failed is asked for again.
    pub(super) fn note_commit(&mut self, offsets: &TopicPartitionList, succeeded: bool) {
        for place in offsets.elements() {
            let (Offset::Offset(offset), Some(slot)) =
                (place.offset(), self.slot(place.topic(), place.partition()))
            else {
                continue;
            };
            if succeeded {
                slot.committed = slot.committed.max(Some(offset));
            } else {
                slot.asked = slot.committed;
            }
        }
    }

    /// Whether the group knows that everything handed over of these partitions
    /// is durable.
    pub(super) fn are_settled(&mut self, list: &TopicPartitionList) -> bool {
        let is_settled = |slot: &mut Slot| slot.committed >= slot.handed;
        list.elements().iter().all(|place| self.slot(place.topic(), place.partition()).is_none_or(is_settled))
    }

    /// Whether durable offsets of ours are not known to the group.
    pub(super) fn has_uncommitted(&self) -> bool {
        self.all.iter().any(Slot::is_uncommitted)
    }

    /// Messages taken from librdkafka's queue so far.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// librdkafka's queue was empty: whatever was fetched before is read.
    pub(super) fn drained(&mut self) {
        let served = self.served;
        for told in self.all.iter_mut().filter_map(|slot| slot.told.as_mut()) {
            told.read_at = told.read_at.min(served);
        }
    }

    /// Whether all partitions of ours were read to the ends found at the start.
    pub(super) fn are_at_end(&self) -> bool {
        self.is_empty()
            && self.all.iter().filter(|slot| slot.assigned).all(|slot| slot.is_at_end(self.served))
    }

    /// Until when it is certain that no message of a partition waits.
    pub(super) fn known_until(&self, index: u32) -> Option<Instant> {
        let slot = self.all.get(usize::try_from(index).ok()?)?;
        let is_silent = slot.assigned
            && slot.messages == 0
            && slot.told.is_some_and(|told| slot.is_read_to(told.end, self.served));
        slot.heard_at.filter(|_| is_silent)
    }

    /// Rows that wait at the brokers, as far as they told.
    pub(super) fn lag(&self) -> u64 {
        let behind = |slot: &Slot| {
            let told = slot.told.filter(|told| !slot.is_read_to(told.end, self.served))?;
            u64::try_from(told.end.saturating_sub(slot.next?)).ok()
        };
        self.all.iter().filter(|slot| slot.assigned).filter_map(behind).sum()
    }
}

impl Slot {
    fn is_uncommitted(&self) -> bool {
        self.assigned && self.durable > self.committed
    }

    /// With `--once`: whether it was read to the end found at the start.
    fn is_at_end(&self, served: u64) -> bool {
        self.end.is_some_and(|end| self.is_read_to(end, served))
    }

    /// Whether every message before this offset was read. Markers of
    /// transactions have offsets and are no messages: librdkafka passes them
    /// without a word.
    fn is_read_to(&self, end: i64, served: u64) -> bool {
        self.next.is_some_and(|next| next >= end)
            || self.told.is_some_and(|told| told.fetched >= end && served >= told.read_at)
    }
}
