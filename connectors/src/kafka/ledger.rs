//! What became of the messages given to the producer: a count of those that
//! have no report yet, the rows refused for good, the first reason to start
//! anew. Reports arrive on librdkafka's side; the sink waits here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use tidegate_engine::error::RejectedRow;
use tokio::sync::Notify;

use crate::seldom::Seldom;

/// Shared by the sink and the producer's callbacks.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    open: AtomicUsize,
    ended: Mutex<Ended>,
    progress: Notify,
}

/// How messages ended, since it was last asked.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Rows refused for good, counted from the last flush.
    pub(super) refused: Vec<RejectedRow>,
    /// Why messages may not have arrived.
    pub(super) lost: Option<String>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more message is on its way.
    pub(super) fn sent(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// The producer did not take it after all.
    pub(super) fn unsent(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Messages without a report.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until some report came. A report between the caller's look and
    /// this call is not lost.
    pub(super) async fn progress(&self) {
        self.progress.notified().await;
    }

    /// What ended badly since the last call.
    pub(super) fn take(&self) -> Ended {
        std::mem::take(&mut *self.lock())
    }

    fn report(&self, row: usize, error: Option<&KafkaError>) {
        if let Some(error) = error {
            let mut ended = self.lock();
            if is_final(error) {
                ended.refused.push(RejectedRow { row, reason: format!("kafka: {error}") });
            } else if ended.lost.is_none() {
                ended.lost = Some(format!("kafka: a message was not delivered: {error}"));
            }
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.progress.notify_one();
    }
}

/// Whether the same message would be refused for ever. Everything else may
/// pass, so the rows are written again.
#[allow(clippy::wildcard_enum_match_arm, reason = "librdkafka's list of errors is open")]
pub(super) fn is_final(error: &KafkaError) -> bool {
    match error.rdkafka_error_code() {
        Some(code) => matches!(
            code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::UnknownPartition
        ),
        None => false,
    }
}

/// The producer's callbacks.
pub(super) struct Reports {
    /// Name of the node, for lines and figures.
    pub(super) node: String,
    /// Where reports are counted.
    pub(super) ledger: Arc<Ledger>,
    /// Repeated lines are left out.
    pub(super) seldom: Seldom,
}

impl ClientContext for Reports {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(node = self.node, facility, "librdkafka: {line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let kind = error.rdkafka_error_code().map_or_else(|| "other".to_owned(), |code| format!("{code:?}"));
        if let Some(left_out) = self.seldom.may_say(&kind) {
            tracing::warn!(node = self.node, error = %error, reason, left_out, "kafka sink goes on trying");
        }
        metrics::counter!("tidegate_kafka_errors_total", "node" => self.node.clone(), "error" => kind)
            .increment(1);
    }

    fn stats_raw(&self, _statistics: &[u8]) {}
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    /// Number of the row since the last flush.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, row: usize) {
        self.ledger.report(row, result.as_ref().err().map(|(error, _)| error));
    }
}
