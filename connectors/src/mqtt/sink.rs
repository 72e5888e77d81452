//! The sink `mqtt`: one message per row on a connection of its own. A flush
//! returns when the broker has acknowledged every message (QoS 0: when all
//! were sent).

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError, OperatorError, RejectedRow};
use tidegate_engine::expression::Scope;
use tidegate_engine::operator::Input;
use tidegate_engine::reject::narrow;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use super::link::Outgoing;
use super::sender::Sender;
use super::settings::Settings;
use super::topic::{as_topic_part, can_be_sent_to};
use crate::deliveries::Deliveries;
use crate::format::encode::EncodeFormat;
use crate::row_encoder::RowEncoder;

/// Keys of whatever sends a message.
pub(super) const MESSAGE_KEYS: &[Key] = &[
    required(
        "topic",
        Kind::Template,
        "the topic; {expr} inserts a value as one level, e.g. \"fleet/{truck}/cmd\"",
    ),
    optional(
        "payload",
        Kind::Template,
        "the payload as text, e.g. \"{value}\"; default: the row in `format`",
    ),
    optional(
        "qos",
        Kind::Int(0, 2),
        "0 at most once, 1 at least once, 2 exactly once to the broker; default 1",
    ),
    optional(
        "retain",
        Kind::Bool,
        "whether the broker keeps the message for later subscribers; default false",
    ),
];

/// MQTT 3.1.1 has no word for how many QoS 2 messages a broker takes at a time.
/// Mosquitto 2.0 takes 20 by default, and completes further ones without
/// passing them on: 39 of 150 arrived, measured.
const QOS2_IN_FLIGHT_MAX: u16 = 20;

pub(super) const SINK_EXAMPLE: &str = r#"[topology]
name = "commands"

[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }

[sink.out]
type   = "mqtt"
from   = "rows"
broker = "mqtt://localhost:1883"
topic  = "plant/{device}/value"
"#;

/// Builds the sink.
pub(super) fn build_sink(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
) -> Result<SinkPart, ConfigError> {
    let mut problems = Vec::new();
    let mut settings = Settings::from_config(config, context, &mut problems);
    if config.table.int("qos") == Some(2) {
        settings.in_flight_max = QOS2_IN_FLIGHT_MAX;
    }
    let scope = Scope::of(&input.stream.columns);
    let table = &config.table;
    let mut template = |text: &Text| {
        Template::compile(text, &scope, context.expressions.as_ref())
            .map_err(|more| problems.extend(more))
            .ok()
    };
    let topic = table.text("topic").and_then(&mut template);
    let payload = table.text("payload").map(&mut template);
    check_topic(config, topic.as_ref(), &mut problems);
    if payload.is_some() && table.get("format").is_some() {
        let problem = Diagnostic::error("TG-Q004", "`payload` and `format` exclude each other");
        problems.push(problem.at(table.span_of("format")));
    }
    let format = EncodeFormat::from_config(config).map_err(|ConfigError(more)| problems.extend(more)).ok();
    let (Some(topic), Some(format), true) = (topic, format, problems.is_empty()) else {
        return Err(ConfigError(problems));
    };
    let payload = match payload.flatten() {
        Some(template) => Payload::Text(template),
        None => Payload::Row(RowEncoder::new(format)),
    };
    let (qos, retain) = (table.int_as("qos").unwrap_or(1), table.bool("retain").unwrap_or(false));
    let recipe = Recipe { topic, payload, qos, retain };
    let sink = MqttSink { settings, recipe, deliveries: Arc::default(), sender: None, rows: 0 };
    Ok(SinkPart { sink: Box::new(sink) })
}

/// A topic without values in it is checked when the file is loaded.
pub(super) fn check_topic(config: &NodeConfig, topic: Option<&Template>, problems: &mut Vec<Diagnostic>) {
    let wrong = topic.and_then(Template::as_literal).filter(|literal| !can_be_sent_to(literal));
    if let Some(literal) = wrong {
        let problem =
            Diagnostic::error("TG-Q002", format!("no message can be sent to the topic `{literal}`"));
        problems.push(
            problem.at(config.table.span_of("topic")).help("a topic is not empty and has no `+` and `#`"),
        );
    }
}

struct Recipe {
    topic: Template,
    payload: Payload,
    qos: u8,
    retain: bool,
}

enum Payload {
    Text(Template),
    Row(RowEncoder),
}

/// Messages of some rows, with the row each one is.
type Messages = Vec<(usize, Outgoing)>;

impl Recipe {
    fn render(
        &mut self,
        batch: &RecordBatch,
        rows: std::ops::Range<usize>,
    ) -> Result<Messages, OperatorError> {
        let part = batch.slice(rows.start, rows.len());
        let topics = self.topic.render(&part, &as_topic_part)?;
        let payloads: Vec<Bytes> = match &mut self.payload {
            Payload::Text(template) => {
                template.render(&part, &str::to_owned)?.into_iter().map(Bytes::from).collect()
            }
            Payload::Row(encoder) => {
                let (mut all, mut ends) = (Vec::new(), Vec::new());
                encoder.encode(&part, &mut all, &mut ends).map_err(OperatorError)?;
                let mut rest = Bytes::from(all);
                let mut begin = 0;
                let cut = |end: usize| {
                    let payload = rest.split_to(end - begin);
                    begin = end;
                    payload
                };
                ends.into_iter().map(cut).collect()
            }
        };
        let (qos, retain) = (self.qos, self.retain);
        let message = |(topic, payload)| Outgoing { topic, payload, qos, retain, properties: Vec::new() };
        Ok(rows.zip(topics.into_iter().zip(payloads).map(message)).collect())
    }
}

struct MqttSink {
    settings: Settings,
    recipe: Recipe,
    deliveries: Arc<Deliveries>,
    sender: Option<Sender>,
    /// Rows since the last flush: numbers the deliveries.
    rows: usize,
}

#[async_trait]
impl Sink for MqttSink {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.sender = None;
        self.deliveries = Arc::default();
        self.rows = 0;
        let deliveries = Arc::clone(&self.deliveries);
        self.sender = Some(Sender::connect(&self.settings, self.recipe.qos, deliveries).await?);
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let Some(sender) = &self.sender else {
            return Err(ConnectorError::Lost("the mqtt sink is not open".into()));
        };
        let recipe = &mut self.recipe;
        let (parts, mut refused) = narrow(batch.num_rows(), |rows| recipe.render(batch, rows));
        for (row, message) in parts.into_iter().flatten() {
            if !can_be_sent_to(&message.topic) {
                let reason = format!("no message can be sent to the topic `{}`", message.topic);
                refused.push(RejectedRow { row, reason });
                continue;
            }
            sender.room().await?;
            if let Err(reason) = sender.send(message, self.rows + row) {
                refused.push(RejectedRow { row, reason });
            }
        }
        self.rows += batch.num_rows();
        if refused.is_empty() { Ok(()) } else { Err(ConnectorError::Rejected(refused)) }
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        let settled = self.deliveries.settle().await;
        if !matches!(settled, Err(ConnectorError::Lost(_))) {
            self.rows = 0;
        }
        settled
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        if let Some(sender) = self.sender.take() {
            sender.close().await;
        }
        Ok(())
    }
}
