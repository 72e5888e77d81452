//! An expression that fails on one row must not cost the rest of its batch.

use arrow::array::{Array, RecordBatch};
use tidegate_engine::error::{OperatorError, RejectedRow};
use tidegate_engine::reject::{bad_row, narrow as narrow_rows, rejects};
use tidegate_engine::schema::StreamSchema;

/// Applies `work` to the batch; where it fails, to halves of it, down to single
/// rows. Good results go to `good` in order, bad rows with their reasons to the
/// answer.
pub(crate) fn narrow<T>(
    batch: &RecordBatch,
    work: &mut dyn FnMut(&RecordBatch) -> Result<T, OperatorError>,
    good: &mut dyn FnMut(T),
) -> Vec<RejectedRow> {
    let rows = batch.num_rows();
    let (results, bad) = narrow_rows(rows, |part| {
        if part.len() == rows { work(batch) } else { work(&batch.slice(part.start, part.len())) }
    });
    results.into_iter().for_each(good);
    bad
}

/// Bad rows of a batch as rows of `rejects_schema`.
pub(crate) fn reject_rows(
    node: &str,
    stream: &StreamSchema,
    batch: &RecordBatch,
    bad: Vec<RejectedRow>,
) -> Result<RecordBatch, OperatorError> {
    let times = stream.times(batch).ok();
    let time_of =
        |row: usize| times.as_ref().filter(|times| times.is_valid(row)).map_or(0, |times| times.value(row));
    let times_us = bad.iter().map(|bad| time_of(bad.row)).collect();
    let bad: Vec<_> = bad.into_iter().map(|bad| bad_row(batch, bad)).collect();
    Ok(rejects(node, &bad, times_us)?)
}
