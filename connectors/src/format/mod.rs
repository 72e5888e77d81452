//! Formats: bytes to record batches and back. A connector that receives
//! payloads takes a [`RowFormat`]; it never looks into a payload itself.
//!
//! A bad row never takes its neighbours with it and is never dropped: it is
//! kept aside with its reason, its place and its bytes.

mod build;
mod check;
mod column;
mod csv;
pub mod encode;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod instant;
mod json;
mod number;
mod raw;
mod spec;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
mod value;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::codec::{Decoded, Decoder};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::reject::rejects;
use tidegate_engine::schema::{RECEIVED_AT, StreamSchema};
use tidegate_engine::source::{Position, Rows, WatermarkPolicy};
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::NodeConfig;

pub use build::REJECT_BYTES_MAX;
pub(crate) use check::delimiter;
use check::{check_against_format, check_own};
pub(crate) use csv::column_names;
use spec::RowSpec;

/// Longest payload or row that is decoded unless `payload_max` says otherwise.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The keys of every source whose rows have a format.
pub const ROW_KEYS: &[Key] = &[
    optional("format", Kind::Word(&["json", "csv", "raw"]), "how rows are written, default \"json\""),
    optional(
        "schema",
        Kind::Map(&Kind::AnyOf(&[Kind::Text, Kind::Table(COLUMN_KEYS)])),
        "columns and their types; json and csv need it, raw has `payload = \"bytes\"`",
    ),
    optional(
        "time",
        Kind::Table(TIME_KEYS),
        "the column that is event time; without it the time of receipt is",
    ),
    optional("watermark", Kind::Table(WATERMARK_KEYS), "how far rows may be out of order"),
    optional("missing", Kind::Word(&["null", "reject"]), "a row without a column, default \"null\""),
    optional(
        "extra",
        Kind::Word(&["ignore", "reject"]),
        "a row with a field that is no column, default \"ignore\"",
    ),
    optional(
        "mistyped",
        Kind::Word(&["reject", "null", "coerce"]),
        "a value that is not of its column's type, default \"reject\"",
    ),
    optional("delimiter", Kind::Text, "csv: the character between cells, default \",\""),
    optional("header", Kind::Bool, "csv: whether the first line names the columns, default true"),
    optional("payload_max", Kind::Size, "longest row or payload that is decoded, default \"16MiB\""),
];

pub(crate) const COLUMN_KEYS: &[Key] = &[
    required("type", Kind::Text, "the column's type"),
    optional(
        "from",
        Kind::Text,
        "json: where the value stands, e.g. \"data.value\"; default the column's name",
    ),
    optional(
        "unit",
        Kind::Word(instant::Unit::WORDS),
        "timestamp: what numbers count; without it RFC 3339 text",
    ),
];

const TIME_KEYS: &[Key] = &[
    required("column", Kind::Text, "the column that holds event time"),
    optional("unit", Kind::Word(instant::Unit::WORDS), "what its numbers count"),
    optional("format", Kind::Word(&["rfc3339"]), "how its text is written, default \"rfc3339\""),
];

/// The key of sources whose peer does not send again what it was told we have.
pub const DURABLE_KEYS: &[Key] = &[optional(
    "durable",
    Kind::Bool,
    "whether rows are on our disk before the peer hears \"got it\" and before anybody acts on them; default true for mqtt, http and subscriptions of opcua, else false",
)];

/// A source that looks at values at an interval tells that it did not look when
/// more of its periods than these have passed since the last row.
const GAP_PERIODS: u32 = 3;

/// Whether the last row was too long ago; also if it comes from a future that a
/// clock which was set back has not reached yet.
pub(crate) fn is_gap(last: Time, now: Time, every: Duration) -> bool {
    now.since(last).max(last.since(now)) > every.saturating_mul(GAP_PERIODS)
}

/// Whether a source goes through the ingress log.
pub(crate) fn durable(config: &NodeConfig, default: bool) -> bool {
    config.table.bool("durable").unwrap_or(default)
}

