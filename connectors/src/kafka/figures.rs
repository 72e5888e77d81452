//! librdkafka's statistics: who answers, and how far partitions were fetched.
//! A figure that is missing costs knowledge of silence, never the source.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::slots::{Slot, Slots, Told};

/// The few figures that are used.
#[derive(Deserialize)]
pub(super) struct Figures {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
}

#[derive(Deserialize)]
struct Broker {
    #[serde(default = "unknown")]
    nodeid: i64,
    #[serde(default)]
    state: String,
    /// Microseconds since something was received on this connection.
    #[serde(default = "unknown")]
    rxidle: i64,
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    /// The broker it is fetched from.
    #[serde(default = "unknown")]
    broker: i64,
    #[serde(default = "unknown")]
    hi_offset: i64,
    /// The end up to which everything was fetched.
    #[serde(default = "unknown")]
    eof_offset: i64,
    /// Messages that were fetched and not polled; of all partitions, because
    /// they share the consumer's queue.
    #[serde(default)]
    fetchq_cnt: u64,
}

/// librdkafka too writes what it does not know as a negative number.
fn unknown() -> i64 {
    -1
}

impl Figures {
    /// Read leniently: librdkafka can write broken JSON (its issue 5390).
    pub(super) fn read(statistics: &[u8]) -> Option<Figures> {
        serde_json::from_slice(statistics).ok()
    }

    /// Tells our partitions.
    pub(super) fn note(&self, slots: &mut Slots, now: Instant) {
        let served = slots.served();
        for slot in slots.iter_mut().filter(|slot| slot.assigned) {
            let partition = self.partition(slot);
            slot.heard_at = partition.and_then(|partition| self.heard_at(partition.broker, now));
            if let Some(partition) = partition.filter(|partition| partition.hi_offset >= 0) {
                slot.told = Some(Told {
                    end: partition.hi_offset,
                    fetched: partition.eof_offset,
                    read_at: served.saturating_add(partition.fetchq_cnt),
                });
            }
        }
    }

    fn partition(&self, slot: &Slot) -> Option<&Partition> {
        self.topics.get(&slot.topic)?.partitions.get(&slot.partition.to_string())
    }

    /// When this broker last answered; `None` while it is not connected.
    fn heard_at(&self, id: i64, now: Instant) -> Option<Instant> {
        let broker = self.brokers.values().find(|broker| broker.nodeid == id && id >= 0)?;
        let idle = u64::try_from(broker.rxidle).ok().filter(|_| broker.state == "UP")?;
        now.checked_sub(Duration::from_micros(idle))
    }
}
