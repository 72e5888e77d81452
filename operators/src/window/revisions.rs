//! Windows that are given several times: running results before their end, and
//! corrections after it for the keys that late rows have touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema};
use arrow::row::{RowConverter, SortField};
use tidegate_engine::error::OperatorError;

use super::frame::Frame;
use crate::in_order::shape;

/// First column of the batch with how often windows were given.
pub(super) const GIVEN: &str = "given_start_us";
/// First column of the batch with the keys that wait for a correction.
pub(super) const TOUCHED: &str = "touched_start_us";

/// Names of the columns that tell one result of a window from another.
pub(super) const REVISION: &str = "revision";
pub(super) const FINAL: &str = "final";

pub(super) struct Revisions {
    fields: Vec<FieldRef>,
    converter: RowConverter,
    /// How often each closed window was given that may change still, by its start.
    given: BTreeMap<i64, i64>,
    /// Keys of each closed window that rows have come for, as the converter
    /// writes them.
    touched: BTreeMap<i64, BTreeSet<Box<[u8]>>>,
}

impl Revisions {
    pub(super) fn new(fields: &[FieldRef]) -> Result<Revisions, OperatorError> {
        let types = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(Revisions {
            fields: fields.to_vec(),
            converter: RowConverter::new(types)?,
            given: BTreeMap::new(),
            touched: BTreeMap::new(),
        })
    }

    /// Rows with these keys have come for windows that were closed.
    pub(super) fn touch(&mut self, windows: &[i64], keys: &[ArrayRef]) -> Result<(), OperatorError> {
        if windows.is_empty() {
            return Ok(());
        }
        let keys = self.encode(keys)?;
        for start_us in windows {
            self.touched.entry(*start_us).or_default().extend(keys.iter().cloned());
        }
        Ok(())
    }

    /// The key of each row; without columns one for all.
    fn encode(&self, keys: &[ArrayRef]) -> Result<Vec<Box<[u8]>>, OperatorError> {
        if keys.is_empty() {
            return Ok(vec![Box::default()]);
        }
        Ok(self.converter.convert_columns(keys)?.iter().map(|key| key.data().into()).collect())
    }

    /// Windows that wait for a correction, in order, with their keys.
    pub(super) fn take_touched(&mut self) -> BTreeMap<i64, BTreeSet<Box<[u8]>>> {
        std::mem::take(&mut self.touched)
    }

    /// Which of the groups with these keys are among the touched ones.
    pub(super) fn mask(
        &self,
        touched: &BTreeSet<Box<[u8]>>,
        keys: &[ArrayRef],
        rows: usize,
    ) -> Result<BooleanArray, OperatorError> {
        if keys.is_empty() {
            return Ok(BooleanArray::from(vec![true; rows]));
        }
        let keys = self.encode(keys)?;
        Ok(keys.iter().map(|key| Some(touched.contains(key))).collect())
    }

    /// The number of a closed window's result that is given now.
    pub(super) fn next(&mut self, start_us: i64) -> i64 {
        let given = self.given.entry(start_us).or_default();
        *given += 1;
        *given - 1
    }

    /// Forgets windows whose results cannot change any more.
    pub(super) fn forget(&mut self, frame: &Frame, until_us: i64) {
        self.given.retain(|start_us, _| frame.changes_until(*start_us) > until_us);
    }

    pub(super) fn save(&self) -> Result<Vec<RecordBatch>, OperatorError> {
        let number = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let starts = number(self.given.keys().copied().collect());
        let given = number(self.given.values().copied().collect());
        let given = RecordBatch::try_from_iter([(GIVEN, starts), ("given", given)])?;
        let each =
            || self.touched.iter().flat_map(|(start_us, keys)| keys.iter().map(move |key| (start_us, key)));
        let mut columns = vec![number(each().map(|(start_us, _)| *start_us).collect())];
        if !self.fields.is_empty() {
            let parser = self.converter.parser();
            columns.extend(self.converter.convert_rows(each().map(|(_, key)| parser.parse(key)))?);
        }
        let start = Arc::new(Field::new(TOUCHED, DataType::Int64, false));
        let fields: Vec<FieldRef> = std::iter::once(start).chain(self.fields.iter().cloned()).collect();
        Ok(vec![given, RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    /// Takes back one of the batches of `save`; false if it is none of them.
    pub(super) fn load(&mut self, batch: &RecordBatch) -> Result<bool, OperatorError> {
        let name = batch.schema_ref().fields().first().map(|field| field.name().as_str());
        let numbers = |index: usize| {
            let column = batch.columns().get(index).and_then(|column| column.as_primitive_opt::<Int64Type>());
            column.map(|column| column.values().clone()).ok_or_else(shape)
        };
        match name {
            Some(GIVEN) => {
                self.given = numbers(0)?.iter().copied().zip(numbers(1)?.iter().copied()).collect();
            }
            Some(TOUCHED) => {
                self.touched.clear();
                let keys = batch.columns().get(1..).unwrap_or_default();
                let keys =
                    if keys.is_empty() { vec![Box::default(); batch.num_rows()] } else { self.encode(keys)? };
                for (start_us, key) in numbers(0)?.iter().zip(keys) {
                    self.touched.entry(*start_us).or_default().insert(key);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