/// The keys of `watermark`, for sources that have no format.
pub const WATERMARK_KEYS: &[Key] = &[
    optional("delay", Kind::Duration, "how much later than its successors a row may come, default \"0s\""),
    optional("idle", Kind::Duration, "silence after which a partition holds nothing back, default \"30s\""),
    optional(
        "max_future",
        Kind::Duration,
        "rows further ahead of the clock are rejected, default \"5m\"; files have no such limit",
    ),
    optional(
        "drift",
        Kind::Duration,
        "while its event time is further ahead than this of the slowest source that gives rows, this one is not read; without it nobody waits",
    ),
];

/// How a source's bytes become rows: format, columns, event time, policies.
#[derive(Clone, Debug)]
pub struct RowFormat {
    kind: FormatKind,
    spec: Arc<RowSpec>,
    stream: StreamSchema,
    own: usize,
    watermark: WatermarkPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FormatKind {
    Json,
    Csv { delimiter: u8, header: bool },
    Raw,
}

/// Where decoded rows come from.
#[derive(Clone, Debug)]
pub struct Origin<'a> {
    /// Name of the source, for `rejects`.
    pub node: &'a str,
    /// Partition of the rows.
    pub partition: u32,
    /// Where to go on after them.
    pub position: Position,
    /// When they were received.
    pub now: Time,
}

/// A decoder for a stream of bytes that arrives in pieces: the lines of a file
/// or of a request's body. Rows end at line ends.
pub trait StreamDecoder: Decoder {
    /// How many bytes of `buffer`, which begins with a row, are whole rows:
    /// pass exactly these to `decode`, keep the rest for later.
    fn whole_rows(&self, buffer: &[u8]) -> usize;

    /// Bytes of the row that `buffer` begins with, its line end included; `None`
    /// if it is not whole.
    fn first_row(&self, buffer: &[u8]) -> Option<usize> {
        memchr::memchr(b'\n', buffer).map(|end| end + 1)
    }

    /// Whether the stream begins with a row that names the columns: pass it to
    /// `set_header` and not to `decode`.
    fn wants_header(&self) -> bool {
        false
    }

