//! `[table.x] type = "latest"`: the last row of each key of a stream, for
//! queries of flows. It is the state of an operator, so it survives a restart;
//! a query sees what has arrived when it runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::row::{OwnedRow, RowConverter, SortField};
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{named_columns, only_input, require_time};

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

/// Most keys; the topology fails rather than fill the memory.
const KEYS_MAX: usize = 1_000_000;

fn build(config: &NodeConfig, _context: &BuildContext, inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let key = named_columns(config, "key", &input.stream, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let columns = Arc::clone(&input.stream.columns);
    let rows = Arc::new(LastRows { rows: Mutex::default() });
    let recorder = Recorder { stream: input.stream.clone(), key, rows: Arc::clone(&rows) };
    Ok(TablePart { table: rows, columns, recorder: Some(Box::new(recorder)) })
}

type ByKey = HashMap<OwnedRow, (i64, RecordBatch)>;

/// What the operator writes and queries read: time and row of each key.
struct LastRows {
    rows: Mutex<ByKey>,
}

impl LastRows {
    fn lock(&self) -> MutexGuard<'_, ByKey> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LastRows {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "LastRows({})", self.lock().len())
    }
}

impl ReferenceTable for LastRows {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let rows: Vec<RecordBatch> = self.lock().values().map(|(_, row)| row.clone()).collect();
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let joined = concat_batches(first.schema_ref(), &rows);
        joined.map(|rows| vec![rows]).map_err(|error| error.to_string())
    }
}

struct Recorder {
    stream: StreamSchema,
    key: Vec<usize>,
    rows: Arc<LastRows>,
}

impl Recorder {
    /// Keeps the rows that are the last of their keys: the latest event time,
    /// and of equal ones the row that came last.
    fn keep(&self, batch: &RecordBatch) -> Result<(), OperatorError> {
        let times = self.stream.times(batch)?;
        let columns: Vec<ArrayRef> =
            self.key.iter().filter_map(|index| batch.columns().get(*index).cloned()).collect();
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
        let keys = RowConverter::new(fields)?.convert_columns(&columns)?;
        let mut last: HashMap<&[u8], (usize, i64)> = HashMap::new();
        for (row, time) in times.values().iter().enumerate() {
            let place = last.entry(keys.row(row).data()).or_insert((row, *time));
            if *time >= place.1 {
                *place = (row, *time);
            }
        }
        let mut kept = self.rows.lock();
        for (row, time) in last.into_values() {
            let place = kept.entry(keys.row(row).owned());
            if matches!(&place, Entry::Occupied(known) if known.get().0 > time) {
                continue;
            }
            let single = UInt32Array::from(vec![u32::try_from(row).unwrap_or(u32::MAX)]);
            place.insert_entry((time, take_record_batch(batch, &single)?));
        }
        if kept.len() > KEYS_MAX {
            return Err(OperatorError::new(format!("more than {KEYS_MAX} keys in a table of last rows")));
        }
        Ok(())
    }
}

impl Operator for Recorder {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        _out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        self.keep(batch)?;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.rows.rows().map_err(OperatorError::new)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        for batch in state {
            if batch.schema().fields() != self.stream.columns.fields() {
                return Err(OperatorError::new("the saved rows of the table have other columns"));
            }
            self.keep(&batch)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field};
    use tidegate_engine::time::time_type;

    fn recorder() -> Recorder {
        let fields = vec![
            Field::new("device", DataType::Utf8, true),
            Field::new("ts", time_type(), false),
            Field::new("value", DataType::Int64, true),
        ];
        let stream = StreamSchema::new(fields, Some("ts"));
        Recorder { stream, key: vec![0], rows: Arc::new(LastRows { rows: Mutex::default() }) }
    }

    fn batch(recorder: &Recorder, rows: &[(Option<&str>, i64, i64)]) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>()),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1))
                    .with_timezone("UTC"),
            ),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
        ];
        RecordBatch::try_new(Arc::clone(&recorder.stream.columns), columns).expect("the stream's columns")
    }

    fn shown(recorder: &Recorder) -> Vec<String> {
        let mut lines = Vec::new();
        for batch in recorder.rows.rows().expect("one schema") {
            for row in 0..batch.num_rows() {
                let cell = |index: usize| tidegate_engine::template::display(batch.column(index), row);
                lines.push(format!("{} {}", cell(0).expect("prints"), cell(2).expect("prints")));
            }
        }
        lines.sort();
        lines
    }

    #[test]
    fn the_latest_row_of_each_key_stays_and_survives_a_restart() {
        let mut first = recorder();
        assert!(first.snapshot().expect("empty").is_empty());
        for rows in [
            vec![(Some("a"), 5, 1), (Some("b"), 5, 2), (Some("a"), 3, 3), (None, 1, 4)],
            vec![(Some("a"), 4, 5), (Some("b"), 5, 6)],
        ] {
            let batch = batch(&first, &rows);
            first.on_batch(0, &batch, &mut Output::default()).expect("fits");
        }
        // a: 5 is later than 3 and 4; b: of two rows at 5 the one that came last.
        let expected = [" 4", "a 1", "b 6"];
        assert_eq!(shown(&first), expected);
        let mut second = recorder();
        second.restore(first.snapshot().expect("rows")).expect("the same columns");
        assert_eq!(shown(&second), expected);
        let late = batch(&second, &[(Some("a"), 4, 9)]);
        second.on_batch(0, &late, &mut Output::default()).expect("fits");
        assert_eq!(shown(&second), expected, "a late row does not replace a later one");
    }
}
