//! The one row that expressions and templates of a task see: parameters, the
//! run, and the first row of each earlier result. NULL where there is none.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use arrow::error::ArrowError;

use super::spec::{Flow, FlowTask};
use crate::error::OperatorError;
use crate::expression::Expression;
use crate::time::Time;

/// Results of a run's tasks, by index; `None` until a task has succeeded.
pub(super) type Results = Vec<Option<Arc<Vec<RecordBatch>>>>;

/// The row for one task.
pub(super) fn values(
    flow: &Flow,
    task: &FlowTask,
    params: &RecordBatch,
    (run_id, fired_at): (&str, Time),
    results: &Results,
) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = params.columns().to_vec();
    columns.push(Arc::new(StringArray::from(vec![run_id])));
    columns.push(Arc::new(TimestampMicrosecondArray::from(vec![fired_at.0]).with_timezone("UTC")));
    for seen in &task.sees {
        let Some(other) = flow.tasks.get(*seen) else { continue };
        let result = results.get(*seen).and_then(Option::as_ref);
        let row = result.and_then(|batches| batches.iter().find(|batch| batch.num_rows() > 0));
        for (index, field) in other.result.columns.fields().iter().enumerate() {
            let column = row.and_then(|batch| batch.columns().get(index)).map(|column| column.slice(0, 1));
            columns.push(column.unwrap_or_else(|| new_null_array(field.data_type(), 1)));
        }
    }
    RecordBatch::try_new(Arc::clone(&task.values), columns)
}

/// Whether a condition is true on the one row; NULL is not.
pub(super) fn is_true(condition: &dyn Expression, row: &RecordBatch) -> Result<bool, OperatorError> {
    let column = condition.evaluate(row)?;
    let flags = column.as_boolean_opt().ok_or_else(|| OperatorError::new("the condition is not boolean"))?;
    Ok(!flags.is_empty() && flags.is_valid(0) && flags.value(0))
}
