//! `[table.x] type = "latest"`: the last row of each key of a stream, for
//! queries of flows. It is the state of an operator, so it survives a restart;
//! a query sees what has arrived when it runs.

mod rows;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::changelog::gives;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Compaction, Input, Operator, Output, Progress};
use tidegate_engine::schema::{StreamKind, StreamSchema};
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{named_columns, only_input_or, require_time};
use rows::{LastRows, together};

const KEYS: &[Key] = &[
    required("from", Kind::Text, "the stream whose last rows are kept").aside(),
    required("key", Kind::List(&Kind::Text), "columns; the last row of each combination is kept"),
];

/// The row of `[table.x] type = "latest"`.
pub(crate) const ROW: Row<BuildTable> = Row {
    name: "latest",
    summary: "the last row of each key of a stream, for queries of flows",
    keys: &[KEYS],
    example: r#"[table.soil_now]
type = "latest"
from = "rows"
key  = ["device"]
"#,
    build,
};

/// With more keys than this a snapshot says what is new, not everything.
const KEYS_WHOLE_MAX: usize = 50_000;

fn build(config: &NodeConfig, _context: &BuildContext, inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let input = only_input_or(config, inputs, &[StreamKind::Revises, StreamKind::Changelog])?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let key = named_columns(config, "key", &input.stream, &mut diagnostics);
    let named: Vec<&str> = config.table.texts("key").iter().map(|text| text.value.as_str()).collect();
    if let Some((message, help)) = input.stream.hits_others(&input.name, &named) {
        let diagnostic = Diagnostic::error("TG-T012", message).at(config.table.span_of("key"));
        diagnostics.push(diagnostic.help(help));
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let columns = Arc::clone(&input.stream.columns);
    let rows = LastRows::new(input.stream.clone(), key.clone());
    let rows = rows.map_err(|error| {
        Diagnostic::error("TG-X003", error.0).at(config.table.span_of("key")).label("cannot be a key")
    })?;
    let rows = Arc::new(Latest(Mutex::new(rows)));
    let recorder = Recorder {
        stream: input.stream.clone(),
        key,
        rows: Arc::clone(&rows),
        keys_whole_max: KEYS_WHOLE_MAX,
    };
    Ok(TablePart { table: rows, columns, recorder: Some(Box::new(recorder)), sink: None })
}

/// What the operator writes and queries read.
struct Latest(Mutex<LastRows>);

impl Latest {
    fn lock(&self) -> MutexGuard<'_, LastRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Latest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Latest({})", self.lock().len())
    }
}

impl ReferenceTable for Latest {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let (now, change) = {
            let rows = self.lock();
            (rows.now(), rows.change())
        };
        let given = now.map(|rows| {
            let rows = rows?;
            // What was taken back last stays, so that nothing older comes up again, and is not shown.
            let Some(change) = change else { return Ok(rows) };
            Ok(filter_record_batch(&rows, &gives(&rows, change)?)?)
        });
        given.collect::<Result<_, OperatorError>>().map_err(|error| error.0)
    }
}

struct Recorder {
    stream: StreamSchema,
    key: Vec<usize>,
    rows: Arc<Latest>,
    keys_whole_max: usize,
}

impl Operator for Recorder {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        _out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        self.rows.lock().keep(batch)?;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.rows.lock().report_all()
    }

    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        let mut rows = self.rows.lock();
        if rows.len() <= self.keys_whole_max || rows.must_be_whole() {
            return Ok(None);
        }
        rows.report().map(Some)
    }

    fn compaction(&self) -> Option<Compaction> {
        let (stream, key) = (self.stream.clone(), self.key.clone());
        Some(Arc::new(move |reports| together(&stream, &key, reports)))
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        let mut rows = self.rows.lock();
        for batch in state {
            if batch.schema().fields() != self.stream.columns.fields() {
                return Err(OperatorError::new("the saved rows of the table have other columns"));
            }
            rows.keep(&batch)?;
        }
        rows.restored()
    }
}
