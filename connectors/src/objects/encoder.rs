//! Rows to the bytes of one object, as they come: a row group of Parquet or a
//! batch of lines is the most that is held. The same rows in the same batches
//! give the same bytes.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tidegate_engine::codec::Encoder;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::node::NodeConfig;

use crate::format::encode::EncodeFormat;

/// A row group is closed at this size, encoded or in memory: it is held until then.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// What an object holds.
#[derive(Clone, Debug)]
pub(crate) enum ObjectFormat {
    /// One row after the other.
    Rows(EncodeFormat),
    /// Columns.
    Parquet(Compression),
}

impl ObjectFormat {
    /// Reads the format's keys of a node.
    ///
    /// # Errors
    /// What is wrong with them, with places.
    pub(crate) fn from_config(config: &NodeConfig, default: &str) -> Result<ObjectFormat, ConfigError> {
        let table = &config.table;
        let word = table.str("format").unwrap_or(default);
        if word != "parquet" {
            if let Some(entry) = table.entry("compression") {
                let message = "`compression` has a meaning for format `parquet` only";
                return Err(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()).into());
            }
            return EncodeFormat::from_config(config).map(ObjectFormat::Rows);
        }
        if let Some(entry) = ["delimiter", "header"].into_iter().find_map(|key| table.entry(key)) {
            let message = format!("`{}` has a meaning for format `csv` only", entry.key);
            return Err(Diagnostic::error("TG-C033", message).at(entry.key_span.clone()).into());
        }
        Ok(ObjectFormat::Parquet(match table.str("compression") {
            Some("none") => Compression::UNCOMPRESSED,
            Some("snappy") => Compression::SNAPPY,
            Some(_) | None => Compression::ZSTD(ZstdLevel::default()),
        }))
    }

    /// Whether objects can hold these columns.
    ///
    /// # Errors
    /// A sentence naming the column that has no form in this format.
    pub(crate) fn check(&self, schema: &SchemaRef) -> Result<(), String> {
        match self {
            ObjectFormat::Rows(format) => format.header(schema).map(drop),
            ObjectFormat::Parquet(_) => {
                for field in schema.fields() {
                    if !has_form(field.data_type()) {
                        let (name, kind) = (field.name(), field.data_type());
                        return Err(format!(
                            "column `{name}` is {kind}, which parquet cannot hold; make it text or a number first"
                        ));
                    }
                    let alone = SchemaRef::new(Schema::new(vec![field.as_ref().clone()]));
                    ObjectEncoder::new(self, &alone).map_err(|reason| {
                        let (name, kind) = (field.name(), field.data_type());
                        format!("column `{name}` is {kind}, which parquet cannot hold: {reason}")
                    })?;
                }
                Ok(())
            }
        }
    }

    /// What objects of this format are called.
    pub(crate) fn extension(&self) -> &'static str {
        match self {
            ObjectFormat::Rows(format) => format.extension(),
            ObjectFormat::Parquet(_) => "parquet",
        }
    }
}

