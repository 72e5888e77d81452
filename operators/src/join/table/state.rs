//! What a checkpoint holds of a join with a table: a batch that says which
//! version is in use, that version where it is not in an earlier report, and the
//! rows that wait for the first one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Int64Type, Schema};
use tidegate_engine::error::OperatorError;

/// Says what a batch is.
const PART: &str = "tidegate.part";
const NOW: &str = "now";
const TABLE: &str = "table";
const WAITING: &str = "waiting";

/// One report.
pub(super) struct Report<'a> {
    pub(super) version: Option<&'a str>,
    pub(super) table: Option<&'a RecordBatch>,
    pub(super) waiting: &'a VecDeque<RecordBatch>,
    pub(super) held_us: Option<i64>,
    pub(super) has_ended: bool,
}

impl Report<'_> {
    pub(super) fn batches(&self) -> Result<Vec<RecordBatch>, OperatorError> {
        let columns: [(&str, ArrayRef); 3] = [
            ("version", Arc::new(StringArray::from(vec![self.version]))),
            ("held_us", Arc::new(Int64Array::from(vec![self.held_us]))),
            ("ended", Arc::new(BooleanArray::from(vec![self.has_ended]))),
        ];
        let mut batches = vec![marked(&RecordBatch::try_from_iter(columns)?, NOW)?];
        if let Some(table) = self.table {
            batches.push(marked(table, TABLE)?);
        }
        for waiting in self.waiting {
            batches.push(marked(waiting, WAITING)?);
        }
        Ok(batches)
    }
}

fn marked(batch: &RecordBatch, part: &str) -> Result<RecordBatch, OperatorError> {
    let metadata = HashMap::from([(PART.to_owned(), part.to_owned())]);
    let schema = Schema::new_with_metadata(batch.schema().fields().clone(), metadata);
    Ok(RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec())?)
}

fn part_of(batch: &RecordBatch) -> &str {
    batch.schema_ref().metadata().get(PART).map_or("", String::as_str)
}

/// One report of several, oldest first.
pub(super) fn together(reports: &[RecordBatch]) -> Result<Vec<RecordBatch>, OperatorError> {
    let (mut now, mut table, mut waiting) = (None, None, Vec::new());
    for batch in reports {
        match part_of(batch) {
            NOW => (now, waiting) = (Some(batch.clone()), Vec::new()),
            TABLE => table = Some(batch.clone()),
            WAITING => waiting.push(batch.clone()),
            _ => return Err(shape()),
        }
    }
    Ok(now.into_iter().chain(table).chain(waiting).collect())
}

/// What `Report` has saved.
#[derive(Default)]
pub(super) struct Saved {
    pub(super) version: Option<String>,
    pub(super) table: Option<RecordBatch>,
    pub(super) waiting: Vec<RecordBatch>,
    pub(super) held_us: Option<i64>,
    pub(super) has_ended: bool,
}

impl Saved {
    pub(super) fn read(state: &[RecordBatch]) -> Result<Saved, OperatorError> {
        let mut saved = Saved::default();
        for batch in together(state)? {
            match part_of(&batch) {
                TABLE => saved.table = Some(batch),
                WAITING => saved.waiting.push(batch),
                _ => {
                    let [version, held, ended] = batch.columns() else { return Err(shape()) };
                    let version = version.as_string_opt::<i32>().ok_or_else(shape)?;
                    let held = held.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
                    let ended = ended.as_boolean_opt().ok_or_else(shape)?;
                    if batch.num_rows() != 1 {
                        return Err(shape());
                    }
                    saved.version = version.is_valid(0).then(|| version.value(0).to_owned());
                    saved.held_us = held.is_valid(0).then(|| held.value(0));
                    saved.has_ended = ended.value(0);
                }
            }
        }
        Ok(saved)
    }
}

fn shape() -> OperatorError {
    OperatorError::new("the saved state of the join has another shape")
}
