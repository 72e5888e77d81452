//! The window operator: rows into panes, panes into results when the
//! watermark says that a window is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{Compaction, MAIN_PORT, Operator, Output, Progress};
use tidegate_engine::planted;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::Time;

use super::frame::Frame;
use super::open::Pane;
use super::pane::{Evaluated, Groups, Layout};
use super::state::together;
use super::{LATE_PORT, REJECTS_PORT};
use crate::narrow::{narrow, reject_rows};

/// Runs of fewer rows on average are gathered by pane before they are added.
const RUN_ROWS_MIN: usize = 64;

/// A state of more groups than this is not given whole at each snapshot: that
/// would take longer than a segment may stand still.
const GROUPS_WHOLE_MAX: usize = 50_000;
/// Groups that are merged with each batch, besides two for each of its rows.
const SETTLE_GROUPS: usize = 1_024;

/// Rows that stand together in a batch and belong to one pane; to none if they
/// are late.
struct Run {
    pane_us: Option<i64>,
    rows: Range<usize>,
}

pub(super) struct Window {
    pub(super) name: String,
    input: StreamSchema,
    output: StreamSchema,
    pub(super) frame: Frame,
    pub(super) layout: Arc<Layout>,
    /// Open panes by their start.
    pub(super) panes: BTreeMap<i64, Pane>,
    /// Groups of all panes that wait to be merged, at least.
    waiting: usize,
    pub(super) groups_whole_max: usize,
    /// Event time has come this far; `i64::MIN` before the first watermark.
    pub(super) watermark_us: i64,
    /// Every window that ends at or before this has been closed. Further than
    /// the watermark after an end, so that a second run does not close again.
    pub(super) closed_us: i64,
}

impl Window {
    pub(super) fn new(
        name: String,
        input: StreamSchema,
        output: StreamSchema,
        frame: Frame,
        layout: Layout,
    ) -> Window {
        Window {
            name,
            input,
            output,
            frame,
            layout: Arc::new(layout),
            panes: BTreeMap::new(),
            waiting: 0,
            groups_whole_max: GROUPS_WHOLE_MAX,
            watermark_us: i64::MIN,
            closed_us: i64::MIN,
        }
    }

    /// Adds rows whose expressions could be evaluated; answers the late ones.
    fn add(&mut self, batch: &RecordBatch) -> Result<Option<RecordBatch>, OperatorError> {
        let values = Evaluated::of(&self.layout, batch)?;
        let runs = self.runs(self.input.times(batch)?.values());
        let mut late = Vec::new();
        if runs.len().saturating_mul(RUN_ROWS_MIN) <= batch.num_rows().max(RUN_ROWS_MIN) {
            for Run { pane_us, rows } in runs {
                match pane_us {
                    Some(pane_us) => self.pane(pane_us)?.update(&values.slice(&rows), rows.len())?,
                    None => late.extend(rows.filter_map(|row| u32::try_from(row).ok())),
                }
            }
        } else {
            let mut parts: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
            for Run { pane_us, rows } in runs {
                let part = pane_us.map_or(&mut late, |pane_us| parts.entry(pane_us).or_default());
                part.extend(rows.filter_map(|row| u32::try_from(row).ok()));
            }
            for (pane_us, rows) in parts {
                let count = rows.len();
                let rows = values.take(&UInt32Array::from(rows))?;
                self.pane(pane_us)?.update(&rows, count)?;
            }
        }
        if late.is_empty() {
            return Ok(None);
        }
        Ok(Some(arrow::compute::take_record_batch(batch, &UInt32Array::from(late))?))
    }

    /// Neighbouring rows of one pane, in order.
    fn runs(&self, times_us: &[i64]) -> Vec<Run> {
        let frame = self.frame;
        let mut runs: Vec<Run> = Vec::new();
        let mut pane = 0..0;
        for (row, time_us) in times_us.iter().enumerate() {
            match runs.last_mut() {
                Some(run) if pane.contains(time_us) => run.rows.end = row + 1,
                _ => {
                    let start = frame.pane_of(*time_us);
                    pane = start..start.saturating_add(frame.pane_us);
                    let is_late = frame.last_end_of(start) <= self.closed_us && !planted!(LateRowCounted);
                    runs.push(Run { pane_us: (!is_late).then_some(start), rows: row..row + 1 });
                }
            }
        }
        runs
    }

    fn pane(&mut self, start_us: i64) -> Result<&mut Pane, OperatorError> {
        match self.panes.entry(start_us) {
            std::collections::btree_map::Entry::Occupied(pane) => Ok(pane.into_mut()),
            std::collections::btree_map::Entry::Vacant(place) => Ok(place.insert(Pane::new(&self.layout)?)),
        }
    }

