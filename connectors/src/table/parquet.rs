//! Tables in Parquet files: columns and types are those of the file, as far as
//! streams have them too.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::{KEY, LOOK_EVERY, PATH, ROWS_BYTES_MAX, TableFile, check_key, key};

/// `[table.x] type = "parquet"`
pub(crate) const ROW: Row<BuildTable> = Row {
    name: "parquet",
    summary: "rows of a Parquet file, for joins and for queries of flows",
    keys: &[&[PATH, KEY]],
    example: r#"[table.presses]
type = "parquet"
path = "presses.parquet"
key  = "device"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, _inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let file = TableFile::named(config, context)?;
    let broken = |reason: String| Diagnostic::error("TG-C037", reason).at(config.table.span_of("path"));
    let columns = columns(reader(&file).map_err(broken)?.schema());
    let key = key(config, &columns)?;
    let table = ParquetTable { file, columns: Arc::clone(&columns), key };
    table.rows().map_err(broken)?;
    Ok(TablePart { table: Arc::new(table), columns, recorder: None, sink: None })
}

fn reader(file: &TableFile) -> Result<ParquetRecordBatchReaderBuilder<File>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", file.shown);
    let opened = File::open(&file.path).map_err(failed)?;
    ParquetRecordBatchReaderBuilder::try_new(opened)
        .map_err(|error| format!("cannot read {}: {error}", file.shown))
}

/// The columns as a stream has them.
fn columns(schema: &Schema) -> SchemaRef {
    let field =
        |field: &Arc<Field>| Field::new(field.name(), of_stream(field.data_type()), field.is_nullable());
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "all others are taken as they are")]
fn of_stream(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Timestamp(..) => time_type(),
        DataType::Date64 => DataType::Date32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Dictionary(_, value) => of_stream(value),
        other => other.clone(),
    }
}

#[derive(Debug)]
struct ParquetTable {
    file: TableFile,
    columns: SchemaRef,
    /// Columns whose values no two rows may share.
    key: Vec<usize>,
}

impl ReferenceTable for ParquetTable {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let name = &self.file.shown;
        let reader = reader(&self.file)?;
        if columns(reader.schema()) != self.columns {
            return Err(format!("{name} has other columns now; the topology must be loaded again"));
        }
        let failed = |error: arrow::error::ArrowError| format!("cannot read {name}: {error}");
        let reader = reader.build().map_err(|error| format!("cannot read {name}: {error}"))?;
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let simplify = |batch: RecordBatch| {
            let cast = |(column, field): (&ArrayRef, &Arc<Field>)| {
                cast_with_options(column, field.data_type(), &options)
            };
            let columns =
                batch.columns().iter().zip(self.columns.fields()).map(cast).collect::<Result<_, _>>()?;
            RecordBatch::try_new(Arc::clone(&self.columns), columns)
        };
        let (mut batches, mut bytes) = (Vec::new(), 0);
        for batch in reader {
            let batch = batch.and_then(simplify).map_err(failed)?;
            bytes += batch.get_array_memory_size();
            if bytes > ROWS_BYTES_MAX {
                return Err(format!("{name} has more than {ROWS_BYTES_MAX} bytes of rows"));
            }
            batches.push(batch);
        }
        let rows = arrow::compute::concat_batches(&self.columns, &batches).map_err(failed)?;
        check_key(&self.key, &rows).map_err(|reason| format!("{name}: {reason}"))?;
        Ok(vec![rows])
    }

    fn reload_every(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }

    fn stamp(&self) -> Option<String> {
        self.file.stamp()
    }
}

#[cfg(test)]
mod tests;
