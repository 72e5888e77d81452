//! The window operator: rows into panes, panes into results when the
//! watermark says that a window is complete.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{Compaction, Operator, Output, Progress};
use tidegate_engine::partition::Partition;
use tidegate_engine::planted;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::Time;

use super::evaluated::Evaluated;
use super::frame::Frame;
use super::open::Pane;
use super::pane::Layout;
use super::reshare;
use super::results::Results;
use super::revisions::Revisions;
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
    input: StreamSchema,
    pub(super) results: Results,
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
    /// Where windows may be given several times.
    pub(super) revisions: Option<Revisions>,
}

impl Window {
    pub(super) fn new(
        input: StreamSchema,
        results: Results,
        frame: Frame,
        layout: Layout,
    ) -> Result<Window, OperatorError> {
        let revisions = frame.revises().then(|| Revisions::new(layout.key_fields())).transpose()?;
        Ok(Window {
            input,
            results,
            frame,
            layout: Arc::new(layout),
            panes: BTreeMap::new(),
            waiting: 0,
            groups_whole_max: GROUPS_WHOLE_MAX,
            watermark_us: i64::MIN,
            closed_us: i64::MIN,
            revisions,
        })
    }

    /// Adds rows whose expressions could be evaluated; answers the late ones.
    fn add(&mut self, batch: &RecordBatch) -> Result<Option<RecordBatch>, OperatorError> {
        let values = Evaluated::of(&self.layout, batch)?;
        let runs = self.runs(self.input.times(batch)?.values());
        let mut late = Vec::new();
        if runs.len().saturating_mul(RUN_ROWS_MIN) <= batch.num_rows().max(RUN_ROWS_MIN) {
            for Run { pane_us, rows } in runs {
                match pane_us {
                    Some(pane_us) => self.update(pane_us, &values.slice(&rows), rows.len())?,
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
                self.update(pane_us, &rows, count)?;
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
                    pane = frame.pane_of(*time_us);
                    let start = pane.start;
                    let is_late = frame.kept_until(start) <= self.closed_us && !planted!(LateRowCounted);
                    runs.push(Run { pane_us: (!is_late).then_some(start), rows: row..row + 1 });
                }
            }
        }
        runs
    }

    /// Adds rows to the pane that starts here.
    fn update(&mut self, pane_us: i64, rows: &Evaluated, count: usize) -> Result<(), OperatorError> {
        let pane = match self.panes.entry(pane_us) {
            Entry::Occupied(pane) => pane.into_mut(),
            Entry::Vacant(place) => place.insert(Pane::new(&self.layout)?),
        };
        pane.update(rows, count)?;
        match &mut self.revisions {
            Some(revisions) => {
                let (frame, closed_us) = (self.frame, self.closed_us);
                let windows = frame.windows_from(pane_us, i64::MIN).filter(|start| {
                    frame.end_of(*start) <= closed_us && frame.changes_until(*start) > closed_us
                });
                revisions.touch(&windows.collect::<Vec<_>>(), &rows.keys)
            }
            None => Ok(()),
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
            out.emit_to(REJECTS_PORT, reject_rows(&self.results.name, &self.input, batch, bad)?);
        }
        self.settle(batch.num_rows())?;
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.correct(out)?;
        self.run_early(time.0, out)?;
        self.watermark_us = self.watermark_us.max(time.0);
        if time.0 > self.closed_us {
            self.close(time.0, out)?;
        }
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.correct(out)?;
        let own = self.panes.keys().copied().max();
        // That of event time itself counts too: other copies close as far.
        let now = (self.watermark_us > i64::MIN).then(|| self.frame.pane_of(self.watermark_us).start);
        if let Some(furthest) = own.max(now) {
            self.close(self.frame.last_end_of(furthest), out)?;
        }
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.layout.reads())
    }

    fn partition(&self) -> Option<Partition> {
        // How often a window was given is known of all its keys together.
        let has_key = !self.layout.key_fields().is_empty() && self.revisions.is_none();
        has_key.then(|| reshare::partition(&self.layout))
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

    fn state_bytes(&self) -> usize {
        self.panes.values().map(Pane::bytes).sum()
    }

    fn compaction(&self) -> Option<Compaction> {
        let (layout, frame) = (Arc::clone(&self.layout), self.frame);
        Some(Arc::new(move |state: &[RecordBatch]| together(&layout, frame, state)))
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.load(&state)
    }
}
