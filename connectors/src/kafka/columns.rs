//! The columns a Kafka source adds to those of the payload: only what the file
//! asks for, repeated for every row that a message gave.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field};
use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tidegate_engine::time::time_type;

/// The words of `columns = [..]`.
pub(super) const COLUMN_NAMES: &[&str] = &["topic", "partition", "offset", "key", "key_bytes", "timestamp"];

/// One of our own columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Name of the topic.
    Topic,
    /// Number of the partition.
    Partition,
    /// Offset of the message.
    Offset,
    /// The key as text; bytes that are no UTF-8 become U+FFFD.
    Key,
    /// The key as it came.
    KeyBytes,
    /// The broker's or producer's time, NULL if the message has none.
    Timestamp,
    /// The last header of this name as text, NULL if there is none.
    Header(String),
}

impl Column {
    /// The column that a word of `columns` asks for.
    pub(super) fn from_word(word: &str) -> Option<Column> {
        Some(match word {
            "topic" => Column::Topic,
            "partition" => Column::Partition,
            "offset" => Column::Offset,
            "key" => Column::Key,
            "key_bytes" => Column::KeyBytes,
            "timestamp" => Column::Timestamp,
            _ => return None,
        })
    }

    /// Name, type and nullability.
    pub(super) fn field(&self) -> Field {
        match self {
            Column::Topic => Field::new("topic", DataType::Utf8, false),
            Column::Partition => Field::new("partition", DataType::Int32, false),
            Column::Offset => Field::new("offset", DataType::Int64, false),
            Column::Key => Field::new("key", DataType::Utf8, true),
            Column::KeyBytes => Field::new("key_bytes", DataType::Binary, true),
            Column::Timestamp => Field::new("timestamp", time_type(), true),
            Column::Header(name) => Field::new(name, DataType::Utf8, true),
        }
    }
}

/// Gathers the values of our own columns beside the decoder's rows.
#[derive(Debug)]
pub(super) struct OwnRows {
    builders: Vec<(Column, Builder)>,
}

#[derive(Debug)]
enum Builder {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Time(TimestampMicrosecondBuilder),
}

impl OwnRows {
    /// Empty columns.
    pub(super) fn new(columns: &[Column]) -> OwnRows {
        OwnRows { builders: columns.iter().map(|column| (column.clone(), Builder::of(column))).collect() }
    }

    /// Adds the message's values `rows` times.
    pub(super) fn append(&mut self, message: &BorrowedMessage<'_>, rows: usize) {
        for (column, builder) in &mut self.builders {
            for _ in 0..rows {
                append(column, builder, message);
            }
        }
    }

    /// The columns gathered since the last call.
    pub(super) fn finish(&mut self) -> Vec<ArrayRef> {
        self.builders.iter_mut().map(|(_, builder)| builder.finish()).collect()
    }
}

impl Builder {
    fn of(column: &Column) -> Builder {
        match column {
            Column::Topic | Column::Key | Column::Header(_) => Builder::Text(StringBuilder::new()),
            Column::KeyBytes => Builder::Bytes(BinaryBuilder::new()),
            Column::Partition => Builder::Int32(Int32Builder::new()),
            Column::Offset => Builder::Int64(Int64Builder::new()),
            Column::Timestamp => {
                Builder::Time(TimestampMicrosecondBuilder::new().with_data_type(time_type()))
            }
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Bytes(builder) => Arc::new(builder.finish()),
            Builder::Int32(builder) => Arc::new(builder.finish()),
            Builder::Int64(builder) => Arc::new(builder.finish()),
            Builder::Time(builder) => {
                let times = builder.finish();
                // `finish` forgets the zone of the type that the builder was given.
                *builder = TimestampMicrosecondBuilder::new().with_data_type(time_type());
                Arc::new(times)
            }
        }
    }
}

fn append(column: &Column, builder: &mut Builder, message: &BorrowedMessage<'_>) {
    match (builder, column) {
        (Builder::Text(builder), Column::Topic) => builder.append_value(message.topic()),
        (Builder::Text(builder), Column::Header(name)) => {
            builder.append_option(header(message, name).map(String::from_utf8_lossy));
        }
        (Builder::Text(builder), _) => builder.append_option(message.key().map(String::from_utf8_lossy)),
        (Builder::Bytes(builder), _) => builder.append_option(message.key()),
        (Builder::Int32(builder), _) => builder.append_value(message.partition()),
        (Builder::Int64(builder), _) => builder.append_value(message.offset()),
        (Builder::Time(builder), _) => builder.append_option(time_micros(message.timestamp())),
    }
}

/// The last header of this name, as `lastHeader` of Kafka's own client.
fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    let headers = message.headers()?;
    headers.iter().filter(|header| header.key == name).last().and_then(|header| header.value)
}

/// Kafka counts milliseconds; -1 is "no time".
fn time_micros(timestamp: Timestamp) -> Option<i64> {
    timestamp.to_millis().map(|millis| millis.saturating_mul(1_000))
}
