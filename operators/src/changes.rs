//! Rows of a changelog from images before and after.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, DynComparator, RecordBatch, StringArray, TimestampMicrosecondArray, make_comparator,
};
use arrow::compute::{SortOptions, interleave};
use tidegate_engine::changelog::Change;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;
use tidegate_engine::schema::StreamSchema;

/// Images of one moment, column by column.
pub(crate) struct Images<'a>(pub(crate) &'a [ArrayRef]);

/// Puts changes together, in order. An image that is what it was is no change.
pub(crate) struct Changes<'a> {
    before: Images<'a>,
    after: Images<'a>,
    compared: Vec<DynComparator>,
    /// Which images, and of these which row.
    picked: Vec<(usize, usize)>,
    words: Vec<&'static str>,
    times: Vec<i64>,
}

const BEFORE: usize = 0;
const AFTER: usize = 1;

impl<'a> Changes<'a> {
    pub(crate) fn new(before: Images<'a>, after: Images<'a>) -> Result<Changes<'a>, OperatorError> {
        let compared = before.0.iter().zip(after.0).map(|(before, after)| {
            Ok(make_comparator(before.as_ref(), after.as_ref(), SortOptions::default())?)
        });
        let compared = compared.collect::<Result<_, OperatorError>>()?;
        Ok(Changes { before, after, compared, picked: Vec::new(), words: Vec::new(), times: Vec::new() })
    }

    /// A result was the one row and is the other; answers whether that is a change.
    pub(crate) fn add(&mut self, was: Option<usize>, is: Option<usize>, at_us: i64) -> bool {
        match (was, is) {
            (Some(was), Some(is)) => {
                if self.compared.iter().all(|compare| compare(was, is).is_eq()) {
                    return false;
                }
                self.push((BEFORE, was), Change::Before, at_us);
                self.push((AFTER, is), Change::After, at_us);
            }
            (None, Some(is)) => self.push((AFTER, is), Change::Insert, at_us),
            (Some(was), None) => self.push((BEFORE, was), Change::Delete, at_us),
            (None, None) => return false,
        }
        true
    }

    fn push(&mut self, image: (usize, usize), change: Change, at_us: i64) {
        self.picked.push(image);
        self.words.push(change.word());
        self.times.push(at_us);
    }

    /// Sends the changes as rows of this changelog.
    pub(crate) fn emit(self, stream: &StreamSchema, out: &mut Output) -> Result<(), OperatorError> {
        if self.picked.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.after.0.len() + 2);
        for (before, after) in self.before.0.iter().zip(self.after.0) {
            let both: [&dyn Array; 2] = [before.as_ref(), after.as_ref()];
            columns.push(interleave(&both, &self.picked)?);
        }
        columns.push(Arc::new(TimestampMicrosecondArray::from(self.times).with_timezone("UTC")));
        columns.push(Arc::new(StringArray::from_iter_values(self.words)));
        out.emit(RecordBatch::try_new(Arc::clone(&stream.columns), columns)?);
        Ok(())
    }
}
