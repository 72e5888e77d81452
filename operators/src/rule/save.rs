//! A trigger's memory as four record batches: keys with their state, the rows
//! kept with each key (in the same order), the rows that wait, and the
//! watermark.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use tidegate_engine::error::OperatorError;
use tidegate_engine::planted;

use super::operator::{Keyed, Rule};

impl Rule {
    pub(super) fn save(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.keys.is_empty() && self.pending.is_empty() && self.watermark_us == i64::MIN {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        let mut states = Vec::new();
        let mut counts = Vec::new();
        let mut rows = Vec::new();
        for (name, keyed) in &self.keys {
            names.push(name.as_str());
            states.push(serde_json::to_string(&keyed.state).map_err(OperatorError::new)?);
            counts.push(i64::try_from(keyed.rows.len()).unwrap_or(i64::MAX));
            rows.extend(keyed.rows.iter().cloned());
        }
        let keys = RecordBatch::try_from_iter([
            ("key", Arc::new(StringArray::from(names)) as ArrayRef),
            ("state", Arc::new(StringArray::from(states)) as ArrayRef),
            ("rows", Arc::new(Int64Array::from(counts)) as ArrayRef),
        ])?;
        let waiting: Result<Vec<RecordBatch>, OperatorError> =
            self.pending.iter().map(super::operator::Judgeable::waiting).collect();
        let schema = &self.input.columns;
        let watermark = Arc::new(Int64Array::from(vec![self.watermark_us])) as ArrayRef;
        let watermark = RecordBatch::try_from_iter([("watermark", watermark)])?;
        Ok(vec![keys, concat_batches(schema, &rows)?, concat_batches(schema, &waiting?)?, watermark])
    }

    pub(super) fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [keys, rows, waiting, watermark] = state else {
            return if state.is_empty() { Ok(()) } else { Err(OperatorError::new(SHAPE)) };
        };
        let [names, states, counts] = keys.columns() else { return Err(OperatorError::new(SHAPE)) };
        let names = names.as_string_opt::<i32>().ok_or_else(|| OperatorError::new(SHAPE))?;
        let states = states.as_string_opt::<i32>().ok_or_else(|| OperatorError::new(SHAPE))?;
        let counts = counts.as_primitive_opt::<Int64Type>().ok_or_else(|| OperatorError::new(SHAPE))?;
        let [watermark] = watermark.columns() else { return Err(OperatorError::new(SHAPE)) };
        let watermark = watermark.as_primitive_opt::<Int64Type>().and_then(|times| times.values().first());
        self.watermark_us = *watermark.ok_or_else(|| OperatorError::new(SHAPE))?;
        let mut at = 0;
        for ((name, state), count) in names.iter().flatten().zip(states.iter().flatten()).zip(counts.values())
        {
            let count = usize::try_from(*count).map_err(OperatorError::new)?;
            if at + count > rows.num_rows() {
                return Err(OperatorError::new(SHAPE));
            }
            let kept = (at..at + count).map(|row| rows.slice(row, 1)).collect();
            at += count;
            let state = serde_json::from_str(state).map_err(OperatorError::new)?;
            self.keys.insert(name.to_owned(), Keyed { state, rows: kept });
        }
        if waiting.num_rows() > 0 && !planted!(WaitingForgotten) {
            let waiting = self.evaluate(waiting)?;
            self.pending.push(waiting);
        }
        if !planted!(TimersForgotten) {
            self.schedule_all();
        }
        Ok(())
    }
}

const SHAPE: &str = "the saved state of the trigger has another shape";
