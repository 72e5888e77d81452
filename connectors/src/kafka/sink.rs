//! The sink `kafka`: one message per row through an idempotent producer. A
//! flush returns when every message has its delivery report; the producer is
//! never dropped with messages in it unless the brokers stayed away. Exactly
//! once is another sink behind the same keys: `transaction`.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError, RejectedRow};
use tidegate_engine::expression::Scope;
use tidegate_engine::operator::Input;
use tidegate_engine::reject::narrow;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Table;

use super::client::ClientSettings;
use super::marker::{is_exactly_once, place};
use super::render::{Messages, Recipe};
use super::reports::{Lines, Reports, is_final};
use super::transaction::{Clients, Transactions};
use super::{is_topic, wrong_topic};
use crate::deliveries::Deliveries;
use crate::format::encode::EncodeFormat;
use crate::row_encoder::RowEncoder;
use crate::sink_log::part;

/// How long `close` waits for delivery reports.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Readers wait this long for what a killed process left under way, unless it
/// starts again; brokers allow 15 minutes at most.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Rows given to the producer before other tasks of the thread get a turn.
const ROWS_PER_TURN: usize = 1_024;

pub(super) const SINK_KEYS: &[Key] = &[
    required("topic", Kind::Template, "the topic; {expr} inserts a value, e.g. \"events-{site}\"").outside(),
    optional("key", Kind::Expression, "the message's key, e.g. \"device\"; rows of one key keep their order"),
    optional("headers", Kind::Map(&Kind::Template), "headers by name, e.g. { trace = \"{trace_id}\" }"),
    optional(
        "partitioner",
        Kind::Word(&[
            "murmur2_random",
            "murmur2",
            "consistent_random",
            "consistent",
            "fnv1a_random",
            "random",
        ]),
        "how keys choose partitions; default murmur2_random, as Kafka's own clients",
    ),
    optional(
        "compression",
        Kind::Word(&["none", "gzip", "snappy", "lz4", "zstd"]),
        "compression of message sets; default lz4",
    ),
    optional(
        "delivery",
        Kind::Word(&["at_least_once", "exactly_once"]),
        "at_least_once: a message leaves at once, and may come again after a crash; exactly_once: messages leave in a transaction when their checkpoint is durable, once for readers at read_committed; default at_least_once",
    )
    .outside(),
    optional(
        "transactional_id",
        Kind::Text,
        "exactly_once: names the sink to the brokers, and must stay the same; default: the topology's name, a slash, the node's name",
    )
    .outside(),
    optional(
        "marker_topic",
        Kind::Text,
        "exactly_once: the compacted topic, made if it is not there, that says how far each sink is; default _tidegate_epochs",
    )
    .outside(),
    optional("idempotent", Kind::Bool, "whether the broker drops repeats and keeps order; default true"),
    optional("linger", Kind::Duration, "how long messages may wait for company; default 5ms"),
    optional(
        "delivery_timeout",
        Kind::Duration,
        "a message, or a transaction, not delivered in this time is sent anew; default 2m, with exactly_once 1m",
    ),
];

pub(super) const SINK_EXAMPLE: &str = r#"[topology]
name = "forward"

[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }

[sink.out]
type    = "kafka"
from    = "rows"
brokers = ["localhost:9092"]
topic   = "values"
key     = "device"
delivery = "exactly_once"
"#;

/// Builds the sink.
pub(super) fn build_sink(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
) -> Result<SinkPart, ConfigError> {
    let mut problems = Vec::new();
    let mut settings = ClientSettings::from_config(config, context, &[], &mut problems);
    let reading = settings.clone();
    producer_settings(&config.table, &mut settings);
    let recipe = recipe(config, context, input, &mut problems);
    let place = place(config, context, &mut problems);
    let (Some(recipe), true) = (recipe, problems.is_empty()) else { return Err(ConfigError(problems)) };
    let node = config.name.clone();
    if let Some(place) = place {
        let clients = Clients { reading, producing: settings };
        return Ok(part(config, context, Box::new(Transactions::new(&node, clients, place, recipe))));
    }
    let sink = KafkaSink { node, settings, recipe, deliveries: Arc::default(), producer: None, rows: 0 };
    Ok(SinkPart { sink: Box::new(sink) })
}

fn producer_settings(table: &Table, settings: &mut ClientSettings) {
    let idempotent = table.bool("idempotent").unwrap_or(true);
    settings.set("enable.idempotence", if idempotent { "true" } else { "false" });
    settings.set("partitioner", table.str("partitioner").unwrap_or("murmur2_random"));
    settings.set("compression.type", table.str("compression").unwrap_or("lz4"));
    let linger = table.duration("linger").unwrap_or(Duration::from_millis(5));
    settings.set("linger.ms", linger.as_millis().to_string());
    if is_exactly_once(table) {
        // Messages take theirs from it.
        let timeout = table.duration("delivery_timeout").unwrap_or(TRANSACTION_TIMEOUT);
        settings.set("transaction.timeout.ms", timeout.as_millis().to_string());
        return;
    }
    let timeout = table.duration("delivery_timeout").unwrap_or(Duration::from_secs(120));
    // librdkafka demands more than linger, and takes 0 for "for ever".
    let timeout = timeout.max(linger + Duration::from_millis(1)).max(Duration::from_millis(10));
    settings.set("delivery.timeout.ms", timeout.as_millis().to_string());
}

