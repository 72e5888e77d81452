//! Joins by a bound on the distance of two rows, or by a common window. A row
//! looks for partners among those of the other side that came before it, then
//! waits for those that come after it, until the watermark proves that none
//! can come. So it does not matter which side is faster.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{Operator, Output, Progress};
use tidegate_engine::partition::Partition;
use tidegate_engine::time::Time;

use super::bound::{Both, Bound, Side};
use super::layout::{Layout, OUTPUT_ROWS, pieces};
use super::pairs::{Pairs, emit_pairs};
use super::reshare;
use super::state::{Saved, save};
use super::store::{Place, Rows, Store};

/// Candidates that are looked at before what they gave is sent on.
const PAIRS_MAX: usize = 4 * OUTPUT_ROWS;

pub(super) struct Join {
    layout: Arc<Layout>,
    bound: Bound,
    pub(super) stores: Both<Store>,
    /// Event time has come this far; `i64::MIN` before the first watermark.
    watermark_us: i64,
    /// Time of the oldest row that may leave without a partner.
    oldest_us: Option<i64>,
    /// Rows that are looking for partners, and the next of the first of them.
    looking: VecDeque<(Side, Rows)>,
    next: usize,
}

impl Join {
    pub(super) fn new(layout: Arc<Layout>, bound: Bound) -> Join {
        Join {
            layout,
            bound,
            stores: Both { left: Store::new(true), right: Store::new(true) },
            watermark_us: i64::MIN,
            oldest_us: None,
            looking: VecDeque::new(),
            next: 0,
        }
    }

    /// Lets rows that are looking for partners find some.
    fn look(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        while let Some((side, mut rows)) = self.looking.pop_front() {
            self.find(side, &mut rows, out)?;
            if self.next < rows.times_us.len() {
                self.looking.push_front((side, rows));
                return Ok(Progress::More);
            }
            self.next = 0;
            self.stores.of_mut(side).push(rows)?;
        }
        Ok(Progress::Done)
    }

    /// Partners of the next rows, until there are many.
    fn find(&mut self, side: Side, rows: &mut Rows, out: &mut Output) -> Result<(), OperatorError> {
        let others = self.stores.of_mut(side.other());
        let Some(index) = others.index() else { return Ok(()) };
        let (mut found, mut numbers) = (Vec::new(), Vec::new());
        for (time_us, hash) in rows.times_us.iter().zip(&rows.hashes).skip(self.next) {
            let row = u32::try_from(self.next).map_err(OperatorError::new)?;
            let (from_us, to_us) = self.bound.partners(side, *time_us);
            for entry in index.between(*hash, from_us, to_us) {
                found.push(row);
                numbers.push(entry.number);
            }
            self.next += 1;
            if found.len() >= PAIRS_MAX {
                break;
            }
        }
        let places = others.places(&numbers);
        for part in pieces(found.len()) {
            let pairs = Pairs {
                rows: found.get(part.clone()).unwrap_or_default().to_vec(),
                places: places.get(part).unwrap_or_default().to_vec(),
            };
            let pairs = emit_pairs(&self.layout, side, rows, others, pairs, out)?;
            if *self.layout.outer.of(side) {
                for row in pairs.rows {
                    if let Some(matched) = rows.matched.get_mut(row as usize) {
                        *matched = true;
                    }
                }
            }
            if *self.layout.outer.of(side.other()) {
                pairs.places.into_iter().for_each(|place| others.set_matched(place));
            }
        }
        Ok(())
    }

    /// Rows that can find no partner any more leave.
    fn free(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        self.oldest_us = None;
        for side in Side::BOTH {
            let before_us = self.bound.freed_before(side, self.watermark_us);
            let store = self.stores.of_mut(side);
            let left = store.leave(Some(before_us));
            if *self.layout.outer.of(side) {
                emit_unmatched(&self.layout, side, store, &left, out)?;
                let oldest_us = store.oldest_unmatched();
                self.oldest_us = [self.oldest_us, oldest_us].into_iter().flatten().min();
            }
            if !left.is_empty() {
                store.sweep()?;
            }
        }
        Ok(())
    }
}

/// Sends those of the rows that have not found a partner.
pub(super) fn emit_unmatched(
    layout: &Layout,
    side: Side,
    store: &Store,
    places: &[Place],
    out: &mut Output,
) -> Result<(), OperatorError> {
    let alone: Vec<Place> = places.iter().copied().filter(|place| !store.is_matched(*place)).collect();
    for part in pieces(alone.len()) {
        layout.emit_alone(side, &store.gather(alone.get(part).unwrap_or_default())?, out)?;
    }
    Ok(())
}

/// At the end nobody else comes: what has found no partner leaves. The other
/// rows stay, so that a second run can go on.
pub(super) fn end(
    layout: &Layout,
    side: Side,
    store: &mut Store,
    out: &mut Output,
) -> Result<(), OperatorError> {
    if *layout.outer.of(side) {
        let alone = store.unmatched();
        emit_unmatched(layout, side, store, &alone, out)?;
        store.remove(&alone);
        store.sweep()?;
    }
    Ok(())
}

impl Operator for Join {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let side = Side::of_input(input);
        let late_before_us = self.bound.late_before(self.watermark_us);
        let rows = self.layout.prepare(side, batch, late_before_us, out)?;
        self.looking.extend(rows.into_iter().map(|rows| (side, rows)));
        self.look(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.look(out)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.watermark_us = self.watermark_us.max(time.0);
        self.free(out)?;
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        for side in Side::BOTH {
            end(&self.layout, side, self.stores.of_mut(side), out)?;
        }
        self.oldest_us = None;
        Ok(Progress::Done)
    }

    fn output_watermark(&self, input: Time) -> Time {
        match self.bound {
            // A pair is as late as the later of the two, which is not late; only
            // rows without a partner leave later than they came.
            Bound::Within { .. } => Time(self.oldest_us.map_or(input.0, |oldest_us| oldest_us.min(input.0))),
            // Rows of a window belong to its end.
            Bound::Window { .. } => input,
        }
    }

    fn state_bytes(&self) -> usize {
        Side::BOTH.iter().map(|side| self.stores.of(*side).bytes()).sum()
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
