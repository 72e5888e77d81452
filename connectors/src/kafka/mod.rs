//! Kafka: the source and the sink `kafka`, both on librdkafka. This folder is
//! the only place that names it. Offsets are committed, and rows counted as
//! delivered, only when the other side said so.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::catalog::{BuildSink, BuildSource, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::source::SourcePart;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use crate::format::encode::ENCODE_KEYS;
use crate::format::{ROW_KEYS, RowFormat};

use client::{CLIENT_KEYS, ClientSettings};
use columns::{COLUMN_NAMES, Column};
use context::Reading;
use slots::RowMaker;
use source::KafkaSource;
use start::Start;

mod client;
mod columns;
mod commit;
mod context;
mod figures;
mod handoff;
mod marker;
mod position;
mod reader;
mod render;
mod reports;
mod sink;
mod slots;
mod source;
mod start;
mod suspects;
mod transaction;

/// `[source.x] type = "kafka"`
pub(crate) const SOURCE: Row<BuildSource> = Row {
    name: "kafka",
    summary: "topics of a Kafka cluster, read as a consumer group",
    keys: &[ROW_KEYS, CLIENT_KEYS, SOURCE_KEYS],
    example: SOURCE_EXAMPLE,
    build: build_source,
};

/// `[sink.x] type = "kafka"`
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "kafka",
    summary: "one message per row to a topic of a Kafka cluster, idempotent or exactly once",
    keys: &[ENCODE_KEYS, CLIENT_KEYS, sink::SINK_KEYS],
    example: sink::SINK_EXAMPLE,
    build: sink::build_sink,
};

const SOURCE_KEYS: &[Key] = &[
    required(
        "topics",
        Kind::List(&Kind::Text),
        "names of topics; one that begins with ^ is a regular expression over all names",
    )
    .outside(),
    optional("group", Kind::Text, "consumer group; default: the topology's name, a dash, the node's name"),
    optional(
        "start",
        start::START,
        "where a partition begins that the group does not know; default earliest",
    ),
    optional(
        "columns",
        Kind::List(&Kind::Word(COLUMN_NAMES)),
        "facts of the message as columns beside its payload: topic, partition, offset, key, key_bytes, timestamp",
    ),
    optional(
        "headers",
        Kind::List(&Kind::Text),
        "headers as text columns of the same name, NULL where absent",
    ),
    optional(
        "drain",
        Kind::Duration,
        "longest wait for rows of revoked partitions to become durable before another member continues; default 10s",
    ),
];

const SOURCE_EXAMPLE: &str = r#"[topology]
name = "orders"

[source.orders]
type    = "kafka"
brokers = ["localhost:9092"]
topics  = ["orders"]
format  = "json"
schema  = { id = "int64", at = "timestamp", amount = "float64" }
time    = { column = "at", format = "rfc3339" }
columns = ["key", "offset"]
headers = ["trace"]

[sink.out]
type = "stdout"
from = "orders"
"#;

/// What the consumer needs that users seldom change; the file's `librdkafka`
/// table may.
const CONSUMER_DEFAULTS: &[(&str, &str)] = &[
    ("partition.assignment.strategy", "cooperative-sticky"),
    // 1 s by default: a sawtooth whenever the local queue was full, measured.
    ("fetch.queue.backoff.ms", "20"),
    // How late the first message after a silence may be.
    ("fetch.wait.max.ms", "100"),
    ("topic.metadata.refresh.interval.ms", "30000"),
    ("allow.auto.create.topics", "false"),
    // How fine event time follows the clock in silence.
    ("statistics.interval.ms", "1000"),
];

/// Default of `drain`: below half of librdkafka's session time-out of 45 s.
const DRAIN: Duration = Duration::from_secs(10);

fn build_source(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let mut problems = Vec::new();
    let mut settings = ClientSettings::from_config(config, context, CONSUMER_DEFAULTS, &mut problems);
    let table = &config.table;
    let group =
        table.str("group").map_or_else(|| format!("{}-{}", context.topology, config.name), str::to_owned);
    settings.set("group.id", group);
    settings.set("enable.auto.commit", "false");
    settings.set("enable.auto.offset.store", "false");
    // An offset that retention removed goes on at the oldest message kept.
    settings.set("auto.offset.reset", "earliest");
    let topics = topics(config, &mut problems);
    let columns = own_columns(config, &mut problems);
    let start = Start::from_table(table, &mut problems);
    let own = columns.iter().map(Column::field).collect();
    let format = match RowFormat::from_config(config, own) {
        Ok(format) => Some(Arc::new(format)),
        Err(ConfigError(more)) => {
            problems.extend(more);
            None
        }
    };
    let (Some(format), true) = (format, problems.is_empty()) else { return Err(ConfigError(problems)) };
    let reading = Reading { start, drain: table.duration("drain").unwrap_or(DRAIN), once: context.once };
    let (stream, watermark) = (format.stream(), format.watermark());
    let maker = RowMaker { node: config.name.clone(), format, columns: columns.into() };
    let source = KafkaSource::new(settings, topics, reading, maker, Arc::clone(&context.clock));
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

fn topics(config: &NodeConfig, problems: &mut Vec<Diagnostic>) -> Vec<String> {
    let texts = config.table.texts("topics");
    if texts.is_empty() {
        let problem = Diagnostic::error("TG-K005", "`topics` names no topic");
        problems.push(problem.at(config.table.span_of("topics")));
    }
    for text in &texts {
        if !text.value.starts_with('^') && !is_topic(&text.value) {
            problems.push(wrong_topic(text));
        }
    }
    texts.iter().map(|text| text.value.clone()).collect()
}

fn wrong_topic(text: &Text) -> Diagnostic {
    Diagnostic::error("TG-K005", format!("`{}` cannot be the name of a Kafka topic", text.value))
        .at(text.span.clone())
        .help("1 to 249 letters, digits, dots, underscores and dashes; a pattern begins with ^")
}

/// Kafka's own rule (`org.apache.kafka.common.internals.Topic`).
fn is_topic(name: &str) -> bool {
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.chars().all(is_topic_char)
}

/// The characters of Kafka's topic names.
fn is_topic_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn own_columns(config: &NodeConfig, problems: &mut Vec<Diagnostic>) -> Vec<Column> {
    let words = config.table.texts("columns");
    let mut columns: Vec<Column> = Vec::new();
    let wanted = words.into_iter().filter_map(|word| Some((word, Column::from_word(&word.value)?)));
    let headers = config.table.texts("headers");
    let headers = headers.into_iter().map(|name| (name, Column::Header(name.value.clone())));
    for (text, column) in wanted.chain(headers) {
        if columns.iter().any(|other| other.field().name() == column.field().name()) {
            let message = format!("the column `{}` is asked for twice", text.value);
            problems.push(Diagnostic::error("TG-K006", message).at(text.span.clone()));
        } else {
            columns.push(column);
        }
    }
    columns
}
