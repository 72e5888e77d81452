//! Windows that the rows of a key make by themselves: sessions, so many rows,
//! from one condition to another. Rows come in event-time order; a rule says
//! which window each belongs to and which windows have ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::Int64Type;
use arrow::row::{RowConverter, SortField};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;

use super::evaluated::Evaluated;
use super::pane::Layout;
use super::parts;
use super::results::Results;
use super::slots::Slots;
use crate::in_order::{Ordered, PerKey, Rows, Share, shape};

/// The one column of the first batch of a state.
const CLOSED: &str = "closed_us";

/// A row as a rule sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) at_us: i64,
    /// The condition that opens a window holds.
    pub(super) opens: bool,
    /// The condition that closes it holds.
    pub(super) closes: bool,
}

/// A window that is open, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Time of its first row.
    pub(super) start_us: i64,
    /// Time of its last row.
    pub(super) last_us: i64,
    pub(super) rows: u64,
    pub(super) slot: usize,
    /// Its key is looked at when event time comes here.
    pub(super) wakes_us: i64,
}

impl Part {
    fn new(at_us: i64, slot: usize) -> Part {
        Part { start_us: at_us, last_us: at_us, rows: 0, slot, wakes_us: i64::MAX }
    }

    pub(super) fn add(&mut self, at_us: i64) {
        self.start_us = self.start_us.min(at_us);
        self.last_us = self.last_us.max(at_us);
        self.rows += 1;
    }
}

/// A window that has ended.
pub(super) struct Ended {
    start_us: i64,
    end_us: i64,
    /// The parts that it consists of.
    slots: Vec<usize>,
    /// Those that nobody needs any more.
    free: Vec<usize>,
}

/// What happens while rows are assigned.
pub(super) struct Scene<'a> {
    slots: &'a mut Slots,
    ended: Vec<Ended>,
    /// Row and slot of each part that was opened.
    opened: Vec<(usize, usize)>,
    row: usize,
}

impl<'a> Scene<'a> {
    fn new(slots: &'a mut Slots) -> Scene<'a> {
        Scene { slots, ended: Vec::new(), opened: Vec::new(), row: 0 }
    }

    /// A part without rows, which the row now assigned will be the first of.
    pub(super) fn open(&mut self, at_us: i64) -> Part {
        let slot = self.slots.open();
        self.opened.push((self.row, slot));
        Part::new(at_us, slot)
    }

    /// The window of these parts ends; the first `gone` of them with it.
    pub(super) fn end(&mut self, parts: &mut Vec<Part>, gone: usize, end_us: i64) {
        let slots = parts.iter().map(|part| part.slot).collect();
        let start_us = parts.first().map_or(end_us, |part| part.start_us);
        let free = parts.drain(..gone.min(parts.len())).map(|part| part.slot).collect();
        self.ended.push(Ended { start_us, end_us, slots, free });
    }
}

/// How the rows of a key make windows.
pub(super) trait Rule: Send {
    /// Puts the row where it belongs; the answer is its slot, or `None` if it
    /// belongs to no window.
    fn row(&self, parts: &mut Vec<Part>, row: Row, scene: &mut Scene<'_>) -> Option<usize>;

    /// The event time at which the open window ends without another row.
    fn due(&self, _parts: &[Part]) -> Option<i64> {
        None
    }

    /// As `Ordered::late_before`.
    fn late_before(&self, _watermark_us: i64) -> Option<i64> {
        None
    }
}

/// The core of such a window operator.
pub(super) struct Assigned<R> {
    rule: R,
    layout: Arc<Layout>,
    results: Results,
    /// How many values of a row are conditions, before those of aggregates.
    conditions: usize,
    keys: PerKey<Vec<Part>>,
    slots: Slots,
    /// The key of each slot.
    slot_keys: Vec<Box<[u8]>>,
    converter: RowConverter,
    /// When keys are to be looked at; entries that their parts do not know are void.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    /// Windows up to here were ended with their rows: a second run gives none of
    /// them again.
    closed_us: i64,
}

impl<R: Rule> Assigned<R> {
    pub(super) fn new(
        rule: R,
        layout: Layout,
        results: Results,
        conditions: usize,
    ) -> Result<Assigned<R>, OperatorError> {
        let types = layout.key_fields().iter().map(|field| SortField::new(field.data_type().clone()));
        Ok(Assigned {
            rule,
            converter: RowConverter::new(types.collect())?,
            slots: Slots::new(&layout)?,
            layout: Arc::new(layout),
            results,
            conditions,
            keys: PerKey::default(),
            slot_keys: Vec::new(),
            due: BinaryHeap::new(),
            closed_us: i64::MIN,
        })
    }

