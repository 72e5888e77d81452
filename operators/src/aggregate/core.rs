//! Rows into results that change. Rows come in event-time order and in pieces;
//! each piece changes the result of a key once at most, so that what leaves is
//! as short as the pieces allow: applied, it is the same however rows were cut.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array,
    new_empty_array,
};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidegate_engine::changelog::gives;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;
use tidegate_engine::reject::{bad_row, rejects};
use tidegate_engine::schema::StreamSchema;

use super::states::{Changed, Updating, states};
use crate::changes::{Changes, Images};
use crate::in_order::{LATE_PORT, Ordered, PerKey, REJECTS_PORT, Rows, places, shape};
use crate::narrow::narrow;
use crate::window::{Evaluated, Layout};

/// Columns of a state before keys and states of aggregates.
const HEAD: usize = 4;

/// The core of the operator.
pub(super) struct Aggregate {
    name: String,
    layout: Layout,
    output: StreamSchema,
    /// Keys and results, without the columns of a changelog.
    image: SchemaRef,
    /// The column of the input that says what a row is, if it is a changelog.
    change: Option<usize>,
    states: Vec<Box<dyn Updating>>,
    known: PerKey<Known>,
    converter: RowConverter,
    /// Places that states have.
    total: usize,
}

/// What is known of a key.
#[derive(Clone, Default)]
struct Known {
    /// Its values, as `converter` makes them into bytes; kept with its first row,
    /// also one that takes back what nobody knows of.
    key: Option<Box<[u8]>>,
    /// Rows that were given and not taken back.
    rows: i64,
    /// Its result has left, and stands.
    is_shown: bool,
    /// Event time of its newest row: of one key changes never go back in time.
    changed_us: Option<i64>,
    /// Its place among those that the rows under way touch, counted from one.
    touched: usize,
}

/// A key that rows touch.
struct Touched {
    key: u32,
    was_shown: bool,
}

impl Aggregate {
    pub(super) fn new(
        name: &str,
        layout: Layout,
        output: StreamSchema,
        change: Option<usize>,
    ) -> Result<Aggregate, OperatorError> {
        let types = layout.key_fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let image = output.columns.fields().iter().take(layout.key_fields().len() + layout.columns.len());
        Ok(Aggregate {
            name: name.to_owned(),
            converter: RowConverter::new(types.collect())?,
            image: Arc::new(Schema::new(image.cloned().collect::<Vec<_>>())),
            states: states(&layout, change.is_some())?,
            layout,
            output,
            change,
            known: PerKey::default(),
            total: 0,
        })
    }

    /// Counts rows of keys. Answers the keys in the order they are touched, and
    /// which rows take back what nobody knows of, if any does.
    fn touch(
        &mut self,
        rows: &Rows<'_>,
        gives: Option<&BooleanArray>,
    ) -> (Vec<Touched>, Option<BooleanArray>) {
        let mut touched: Vec<Touched> = Vec::new();
        let mut unknown: Option<Vec<bool>> = None;
        for (row, (at_us, key)) in rows.iter().enumerate() {
            let Some(known) = self.known.of(key) else { continue };
            let gives = gives.is_none_or(|gives| gives.value(row));
            if !gives && known.rows <= 0 {
                let unknown = unknown.get_or_insert_with(|| vec![false; rows.times.len()]);
                unknown.get_mut(row).into_iter().for_each(|unknown| *unknown = true);
                continue;
            }
            known.rows += if gives { 1 } else { -1 };
            known.changed_us = known.changed_us.max(Some(at_us));
            if known.touched == 0 {
                touched.push(Touched { key, was_shown: known.is_shown });
                known.touched = touched.len();
            }
            self.total = self.total.max(index(key) + 1);
        }
        (touched, unknown.map(BooleanArray::from))
    }

    /// Keeps the values of keys that are new.
    fn keep_keys(&mut self, rows: &Rows<'_>, evaluated: &Evaluated) -> Result<(), OperatorError> {
        let mut new: Vec<(u32, usize)> = Vec::new();
        for (row, key) in rows.keys.iter().enumerate() {
            if let Some(known) = self.known.of(*key).filter(|known| known.key.is_none()) {
                known.key = Some(Box::default());
                new.push((*key, row));
            }
        }
        if new.is_empty() || evaluated.keys.is_empty() {
            return Ok(());
        }
        let indices: Result<Vec<u32>, _> = new.iter().map(|(_, row)| u32::try_from(*row)).collect();
        let indices = UInt32Array::from(indices.map_err(OperatorError::new)?);
        let columns: Result<Vec<ArrayRef>, _> =
            evaluated.keys.iter().map(|column| arrow::compute::take(column, &indices, None)).collect();
        let encoded = self.converter.convert_columns(&columns?)?;
        for ((number, _), key) in new.iter().zip(encoded.iter()) {
            self.known.of(*number).into_iter().for_each(|known| known.key = Some(key.data().into()));
        }
        Ok(())
    }

