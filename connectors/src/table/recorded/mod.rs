//! `[table.x] type = "recorded"`: the rows of a stream, kept as Parquet files
//! below the topology's state for a time or up to a size, for queries of flows.
//! A row is there with its checkpoint, exactly once.

mod files;
mod remote;
mod shape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::{StreamKind, StreamSchema};
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::ROWS_BYTES_MAX;
use crate::sink_log::part;
use files::Files;
use remote::Recorder;

const KEYS: &[Key] = &[
    required("from", Kind::Text, "the stream whose rows are kept"),
    optional("keep", Kind::Duration, "rows older than the newest one by more than this are forgotten"),
    optional("keep_size", Kind::Size, "the oldest files are forgotten when all of them have more bytes"),
];

/// `[table.x] type = "recorded"`
pub(crate) const ROW: Row<BuildTable> = Row {
    name: "recorded",
    summary: "the rows of a stream, kept for a time as Parquet, for queries of flows",
    keys: &[KEYS],
    example: r#"[table.history]
type      = "recorded"
from      = "rows"
keep      = "30d"
keep_size = "10GiB"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let [input] = inputs else {
        let message = format!("`{}` has {} inputs, but `recorded` takes one", config.name, inputs.len());
        return Err(Diagnostic::error("TG-T005", message).at(config.table.span_of("from")).into());
    };
    if input.stream.kind != StreamKind::Appends {
        let message = format!(
            "`{}` gives results again when they change, and `{}` would keep them all",
            input.name, config.name
        );
        return Err(Diagnostic::error("TG-T012", message).at(config.table.span_of("from")).into());
    }
    let keep = config.table.duration("keep");
    if keep.is_some() && input.stream.time.is_none() {
        let message = format!("`keep` needs event time, but `{}` has none", input.name);
        return Err(Diagnostic::error("TG-T007", message).at(config.table.span_of("keep")).into());
    }
    let columns = shape::of_table(&input.stream.columns);
    let files = Arc::new(Files {
        vfs: Arc::clone(&context.disk),
        folder: context.data_dir.join("tables").join(&config.name),
        stream: StreamSchema { columns: Arc::clone(&columns), ..input.stream.clone() },
        keep_us: keep.map(micros),
        bytes_max: config.table.size("keep_size"),
        clock: Arc::clone(&context.clock),
    });
    // No node of the file is called so.
    let node = NodeConfig { name: format!("{}.table", config.name), ..config.clone() };
    let sink = part(&node, context, Box::new(Recorder::new(Arc::clone(&files))));
    Ok(TablePart { table: Arc::new(Recorded(files)), columns, recorder: None, sink: Some(sink) })
}

#[derive(Debug)]
struct Recorded(Arc<Files>);

impl ReferenceTable for Recorded {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let files = self.0.as_ref();
        let all = files.read_all(ROWS_BYTES_MAX)?;
        if files.keep_us.is_none() {
            return Ok(all);
        }
        let times = all.iter().map(|batch| files.stream.times(batch)).collect::<Result<Vec<_>, _>>();
        let times = times.map_err(|error| error.0)?;
        let newest = times.iter().flat_map(|times| times.iter().flatten()).max().unwrap_or(i64::MIN);
        let Some(from_us) = files.oldest_us(newest) else { return Ok(all) };
        let kept = all.iter().zip(times).map(|(batch, times)| {
            let mask: BooleanArray =
                times.iter().map(|time| Some(time.is_some_and(|time| time >= from_us))).collect();
            filter_record_batch(batch, &mask).map_err(|error| error.to_string())
        });
        kept.collect()
    }
}
