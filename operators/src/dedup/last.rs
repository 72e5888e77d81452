//! The last row of each key, told again when a later one comes. A row that is
//! older than its key's last is no change and leaves by the port `duplicates`.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;
use tidegate_engine::schema::StreamSchema;

use super::DUPLICATES_PORT;
use crate::changes::{Changes, Images};
use crate::in_order::{Kept, Ordered, PerKey, Rows, places, shape};

pub(super) struct Last {
    output: StreamSchema,
    /// All columns of the input.
    kept: Kept,
    rows: PerKey<Option<LastRow>>,
    /// The row of the batch under way that became its key's last, by key.
    newest: PerKey<Option<u32>>,
}

struct LastRow {
    at_us: i64,
    row: Box<[u8]>,
}

impl Last {
    pub(super) fn new(input: &StreamSchema, output: StreamSchema) -> Result<Last, OperatorError> {
        let all = (0..input.columns.fields().len()).collect();
        let kept = Kept::new(&input.columns, all)?;
        Ok(Last { output, kept, rows: PerKey::default(), newest: PerKey::default() })
    }

    /// Keys that get another last row, in the order they are touched; and which
    /// rows are older than that of their key, if any is.
    fn touch(&mut self, rows: &Rows<'_>) -> Result<(Vec<u32>, Option<BooleanArray>), OperatorError> {
        let mut touched = Vec::new();
        let mut older: Option<Vec<bool>> = None;
        for (row, (at_us, key)) in rows.iter().enumerate() {
            let (Some(newest), Some(last)) = (self.newest.of(key), self.rows.of(key)) else { continue };
            let place = newest.and_then(|newest| usize::try_from(newest).ok());
            let last_us = match place.and_then(|newest| rows.times.get(newest)) {
                Some(last_us) => Some(*last_us),
                None => last.as_ref().map(|last| last.at_us),
            };
            if last_us.is_some_and(|last_us| at_us < last_us) {
                let older = older.get_or_insert_with(|| vec![false; rows.times.len()]);
                older.get_mut(row).into_iter().for_each(|older| *older = true);
                continue;
            }
            if newest.is_none() {
                touched.push(key);
            }
            *newest = Some(u32::try_from(row).map_err(OperatorError::new)?);
        }
        Ok((touched, older.map(BooleanArray::from)))
    }
}

impl Ordered for Last {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let (touched, older) = self.touch(rows)?;
        if let Some(older) = older {
            out.emit_to(DUPLICATES_PORT, filter_record_batch(rows.batch, &older)?);
        }
        let newest: Vec<u32> =
            touched.iter().filter_map(|key| self.newest.of(*key).and_then(Option::take)).collect();
        let before: Vec<Option<LastRow>> =
            touched.iter().filter_map(|key| self.rows.of(*key).map(Option::take)).collect();
        let after = take_record_batch(rows.batch, &UInt32Array::from(newest.clone()))?;
        let images = self.kept.decode(before.iter().flatten().map(|last| Some(last.row.as_ref())))?;
        let mut changes = Changes::new(Images(&images), Images(after.columns()))?;
        let mut was = 0..;
        let encoded = self.kept.encode(&after)?;
        for (is, ((key, row), before)) in touched.iter().zip(&newest).zip(&before).enumerate() {
            let at = usize::try_from(*row).ok().and_then(|row| rows.times.get(row));
            let at_us = at.copied().unwrap_or_default();
            changes.add(before.as_ref().and_then(|_| was.next()), Some(is), at_us);
            if let Some(last) = self.rows.of(*key) {
                *last = Some(LastRow { at_us, row: encoded.row(is).data().into() });
            }
        }
        changes.emit(&self.output, out)
    }

    /// A row that is not its key's last changes nothing, however late it comes.
    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        Some(i64::MIN)
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.rows.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let last: Vec<Option<&LastRow>> =
            keys.iter().map(|key| self.rows.get(*key).and_then(Option::as_ref)).collect();
        let times = last.iter().map(|last| last.map(|last| last.at_us));
        let mut columns: Vec<ArrayRef> = vec![places(keys), Arc::new(times.collect::<Int64Array>())];
        columns.extend(self.kept.decode(last.iter().map(|last| last.map(|last| last.row.as_ref())))?);
        let mut fields =
            vec![Field::new("key", DataType::UInt32, false), Field::new("at_us", DataType::Int64, true)];
        fields.extend(self.kept.fields("kept"));
        Ok(vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    fn bytes(&self) -> usize {
        self.rows.bytes(|last| last.as_ref().map_or(0, |last| last.row.len()))
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [_, times, kept @ ..] = batch.columns() else { return Err(shape()) };
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let encoded = self.kept.encode_columns(kept)?;
        let rows = times.iter().zip(encoded.iter());
        self.rows.load(rows.map(|(at_us, row)| at_us.map(|at_us| LastRow { at_us, row: row.data().into() })));
        Ok(())
    }
}
