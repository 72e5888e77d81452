//! A window's state as record batches: one with how far time has come, then
//! the keys and aggregates of panes. A batch stands for all that was said of
//! its pane before, unless it is marked as more of it, or as what groups have
//! now, by their numbers. Panes whose windows are all closed by the last head
//! are gone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, UInt32Type};
use tidegate_engine::error::OperatorError;
use tidegate_engine::planted;

use super::frame::Frame;
use super::open::{Pane, Saved, Says};
use super::operator::Window;
use super::pane::{Groups, Layout, Taken};
use super::revisions::{GIVEN, Revisions, TOUCHED};

/// Column of a pane's start, in microseconds.
const PANE_START: &str = "pane_start_us";
/// First column of the head.
pub(super) const WATERMARK: &str = "watermark_us";
/// Marks a batch as more of its pane.
const MORE: &str = "tidegate.more";
/// Marks a batch as what groups have now; their numbers stand for their keys.
const NOW: &str = "tidegate.now";
/// Column of those numbers.
const GROUP: &str = "group";

/// A window's state without the window.
struct State {
    watermark_us: i64,
    closed_us: i64,
    panes: BTreeMap<i64, Groups>,
}

impl Window {
    /// Everything.
    pub(super) fn save(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.closed_us == i64::MIN && self.panes.is_empty() {
            return Ok(Vec::new());
        }
        let mut batches = vec![head(self.watermark_us, self.closed_us)?];
        let schemas = Schemas::new(&self.layout);
        for (start_us, pane) in &mut self.panes {
            for saved in pane.save(&self.layout)? {
                batches.push(schemas.batch(*start_us, saved)?);
            }
        }
        batches.extend(self.save_revisions()?);
        Ok(batches)
    }

    /// What is new.
    pub(super) fn save_changes(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut batches = vec![head(self.watermark_us, self.closed_us)?];
        let schemas = Schemas::new(&self.layout);
        for (start_us, pane) in &mut self.panes {
            for saved in pane.changes()? {
                batches.push(schemas.batch(*start_us, saved)?);
            }
        }
        batches.extend(self.save_revisions()?);
        Ok(batches)
    }

    fn save_revisions(&self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.revisions.as_ref().map_or_else(|| Ok(Vec::new()), Revisions::save)
    }

    pub(super) fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        if state.is_empty() {
            return Ok(());
        }
        if let Some(revisions) = &mut self.revisions {
            state.iter().try_for_each(|batch| revisions.load(batch).map(|_| ()))?;
        }
        let State { watermark_us, closed_us, panes } = State::of(&self.layout, self.frame, state)?;
        self.watermark_us = watermark_us;
        self.closed_us = if planted!(ClosedForgotten) { i64::MIN } else { closed_us };
        for (start_us, groups) in panes {
            self.panes.insert(start_us, Pane::restored(groups, &self.layout)?);
        }
        Ok(())
    }
}

/// One snapshot of a snapshot and the changes behind it.
pub(super) fn together(
    layout: &Layout,
    frame: Frame,
    state: &[RecordBatch],
) -> Result<Vec<RecordBatch>, OperatorError> {
    let State { watermark_us, closed_us, panes } = State::of(layout, frame, state)?;
    let schemas = Schemas::new(layout);
    let mut batches = vec![head(watermark_us, closed_us)?];
    // Each report has these whole.
    for name in [GIVEN, TOUCHED] {
        batches.extend(state.iter().rfind(|batch| begins_with(batch, name)).cloned());
    }
    for (start_us, mut groups) in panes {
        batches.push(schemas.batch(start_us, Saved { says: Says::Whole, groups: groups.take()? })?);
    }
    Ok(batches)
}

