//! The best rows of each key of all rows that have come: the place of a row is
//! told again when another one takes it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, UInt32Type};
use arrow::row::RowConverter;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;
use tidegate_engine::schema::StreamSchema;

use crate::changes::{Changes, Images};
use crate::in_order::{Kept, Ordered, PerKey, Rows, shape};

/// A row that is among the best.
#[derive(Clone)]
struct Ranked {
    /// Less is better.
    place: Arc<[u8]>,
    at_us: i64,
    row: Row,
}

#[derive(Clone)]
enum Row {
    /// Of the batch under way.
    New(usize),
    Kept(Arc<[u8]>),
}

impl Row {
    fn is_same(&self, other: &Row) -> bool {
        matches!((self, other), (Row::Kept(one), Row::Kept(other)) if Arc::ptr_eq(one, other) || one == other)
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Row::Kept(bytes) => Some(bytes),
            Row::New(_) => None,
        }
    }
}

/// The best rows of a key, best first.
#[derive(Default)]
struct Best {
    rows: Vec<Ranked>,
    /// Event time of the newest row: changes of a key never go back in time.
    newest_us: Option<i64>,
    /// They are among those that were touched by the batch under way.
    is_touched: bool,
}

pub(super) struct Updating {
    output: StreamSchema,
    /// How many rows are told.
    rows: usize,
    order: RowConverter,
    /// Rows without a value have a place as well.
    keeps_nulls: bool,
    /// All columns of the input, and the value they are compared by behind them.
    kept: Kept,
    best: PerKey<Best>,
}

impl Updating {
    pub(super) fn new(
        output: StreamSchema,
        rows: usize,
        order: RowConverter,
        keeps_nulls: bool,
        kept: Kept,
    ) -> Updating {
        Updating { output, rows, order, keeps_nulls, kept, best: PerKey::default() }
    }

    /// Puts rows where they belong; answers keys whose best rows are others now,
    /// with those from before.
    fn rank(&mut self, rows: &Rows<'_>, by: &ArrayRef) -> Result<Vec<(u32, Vec<Ranked>)>, OperatorError> {
        let places = self.order.convert_columns(std::slice::from_ref(by))?;
        let nulls = by.logical_nulls().filter(|_| !self.keeps_nulls);
        let mut touched = Vec::new();
        for (row, ((at_us, key), place)) in rows.iter().zip(places.iter()).enumerate() {
            let Some(best) = self.best.of(key) else { continue };
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let place = place.data();
            let is_ahead = |other: &Ranked| (other.place.as_ref(), other.at_us) <= (place, at_us);
            let ahead = best.rows.partition_point(is_ahead);
            if ahead >= self.rows {
                continue;
            }
            if !std::mem::replace(&mut best.is_touched, true) {
                touched.push((key, best.rows.clone()));
            }
            best.newest_us = best.newest_us.max(Some(at_us));
            best.rows.truncate(self.rows - 1);
            best.rows.insert(ahead, Ranked { place: place.into(), at_us, row: Row::New(row) });
        }
        Ok(touched)
    }

    /// Keeps what has come to stay.
    fn keep(&mut self, rows: &Rows<'_>, touched: &[(u32, Vec<Ranked>)]) -> Result<(), OperatorError> {
        let mut new: Vec<(u32, usize, usize)> = Vec::new();
        for (key, _) in touched {
            let best = self.best.get(*key).into_iter().flat_map(|best| best.rows.iter().enumerate());
            new.extend(best.filter_map(|(place, ranked)| match ranked.row {
                Row::New(row) => Some((*key, place, row)),
                Row::Kept(_) => None,
            }));
        }
        let indices: Result<Vec<u32>, _> = new.iter().map(|(_, _, row)| u32::try_from(*row)).collect();
        let indices = UInt32Array::from(indices.map_err(OperatorError::new)?);
        let columns = rows.batch.columns().iter().chain(rows.values);
        let columns: Result<Vec<ArrayRef>, _> = columns.map(|column| take(column, &indices, None)).collect();
        let encoded = self.kept.encode_columns(&columns?)?;
        for ((key, place, _), row) in new.into_iter().zip(encoded.iter()) {
            if let Some(ranked) = self.best.of(key).and_then(|best| best.rows.get_mut(place)) {
                ranked.row = Row::Kept(row.data().into());
            }
        }
        Ok(())
    }

    /// These rows with their ranks.
    fn images(&self, rows: &[(i64, Option<&[u8]>)]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns = self.kept.decode(rows.iter().map(|(_, row)| *row))?;
        columns.pop();
        columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(rank, _)| *rank))));
        Ok(columns)
    }
}

impl Ordered for Updating {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let [by] = rows.values else { return Err(shape()) };
        let touched = self.rank(rows, by)?;
        self.keep(rows, &touched)?;
        let (mut before, mut after, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for (key, was) in &touched {
            let Some(best) = self.best.get(*key) else { continue };
            let at_us = best.newest_us.unwrap_or_default();
            let mut was = was.iter();
            for (rank, is) in (1..).zip(&best.rows) {
                let was = was.next();
                if was.is_some_and(|was| was.row.is_same(&is.row)) {
                    continue;
                }
                pairs.push((was.map(|_| before.len()), after.len(), at_us));
                before.extend(was.map(|was| (rank, was.row.bytes())));
                after.push((rank, is.row.bytes()));
            }
        }
        let (before, after) = (self.images(&before)?, self.images(&after)?);
        let mut changes = Changes::new(Images(&before), Images(&after))?;
        for (was, is, at_us) in pairs {
            changes.add(was, Some(is), at_us);
        }
        changes.emit(&self.output, out)?;
        for (key, _) in touched {
            self.best.of(key).into_iter().for_each(|best| best.is_touched = false);
        }
        Ok(())
    }

    /// Every row counts, in whatever order it comes.
    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        Some(i64::MIN)
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.best.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut rows: Vec<(u32, Option<i64>, &Ranked)> = Vec::new();
        for (place, best) in (0..).zip(keys.iter().map(|key| self.best.get(*key))) {
            let ranked = best.into_iter().flat_map(|best| best.rows.iter().map(|row| (best.newest_us, row)));
            rows.extend(ranked.map(|(newest_us, row)| (place, newest_us, row)));
        }
        let mut fields = vec![
            Field::new("key", DataType::UInt32, false),
            Field::new("newest_us", DataType::Int64, true),
            Field::new("at_us", DataType::Int64, false),
        ];
        fields.extend(self.kept.fields("kept"));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2.at_us))),
        ];
        columns.extend(self.kept.decode(rows.iter().map(|row| row.2.row.bytes()))?);
        Ok(vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    fn bytes(&self) -> usize {
        let row =
            |row: &Ranked| size_of::<Ranked>() + row.place.len() + row.row.bytes().map_or(0, <[u8]>::len);
        self.best.bytes(|best| best.rows.iter().map(row).sum())
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [keys, newest, times, kept @ ..] = batch.columns() else { return Err(shape()) };
        let keys = keys.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
        let newest = newest.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let encoded = self.kept.encode_columns(kept)?;
        let places = self.order.convert_columns(kept.last().map(std::slice::from_ref).unwrap_or_default())?;
        // They were saved best first.
        let rows =
            keys.values().iter().zip(newest).zip(times.values()).zip(places.iter().zip(encoded.iter()));
        for (((key, newest_us), at_us), (place, row)) in rows {
            let Some(best) = self.best.of(*key) else { continue };
            best.newest_us = newest_us;
            let row = Row::Kept(row.data().into());
            best.rows.push(Ranked { place: place.data().into(), at_us: *at_us, row });
        }
        Ok(())
    }
}
