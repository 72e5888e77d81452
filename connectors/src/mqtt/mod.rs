//! MQTT 5 and 3.1.1: the source and the sink `mqtt`, the task `mqtt.publish`.
//! This folder is the only place that names the client library. A message is
//! acknowledged when its rows are durable, and called delivered when the
//! broker says so.

use std::time::Duration;

use tidegate_engine::catalog::{BuildSink, BuildSource, BuildTask, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::source::SourcePart;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::format::encode::ENCODE_KEYS;
use crate::format::{DURABLE_KEYS, ROW_KEYS, RowFormat, durable};

use columns::{COLUMN_NAMES, Column, OwnRows, TopicReader};
use memory::{Memory, Subscriptions};
use settings::{CONNECTION_KEYS, Settings};
use source::{Faults, MqttSource};
use topic::Pattern;

mod acks;
mod columns;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod heard;
mod in_flight;
mod link;
mod memory;
mod packet;
mod publish;
mod sender;
mod session;
mod settings;
mod sink;
mod source;
mod tls;
mod topic;
mod v4;
mod v5;
mod wire;

/// `[source.x] type = "mqtt"`
pub(crate) const SOURCE: Row<BuildSource> = Row {
    name: "mqtt",
    summary: "topics of an MQTT broker, acknowledged when their rows are durable; a gap is a reject",
    keys: &[ROW_KEYS, CONNECTION_KEYS, SOURCE_KEYS, DURABLE_KEYS],
    example: SOURCE_EXAMPLE,
    build: build_source,
};

/// `[sink.x] type = "mqtt"`
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "mqtt",
    summary: "one message per row to topics of an MQTT broker",
    keys: &[ENCODE_KEYS, CONNECTION_KEYS, sink::MESSAGE_KEYS],
    example: sink::SINK_EXAMPLE,
    build: sink::build_sink,
};

/// `[[flow.x.task]] type = "mqtt.publish"`
pub(crate) const PUBLISH: Row<BuildTask> = Row {
    name: "mqtt.publish",
    summary: "sends one message and waits until the broker has it",
    keys: &[CONNECTION_KEYS, sink::MESSAGE_KEYS, publish::PUBLISH_KEYS],
    example: publish::PUBLISH_EXAMPLE,
    build: publish::build_publish,
};

const SOURCE_KEYS: &[Key] = &[
    required(
        "topics",
        Kind::List(&Kind::Text),
        "topics; `+` is one level, `#` the rest, {name} one level that becomes a column, $share/group/… is shared",
    ),
    optional(
        "qos",
        Kind::Int(0, 2),
        "highest QoS to receive with; default 1; with 0 each connection after the first begins with a reject that tells the gap",
    ),
    optional(
        "persistent",
        Kind::Bool,
        "whether the broker keeps messages while we are away, or a reject tells the gap; default true, needs a stable `client_id`",
    ),
    optional("session_expiry", Kind::Duration, "how long it keeps them (MQTT 5); default 7d"),
    optional(
        "receive_maximum",
        Kind::Int(1, 65_535),
        "unacknowledged messages that the broker may send at a time (MQTT 5); default 10000",
    ),
    optional(
        "buffer",
        Kind::Size,
        "bytes that may wait to be read; QoS 0 beyond it is dropped; default 16MiB",
    ),
    optional(
        "columns",
        Kind::List(&Kind::Word(COLUMN_NAMES)),
        "facts of the message as columns: topic, qos, retain",
    ),
];

const SOURCE_EXAMPLE: &str = r#"[topology]
name = "cold-chain"

[source.probe]
type      = "mqtt"
broker    = "mqtt://localhost:1883"
topics    = ["fleet/{truck}/temp"]
qos       = 1
format    = "json"
schema    = { c = "float64", door = "string", at = "timestamp" }
time      = { column = "at", format = "rfc3339" }
watermark = { delay = "2m" }

[sink.out]
type = "stdout"
from = "probe"
"#;

