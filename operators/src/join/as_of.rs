//! The as-of join: each left row takes the last right row of its key that is
//! not younger than itself. A left row waits until the watermark has passed it,
//! since until then that right row may still come; so it does not matter which
//! side is faster.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{MAIN_PORT, Operator, Output, Progress};
use tidegate_engine::partition::Partition;
use tidegate_engine::time::Time;

use super::bound::{Both, Side};
use super::layout::{Layout, pieces};
use super::operator::{emit_unmatched, end};
use super::pairs::{Pairs, emit_pairs, same_keys};
use super::reshare;
use super::state::{Saved, save};
use super::store::{Place, Rows, Store};

pub(super) struct AsOf {
    layout: Arc<Layout>,
    /// A right row is taken for so long.
    tolerance_us: i64,
    /// Left rows that wait; right rows that may still be taken.
    pub(super) stores: Both<Store>,
    /// Event time has come this far; `i64::MIN` before the first watermark.
    watermark_us: i64,
    /// Time of the oldest right row that may leave without a partner.
    oldest_us: Option<i64>,
}

impl AsOf {
    pub(super) fn new(layout: Arc<Layout>, tolerance_us: i64) -> AsOf {
        AsOf {
            layout,
            tolerance_us,
            stores: Both { left: Store::new(false), right: Store::new(true) },
            watermark_us: i64::MIN,
            oldest_us: None,
        }
    }

    /// Left rows before this time leave, with or without a right one.
    fn release(&mut self, before_us: Option<i64>, out: &mut Output) -> Result<(), OperatorError> {
        let left = self.stores.left.leave(before_us);
        for part in pieces(left.len()) {
            let rows = self.stores.left.gather(left.get(part).unwrap_or_default())?.into_rows()?;
            self.take(rows, out)?;
        }
        if !left.is_empty() {
            self.stores.left.sweep()?;
        }
        Ok(())
    }

    /// Each row takes its right one: the last that is not younger; if that one
    /// does not fulfil `on`, the one before it, and so on.
    fn take(&mut self, mut rows: Rows, out: &mut Output) -> Result<(), OperatorError> {
        // Rows, and how many right rows of the list of their key come into question.
        let mut open = Vec::new();
        for (row, (time_us, hash)) in (0..).zip(rows.times_us.iter().zip(&rows.hashes)) {
            let list = self.stores.right.index().and_then(|index| index.list(*hash));
            let count = list.map_or(0, |list| list.partition_point(|entry| entry.time_us <= *time_us));
            open.push((row, count));
        }
        while !open.is_empty() {
            let (candidates, numbers) = self.candidates(&rows, &open);
            let places = self.stores.right.places(&numbers);
            let pairs = Pairs { rows: candidates.iter().map(|(row, _)| *row).collect(), places };
            let pairs = emit_pairs(&self.layout, Side::Left, &rows, &self.stores.right, pairs, out)?;
            for (row, place) in pairs.rows.into_iter().zip(pairs.places) {
                if let Some(matched) = rows.matched.get_mut(row as usize) {
                    *matched = true;
                }
                self.stores.right.set_matched(place);
            }
            let is_open = |(row, _): &(u32, usize)| !rows.matched.get(*row as usize).is_some_and(|is| *is);
            open = candidates.into_iter().filter(is_open).collect();
        }
        if *self.layout.outer.of(Side::Left) {
            self.emit_without(&rows, out)?;
        }
        Ok(())
    }

    /// The next right row of each that is within the tolerance, and how many are
    /// left behind it.
    fn candidates(&self, rows: &Rows, open: &[(u32, usize)]) -> (Vec<(u32, usize)>, Vec<u64>) {
        let candidate = |(row, count): &(u32, usize)| {
            let time_us = *rows.times_us.get(*row as usize)?;
            let list = self.stores.right.index()?.list(*rows.hashes.get(*row as usize)?)?;
            let count = count.checked_sub(1)?;
            let entry = list.get(count)?;
            let is_near = entry.time_us >= time_us.saturating_sub(self.tolerance_us);
            is_near.then_some(((*row, count), entry.number))
        };
        open.iter().filter_map(candidate).unzip()
    }

    fn emit_without(&self, rows: &Rows, out: &mut Output) -> Result<(), OperatorError> {
        if rows.matched.iter().all(|matched| *matched) {
            return Ok(());
        }
        let alone = rows.matched.iter().map(|matched| Some(!matched)).collect();
        let batch = arrow::compute::filter_record_batch(&rows.batch, &alone)?;
        let times = rows.times_us.iter().zip(&rows.matched).filter(|(_, matched)| !**matched);
        let times_us: Vec<i64> = times.map(|(time_us, _)| *time_us).collect();
        let layout = &self.layout;
        out.emit_to(MAIN_PORT, layout.alone(&layout.output, Side::Left, batch.columns(), &times_us)?);
        Ok(())
    }

    /// Right rows that no left row can take any more leave.
    fn free(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let (layout, store) = (&self.layout, &mut self.stores.right);
        // With a condition beyond the keys an older row may be the one that fulfils it.
        if layout.residual.is_none() {
            let passed = store.passed(self.watermark_us);
            let (older, newer): (Vec<u64>, Vec<u64>) = passed.into_iter().unzip();
            let (older, newer) = (store.places(&older), store.places(&newer));
            let same = same_keys(layout, Side::Right, store, &older, &newer)?;
            let kept = older.into_iter().zip(same.values()).filter(|(_, same)| *same);
            let older: Vec<Place> = kept.map(|(place, _)| place).collect();
            if *layout.outer.of(Side::Right) {
                emit_unmatched(layout, Side::Right, store, &older, out)?;
            }
            store.remove(&older);
        }
        let expired = store.leave(Some(self.watermark_us.saturating_sub(self.tolerance_us)));
        if *layout.outer.of(Side::Right) {
            emit_unmatched(layout, Side::Right, store, &expired, out)?;
            self.oldest_us = store.oldest_unmatched();
        }
        store.sweep()
    }
}

impl Operator for AsOf {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let side = Side::of_input(input);
        for rows in self.layout.prepare(side, batch, self.watermark_us, out)? {
            self.stores.of_mut(side).push(rows)?;
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.watermark_us = self.watermark_us.max(time.0);
        self.release(Some(self.watermark_us), out)?;
        self.free(out)?;
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.release(None, out)?;
        end(&self.layout, Side::Right, &mut self.stores.right, out)?;
        self.oldest_us = None;
        Ok(Progress::Done)
    }

    fn output_watermark(&self, input: Time) -> Time {
        Time(self.oldest_us.map_or(input.0, |oldest_us| oldest_us.min(input.0)))
    }

    fn state_bytes(&self) -> usize {
        self.stores.left.bytes() + self.stores.right.bytes()
    }

    fn partition(&self) -> Option<Partition> {
        reshare::partition(&self.layout)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        save(&self.layout, self.watermark_us, &self.stores)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        let Saved { watermark_us, rows } = Saved::read(&self.layout, &state)?;
        self.watermark_us = watermark_us;
        for (side, rows) in rows {
            self.stores.of_mut(side).push(rows)?;
        }
        Ok(())
    }
}