    /// Keeps the keys of parts that were opened by these rows.
    fn keep_keys(&mut self, rows: &Evaluated, opened: &[(usize, usize)]) -> Result<(), OperatorError> {
        if opened.is_empty() || rows.keys.is_empty() {
            return Ok(());
        }
        let indices: Result<Vec<u32>, _> = opened.iter().map(|(row, _)| u32::try_from(*row)).collect();
        let indices = UInt32Array::from(indices.map_err(OperatorError::new)?);
        let columns: Result<Vec<ArrayRef>, _> =
            rows.keys.iter().map(|column| arrow::compute::take(column, &indices, None)).collect();
        let encoded = self.converter.convert_columns(&columns?)?;
        for ((_, slot), key) in opened.iter().zip(encoded.iter()) {
            self.keep_key(*slot, key.data().into());
        }
        Ok(())
    }

    fn keep_key(&mut self, slot: usize, key: Box<[u8]>) {
        if slot >= self.slot_keys.len() {
            self.slot_keys.resize_with(slot + 1, Box::default);
        }
        if let Some(place) = self.slot_keys.get_mut(slot) {
            *place = key;
        }
    }

    /// Key columns of these slots.
    pub(super) fn key_columns(&self, slots: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        if self.layout.key_fields().is_empty() {
            return Ok(Vec::new());
        }
        let parser = self.converter.parser();
        let keys = slots.iter().filter_map(|slot| self.slot_keys.get(*slot)).map(|key| parser.parse(key));
        Ok(self.converter.convert_rows(keys)?)
    }

    /// The rows of windows that have ended.
    fn emit(&mut self, mut ended: Vec<Ended>, out: &mut Output) -> Result<(), OperatorError> {
        if ended.is_empty() {
            return Ok(());
        }
        ended.sort_by_key(|window| (window.end_us, window.start_us));
        let mut whole = Vec::with_capacity(ended.len());
        let mut together = Vec::new();
        for window in &ended {
            match window.slots.as_slice() {
                [slot] => whole.push(*slot),
                slots => {
                    let into = self.slots.open();
                    for slot in slots {
                        self.slots.merge(&[*slot], &[into])?;
                    }
                    together.push(into);
                    whole.push(into);
                }
            }
        }
        let first: Vec<usize> = ended.iter().filter_map(|window| window.slots.first().copied()).collect();
        let mut columns = self.key_columns(&first)?;
        columns.extend(self.slots.finish(&whole)?);
        let instants = |times: Vec<i64>| {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) as ArrayRef
        };
        let starts = instants(ended.iter().map(|window| window.start_us).collect());
        let ends = instants(ended.iter().map(|window| window.end_us).collect());
        self.results.emit(&self.layout, [starts, ends], columns, Vec::new(), out)?;
        let mut free: Vec<usize> = ended.into_iter().flat_map(|window| window.free).collect();
        free.extend(together);
        self.slots.close(&free);
        Ok(())
    }

    /// Ends every window whose time has come.
    fn end_due(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let mut scene = Scene::new(&mut self.slots);
        while let Some(Reverse((at_us, key))) = self.due.peek().copied().filter(|next| next.0.0 <= now_us) {
            self.due.pop();
            let Some(parts) = self.keys.of(key) else { continue };
            let due_us = self.rule.due(parts);
            match (parts.first_mut(), due_us) {
                (Some(part), Some(due_us)) if part.wakes_us == at_us => {
                    if due_us <= now_us {
                        scene.end(parts, usize::MAX, due_us);
                    } else {
                        part.wakes_us = due_us;
                        self.due.push(Reverse((due_us, key)));
                    }
                }
                _ => {}
            }
        }
        let ended = scene.ended;
        self.emit(ended, out)
    }

