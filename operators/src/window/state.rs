//! A window's state as record batches: one with how far time has come, one
//! for each pane with its keys and the state of its aggregates.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use tidegate_engine::error::OperatorError;
use tidegate_engine::planted;

use super::operator::Window;
use super::pane::{Groups, Taken};

/// Column of a pane's start, in microseconds.
const PANE_START: &str = "pane_start_us";

impl Window {
    pub(super) fn save(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.closed_us == i64::MIN && self.panes.is_empty() {
            return Ok(Vec::new());
        }
        let number = |value| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        let head = RecordBatch::try_from_iter([
            ("watermark_us", number(self.watermark_us)),
            ("closed_us", number(self.closed_us)),
        ])?;
        let mut batches = vec![head];
        let mut fields = vec![Arc::new(Field::new(PANE_START, DataType::Int64, false))];
        fields.extend(self.layout.snapshot_fields());
        let schema = Arc::new(Schema::new(fields));
        for (start_us, pane) in &mut self.panes {
            if pane.is_empty() {
                continue;
            }
            let taken = pane.take()?;
            pane.merge(&self.layout, &taken)?;
            let mut columns = vec![Arc::new(Int64Array::from(vec![*start_us; taken.groups])) as ArrayRef];
            columns.extend(taken.columns);
            let options = RecordBatchOptions::new().with_row_count(Some(taken.groups));
            batches.push(RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?);
        }
        Ok(batches)
    }

    pub(super) fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let Some((head, panes)) = state.split_first() else { return Ok(()) };
        self.watermark_us = number(head, 0)?;
        self.closed_us = if planted!(ClosedForgotten) { i64::MIN } else { number(head, 1)? };
        for batch in panes {
            let start_us = number(batch, 0)?;
            let columns = batch.columns().iter().skip(1).cloned().collect();
            let mut groups = Groups::new(&self.layout)?;
            groups.merge(&self.layout, &Taken { columns, groups: batch.num_rows() })?;
            self.panes.insert(start_us, groups);
        }
        Ok(())
    }
}

/// The first value of a column of whole numbers.
fn number(batch: &RecordBatch, column: usize) -> Result<i64, OperatorError> {
    let values = batch.columns().get(column).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let first = values.and_then(|values| values.iter().next().flatten());
    first.ok_or_else(|| OperatorError::new("the saved state of the window has another shape"))
}