fn recipe(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
    problems: &mut Vec<Diagnostic>,
) -> Option<Recipe> {
    let table = &config.table;
    let scope = Scope::of(&input.stream.columns);
    let expressions = context.expressions.as_ref();
    let text = table.text("topic")?;
    let topic = Template::compile(text, &scope, expressions).map_err(|more| problems.extend(more)).ok();
    if topic.as_ref().and_then(Template::as_literal).is_some_and(|literal| !is_topic(&literal)) {
        problems.push(wrong_topic(text));
    }
    let key = table.text("key").map(|key| expressions.compile(key, &scope)).transpose();
    let key = key.map_err(|problem| problems.push(problem)).ok();
    let mut headers = Vec::new();
    for entry in table.table("headers").map(|table| table.entries.as_slice()).unwrap_or_default() {
        let Some(text) = entry.value.as_text() else { continue };
        match Template::compile(text, &scope, expressions) {
            Ok(template) => headers.push((entry.key.clone(), template)),
            Err(more) => problems.extend(more),
        }
    }
    let format = EncodeFormat::from_config(config).map_err(|ConfigError(more)| problems.extend(more)).ok();
    Some(Recipe {
        topic: topic?,
        key: key?,
        headers,
        time: input.stream.time,
        encoder: RowEncoder::new(format?),
    })
}

struct KafkaSink {
    node: String,
    settings: ClientSettings,
    recipe: Recipe,
    deliveries: Arc<Deliveries>,
    producer: Option<ThreadedProducer<Reports>>,
    /// Rows since the last flush: numbers the reports.
    rows: usize,
}

/// What the producer said to a message.
enum Answer {
    Taken,
    QueueFull,
    Refused(String),
    Lost(String),
}

#[async_trait]
impl Sink for KafkaSink {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.let_go(Duration::ZERO).await;
        self.deliveries = Arc::default();
        self.rows = 0;
        let reports = Reports { lines: Lines::new(&self.node), deliveries: Arc::clone(&self.deliveries) };
        let producer = self.settings.resolve()?.create_with_context(reports);
        let failed = |error| ConnectorError::Fatal(format!("kafka: the producer cannot be made: {error}"));
        self.producer = Some(producer.map_err(failed)?);
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let recipe = &mut self.recipe;
        let (parts, mut refused) = narrow(batch.num_rows(), |rows| recipe.render(batch, rows));
        for messages in parts {
            self.send_all(&messages, &mut refused).await?;
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
        let left = self.let_go(CLOSE_MAX).await;
        if left == 0 {
            return Ok(());
        }
        Err(ConnectorError::Lost(format!("kafka: {left} messages were not delivered before the stop")))
    }
}

impl KafkaSink {
    async fn send_all(
        &mut self,
        messages: &Messages,
        refused: &mut Vec<RejectedRow>,
    ) -> Result<(), ConnectorError> {
        for (index, row) in messages.rows.clone().enumerate() {
            loop {
                match self.send(messages, index, self.rows + row) {
                    Answer::Taken => break,
                    // A report frees a place: no fixed sleep, no reordering.
                    Answer::QueueFull => self.deliveries.progress().await,
                    Answer::Refused(reason) => {
                        refused.push(RejectedRow { row, reason });
                        break;
                    }
                    Answer::Lost(reason) => return Err(ConnectorError::Lost(reason)),
                }
            }
            if index % ROWS_PER_TURN == ROWS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn send(&self, messages: &Messages, index: usize, number: usize) -> Answer {
        let Some(producer) = &self.producer else { return Answer::Lost("the kafka sink is not open".into()) };
        let Some(record) = messages.record(index, number) else {
            return Answer::Refused("the row has no message".into());
        };
        self.deliveries.sent();
        let Err((error, _)) = producer.send(record) else { return Answer::Taken };
        self.deliveries.unsent();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            return Answer::QueueFull;
        }
        if is_final(&error) || matches!(error, KafkaError::Nul(_)) {
            return Answer::Refused(format!("kafka: {error}"));
        }
        Answer::Lost(format!("kafka: {error}"))
    }

    /// Waits for reports, at most `wait`, then drops the producer on a thread
    /// where that may block; answers how many messages had no report.
    async fn let_go(&mut self, wait: Duration) -> usize {
        let Some(producer) = self.producer.take() else { return 0 };
        let deliveries = Arc::clone(&self.deliveries);
        let reported = async {
            while deliveries.open() > 0 {
                deliveries.progress().await;
            }
        };
        drop(tokio::time::timeout(wait, reported).await);
        let left = self.deliveries.open();
        // Dropping stops the poll thread and purges: up to 0.6 s.
        drop(tokio::task::spawn_blocking(move || drop(producer)));
        left
    }
}

impl Drop for KafkaSink {
    /// Dropped without `close`: what the producer holds still gets its chance,
    /// on a thread of its own.
    fn drop(&mut self) {
        let Some(producer) = self.producer.take() else { return };
        let flushing = std::thread::Builder::new().name("kafka-flush".into());
        let spawned = flushing.spawn(move || drop(producer.flush(CLOSE_MAX)));
        if let Err(error) = spawned {
            tracing::warn!(node = self.node, %error, "kafka messages may be lost: no thread to flush them");
        }
    }
}
