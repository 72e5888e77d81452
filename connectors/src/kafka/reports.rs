//! The producer's callbacks: delivery reports, counted for the sink. An error
//! that may pass never costs a row: everything since the last flush is written
//! again.

use std::sync::Arc;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};

use crate::deliveries::Deliveries;
use crate::seldom::Seldom;

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

/// Whether the brokers do not accept us, or we not them: by itself that does
/// not pass.
pub(super) fn is_refusal(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL))
}

/// What a producer says by itself, told once in a while.
pub(super) struct Lines {
    node: String,
    seldom: Seldom,
}

impl Lines {
    /// Of this node.
    pub(super) fn new(node: &str) -> Lines {
        Lines { node: node.to_owned(), seldom: Seldom::default() }
    }

    /// A line of librdkafka's own log.
    pub(super) fn log(&self, facility: &str, line: &str) {
        tracing::debug!(node = self.node, facility, "librdkafka: {line}");
    }

    /// An error that it goes on after.
    pub(super) fn error(&self, error: &KafkaError, reason: &str) {
        let kind = error.rdkafka_error_code().map_or_else(|| "other".to_owned(), |code| format!("{code:?}"));
        if let Some(left_out) = self.seldom.may_say(&kind) {
            tracing::warn!(node = self.node, error = %error, reason, left_out, "kafka sink goes on trying");
        }
        metrics::counter!("tidegate_kafka_errors_total", "node" => self.node.clone(), "error" => kind)
            .increment(1);
    }
}

/// The producer's callbacks.
pub(super) struct Reports {
    /// What it says by itself.
    pub(super) lines: Lines,
    /// Where reports are counted.
    pub(super) deliveries: Arc<Deliveries>,
}

impl ClientContext for Reports {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.lines.log(facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if is_refusal(&error) {
            self.deliveries.lose(format!("kafka: {reason}"));
        }
        self.lines.error(&error, reason);
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    /// Number of the row since the last flush.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, row: usize) {
        match result.as_ref().err().map(|(error, _)| error) {
            None => self.deliveries.done(row, None),
            Some(error) if is_final(error) => self.deliveries.done(row, Some(format!("kafka: {error}"))),
            Some(error) => {
                self.deliveries.lose(format!("kafka: a message was not delivered: {error}"));
                self.deliveries.done(row, None);
            }
        }
    }
}
