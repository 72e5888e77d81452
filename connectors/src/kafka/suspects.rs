//! Messages that the brokers refuse for good. A refusal spoils the transaction
//! and is told of a whole message set, so the rows are sent again one message
//! at a time, which tells which of them it is; the next attempt leaves out what
//! was found. No row is left out that was not refused by itself.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message};

use super::reports::{Lines, is_final};

/// librdkafka's own limit of a message set, in bytes.
const BATCH_BYTES: usize = 1_000_000;
/// No smaller message set is tried.
const BATCH_BYTES_MIN: usize = 1_000;

/// What is known of refused messages, as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The next attempt sends one message at a time.
    is_careful: bool,
    /// Fingerprints of messages that were refused by themselves, and why.
    refused: HashMap<u64, String>,
    /// Message sets larger than this were refused though none of their messages was.
    batch_bytes: Option<usize>,
}

/// Of a message that was sent; two rows that are one message are refused alike.
pub(super) fn fingerprint(topic: &str, key: Option<&[u8]>, payload: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (topic, key, payload).hash(&mut hasher);
    hasher.finish()
}

impl Suspects {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the next producer cuts message sets; answers whether it is careful.
    pub(super) fn prepare(&self, config: &mut ClientConfig) -> bool {
        let known = self.lock();
        if known.is_careful {
            config.set("batch.num.messages", "1").set("linger.ms", "0");
        } else if let Some(bytes) = known.batch_bytes {
            let wanted = config.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(BATCH_BYTES);
            config.set("batch.size", bytes.min(wanted).to_string());
        }
        known.is_careful
    }

    /// Whether there is anything to compare with.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().refused.is_empty()
    }

    /// Why a message was refused before.
    pub(super) fn refusal(&self, fingerprint: u64) -> Option<String> {
        self.lock().refused.get(&fingerprint).cloned()
    }

    /// A message was refused; `alone`: nothing else was in its message set.
    pub(super) fn note(&self, fingerprint: u64, reason: String, alone: bool) {
        let mut known = self.lock();
        known.is_careful = true;
        if alone {
            known.refused.insert(fingerprint, reason);
        }
    }

    /// A transaction is committed: what follows may be fast again.
    pub(super) fn committed(&self) {
        let mut known = self.lock();
        if known.is_careful && known.refused.is_empty() {
            let smaller = known.batch_bytes.unwrap_or(BATCH_BYTES) / 4;
            known.batch_bytes = Some(smaller.max(BATCH_BYTES_MIN));
        }
        known.is_careful = false;
        known.refused.clear();
    }
}

/// Callbacks of a producer with transactions: a message that does not arrive
/// makes the commit fail, so only refusals are noted.
pub(super) struct Watch {
    lines: Lines,
    suspects: Arc<Suspects>,
    /// Whether this producer sends one message at a time.
    is_careful: bool,
    /// Why the transaction failed. What fails afterwards does not say it.
    reason: Mutex<Option<String>>,
}

impl Watch {
    pub(super) fn new(lines: Lines, suspects: Arc<Suspects>, is_careful: bool) -> Watch {
        Watch { lines, suspects, is_careful, reason: Mutex::default() }
    }

    /// What librdkafka said when a transaction failed.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// librdkafka's own name for lines about a transaction that failed.
const FAILED: &str = "TXNERR";

impl ClientContext for Watch {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        if facility == FAILED {
            let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            reason.get_or_insert_with(|| line.to_owned());
        }
        self.lines.log(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.lines.error(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Watch {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Some((error, message)) = result.as_ref().err().filter(|(error, _)| is_final(error)) {
            let print = fingerprint(message.topic(), message.key(), message.payload());
            self.suspects.note(print, format!("kafka: {error}"), self.is_careful);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(suspects: &Suspects) -> (bool, [Option<String>; 2]) {
        let mut config = ClientConfig::new();
        let is_careful = suspects.prepare(&mut config);
        let text = |name: &str| config.get(name).map(str::to_owned);
        (is_careful, [text("batch.num.messages"), text("batch.size")])
    }

    #[test]
    fn only_a_message_that_was_refused_alone_is_left_out() {
        let suspects = Suspects::default();
        assert_eq!(settings(&suspects), (false, [None, None]));
        suspects.note(1, "too large".into(), false);
        suspects.note(2, "too large".into(), false);
        assert!(suspects.is_empty(), "one of them may be right");
        assert_eq!(settings(&suspects), (true, [Some("1".into()), None]));
        suspects.note(2, "too large".into(), true);
        assert_eq!((suspects.refusal(1), suspects.refusal(2)), (None, Some("too large".into())));
        suspects.committed();
        assert!(suspects.is_empty());
        assert_eq!(settings(&suspects), (false, [None, None]));
    }

    #[test]
    fn message_sets_shrink_when_no_message_is_at_fault() {
        let suspects = Suspects::default();
        for expected in ["250000", "62500"] {
            suspects.note(1, "too large".into(), false);
            suspects.committed();
            assert_eq!(settings(&suspects), (false, [None, Some(expected.into())]));
        }
    }

    #[test]
    fn a_fingerprint_tells_messages_apart() {
        let prints = [
            fingerprint("t", None, Some(b"a")),
            fingerprint("t", Some(b""), Some(b"a")),
            fingerprint("t", Some(b"a"), Some(b"")),
            fingerprint("ta", None, Some(b"")),
            fingerprint("t", None, None),
        ];
        assert_eq!(std::collections::HashSet::from(prints).len(), prints.len());
    }
}
