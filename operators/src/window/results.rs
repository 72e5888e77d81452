//! Groups into rows of the output. A column of `select` that fails on a group,
//! for instance a division by a count of zero, costs that group's row only.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, FieldRef, Schema};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::schema::StreamSchema;

use super::REJECTS_PORT;
use super::pane::Layout;
use crate::narrow::{narrow, reject_rows};

/// Columns that say where a window lies.
const BOUNDS: usize = 2;

/// What the rows of a window operator look like, and whose they are.
pub(super) struct Results {
    pub(super) name: String,
    pub(super) stream: StreamSchema,
}

impl Results {
    /// Sends a row for each group: where its window lies, its key, what `select`
    /// says of its aggregates, and `tail`. `groups` are keys and aggregates.
    pub(super) fn emit(
        &self,
        layout: &Layout,
        bounds: [ArrayRef; BOUNDS],
        groups: Vec<ArrayRef>,
        tail: Vec<ArrayRef>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let rows = bounds.first().map_or(0, |bound| bound.len());
        let width = groups.len();
        let columns: Vec<ArrayRef> = bounds.into_iter().chain(groups).chain(tail).collect();
        let whole = self.whole(layout, columns, rows)?;
        let mut work = |piece: &RecordBatch| self.rows(layout, piece, width);
        let bad = narrow(&whole, &mut work, &mut |rows| out.emit_to(MAIN_PORT, rows));
        if !bad.is_empty() {
            // Event time is the end of the window.
            let stream = StreamSchema { columns: whole.schema(), time: Some(1), ..self.stream.clone() };
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &stream, &whole, bad)?);
        }
        Ok(())
    }

    /// Bounds, groups and tail as one batch.
    fn whole(
        &self,
        layout: &Layout,
        columns: Vec<ArrayRef>,
        rows: usize,
    ) -> Result<RecordBatch, OperatorError> {
        let own = self.stream.columns.fields();
        let tail = columns.len().saturating_sub(BOUNDS + layout.result_schema.fields().len());
        let mut fields: Vec<FieldRef> = own.iter().take(BOUNDS).cloned().collect();
        fields.extend(layout.result_schema.fields().iter().cloned());
        fields.extend(own.iter().skip(own.len().saturating_sub(tail)).cloned());
        let fields: Vec<Field> = fields.iter().map(|field| field.as_ref().clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
    }

    fn rows(&self, layout: &Layout, piece: &RecordBatch, width: usize) -> Result<RecordBatch, OperatorError> {
        let columns = piece.columns();
        let groups = columns.iter().skip(BOUNDS).take(width).cloned().collect();
        let options = RecordBatchOptions::new().with_row_count(Some(piece.num_rows()));
        let groups = RecordBatch::try_new_with_options(Arc::clone(&layout.result_schema), groups, &options)?;
        let mut output: Vec<ArrayRef> = columns.iter().take(BOUNDS + layout.keys.len()).cloned().collect();
        for column in &layout.columns {
            output.push(column.expression.evaluate(&groups)?);
        }
        output.extend(columns.iter().skip(BOUNDS + width).cloned());
        Ok(RecordBatch::try_new(Arc::clone(&self.stream.columns), output)?)
    }
}