/// Rows are durable some 10 ms after they came, so that 100,000 messages a second
/// need a window of 1,000 at the least.
const RECEIVE_MAXIMUM: u16 = 10_000;
const SESSION_EXPIRY: Duration = Duration::from_secs(7 * 86_400);
const BUFFER_BYTES: u64 = 16 << 20;
/// A buffer must hold at least one small message, and its count must fit a u32.
const BUFFER_BYTES_MIN: u64 = 64 << 10;
const BUFFER_BYTES_MAX: u64 = 1 << 30;

fn build_source(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let mut problems = Vec::new();
    let table = &config.table;
    let mut settings = Settings::from_config(config, context, &mut problems);
    let persistent = table.bool("persistent").unwrap_or(true);
    let qos = table.int_as("qos").unwrap_or(1);
    settings.session_expiry = persistent.then(|| table.duration("session_expiry").unwrap_or(SESSION_EXPIRY));
    settings.receive_maximum = table.int_as("receive_maximum").unwrap_or(RECEIVE_MAXIMUM);
    let patterns = patterns(config, &mut problems);
    let columns = own_columns(config, &patterns, &mut problems);
    let buffer = table.size("buffer").unwrap_or(BUFFER_BYTES);
    if !(BUFFER_BYTES_MIN..=BUFFER_BYTES_MAX).contains(&buffer) {
        let problem = Diagnostic::error("TG-Q003", "`buffer` must be from 64KiB to 1GiB");
        problems.push(problem.at(table.span_of("buffer")));
    }
    let format = RowFormat::from_config(config, columns.iter().map(Column::field).collect());
    let format = format.map_err(|ConfigError(more)| problems.extend(more)).ok();
    let (Some(format), true) = (format, problems.is_empty()) else { return Err(ConfigError(problems)) };
    let wanted = Subscriptions {
        broker: settings.broker(),
        client_id: settings.client_id.clone(),
        filters: patterns.iter().map(|pattern| pattern.filter.clone()).collect(),
        qos,
    };
    let (stream, watermark) = (format.stream(), format.watermark());
    let source = MqttSource {
        node: config.name.clone(),
        settings,
        wanted,
        memory: persistent.then(|| Memory::new(&context.data_dir, &config.name)),
        buffer_bytes: usize::try_from(buffer).unwrap_or(usize::MAX),
        decoder: format.decoder(),
        format,
        topics: TopicReader::new(patterns, &columns),
        own: OwnRows::new(&columns),
        clock: std::sync::Arc::clone(&context.clock),
        faults: Faults::default(),
        connections: 0,
        was_connected: false,
        has_begun: false,
        gap: None,
        running: None,
    };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: false,
        commit_quickly: true,
        logged: durable(config, true),
    })
}

fn patterns(config: &NodeConfig, problems: &mut Vec<Diagnostic>) -> Vec<Pattern> {
    let texts = config.table.texts("topics");
    if texts.is_empty() {
        let problem = Diagnostic::error("TG-Q002", "`topics` names no topic");
        problems.push(problem.at(config.table.span_of("topics")));
    }
    let mut patterns: Vec<Pattern> = Vec::new();
    for text in texts {
        match Pattern::parse(text) {
            Ok(pattern) if patterns.iter().any(|other| other.filter == pattern.filter) => {
                let message = format!("`{}` is subscribed twice", pattern.filter);
                problems.push(Diagnostic::error("TG-Q002", message).at(text.span.clone()));
            }
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => problems.push(problem),
        }
    }
    patterns
}

/// The facts asked for, then every level that some pattern names, once.
fn own_columns(config: &NodeConfig, patterns: &[Pattern], problems: &mut Vec<Diagnostic>) -> Vec<Column> {
    let words = config.table.texts("columns");
    let mut columns: Vec<Column> = words.iter().filter_map(|word| Column::from_word(&word.value)).collect();
    for pattern in patterns {
        let names: Vec<&str> = pattern.names().collect();
        let twice = names
            .iter()
            .enumerate()
            .find(|(index, name)| names.iter().take(*index).any(|other| other == *name));
        if let Some((_, name)) = twice {
            let message = format!("`{{{name}}}` stands twice in a topic");
            problems.push(Diagnostic::error("TG-Q002", message).at(config.table.span_of("topics")));
        }
        for name in names {
            let column = Column::Level(name.to_owned());
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
    }
    columns
}
