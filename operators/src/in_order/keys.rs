//! The keys of rows that are judged in order: each has a number as long as it
//! is remembered, and is as old as its newest row.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use tidegate_engine::error::OperatorError;

use super::shape;
use super::waiting::Timed;

/// What the bytes of a key and of a row that is kept with it take, about.
const KEY_BYTES: usize = 64;

/// Keys by their values in the columns of the key.
pub(super) struct Keys {
    columns: Vec<usize>,
    form: Arc<Form>,
    known: HashMap<Box<[u8]>, Known>,
    /// Keys that have changed since the last report, also those that are gone.
    changed: Vec<Box<[u8]>>,
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
    /// It is among the changed ones.
    is_changed: bool,
}

/// Keys as a report has them, and their numbers in that order.
pub(super) struct Saved {
    pub(super) numbers: Vec<u32>,
    pub(super) keys: RecordBatch,
}

/// The columns of the key, and how they are made into bytes.
pub(super) struct Form {
    fields: Vec<FieldRef>,
    converter: RowConverter,
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
        let converter = RowConverter::new(types.collect())?;
        Ok(Keys {
            columns,
            form: Arc::new(Form { fields, converter }),
            known: HashMap::new(),
            changed: Vec::new(),
            free: Vec::new(),
            next: 0,
        })
    }

    pub(super) fn form(&self) -> &Arc<Form> {
        &self.form
    }

    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Memory of all keys, and of a row kept with each, about.
    pub(super) fn bytes(&self) -> usize {
        self.known.capacity() * size_of::<(Box<[u8]>, Known)>() + self.known.len() * KEY_BYTES
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
        let encoded = self.form.encode(&values)?;
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
                    if !std::mem::replace(&mut known.is_changed, true) {
                        self.changed.push(key.into());
                    }
                    keys.push(known.number);
                }
                before => {
                    replaced.extend(before.map(|known| known.number));
                    let number = self.number()?;
                    let known = Known { number, seen_us: at_us, heard_us: now_us, is_changed: true };
                    self.known.insert(key.into(), known);
                    self.changed.push(key.into());
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

    /// Removes the keys that are forgotten at this watermark, if they may go.
    pub(super) fn sweep(
        &mut self,
        watermark_us: i64,
        forget_us: i64,
        may_go: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let is_forgotten =
            |known: &Known| watermark_us.saturating_sub(known.heard_us) >= forget_us && may_go(known.number);
        let mut gone = Vec::new();
        for (key, known) in self.known.extract_if(|_, known| is_forgotten(known)) {
            gone.push(known.number);
            if !known.is_changed {
                self.changed.push(key);
            }
        }
        gone
    }

    /// All keys.
    pub(super) fn save(&mut self) -> Result<Saved, OperatorError> {
        self.changed.clear();
        self.known.values_mut().for_each(|known| known.is_changed = false);
        let mut all: Vec<(&[u8], Option<&Known>)> =
            self.known.iter().map(|(key, known)| (key.as_ref(), Some(known))).collect();
        all.sort_unstable_by_key(|(_, known)| known.map(|known| known.number));
        self.form.save(&all)
    }

    /// Keys that have changed since the last report; those that are gone without
    /// a number, behind the others.
    pub(super) fn save_changes(&mut self) -> Result<Saved, OperatorError> {
        let mut changed = std::mem::take(&mut self.changed);
        // A key may have gone and come again.
        changed.sort_unstable();
        changed.dedup();
        for key in &changed {
            if let Some(known) = self.known.get_mut(key) {
                known.is_changed = false;
            }
        }
        let mut changed: Vec<(&[u8], Option<&Known>)> =
            changed.iter().map(|key| (key.as_ref(), self.known.get(key))).collect();
        changed.sort_unstable_by_key(|(_, known)| known.map_or(u64::MAX, |known| u64::from(known.number)));
        self.form.save(&changed)
    }

    pub(super) fn load(&mut self, saved: &RecordBatch) -> Result<(), OperatorError> {
        let form = Arc::clone(&self.form);
        let mut loaded = Vec::new();
        form.each(saved, |key, times_us| loaded.extend(times_us.map(|times_us| (Box::from(key), times_us))))?;
        for (key, (seen_us, heard_us)) in loaded {
            let number = self.number()?;
            self.known.insert(key, Known { number, seen_us, heard_us, is_changed: false });
        }
        Ok(())
    }
}

impl Form {
    /// The keys as bytes; `None` if there is one key, without columns.
    fn encode(&self, values: &[ArrayRef]) -> Result<Option<Rows>, OperatorError> {
        Ok((!values.is_empty()).then(|| self.converter.convert_columns(values)).transpose()?)
    }

    /// Columns of the key, then when the key was seen and heard of last: NULL if
    /// it is gone.
    fn save(&self, keys: &[(&[u8], Option<&Known>)]) -> Result<Saved, OperatorError> {
        let parser = self.converter.parser();
        let mut columns = if self.fields.is_empty() {
            Vec::new()
        } else {
            self.converter.convert_rows(keys.iter().map(|(key, _)| parser.parse(key)))?
        };
        let known = || keys.iter().map(|(_, known)| *known);
        columns.push(Arc::new(known().map(|known| Some(known?.seen_us)).collect::<Int64Array>()));
        columns.push(Arc::new(known().map(|known| Some(known?.heard_us)).collect::<Int64Array>()));
        let named = columns.iter().enumerate();
        let fields: Vec<Field> = named
            .map(|(index, column)| Field::new(format!("key {index}"), column.data_type().clone(), true))
            .collect();
        let numbers = known().flatten().map(|known| known.number).collect();
        Ok(Saved { numbers, keys: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)? })
    }

    /// Each key that was saved and its times, in order; no times if it is gone.
    pub(super) fn each(
        &self,
        saved: &RecordBatch,
        mut with: impl FnMut(&[u8], Option<(i64, i64)>),
    ) -> Result<(), OperatorError> {
        let (values, times) = saved.columns().split_at_checked(self.fields.len()).ok_or_else(shape)?;
        let [seen, heard] = times else { return Err(shape()) };
        let seen = seen.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let heard = heard.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let types = self.fields.iter().map(|field| field.data_type());
        if !types.eq(values.iter().map(|column| column.data_type())) {
            return Err(shape());
        }
        let encoded = self.encode(values)?;
        for (row, times_us) in seen.iter().zip(heard).enumerate() {
            let key = encoded.as_ref().map_or(&[][..], |encoded| encoded.row(row).data());
            with(key, times_us.0.zip(times_us.1));
        }
        Ok(())
    }
}
