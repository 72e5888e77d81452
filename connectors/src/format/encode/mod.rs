//! Rows to bytes: JSON lines and CSV. Times are RFC 3339 in UTC with
//! microseconds; what JSON has no number for (NaN, infinities) is null.

mod csv;
mod json;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_engine::codec::Encoder;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::NodeConfig;

/// The keys of every sink whose rows have a format.
pub const ENCODE_KEYS: &[Key] = &[
    optional(
        "format",
        Kind::Word(&["json", "csv"]),
        "how rows are written, default \"json\" (an object a line)",
    ),
    optional("delimiter", Kind::Text, "csv: the character between cells, default \",\""),
    optional("header", Kind::Bool, "csv: whether the first line names the columns, default true"),
];

/// How a sink writes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeFormat {
    /// An object a line. A line feed in text is escaped, so each row is exactly
    /// one line.
    Json,
    /// RFC 4180 with line feeds.
    Csv {
        /// Between cells.
        delimiter: u8,
        /// Whether the columns' names come first.
        header: bool,
    },
}

impl EncodeFormat {
    /// Reads `ENCODE_KEYS` of a node.
    ///
    /// # Errors
    /// What is wrong with them, with places.
    pub fn from_config(config: &NodeConfig) -> Result<EncodeFormat, ConfigError> {
        let mut out = Vec::new();
        let table = &config.table;
        let format = if table.str("format") == Some("csv") {
            let delimiter = super::delimiter(config, &mut out);
            EncodeFormat::Csv { delimiter, header: table.bool("header").unwrap_or(true) }
        } else {
            for entry in ["delimiter", "header"].into_iter().filter_map(|key| table.entry(key)) {
                let message = format!("`{}` has a meaning for format `csv` only", entry.key);
                out.push(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()));
            }
            EncodeFormat::Json
        };
        if out.is_empty() { Ok(format) } else { Err(ConfigError(out)) }
    }

    /// An encoder; that of CSV writes the header before its first row.
    #[must_use]
    pub fn encoder(self) -> Box<dyn Encoder> {
        match self {
            EncodeFormat::Json => Box::new(json::JsonEncoder),
            EncodeFormat::Csv { delimiter, header } => Box::new(csv::CsvEncoder::new(delimiter, header)),
        }
    }

    /// An encoder for the rest of a file that has its header.
    #[must_use]
    pub fn encoder_without_header(self) -> Box<dyn Encoder> {
        match self {
            EncodeFormat::Json => self.encoder(),
            EncodeFormat::Csv { delimiter, .. } => Box::new(csv::CsvEncoder::new(delimiter, false)),
        }
    }

    /// What a file of rows with this schema begins with: the header of CSV.
    ///
    /// # Errors
    /// A sentence naming the column that has no form in this format.
    pub fn header(self, schema: &SchemaRef) -> Result<Vec<u8>, String> {
        let mut header = Vec::new();
        self.encoder().encode(&RecordBatch::new_empty(Arc::clone(schema)), &mut header)?;
        Ok(header)
    }

    /// What files of this format are called: `jsonl` or `csv`.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            EncodeFormat::Json => "jsonl",
            EncodeFormat::Csv { .. } => "csv",
        }
    }

    /// The media type of such a body.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            EncodeFormat::Json => "application/x-ndjson",
            EncodeFormat::Csv { .. } => "text/csv",
        }
    }
}

/// How values print that are written as text.
const TEXT_OPTIONS: FormatOptions<'static> = FormatOptions::new().with_timestamp_tz_format(None);

/// A printer of a column's values as text, whatever its type.
fn printer(column: &dyn Array) -> Result<ArrayFormatter<'_>, ArrowError> {
    ArrayFormatter::try_new(column, &TEXT_OPTIONS)
}

/// The column with types of the same meaning made one: every timestamp in
/// microseconds of UTC, every kind of string and bytes with 32-bit offsets,
/// dictionaries unpacked, small numbers widened.
#[allow(clippy::wildcard_enum_match_arm, reason = "Arrow's list of types is open; the rest stay as they are")]
fn plain(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let target = match column.data_type() {
        DataType::Int8 | DataType::Int16 | DataType::Int32 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::UInt64,
        DataType::Float16 => DataType::Float32,
        DataType::Timestamp(..) => time_type(),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, value) => {
            let unpacked = arrow::compute::cast(column, value)?;
            return plain(&unpacked);
        }
        _ => return Ok(Arc::clone(column)),
    };
    if column.data_type() == &target {
        return Ok(Arc::clone(column));
    }
    arrow::compute::cast(column, &target)
}

/// Appends `bytes` as hexadecimal text.
fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
    out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
}
