//! The shape of a stream: its columns, and which of them is event time.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::error::OperatorError;
use crate::time::time_type;

/// Columns of a stream and the index of its event-time column.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamSchema {
    /// The Arrow schema of every batch on the edge.
    pub columns: SchemaRef,
    /// Index of the event-time column (`timestamp(µs, UTC)`, never NULL), if
    /// the stream has one.
    pub time: Option<usize>,
    /// Microseconds to add to that column: event time of a window's result is
    /// its `window_end` less one, so that windows over windows nest exactly.
    pub time_shift_us: i64,
    /// What a row means to those before it. Only readers that know of it may
    /// read anything but rows that stand.
    pub kind: StreamKind,
    /// Columns of a changelog whose values together name a result, of which one
    /// image stands at a time; `None` if it has none (any more).
    pub key: Option<Vec<usize>>,
}

/// What the rows of a stream mean to those before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamKind {
    /// Every row stands.
    #[default]
    Appends,
    /// A row may be replaced by a later one: a window's running results and
    /// corrections.
    Revises,
    /// Rows say how results change (`changelog`).
    Changelog,
    /// Each batch is a whole version of a table, which takes the place of the
    /// one before; it has no event time. Only readers of tables may read it.
    Table,
}

impl StreamSchema {
    /// A stream with these columns whose event time is the column `time`.
    ///
    /// A name that is not among the columns gives a stream without time.
    #[must_use]
    pub fn new(fields: Vec<Field>, time: Option<&str>) -> StreamSchema {
        let time = time.and_then(|name| fields.iter().position(|field| field.name() == name));
        StreamSchema {
            columns: Arc::new(Schema::new(fields)),
            time,
            time_shift_us: 0,
            kind: StreamKind::Appends,
            key: None,
        }
    }

    /// Versions of a table with these columns.
    #[must_use]
    pub fn of_table(columns: SchemaRef) -> StreamSchema {
        StreamSchema { columns, time: None, time_shift_us: 0, kind: StreamKind::Table, key: None }
    }

    /// Whether it is versions of a table.
    #[must_use]
    pub fn is_table(&self) -> bool {
        self.kind == StreamKind::Table
    }

    /// Event times of a batch in microseconds, and which of them are NULL.
    ///
    /// # Errors
    /// The stream has no event time, or the column is not `timestamp(µs, UTC)`.
    pub fn times(&self, batch: &RecordBatch) -> Result<TimestampMicrosecondArray, OperatorError> {
        let index = self.time.ok_or_else(|| OperatorError::new("the stream has no event time"))?;
        let column = batch.columns().get(index).and_then(|column| column.as_primitive_opt());
        let column: &TimestampMicrosecondArray =
            column.ok_or_else(|| OperatorError::new("the event-time column is not timestamp(µs, UTC)"))?;
        if self.time_shift_us == 0 {
            return Ok(column.clone());
        }
        let shift = self.time_shift_us;
        Ok(column.unary(|micros: i64| micros.saturating_add(shift)))
    }

    /// Name of the event-time column.
    #[must_use]
    pub fn time_name(&self) -> Option<&str> {
        let field = self.time.and_then(|index| self.columns.fields().get(index))?;
        Some(field.name())
    }
}

/// Name of the column that holds the time of receipt where a source names no
/// event time of its own.
pub const RECEIVED_AT: &str = "received_at";

/// Index of the port of a source that gives its rows by the time they came.
pub(crate) const RECEIVED_PORT: usize = 2;
/// Its name.
pub(crate) const RECEIVED: &str = "received";

/// The stream of the port; `None` where a column of the rows has the name of
/// the time.
pub(crate) fn received_stream(rows: &StreamSchema) -> Option<StreamSchema> {
    if rows.time_name() == Some(RECEIVED_AT) {
        return Some(rows.clone());
    }
    if rows.columns.column_with_name(RECEIVED_AT).is_some() {
        return None;
    }
    let fields = rows.columns.fields().iter().map(|field| field.as_ref().clone());
    let fields = fields.chain([Field::new(RECEIVED_AT, time_type(), false)]);
    let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let time = Some(rows.columns.fields().len());
    Some(StreamSchema { columns, time, time_shift_us: 0, kind: rows.kind, key: None })
}

/// The rows that leave by a port `rejects`: one per row that could not be used.
///
/// Columns: `ts` (when it was rejected), `node`, `reason`, `position` (where
/// it stood in its source, e.g. `orders/3@1042` or `rows.jsonl:17`), `payload`
/// (the bytes as they came).
#[must_use]
pub fn rejects_schema() -> StreamSchema {
    StreamSchema::new(
        vec![
            Field::new("ts", time_type(), false),
            Field::new("node", DataType::Utf8, false),
            Field::new("reason", DataType::Utf8, false),
            Field::new("position", DataType::Utf8, false),
            Field::new("payload", DataType::Binary, true),
        ],
        Some("ts"),
    )
}

/// Every type name of the topology language, for messages.
pub const TYPE_NAMES: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "string",
    "bytes",
    "timestamp",
    "date",
    "decimal(P,S)",
];

/// The Arrow type of a type name in a topology file, e.g. `int64` or
/// `decimal(10,2)`; `None` if there is no such type.
#[must_use]
pub fn parse_type(name: &str) -> Option<DataType> {
    let simple = match name {
        "bool" => DataType::Boolean,
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "string" => DataType::Utf8,
        "bytes" => DataType::Binary,
        "timestamp" => time_type(),
        "date" => DataType::Date32,
        other => return parse_decimal(other),
    };
    Some(simple)
}

fn parse_decimal(name: &str) -> Option<DataType> {
    let inside = name.strip_prefix("decimal(")?.strip_suffix(')')?;
    let (precision, scale) = inside.split_once(',')?;
    let precision: u8 = precision.trim().parse().ok()?;
    let scale: i8 = scale.trim().parse().ok()?;
    let scale_fits = u8::try_from(scale).is_ok_and(|scale| scale <= precision);
    // 38 digits are what 128 bits hold.
    ((1..=38).contains(&precision) && scale_fits).then_some(DataType::Decimal128(precision, scale))
}

/// The topology language's name of an Arrow type, for messages and results.
#[must_use]
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "Arrow's list of types is open; the rest print as Arrow says"
)]
pub fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".into(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "string".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytes".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".into(),
        DataType::Date32 => "date".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_name_that_reads_back() {
        for name in TYPE_NAMES.iter().filter(|name| !name.starts_with("decimal")) {
            let parsed = parse_type(name);
            assert_eq!(parsed.as_ref().map(type_name).as_deref(), Some(*name));
        }
        assert_eq!(parse_type("decimal(10,2)"), Some(DataType::Decimal128(10, 2)));
        for wrong in ["decimal(39,2)", "decimal(4,5)", "decimal(4,-1)", "decimal", "text", ""] {
            assert_eq!(parse_type(wrong), None, "{wrong}");
        }
    }
}
