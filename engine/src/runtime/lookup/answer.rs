//! What is known of a key, and rows that leave with what is known of theirs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{interleave, take};

use super::waiting::Waiting;
use crate::error::{OperatorError, RejectedRow};
use crate::lookup::{LookupPlan, OnError};

/// What is known of a key.
#[derive(Clone, Debug)]
pub(super) struct Answer(Known);

#[derive(Clone, Debug)]
enum Known {
    Nothing,
    /// These rows of a batch.
    Rows {
        batch: Arc<RecordBatch>,
        start: usize,
        count: usize,
    },
    Failed(Arc<str>),
}

impl Answer {
    pub(super) fn nothing() -> Answer {
        Answer(Known::Nothing)
    }

    pub(super) fn rows(batch: &Arc<RecordBatch>, start: usize, count: usize) -> Answer {
        if count == 0 {
            return Answer::nothing();
        }
        Answer(Known::Rows { batch: Arc::clone(batch), start, count })
    }

    pub(super) fn failed(reason: &str) -> Answer {
        Answer(Known::Failed(reason.into()))
    }

    /// Its part of the memory that its rows take.
    pub(super) fn bytes(&self) -> usize {
        match &self.0 {
            Known::Nothing => 0,
            Known::Failed(reason) => reason.len(),
            Known::Rows { batch, count, .. } => {
                (batch.get_array_memory_size() / batch.num_rows().max(1)).saturating_mul(*count)
            }
        }
    }

    pub(super) fn is_failure(&self) -> bool {
        matches!(self.0, Known::Failed(_))
    }
}

/// Rows that leave, and those without an answer.
pub(super) struct Left {
    pub(super) rows: RecordBatch,
    pub(super) failed: Vec<RejectedRow>,
}

/// Makes rows of the output. Each leaves once for each row of its answer.
pub(super) fn leave(plan: &LookupPlan, waiting: &Waiting) -> Result<Left, OperatorError> {
    let nothing = plan.part.columns.fields().iter().map(|field| new_null_array(field.data_type(), 1));
    let nothing = nothing.collect::<Vec<_>>();
    let mut batches: Vec<&RecordBatch> = Vec::new();
    let mut places: HashMap<*const RecordBatch, usize> = HashMap::new();
    let (mut own, mut theirs, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for (row, key) in waiting.rows.iter().enumerate() {
        let number = u32::try_from(row).map_err(OperatorError::new)?;
        let answer = key.and_then(|key| waiting.answers.get(key)?.as_ref()).map(|answer| &answer.0);
        match answer {
            Some(Known::Rows { batch, start, count }) => {
                let place = *places.entry(Arc::as_ptr(batch)).or_insert_with(|| {
                    batches.push(batch);
                    // The first one has the row of which nothing is known.
                    batches.len()
                });
                for row in *start..start + count {
                    own.push(number);
                    theirs.push((place, row));
                }
            }
            Some(Known::Failed(reason)) if plan.settings.on_error == OnError::Reject => {
                failed.push(RejectedRow { row, reason: reason.to_string() });
            }
            Some(Known::Failed(reason)) if plan.settings.on_error == OnError::Fail => {
                return Err(OperatorError::new(reason));
            }
            Some(Known::Failed(_) | Known::Nothing) | None => {
                let is_null = plan.settings.is_outer || matches!(answer, Some(Known::Failed(_)));
                if is_null {
                    own.push(number);
                    theirs.push((0, 0));
                }
            }
        }
    }
    let own = UInt32Array::from(own);
    let mut columns = Vec::with_capacity(plan.output.columns.fields().len());
    for column in waiting.batch.columns() {
        columns.push(take(column, &own, None)?);
    }
    for (index, nothing) in nothing.iter().enumerate() {
        let of_batches = batches.iter().filter_map(|batch| batch.columns().get(index)).map(AsRef::as_ref);
        let arrays: Vec<&dyn Array> = std::iter::once(nothing.as_ref()).chain(of_batches).collect();
        columns.push(interleave(&arrays, &theirs)?);
    }
    Ok(Left { rows: RecordBatch::try_new(Arc::clone(&plan.output.columns), columns)?, failed })
}