    /// Merges some of the groups that wait, no more at a time than is fitting for
    /// so many rows.
    fn settle(&mut self, rows: usize) -> Result<(), OperatorError> {
        if self.waiting == 0 {
            return Ok(());
        }
        let most = rows.saturating_mul(2).saturating_add(SETTLE_GROUPS);
        let mut left = most;
        for pane in self.panes.values_mut() {
            left = pane.settle(&self.layout, left)?;
        }
        // With some of the number left there is nothing more that waits.
        self.waiting = if left > 0 { 0 } else { self.waiting.saturating_sub(most).max(1) };
        Ok(())
    }

    /// Closes every window that ends at or before `until_us`. The cost depends
    /// on the panes that hold rows, not on the length of a gap.
    fn close(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let frame = self.frame;
        let mut due = BTreeSet::new();
        for &pane_us in self.panes.keys() {
            let mut start = frame.first_window_of(pane_us);
            if start.saturating_add(frame.size_us) > until_us {
                // Later panes' windows end later still.
                break;
            }
            while start <= frame.last_window_of(pane_us) && start.saturating_add(frame.size_us) <= until_us {
                if start.saturating_add(frame.size_us) > self.closed_us || planted!(WindowFiredTwice) {
                    due.insert(start);
                }
                start = start.saturating_add(frame.slide_us);
            }
        }
        for start in due {
            let result = self.result(start)?;
            out.emit_to(MAIN_PORT, result);
        }
        self.panes.retain(|pane_us, _| frame.last_end_of(*pane_us) > until_us);
        self.closed_us = self.closed_us.max(until_us);
        Ok(())
    }

    /// The rows of the window that starts here.
    fn result(&mut self, start_us: i64) -> Result<RecordBatch, OperatorError> {
        let frame = self.frame;
        let end_us = start_us.saturating_add(frame.size_us);
        let results = if frame.is_tumbling() {
            let pane = self.panes.remove(&start_us).map_or_else(|| Pane::new(&self.layout), Ok)?;
            pane.into_groups(&self.layout)?.evaluate(&self.layout)?
        } else {
            let mut window = Groups::new(&self.layout)?;
            for pane in self.panes.range_mut(start_us..end_us).map(|(_, pane)| pane) {
                pane.add_to(&mut window, &self.layout)?;
            }
            window.evaluate(&self.layout)?
        };
        let rows = results.num_rows();
        let instant =
            |at| Arc::new(TimestampMicrosecondArray::from(vec![at; rows]).with_timezone("UTC")) as ArrayRef;
        let mut columns = vec![instant(start_us), instant(end_us)];
        let keys = self.output.columns.fields().len().saturating_sub(2 + self.layout.columns.len());
        columns.extend(results.columns().iter().take(keys).cloned());
        for column in &self.layout.columns {
            columns.push(column.expression.evaluate(&results)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?)
    }
}

impl Operator for Window {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let mut late = Vec::new();
        let mut add = |rows: &RecordBatch| {
            // Evaluated before anything is added, so a failing piece adds nothing.
            self.add(rows)
        };
        let bad = narrow(batch, &mut add, &mut |rows| late.extend(rows));
        for rows in late.into_iter().filter(|_| !planted!(LateRowDropped)) {
            out.emit_to(LATE_PORT, rows);
        }
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.input, batch, bad)?);
        }
        self.settle(batch.num_rows())?;
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.watermark_us = self.watermark_us.max(time.0);
        if time.0 > self.closed_us {
            self.close(time.0, out)?;
        }
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        let furthest = self.panes.keys().map(|pane_us| self.frame.last_end_of(*pane_us)).max();
        if let Some(furthest) = furthest {
            self.close(furthest, out)?;
        }
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.layout.reads())
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let state = self.save();
        self.waiting = self.panes.values().map(Pane::waiting).sum();
        state
    }

    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        if self.panes.values().map(Pane::groups).sum::<usize>() <= self.groups_whole_max {
            return Ok(None);
        }
        let changes = self.save_changes()?;
        self.waiting = self.panes.values().map(Pane::waiting).sum();
        Ok(Some(changes))
    }

    fn compaction(&self) -> Option<Compaction> {
        let (layout, frame) = (Arc::clone(&self.layout), self.frame);
        Some(Arc::new(move |state: &[RecordBatch]| together(&layout, frame, state)))
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.load(&state)
    }
}
