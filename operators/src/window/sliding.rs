//! Sliding windows: each row has one, of the rows of its key that are less than
//! `size` older, itself included. It is made of those rows afresh, so its cost is
//! their number; what leaves needs not be taken away from a sum, and the answer
//! is that of the same rows as one batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;

use super::evaluated::Evaluated;
use super::pane::Layout;
use super::results::Results;
use super::slots::Slots;
use crate::in_order::{Ordered, PerKey, Rows, Share, shape};

/// Rows that are added to windows at a time, at least: their indices take memory.
const ADDED_MAX: usize = 65_536;

/// The rows of a key that later windows need.
#[derive(Default)]
struct Kept {
    times: Vec<i64>,
    /// Keys, arguments and filters of aggregates.
    columns: Vec<ArrayRef>,
}

pub(super) struct Sliding {
    size_us: i64,
    layout: Arc<Layout>,
    results: Results,
    keys: PerKey<Kept>,
    slots: Slots,
}

impl Sliding {
    pub(super) fn new(size_us: i64, layout: Layout, results: Results) -> Result<Sliding, OperatorError> {
        let slots = Slots::new(&layout)?;
        Ok(Sliding { size_us, layout: Arc::new(layout), results, keys: PerKey::default(), slots })
    }

    /// The windows of new rows of a key, which stand behind the kept ones.
    fn windows(&mut self, kept: &Kept, new: usize, out: &mut Output) -> Result<(), OperatorError> {
        let rows = Evaluated::of_columns(&self.layout, &kept.columns)?;
        let first = kept.times.len().saturating_sub(new);
        let mut low = 0;
        let (mut indices, mut slots, mut open, mut start) = (Vec::new(), Vec::new(), Vec::new(), first);
        for (row, at_us) in kept.times.iter().enumerate().skip(first) {
            while kept.times.get(low).is_some_and(|old| old.saturating_add(self.size_us) <= *at_us) {
                low += 1;
            }
            let slot = self.slots.open();
            open.push(slot);
            for index in low..=row {
                indices.push(u32::try_from(index).map_err(OperatorError::new)?);
                slots.push(slot);
            }
            if indices.len() >= ADDED_MAX || row + 1 == kept.times.len() {
                let added = rows.take(&UInt32Array::from(std::mem::take(&mut indices)))?;
                self.slots.update(&added, &std::mem::take(&mut slots))?;
                self.emit(kept, &rows, start, &std::mem::take(&mut open), out)?;
                start = row + 1;
            }
        }
        Ok(())
    }

    /// The results of rows from `start` on, in these slots.
    fn emit(
        &mut self,
        kept: &Kept,
        rows: &Evaluated,
        start: usize,
        slots: &[usize],
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let mut columns: Vec<ArrayRef> = rows.keys.iter().map(|key| key.slice(start, slots.len())).collect();
        columns.extend(self.slots.finish(slots)?);
        self.slots.close(slots);
        let times = || kept.times.iter().skip(start).take(slots.len());
        let instants = |times: Vec<i64>| {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) as ArrayRef
        };
        let starts = instants(times().map(|at_us| at_us.saturating_sub(self.size_us)).collect());
        let ends = instants(times().copied().collect());
        self.results.emit(&self.layout, [starts, ends], columns, Vec::new(), out)
    }

    fn schema(&self, columns: &[ArrayRef]) -> SchemaRef {
        let mut fields =
            vec![Field::new("key", DataType::UInt32, false), Field::new("time_us", DataType::Int64, false)];
        let named = columns.iter().enumerate();
        fields.extend(
            named.map(|(index, column)| {
                Field::new(format!("column {index}"), column.data_type().clone(), true)
            }),
        );
        Arc::new(Schema::new(fields))
    }
}

impl Ordered for Sliding {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let columns = Evaluated::with(&self.layout, rows.batch, rows.values)?.columns();
        let mut by_key: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, (_, key)) in (0..).zip(rows.iter()) {
            by_key.entry(key).or_default().push(row);
        }
        for (key, own) in by_key {
            let place = self.keys.of(key).ok_or_else(shape)?;
            let mut kept = std::mem::take(place);
            let time_of = |row: &u32| rows.times.get(usize::try_from(*row).ok()?).copied();
            let new = own.len();
            let times: Vec<i64> = own.iter().filter_map(time_of).collect();
            // What is too old for the first of the new rows is too old for all.
            let oldest_us = times.first().copied().unwrap_or(i64::MIN).saturating_sub(self.size_us);
            let gone = kept.times.partition_point(|at_us| *at_us <= oldest_us);
            kept.times.drain(..gone);
            kept.times.extend(times);
            let own = UInt32Array::from(own);
            let mut together = Vec::with_capacity(columns.len());
            for (index, column) in columns.iter().enumerate() {
                let added = arrow::compute::take(column, &own, None)?;
                together.push(match kept.columns.get(index) {
                    Some(old) if old.len() > gone => {
                        concat(&[old.slice(gone, old.len() - gone).as_ref(), added.as_ref()])?
                    }
                    _ => added,
                });
            }
            kept.columns = together;
            self.windows(&kept, new, out)?;
            *self.keys.of(key).ok_or_else(shape)? = kept;
        }
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.layout.reads())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.keys.forget(key);
        Ok(())
    }

    fn bytes(&self) -> usize {
        let columns =
            |kept: &Kept| kept.columns.iter().map(|column| column.get_array_memory_size()).sum::<usize>();
        self.slots.bytes() + self.keys.bytes(|kept| kept.times.capacity() * size_of::<i64>() + columns(kept))
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Keyed(0)])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut saved = Vec::new();
        for (place, key) in (0_u32..).zip(keys) {
            let Some(kept) = self.keys.get(*key).filter(|kept| !kept.times.is_empty()) else { continue };
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(UInt32Array::from(vec![place; kept.times.len()])),
                Arc::new(Int64Array::from(kept.times.clone())),
            ];
            columns.extend(kept.columns.iter().cloned());
            saved.push(RecordBatch::try_new(self.schema(&kept.columns), columns)?);
        }
        let Some(first) = saved.first() else { return Ok(Vec::new()) };
        Ok(vec![arrow::compute::concat_batches(&first.schema(), &saved)?])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        for batch in state {
            let [places, times, columns @ ..] = batch.columns() else { return Err(shape()) };
            let places = places.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
            let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
            if columns.len() != self.layout.width() {
                return Err(shape());
            }
            let mut start = 0;
            for same in places.values().chunk_by(|a, b| a == b) {
                let slice = |column: &ArrayRef| column.slice(start, same.len());
                let place = same.first().and_then(|key| self.keys.of(*key)).ok_or_else(shape)?;
                place.times = times.values().iter().skip(start).take(same.len()).copied().collect();
                place.columns = columns.iter().map(slice).collect();
                start += same.len();
            }
        }
        Ok(())
    }
}