    /// The key is to be looked at when its open window may end.
    fn wake(&mut self, key: u32) {
        let Some(parts) = self.keys.of(key) else { return };
        let due_us = self.rule.due(parts);
        if let (Some(part), Some(due_us)) = (parts.first_mut(), due_us)
            && due_us < part.wakes_us
        {
            part.wakes_us = due_us;
            self.due.push(Reverse((due_us, key)));
        }
    }
}

impl<R: Rule> Ordered for Assigned<R> {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let (conditions, values) = rows.values.split_at_checked(self.conditions).unwrap_or_default();
        let evaluated = Evaluated::with(&self.layout, rows.batch, values)?;
        let holds = |index: usize, row: usize| {
            let mask = conditions.get(index).and_then(|values| values.as_boolean_opt());
            mask.is_some_and(|mask| mask.is_valid(row) && mask.value(row))
        };
        let mut scene = Scene::new(&mut self.slots);
        let mut slots = Vec::with_capacity(rows.times.len());
        let (mut inside, mut moved): (Option<Vec<u32>>, Vec<u32>) = (None, Vec::new());
        for (row, (at_us, key)) in rows.iter().enumerate() {
            scene.row = row;
            let Some(parts) = self.keys.of(key) else { continue };
            let seen = Row { at_us, opens: holds(0, row), closes: holds(1, row) };
            let index = u32::try_from(row).map_err(OperatorError::new)?;
            if parts.first().is_some_and(|part| at_us < part.start_us) {
                // It may end earlier now.
                moved.push(key);
            }
            match self.rule.row(parts, seen, &mut scene) {
                Some(slot) => {
                    slots.push(slot);
                    inside.iter_mut().for_each(|inside| inside.push(index));
                }
                None => {
                    inside.get_or_insert_with(|| (0..index).collect());
                }
            }
        }
        let Scene { ended, opened, .. } = scene;
        self.keep_keys(&evaluated, &opened)?;
        match inside {
            None => self.slots.update(&evaluated, &slots)?,
            Some(inside) => self.slots.update(&evaluated.take(&UInt32Array::from(inside))?, &slots)?,
        }
        opened.iter().filter_map(|(row, _)| rows.keys.get(*row)).for_each(|key| self.wake(*key));
        moved.iter().for_each(|key| self.wake(*key));
        self.emit(ended, out)
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        self.end_due(now_us, out)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let ends = self.due.iter().filter_map(|Reverse((_, key))| self.rule.due(self.keys.get(*key)?));
        self.closed_us = ends.fold(self.closed_us, i64::max);
        self.end_due(i64::MAX, out)
    }

    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        self.rule.late_before(watermark_us).map(|before_us| before_us.max(self.closed_us))
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.layout.reads())
    }

    /// A window that ends with silence has ended by then.
    fn forget(&mut self, key: u32, out: &mut Output) -> Result<(), OperatorError> {
        let Some(mut parts) = self.keys.of(key).map(std::mem::take) else { return Ok(()) };
        if let Some(due_us) = self.rule.due(&parts) {
            let mut scene = Scene::new(&mut self.slots);
            scene.end(&mut parts, usize::MAX, due_us);
            let ended = scene.ended;
            return self.emit(ended, out);
        }
        self.slots.close(&parts.iter().map(|part| part.slot).collect::<Vec<_>>());
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Common, Share::Keyed(0)])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut open: Vec<(u32, Part)> = Vec::new();
        for (place, key) in (0..).zip(keys) {
            let parts = self.keys.get(*key).into_iter().flatten();
            open.extend(parts.map(|part| (place, *part)));
        }
        let closed: ArrayRef = Arc::new(Int64Array::from(vec![self.closed_us]));
        let mut saved = vec![RecordBatch::try_from_iter([(CLOSED, closed)])?];
        if open.is_empty() {
            return Ok(saved);
        }
        let slots: Vec<usize> = open.iter().map(|(_, part)| part.slot).collect();
        let (keys, states) = (self.key_columns(&slots)?, self.slots.read(&slots)?);
        saved.push(parts::save(&self.layout, &open, keys, states)?);
        Ok(saved)
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let Some((closed, open)) = state.split_first() else { return Ok(()) };
        let closed = closed.column_by_name(CLOSED).and_then(|column| column.as_primitive_opt::<Int64Type>());
        self.closed_us = closed.filter(|closed| !closed.is_empty()).ok_or_else(shape)?.value(0);
        for batch in open {
            let parts::Saved { open, keys, states } = parts::load(&self.layout, batch)?;
            let slots: Vec<usize> = open.iter().map(|_| self.slots.open()).collect();
            self.slots.load(&self.layout, &states, &slots)?;
            if !keys.is_empty() {
                let encoded = self.converter.convert_columns(&keys)?;
                for (slot, key) in slots.iter().zip(encoded.iter()) {
                    self.keep_key(*slot, key.data().into());
                }
            }
            for ((key, part), slot) in open.into_iter().zip(slots) {
                self.keys.of(key).into_iter().for_each(|parts| parts.push(Part { slot, ..part }));
                self.wake(key);
            }
        }
        Ok(())
    }
}