    /// Takes the first row of the stream.
    ///
    /// # Errors
    /// Why it is no header; the stream cannot be read.
    fn set_header(&mut self, _row: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

impl RowFormat {
    /// Reads `ROW_KEYS` of a node. `own` are the connector's columns (topic,
    /// key, offset …), which follow the decoded ones.
    ///
    /// # Errors
    /// Everything wrong with them, with places.
    pub fn from_config(config: &NodeConfig, own: Vec<Field>) -> Result<RowFormat, ConfigError> {
        let mut out = Vec::new();
        let kind = FormatKind::from_config(config, &mut out);
        let default = [("payload", DataType::Binary)];
        let spec =
            RowSpec::from_config(config, if kind == FormatKind::Raw { &default } else { &[] }, &mut out);
        check_against_format(config, kind, &spec, &mut out);
        check_own(config, &spec, &own, &mut out);
        if out.iter().any(|message| message.severity == tidegate_engine::diagnostic::Severity::Error) {
            return Err(ConfigError(out));
        }
        let named = config.table.table("time").and_then(|time| time.str("column"));
        let own_count = own.len();
        let mut fields: Vec<Field> =
            spec.schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.extend(own);
        if named.is_none() {
            fields.push(Field::new(RECEIVED_AT, time_type(), false));
        }
        let stream = StreamSchema::new(fields, Some(named.unwrap_or(RECEIVED_AT)));
        let watermark = watermark_policy(config);
        Ok(RowFormat { kind, spec: Arc::new(spec), stream, own: own_count, watermark })
    }

    /// The rows: decoded columns, the connector's own, and `received_at` where
    /// no event time is named.
    #[must_use]
    pub fn stream(&self) -> StreamSchema {
        self.stream.clone()
    }

    /// How watermarks are made.
    #[must_use]
    pub fn watermark(&self) -> WatermarkPolicy {
        self.watermark
    }

    /// Keeps only the values of these columns (and the event time) from now on;
    /// the others stay in the schema and are NULL in every row. Their values are
    /// checked all the same: whether a row is rejected must not depend on who
    /// reads it. Call it before the decoders are made.
    pub fn keep(&mut self, names: &[&str]) {
        Arc::make_mut(&mut self.spec).keep(names);
    }

    /// Longest payload or row that is decoded, in bytes.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        self.spec.payload_bytes_max
    }

    /// A decoder for whole payloads (messages): a payload holds any number of
    /// rows.
    #[must_use]
    pub fn decoder(&self) -> Box<dyn Decoder> {
        let spec = Arc::clone(&self.spec);
        match self.kind {
            FormatKind::Json => Box::new(json::JsonDecoder::payloads(spec)),
            FormatKind::Csv { delimiter, header } => {
                Box::new(csv::CsvDecoder::payloads(spec, delimiter, header))
            }
            FormatKind::Raw => Box::new(raw::RawDecoder::payloads(spec)),
        }
    }

    /// A decoder for a stream of bytes whose rows end at line ends (files).
    #[must_use]
    pub fn stream_decoder(&self) -> Box<dyn StreamDecoder> {
        let spec = Arc::clone(&self.spec);
        match self.kind {
            FormatKind::Json => Box::new(json::JsonDecoder::lines(spec)),
            FormatKind::Csv { delimiter, header } => {
                Box::new(csv::CsvDecoder::lines(spec, delimiter, header))
            }
            FormatKind::Raw => Box::new(raw::RawDecoder::lines(spec)),
        }
    }

    /// Puts decoded rows, the connector's own columns (one value per row) and
    /// the time of receipt together.
    ///
    /// # Errors
    /// `Fatal`, if the own columns are not of the declared types or as many as
    /// the rows.
    pub fn rows(
        &self,
        decoded: Decoded,
        own: Vec<ArrayRef>,
        origin: Origin<'_>,
    ) -> Result<Rows, ConnectorError> {
        let Origin { node, partition, position, now } = origin;
        let wrong = |error: &dyn std::fmt::Display| {
            ConnectorError::Fatal(format!("source `{node}` gave columns that are not its schema's: {error}"))
        };
        if own.len() != self.own {
            return Err(wrong(&format!("{} own columns, not {}", own.len(), self.own)));
        }
        let (_, mut arrays, count) = decoded.batch.into_parts();
        arrays.extend(own);
        if arrays.len() < self.stream.columns.fields().len() {
            arrays.push(Arc::new(TimestampMicrosecondArray::from_value(now.0, count).with_timezone("UTC")));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let schema = Arc::clone(&self.stream.columns);
        let batch =
            RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|error| wrong(&error))?;
        let bad = &decoded.bad;
        let rejected = (!bad.is_empty()).then(|| rejects(node, bad, vec![now.0; bad.len()]));
        Ok(Rows {
            partition,
            batch,
            rejects: rejected.transpose().map_err(|error| wrong(&error))?,
            position,
            received: None,
        })
    }
}

/// The instant of RFC 3339 text such as `2026-11-23T12:00:00Z`.
pub(crate) fn time_of(text: &str) -> Option<Time> {
    instant::rfc3339(text).map(Time)
}

/// How the watermarks of a node are made, from its `watermark` table.
#[must_use]
pub fn watermark_policy(config: &NodeConfig) -> WatermarkPolicy {
    let default = WatermarkPolicy::default();
    let Some(table) = config.table.table("watermark") else { return default };
    let read = |key: &str, default: Duration| table.duration(key).unwrap_or(default);
    WatermarkPolicy {
        delay: read("delay", default.delay),
        idle: read("idle", default.idle),
        max_future: table.duration("max_future").or(default.max_future),
        drift: table.duration("drift"),
    }
}

impl FormatKind {
    fn from_config(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> FormatKind {
        let table = &config.table;
        match table.str("format") {
            Some("csv") => FormatKind::Csv {
                delimiter: delimiter(config, out),
                header: table.bool("header").unwrap_or(true),
            },
            Some("raw") => FormatKind::Raw,
            Some(_) | None => FormatKind::Json,
        }
    }
}
