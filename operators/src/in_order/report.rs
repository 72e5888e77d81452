//! The state of rows that are judged in order, as reports: a whole one, and
//! behind it those of what has changed. A report is the keys, the rows that
//! wait, the watermark, and what the core saves of these keys.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Int64Type, UInt32Type};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Compaction;

use super::keys::{Form, Saved};
use super::waiting::Timed;
use super::{InOrder, Ordered, shape};

/// Batches of a report before those of the core.
pub(super) const OWN_BATCHES: usize = 3;

impl<C: Ordered> InOrder<C> {
    pub(super) fn save(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.watermark_us == i64::MIN && self.waiting.is_empty() && self.keys.len() == 0 {
            return Ok(Vec::new());
        }
        let saved = self.keys.save()?;
        self.report(saved)
    }

    pub(super) fn save_changes(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let saved = self.keys.save_changes()?;
        self.report(saved)
    }

    fn report(&mut self, Saved { numbers, keys }: Saved) -> Result<Vec<RecordBatch>, OperatorError> {
        let core = self.core.save(&numbers)?;
        let batches = i64::try_from(core.len()).map_err(OperatorError::new)?;
        let columns: [(&str, ArrayRef); 2] = [
            ("watermark", Arc::new(Int64Array::from(vec![self.watermark_us]))),
            ("batches", Arc::new(Int64Array::from(vec![batches]))),
        ];
        let mut report = vec![keys, self.waiting.all()?, RecordBatch::try_from_iter(columns)?];
        report.extend(core);
        Ok(report)
    }

    pub(super) fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let whole = together(self.keys.form(), state)?;
        let [keys, waiting, watermark, core @ ..] = whole.as_slice() else {
            return if whole.is_empty() { Ok(()) } else { Err(shape()) };
        };
        self.watermark_us = number(watermark, 0).ok_or_else(shape)?;
        self.keys.load(keys)?;
        if waiting.num_rows() > 0 {
            let rows = self.conformed(waiting)?;
            let times = self.input.times(&rows)?.values().clone();
            self.waiting.push(Timed { rows, times })?;
        }
        self.core.load(core)
    }

    pub(super) fn compact(&self) -> Compaction {
        let form = Arc::clone(self.keys.form());
        Arc::new(move |state| together(&form, state))
    }
}

/// The only value of a column.
fn number(batch: &RecordBatch, column: usize) -> Option<i64> {
    batch.columns().get(column)?.as_primitive_opt::<Int64Type>()?.values().first().copied()
}

/// The reports that a state consists of.
fn reports(mut state: &[RecordBatch]) -> Option<Vec<&[RecordBatch]>> {
    let mut reports = Vec::new();
    while let Some(watermark) = state.get(OWN_BATCHES - 1) {
        let core = usize::try_from(number(watermark, 1)?).ok()?;
        let (report, behind) = state.split_at_checked(OWN_BATCHES.checked_add(core)?)?;
        reports.push(report);
        state = behind;
    }
    state.is_empty().then_some(reports)
}

/// One report of several: of each key what was said last.
fn together(form: &Form, state: &[RecordBatch]) -> Result<Vec<RecordBatch>, OperatorError> {
    let reports = reports(state).ok_or_else(shape)?;
    let [_, .., last] = reports.as_slice() else { return Ok(state.to_vec()) };
    let of_report = |batch: usize| {
        let found: Option<Vec<&RecordBatch>> = reports.iter().map(|report| report.get(batch)).collect();
        found.ok_or_else(shape)
    };
    let keys = of_report(0)?;
    let mut newest: HashMap<Box<[u8]>, (usize, usize)> = HashMap::new();
    for (report, keys) in keys.iter().enumerate() {
        let mut row = 0;
        form.each(keys, |key, times_us| {
            match times_us {
                Some(_) => newest.insert(key.into(), (report, row)),
                None => newest.remove(key),
            };
            row += 1;
        })?;
    }
    let mut places: Vec<(usize, usize)> = newest.into_values().collect();
    places.sort_unstable();
    let mut whole = vec![interleave_record_batch(&keys, &places)?];
    whole.extend(last.iter().skip(1).take(OWN_BATCHES - 1).cloned());
    let places: HashMap<(usize, usize), u32> = places.into_iter().zip(0..).collect();
    for (batch, newest) in last.iter().enumerate().skip(OWN_BATCHES) {
        let is_by_key = newest.schema_ref().fields().first().is_some_and(|field| field.name() == "key");
        whole.push(if is_by_key { renumbered(&of_report(batch)?, &places)? } else { newest.clone() });
    }
    Ok(whole)
}

/// Rows of these keys, each (report, row) of the keys under its new number.
fn renumbered(
    batches: &[&RecordBatch],
    places: &HashMap<(usize, usize), u32>,
) -> Result<RecordBatch, OperatorError> {
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (report, batch) in batches.iter().enumerate() {
        let keys = batch.columns().first().and_then(|keys| keys.as_primitive_opt::<UInt32Type>());
        for (row, key) in keys.ok_or_else(shape)?.values().iter().enumerate() {
            let place = (report, usize::try_from(*key).map_err(OperatorError::new)?);
            if let Some(number) = places.get(&place) {
                rows.push((report, row));
                numbers.push(*number);
            }
        }
    }
    let kept = interleave_record_batch(batches, &rows)?;
    let mut columns = kept.columns().to_vec();
    if let Some(keys) = columns.first_mut() {
        *keys = Arc::new(UInt32Array::from(numbers));
    }
    Ok(RecordBatch::try_new(kept.schema(), columns)?)
}