    fn key_columns(&self, keys: &[u32]) -> Result<Vec<ArrayRef>, OperatorError> {
        if self.layout.key_fields().is_empty() {
            return Ok(Vec::new());
        }
        if keys.is_empty() {
            let fields = self.layout.key_fields().iter();
            return Ok(fields.map(|field| new_empty_array(field.data_type())).collect());
        }
        let parser = self.converter.parser();
        let keys = keys.iter().map(|key| self.known.get(*key).and_then(|known| known.key.as_deref()));
        let keys: Option<Vec<&[u8]>> = keys.collect();
        let keys = keys.ok_or_else(|| OperatorError::new("the values of a key are not known"))?;
        Ok(self.converter.convert_rows(keys.into_iter().map(|key| parser.parse(key)))?)
    }

    /// The results of these keys as they are now, and for each key its row among
    /// them: none where an expression of `select` fails, which is a reject.
    fn images(
        &mut self,
        keys: &[u32],
        out: &mut Output,
    ) -> Result<(Vec<ArrayRef>, Vec<Option<usize>>), OperatorError> {
        let groups: Vec<usize> = keys.iter().map(|key| index(*key)).collect();
        let mut columns = self.key_columns(keys)?;
        for state in &mut self.states {
            columns.push(state.results(&groups)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        let schema = Arc::clone(&self.layout.result_schema);
        let whole = RecordBatch::try_new_with_options(schema, columns, &options)?;
        let mut pieces = Vec::new();
        let bad = narrow(&whole, &mut |rows| self.image_of(rows), &mut |rows| pieces.push(rows));
        let image = concat_batches(&self.image, &pieces)?;
        if bad.is_empty() {
            return Ok((image.columns().to_vec(), (0..keys.len()).map(Some).collect()));
        }
        let (mut of_key, mut next) = (Vec::with_capacity(keys.len()), 0);
        let mut is_bad = bad.iter().map(|bad| bad.row).peekable();
        for row in 0..keys.len() {
            if is_bad.next_if_eq(&row).is_some() {
                of_key.push(None);
            } else {
                of_key.push(Some(next));
                next += 1;
            }
        }
        let changed_us = |row: usize| {
            keys.get(row).and_then(|key| self.known.get(*key)).and_then(|known| known.changed_us)
        };
        let times_us = bad.iter().map(|bad| changed_us(bad.row).unwrap_or_default()).collect();
        let bad: Vec<_> = bad.into_iter().map(|bad| bad_row(&whole, bad)).collect();
        out.emit_to(REJECTS_PORT, rejects(&self.name, &bad, times_us)?);
        Ok((image.columns().to_vec(), of_key))
    }

    fn image_of(&self, results: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let mut columns: Vec<ArrayRef> =
            results.columns().iter().take(self.layout.key_fields().len()).cloned().collect();
        for column in &self.layout.columns {
            columns.push(column.expression.evaluate(results)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(results.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.image), columns, &options)?)
    }

    /// Sends what has changed.
    fn emit(
        &mut self,
        touched: &[Touched],
        before: (Vec<ArrayRef>, Vec<Option<usize>>),
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let is_there = |key: u32| self.known.get(key).is_some_and(|known| known.rows > 0);
        let there: Vec<u32> =
            touched.iter().map(|touched| touched.key).filter(|key| is_there(*key)).collect();
        let (after, rows_after) = self.images(&there, out)?;
        let (before, rows_before) = before;
        let mut changes = Changes::new(Images(&before), Images(&after))?;
        let (mut rows_before, mut rows_after) = (rows_before.into_iter(), rows_after.into_iter());
        let mut gone = Vec::new();
        for touched in touched {
            let Some(known) = self.known.of(touched.key) else { continue };
            let was = if touched.was_shown { rows_before.next().flatten() } else { None };
            let is = if known.rows > 0 { rows_after.next().flatten() } else { None };
            known.touched = 0;
            known.is_shown = is.is_some();
            changes.add(was, is, known.changed_us.unwrap_or_default());
            if known.rows <= 0 {
                gone.push(index(touched.key));
            }
        }
        changes.emit(&self.output, out)?;
        self.states.iter_mut().for_each(|state| state.empty(&gone));
        Ok(())
    }
}

/// A key's number as the place of its states.
fn index(key: u32) -> usize {
    usize::try_from(key).unwrap_or(usize::MAX)
}

impl Ordered for Aggregate {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let given = self.change.map(|change| gives(rows.batch, change)).transpose()?;
        let mut evaluated = Evaluated::with(&self.layout, rows.batch, rows.values)?;
        let (touched, unknown) = self.touch(rows, given.as_ref());
        self.keep_keys(rows, &evaluated)?;
        let shown: Vec<u32> =
            touched.iter().filter(|touched| touched.was_shown).map(|touched| touched.key).collect();
        let before = self.images(&shown, out)?;
        let mut groups: Vec<usize> = rows.keys.iter().map(|key| index(*key)).collect();
        let mut given = given;
        if let Some(unknown) = unknown {
            out.emit_to(LATE_PORT, filter_record_batch(rows.batch, &unknown)?);
            let known: Result<Vec<u32>, _> =
                (0..unknown.len()).filter(|row| !unknown.value(*row)).map(u32::try_from).collect();
            let known = UInt32Array::from(known.map_err(OperatorError::new)?);
            evaluated = evaluated.take(&known)?;
            let mut stays = unknown.values().iter();
            groups.retain(|_| stays.next().is_some_and(|unknown| !unknown));
            given = given
                .map(|given| arrow::compute::take(&given, &known, None))
                .transpose()?
                .map(|given| given.as_boolean().clone());
        }
        for (state, (arguments, filter)) in self.states.iter_mut().zip(evaluated.inputs()) {
            let (groups, gives, total) = (groups.as_slice(), given.as_ref(), self.total);
            state.change(&Changed { arguments, groups, filter, gives, total })?;
        }
        self.emit(&touched, before, out)
    }

    /// Every row counts, in whatever order it comes.
    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        Some(i64::MIN)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.layout.reads().into_iter().chain(self.change).collect())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.known.forget(key);
        let place = index(key);
        if place < self.total {
            self.states.iter_mut().for_each(|state| state.empty(&[place]));
        }
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let known: Vec<Known> =
            keys.iter().map(|key| self.known.get(*key).cloned().unwrap_or_default()).collect();
        let mut columns: Vec<ArrayRef> = vec![
            places(keys),
            Arc::new(Int64Array::from_iter_values(known.iter().map(|known| known.rows))),
            Arc::new(known.iter().map(|known| Some(known.is_shown)).collect::<BooleanArray>()),
            Arc::new(known.iter().map(|known| known.changed_us).collect::<Int64Array>()),
        ];
        columns.extend(self.key_columns(keys)?);
        let groups: Vec<usize> = keys.iter().map(|key| index(*key)).collect();
        for state in &mut self.states {
            columns.extend(state.read(&groups)?);
        }
        Ok(vec![RecordBatch::try_new(self.saved_schema(), columns)?])
    }

    fn bytes(&self) -> usize {
        self.states.iter().map(|state| state.bytes()).sum()
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn is_spent(&self, key: u32) -> bool {
        self.known.get(key).is_none_or(|known| known.rows <= 0)
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let expected = self.saved_schema();
        let types = |schema: &Schema| {
            schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
        };
        if types(&expected) != types(batch.schema_ref()) {
            return Err(shape());
        }
        let (head, rest) = batch.columns().split_at_checked(HEAD).ok_or_else(shape)?;
        let (keys, mut columns) = rest.split_at_checked(self.layout.key_fields().len()).ok_or_else(shape)?;
        let [_, rows, shown, changed] = head else { return Err(shape()) };
        let rows = rows.as_primitive::<Int64Type>().values();
        let changed = changed.as_primitive::<Int64Type>().iter();
        let encoded = (!keys.is_empty()).then(|| self.converter.convert_columns(keys)).transpose()?;
        let known = rows.iter().zip(changed).zip(shown.as_boolean().values()).enumerate();
        self.known.load(known.map(|(row, ((rows, changed_us), is_shown))| Known {
            key: Some(encoded.as_ref().map_or(Box::default(), |encoded| encoded.row(row).data().into())),
            rows: *rows,
            is_shown,
            changed_us,
            touched: 0,
        }));
        self.total = batch.num_rows();
        if self.total == 0 {
            return Ok(());
        }
        for state in &mut self.states {
            let (own, behind) = columns.split_at_checked(state.state_types().len()).ok_or_else(shape)?;
            state.load(own)?;
            columns = behind;
        }
        Ok(())
    }
}

impl Aggregate {
    /// Place, rows, whether it is shown, when it changed; key; states.
    fn saved_schema(&self) -> SchemaRef {
        let mut fields = vec![
            Field::new("key", DataType::UInt32, false),
            Field::new("rows", DataType::Int64, false),
            Field::new("shown", DataType::Boolean, false),
            Field::new("changed_us", DataType::Int64, true),
        ];
        let keys = self.layout.key_fields().iter().enumerate();
        fields.extend(
            keys.map(|(index, field)| Field::new(format!("value {index}"), field.data_type().clone(), true)),
        );
        for (index, state) in self.states.iter().enumerate() {
            let parts = state.state_types().into_iter().enumerate();
            fields.extend(
                parts.map(|(part, data_type)| Field::new(format!("state {index} {part}"), data_type, true)),
            );
        }
        Arc::new(Schema::new(fields))
    }
}
