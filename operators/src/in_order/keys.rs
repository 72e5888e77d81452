//! The keys of rows that are judged in order: each has a number as long as it
//! is remembered, and is as old as its newest row.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidegate_engine::error::OperatorError;

use super::shape;
use super::waiting::Timed;

/// Keys by their values in the columns of the key.
pub(super) struct Keys {
    columns: Vec<usize>,
    fields: Vec<FieldRef>,
    converter: RowConverter,
    known: HashMap<Box<[u8]>, Known>,
    /// Numbers that were given and are free again.
    free: Vec<u32>,
    /// The least number that was never given.
    next: u32,
}

/// What is known of a key.
#[derive(Clone, Copy)]
struct Known {
    number: u32,
    /// Event time of the newest row.
    seen_us: i64,
    /// The watermark when that row came, if it was behind: the key's next rows
    /// will be as far behind, and its silence is counted from here.
    heard_us: i64,
}

/// What becomes of the rows of a batch.
pub(super) struct Judged {
    /// Number of each row's key, without late rows.
    pub(super) keys: Vec<u32>,
    /// Which rows are late, if any is.
    pub(super) late: Option<BooleanArray>,
    /// Numbers of keys that began afresh under another one.
    pub(super) replaced: Vec<u32>,
}

impl Keys {
    pub(super) fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<Keys, OperatorError> {
        let fields: Vec<FieldRef> =
            columns.iter().filter_map(|index| schema.fields().get(*index).cloned()).collect();
        let types = fields.iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(Keys {
            columns,
            converter: RowConverter::new(types.collect())?,
            fields,
            known: HashMap::new(),
            free: Vec::new(),
            next: 0,
        })
    }

    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Numbers the keys of rows that come when event time is `watermark_us`, in
    /// this order, and tells the late ones (see `Ordered::late_before`).
    pub(super) fn judge(
        &mut self,
        timed: &Timed,
        watermark_us: i64,
        forget_us: i64,
        late_before: Option<i64>,
    ) -> Result<Judged, OperatorError> {
        let values: Vec<ArrayRef> =
            self.columns.iter().filter_map(|index| timed.rows.columns().get(*index).cloned()).collect();
        let encoded = (!values.is_empty()).then(|| self.converter.convert_columns(&values)).transpose()?;
        let rows = timed.times.len();
        let (mut keys, mut replaced) = (Vec::with_capacity(rows), Vec::new());
        let mut late: Option<Vec<bool>> = None;
        for (row, at_us) in timed.times.iter().copied().enumerate() {
            let key = encoded.as_ref().map_or(&[][..], |encoded| encoded.row(row).data());
            let now_us = at_us.max(watermark_us);
            let known = self.known.get_mut(key);
            let is_forgotten =
                known.as_ref().is_some_and(|known| now_us.saturating_sub(known.heard_us) >= forget_us);
            let is_late = match (late_before, &known) {
                (Some(before_us), _) => at_us < before_us,
                (None, Some(known)) => !is_forgotten && at_us < known.seen_us,
                (None, None) => false,
            };
            if is_late {
                if let Some(late) = late.get_or_insert_with(|| vec![false; rows]).get_mut(row) {
                    *late = true;
                }
                continue;
            }
            match known {
                Some(known) if !is_forgotten => {
                    known.seen_us = known.seen_us.max(at_us);
                    known.heard_us = known.heard_us.max(now_us);
                    keys.push(known.number);
                }
                before => {
                    replaced.extend(before.map(|known| known.number));
                    let number = self.number()?;
                    self.known.insert(key.into(), Known { number, seen_us: at_us, heard_us: now_us });
                    keys.push(number);
                }
            }
        }
        Ok(Judged { keys, late: late.map(BooleanArray::from), replaced })
    }

    fn number(&mut self) -> Result<u32, OperatorError> {
        if let Some(number) = self.free.pop() {
            return Ok(number);
        }
        let number = self.next;
        self.next = number.checked_add(1).ok_or_else(|| OperatorError::new("more than 2^32 keys"))?;
        Ok(number)
    }

    /// These numbers may be given again.
    pub(super) fn free(&mut self, numbers: &[u32]) {
        self.free.extend(numbers);
    }

    /// Removes the keys that are forgotten at this watermark.
    pub(super) fn sweep(&mut self, watermark_us: i64, forget_us: i64) -> Vec<u32> {
        let is_forgotten = |known: &Known| watermark_us.saturating_sub(known.heard_us) >= forget_us;
        self.known.extract_if(|_, known| is_forgotten(known)).map(|(_, known)| known.number).collect()
    }

    /// The numbers of all keys, and the keys in that order.
    pub(super) fn save(&self) -> Result<(Vec<u32>, RecordBatch), OperatorError> {
        let mut all: Vec<(&[u8], &Known)> =
            self.known.iter().map(|(key, known)| (key.as_ref(), known)).collect();
        all.sort_unstable_by_key(|(_, known)| known.number);
        let parser = self.converter.parser();
        let mut columns = if self.columns.is_empty() {
            Vec::new()
        } else {
            self.converter.convert_rows(all.iter().map(|(key, _)| parser.parse(key)))?
        };
        columns.push(Arc::new(all.iter().map(|(_, known)| Some(known.seen_us)).collect::<Int64Array>()));
        columns.push(Arc::new(all.iter().map(|(_, known)| Some(known.heard_us)).collect::<Int64Array>()));
        let named = columns.iter().enumerate();
        let fields: Vec<Field> = named
            .map(|(index, column)| Field::new(format!("key {index}"), column.data_type().clone(), true))
            .collect();
        let saved = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
        Ok((all.iter().map(|(_, known)| known.number).collect(), saved))
    }

    pub(super) fn load(&mut self, saved: &RecordBatch) -> Result<(), OperatorError> {
        let (values, times) = saved.columns().split_at_checked(self.fields.len()).ok_or_else(shape)?;
        let [seen, heard] = times else { return Err(shape()) };
        let seen = seen.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let heard = heard.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let types = self.fields.iter().map(|field| field.data_type());
        if !types.eq(values.iter().map(|column| column.data_type())) {
            return Err(shape());
        }
        let encoded = (!values.is_empty()).then(|| self.converter.convert_columns(values)).transpose()?;
        for (row, (seen_us, heard_us)) in seen.values().iter().zip(heard.values()).enumerate() {
            let key = encoded.as_ref().map_or(&[][..], |encoded| encoded.row(row).data());
            let number = self.number()?;
            self.known.insert(key.into(), Known { number, seen_us: *seen_us, heard_us: *heard_us });
        }
        Ok(())
    }
}