/// Whether the library can write such values; it panics at some that it cannot.
#[allow(clippy::wildcard_enum_match_arm, reason = "all others have one")]
fn has_form(data_type: &DataType) -> bool {
    match data_type {
        DataType::Interval(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => false,
        DataType::Struct(fields) => {
            !fields.is_empty() && fields.iter().all(|field| has_form(field.data_type()))
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_form(item.data_type()),
        DataType::Dictionary(_, values) => has_form(values),
        _ => true,
    }
}

/// The bytes of one object.
pub(super) struct ObjectEncoder {
    kind: Kind,
    /// Bytes that were taken.
    taken: u64,
}

enum Kind {
    Rows { encoder: Box<dyn Encoder>, bytes: Vec<u8> },
    Parquet(Box<ArrowWriter<Vec<u8>>>),
}

impl ObjectEncoder {
    /// # Errors
    /// A column has no form in this format.
    pub(super) fn new(format: &ObjectFormat, schema: &SchemaRef) -> Result<ObjectEncoder, String> {
        let kind = match format {
            ObjectFormat::Rows(format) => {
                Kind::Rows { encoder: format.encoder_without_header(), bytes: format.header(schema)? }
            }
            ObjectFormat::Parquet(compression) => {
                let properties = WriterProperties::builder()
                    .set_compression(*compression)
                    .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
                    .build();
                let writer = ArrowWriter::try_new(Vec::new(), SchemaRef::clone(schema), Some(properties));
                Kind::Parquet(Box::new(writer.map_err(say)?))
            }
        };
        Ok(ObjectEncoder { kind, taken: 0 })
    }

    /// # Errors
    /// A value has no form in this format.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), String> {
        match &mut self.kind {
            Kind::Rows { encoder, bytes } => encoder.encode(rows, bytes),
            Kind::Parquet(writer) => {
                writer.write(rows).map_err(say)?;
                if writer.memory_size() >= ROW_GROUP_BYTES { writer.flush().map_err(say) } else { Ok(()) }
            }
        }
    }

    /// Bytes so far, with an estimate of those that are still held.
    pub(super) fn bytes(&self) -> u64 {
        let held = match &self.kind {
            Kind::Rows { bytes, .. } => bytes.len(),
            // All that was ever written, taken or not.
            Kind::Parquet(writer) => {
                return u64::try_from(writer.bytes_written() + writer.in_progress_size()).unwrap_or(u64::MAX);
            }
        };
        self.taken + u64::try_from(held).unwrap_or(0)
    }

    /// Bytes that can be taken now.
    pub(super) fn ready(&self) -> usize {
        match &self.kind {
            Kind::Rows { bytes, .. } => bytes.len(),
            Kind::Parquet(writer) => writer.inner().len(),
        }
    }

    /// Takes the bytes that are ready: the next ones of the object.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let bytes = match &mut self.kind {
            Kind::Rows { bytes, .. } => std::mem::take(bytes),
            // The writer counts what it wrote by itself.
            Kind::Parquet(writer) => std::mem::take(writer.inner_mut()),
        };
        self.taken += u64::try_from(bytes.len()).unwrap_or(0);
        bytes
    }

    /// The last bytes of the object. Parquet says in its footer which epochs it
    /// holds.
    ///
    /// # Errors
    /// What the library answers.
    pub(super) fn finish(self, first: u64, last: u64) -> Result<Vec<u8>, String> {
        match self.kind {
            Kind::Rows { bytes, .. } => Ok(bytes),
            Kind::Parquet(mut writer) => {
                let epochs = KeyValue::new("tidegate.epochs".to_owned(), format!("{first}-{last}"));
                writer.append_key_value_metadata(epochs);
                writer.into_inner().map_err(say)
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err calls it")]
fn say(error: ParquetError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Float64Array, Int64Array};
    use arrow::datatypes::{Field, Fields, IntervalUnit, TimeUnit, UnionFields, UnionMode};
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use std::sync::Arc;

    fn batch(from: i64, rows: i64) -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] = [
            ("id", Arc::new(Int64Array::from_iter_values(from..from + rows))),
            // Nothing that a dictionary or zstd makes small.
            ("x", Arc::new(Float64Array::from_iter_values((from..from + rows).map(|n| (n as f64).sin())))),
        ];
        RecordBatch::try_from_iter(columns).expect("equal lengths")
    }

    /// The object of rows that come in batches, and the most that was held.
    fn encode(format: &ObjectFormat, batches: i64, rows: i64) -> (Vec<u8>, usize) {
        let mut encoder = ObjectEncoder::new(format, &batch(0, 0).schema()).expect("a form");
        let (mut object, mut held) = (Vec::new(), 0);
        for number in 0..batches {
            encoder.write(&batch(number * rows, rows)).expect("encodes");
            held = held.max(match &encoder.kind {
                Kind::Rows { bytes, .. } => bytes.len(),
                Kind::Parquet(writer) => writer.memory_size(),
            });
            if encoder.ready() > 1 << 16 {
                object.extend(encoder.take());
            }
        }
        let bytes = encoder.bytes();
        object.extend(encoder.finish(1, 7).expect("ends"));
        let length = u64::try_from(object.len()).expect("small");
        assert!(bytes * 10 > length * 8 && bytes < length * 2 + 1024, "{bytes} told, {length} made");
        (object, held)
    }

    #[test]
    fn the_same_rows_give_the_same_bytes_and_a_row_group_is_the_most_that_is_held() {
        let parquet = ObjectFormat::Parquet(Compression::ZSTD(ZstdLevel::default()));
        let (object, held) = encode(&parquet, 40, 100_000);
        assert!(held < ROW_GROUP_BYTES * 3 / 2, "{held} bytes in memory");
        assert!(object == encode(&parquet, 40, 100_000).0, "other bytes");
        let reader = SerializedFileReader::new(bytes::Bytes::from(object)).expect("whole");
        assert_eq!(reader.metadata().file_metadata().num_rows(), 4_000_000);
        assert!(reader.num_row_groups() > 1);
        let json = ObjectFormat::Rows(EncodeFormat::Json);
        assert_eq!(encode(&json, 3, 1_000).0, encode(&json, 3, 1_000).0);
    }

    #[test]
    fn a_header_comes_first_and_a_type_without_a_form_is_named() {
        let csv = ObjectFormat::Rows(EncodeFormat::Csv { delimiter: b',', header: true });
        let text = String::from_utf8(encode(&csv, 2, 1).0).expect("text");
        assert!(text.starts_with("id,x\n0,") && text.lines().count() == 3, "{text}");
        let parquet = ObjectFormat::Parquet(Compression::SNAPPY);
        let refused = |kind: DataType| {
            let schema = SchemaRef::new(Schema::new(vec![Field::new("span", kind, true)]));
            parquet.check(&schema).is_err_and(|reason| reason.contains("`span`"))
        };
        let span = DataType::Interval(IntervalUnit::MonthDayNano);
        assert!(refused(DataType::List(Arc::new(Field::new("item", span.clone(), true)))));
        assert!(refused(DataType::Union(UnionFields::empty(), UnionMode::Sparse)));
        assert!(refused(DataType::Struct(Fields::empty())) && refused(span));
        assert!(!refused(DataType::Duration(TimeUnit::Microsecond)) && !refused(DataType::Null));
    }
}
