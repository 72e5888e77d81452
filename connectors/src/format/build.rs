//! Rows while they are being read: the columns of one batch, the policies for
//! what does not fit, and the rows kept aside. A row is in the batch whole or
//! not at all.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use tidegate_engine::codec::{BadRow, Decoded};

use crate::format::column::Column;
use crate::format::spec::{Mistyped, RowSpec};
use crate::format::value::Written;

/// Bytes of a bad row that are kept for `rejects`.
pub const REJECT_BYTES_MAX: usize = 64 * 1024;

/// Gathers rows.
#[derive(Debug)]
pub(crate) struct RowBuilder {
    pub(super) spec: Arc<RowSpec>,
    /// One for each declared column.
    pub(super) columns: Vec<Column>,
    rows: usize,
    bad: Vec<BadRow>,
}

impl RowBuilder {
    pub(crate) fn new(spec: Arc<RowSpec>) -> RowBuilder {
        let columns = spec.columns.iter().map(Column::new).collect();
        RowBuilder { spec, columns, rows: 0, bad: Vec::new() }
    }

    /// Whole rows so far.
    #[inline]
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Sets a column of the row that is being read, as the policy for
    /// mistyped values says.
    ///
    /// # Errors
    /// Why the row must be rejected.
    pub(crate) fn put(&mut self, index: usize, value: &Written<'_>) -> Result<(), String> {
        let Some(column) = self.columns.get_mut(index) else { return Ok(()) };
        let coerce = self.spec.mistyped == Mistyped::Coerce;
        let Err(reason) = column.push(value, coerce) else { return Ok(()) };
        if self.spec.mistyped == Mistyped::Null && self.spec.time != Some(index) {
            column.push_null();
            return Ok(());
        }
        Err(format!("column `{}`: {reason}", self.spec.name(index)))
    }

    /// Ends a row: what it did not set is NULL, or a reason to reject it.
    ///
    /// # Errors
    /// Why the row must be rejected; call `rollback`.
    #[inline]
    pub(crate) fn end_row(&mut self) -> Result<(), String> {
        for index in 0..self.columns.len() {
            let Some(column) = self.columns.get_mut(index) else { continue };
            if column.len() == self.rows {
                if self.spec.missing_rejects {
                    return Err(format!("column `{}` is missing", self.spec.name(index)));
                }
                column.push_null();
            }
        }
        if let Some(time) = self.spec.time {
            let known = self.columns.get(time).is_some_and(|column| column.validity.is_valid(self.rows));
            if !known {
                return Err(format!("time column `{}` is missing or NULL", self.spec.name(time)));
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Takes back what the unfinished row has set.
    pub(crate) fn rollback(&mut self) {
        let rows = self.rows;
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Keeps a bad row aside.
    pub(crate) fn reject(&mut self, reason: String, position: String, row: &[u8]) {
        self.rollback();
        let payload = row.get(..REJECT_BYTES_MAX).unwrap_or(row).into();
        self.bad.push(BadRow { reason, position, payload });
    }

    /// The rows so far; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Decoded {
        let rows = std::mem::take(&mut self.rows);
        let mut bad = std::mem::take(&mut self.bad);
        let batch = self.batch(rows).unwrap_or_else(|error| {
            // Readers append checked values only; should one not, its rows are counted, not dropped.
            let reason = format!("{rows} rows lost: {error}");
            bad.push(BadRow { reason, position: String::new(), payload: Arc::new([]) });
            RecordBatch::new_empty(Arc::clone(&self.spec.schema))
        });
        Decoded { batch, bad }
    }

    fn batch(&mut self, rows: usize) -> Result<RecordBatch, arrow::error::ArrowError> {
        let columns = self.columns.iter_mut().zip(&self.spec.columns);
        let arrays: Result<Vec<ArrayRef>, _> = columns
            .map(|(column, spec)| {
                if spec.kept {
                    return column.finish();
                }
                column.truncate(0);
                Ok(new_null_array(&spec.data_type, rows))
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.spec.schema), arrays?, &options)
    }
}