impl State {
    fn of(layout: &Layout, frame: Frame, batches: &[RecordBatch]) -> Result<State, OperatorError> {
        let mut state = State { watermark_us: i64::MIN, closed_us: i64::MIN, panes: BTreeMap::new() };
        for batch in batches {
            let schema = batch.schema_ref();
            if begins_with(batch, WATERMARK) {
                (state.watermark_us, state.closed_us) = (number(batch, 0)?, number(batch, 1)?);
                continue;
            }
            if begins_with(batch, GIVEN) || begins_with(batch, TOUCHED) {
                continue;
            }
            let start_us = number(batch, 0)?;
            if schema.metadata().contains_key(NOW) {
                let pane = state.panes.get_mut(&start_us).ok_or_else(shape)?;
                let numbers =
                    batch.columns().get(1).and_then(|column| column.as_primitive_opt::<UInt32Type>());
                let numbers: Result<Vec<usize>, _> = numbers
                    .ok_or_else(shape)?
                    .values()
                    .iter()
                    .map(|number| usize::try_from(*number))
                    .collect();
                let states = batch.columns().get(2..).unwrap_or_default();
                pane.set(layout, &numbers.map_err(OperatorError::new)?, states)?;
                continue;
            }
            if !schema.metadata().contains_key(MORE) {
                state.panes.remove(&start_us);
            }
            let columns = batch.columns().iter().skip(1).cloned().collect();
            let taken = Taken { columns, groups: batch.num_rows() };
            match state.panes.entry(start_us) {
                std::collections::btree_map::Entry::Occupied(known) => {
                    known.into_mut().merge(layout, &taken)?;
                }
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(Groups::new(layout)?).merge(layout, &taken)?;
                }
            }
        }
        state.panes.retain(|start_us, _| frame.kept_until(*start_us) > state.closed_us);
        Ok(state)
    }
}

pub(super) fn begins_with(batch: &RecordBatch, name: &str) -> bool {
    batch.schema_ref().fields().first().is_some_and(|field| field.name() == name)
}

/// Shapes of the batches of panes.
pub(super) struct Schemas {
    whole: SchemaRef,
    pub(super) more: SchemaRef,
    now: SchemaRef,
}

impl Schemas {
    pub(super) fn new(layout: &Layout) -> Schemas {
        let start = Arc::new(Field::new(PANE_START, DataType::Int64, false));
        let marked = |fields: Vec<FieldRef>, mark: &str| {
            Arc::new(Schema::new_with_metadata(fields, HashMap::from([(mark.to_owned(), String::new())])))
        };
        let by_key: Vec<FieldRef> =
            std::iter::once(Arc::clone(&start)).chain(layout.snapshot_fields()).collect();
        let group = Arc::new(Field::new(GROUP, DataType::UInt32, false));
        let by_number = [start, group].into_iter().chain(layout.state_columns()).collect();
        Schemas {
            whole: Arc::new(Schema::new(by_key.clone())),
            more: marked(by_key, MORE),
            now: marked(by_number, NOW),
        }
    }

    fn batch(&self, start_us: i64, saved: Saved) -> Result<RecordBatch, OperatorError> {
        let Saved { says, groups: Taken { columns: own, groups } } = saved;
        let mut columns = vec![Arc::new(Int64Array::from(vec![start_us; groups])) as ArrayRef];
        columns.extend(own);
        let options = RecordBatchOptions::new().with_row_count(Some(groups));
        let schema = match says {
            Says::Whole => &self.whole,
            Says::More => &self.more,
            Says::Now => &self.now,
        };
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
    }
}

pub(super) fn head(watermark_us: i64, closed_us: i64) -> Result<RecordBatch, OperatorError> {
    let number = |value| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
    Ok(RecordBatch::try_from_iter([(WATERMARK, number(watermark_us)), ("closed_us", number(closed_us))])?)
}

/// The first value of a column of whole numbers.
pub(super) fn number(batch: &RecordBatch, column: usize) -> Result<i64, OperatorError> {
    let values = batch.columns().get(column).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let first = values.and_then(|values| values.iter().next().flatten());
    first.ok_or_else(shape)
}

pub(super) fn shape() -> OperatorError {
    OperatorError::new("the saved state of the window has another shape")
}
