//! Panes into results: when a window is complete, before, and after.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::planted;

use super::open::Pane;
use super::operator::Window;
use super::pane::Groups;

/// What is said of a result where windows may be given several times.
struct Says {
    revision: i64,
    is_final: bool,
}

impl Window {
    /// Closes every window that ends at or before `until_us`. The cost depends
    /// on the panes that hold rows, not on the length of a gap.
    pub(super) fn close(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let frame = self.frame;
        let mut due = BTreeSet::new();
        for &pane_us in self.panes.keys() {
            if frame.end_of(frame.first_window_of(pane_us)) > until_us {
                // Later panes' windows end later still.
                break;
            }
            let ended = frame.windows_of(pane_us).take_while(|start| frame.end_of(*start) <= until_us);
            due.extend(
                ended.filter(|start| frame.end_of(*start) > self.closed_us || planted!(WindowFiredTwice)),
            );
        }
        for start_us in due {
            let end_us = frame.end_of(start_us);
            let revision = self.revisions.as_mut().map_or(0, |revisions| revisions.next(start_us));
            let result = self.result(start_us, end_us, &Says { revision, is_final: true })?;
            out.emit_to(MAIN_PORT, result);
        }
        self.panes.retain(|pane_us, _| frame.kept_until(*pane_us) > until_us);
        self.closed_us = self.closed_us.max(until_us);
        if let Some(revisions) = &mut self.revisions {
            revisions.forget(&frame, until_us);
        }
        Ok(())
    }

    /// Gives closed windows again, for the keys that rows have come for since.
    pub(super) fn correct(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let Some(revisions) = &mut self.revisions else { return Ok(()) };
        for (start_us, touched) in revisions.take_touched() {
            let Some(revisions) = &mut self.revisions else { return Ok(()) };
            let says = Says { revision: revisions.next(start_us), is_final: true };
            let result = self.result(start_us, self.frame.end_of(start_us), &says)?;
            let keys = result.columns().get(2..2 + self.layout.keys.len()).unwrap_or_default();
            let Some(revisions) = &self.revisions else { return Ok(()) };
            let mask = revisions.mask(&touched, keys, result.num_rows())?;
            out.emit_to(MAIN_PORT, filter_record_batch(&result, &mask)?);
        }
        Ok(())
    }

    /// Gives running results of open windows: at each multiple of `early` that
    /// event time passes, what is there before it.
    pub(super) fn run_early(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let (frame, from_us) = (self.frame, self.watermark_us);
        let mut due = BTreeSet::new();
        for &pane_us in self.panes.keys() {
            let Some(early_us) = frame.early_of(pane_us) else { return Ok(()) };
            if early_us > from_us && early_us <= until_us {
                let open = frame.windows_of(pane_us).filter(|start| frame.end_of(*start) > early_us);
                due.extend(open.map(|start| (early_us, start)));
            }
        }
        for (early_us, start_us) in due {
            let result = self.result(start_us, early_us, &Says { revision: 0, is_final: false })?;
            out.emit_to(MAIN_PORT, result);
        }
        Ok(())
    }

    /// The rows of the window that starts here, made of what is before `to_us`.
    fn result(&mut self, start_us: i64, to_us: i64, says: &Says) -> Result<RecordBatch, OperatorError> {
        let (columns, rows) = if self.frame.is_plain() {
            let pane = self.panes.remove(&start_us).map_or_else(|| Pane::new(&self.layout), Ok)?;
            pane.into_groups(&self.layout)?.evaluate()?
        } else {
            let mut window = Groups::new(&self.layout)?;
            for pane in self.panes.range_mut(start_us..to_us).map(|(_, pane)| pane) {
                pane.add_to(&mut window, &self.layout)?;
            }
            window.evaluate()?
        };
        let instant =
            |at| Arc::new(TimestampMicrosecondArray::from(vec![at; rows]).with_timezone("UTC")) as ArrayRef;
        let bounds = [instant(start_us), instant(self.frame.end_of(start_us))];
        let tail: Vec<ArrayRef> = if self.revisions.is_some() {
            let revision = Int64Array::from(vec![says.revision; rows]);
            vec![Arc::new(revision), Arc::new(BooleanArray::from(vec![says.is_final; rows]))]
        } else {
            Vec::new()
        };
        self.layout.output(&self.output.columns, bounds, columns, tail, rows)
    }
}
