//! Panes into results: when a window is complete, before, and after.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMicrosecondArray};
use arrow::compute::filter;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;
use tidegate_engine::planted;

use super::open::Pane;
use super::operator::Window;
use super::pane::Groups;
use super::revisions::Revisions;

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
        let closed_us = if planted!(WindowFiredTwice) { i64::MIN } else { self.closed_us };
        let mut due = BTreeSet::new();
        if frame.may_end(closed_us, until_us) {
            for &pane_us in self.panes.keys() {
                if frame.end_of(frame.first_window_of(pane_us)) > until_us {
                    // Later panes' windows end later still.
                    break;
                }
                let open = frame.windows_from(pane_us, closed_us);
                due.extend(open.take_while(|start| frame.end_of(*start) <= until_us));
            }
        }
        for start_us in due {
            let revision = self.revisions.as_mut().map_or(0, |revisions| revisions.next(start_us));
            let groups = self.gather(start_us, frame.end_of(start_us))?;
            self.give(start_us, groups, &Says { revision, is_final: true }, out)?;
        }
        while let Some(first) =
            self.panes.first_entry().filter(|pane| frame.kept_until(*pane.key()) <= until_us)
        {
            first.remove();
        }
        self.closed_us = self.closed_us.max(until_us);
        if let Some(revisions) = &mut self.revisions {
            revisions.forget(&frame, until_us);
        }
        Ok(())
    }

    /// Gives closed windows again, for the keys that rows have come for since.
    pub(super) fn correct(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        let touched = self.revisions.as_mut().map(Revisions::take_touched).unwrap_or_default();
        for (start_us, touched) in touched {
            let (mut groups, rows) = self.gather(start_us, self.frame.end_of(start_us))?;
            let Some(revisions) = &mut self.revisions else { return Ok(()) };
            let keys = groups.get(..self.layout.keys.len()).unwrap_or_default();
            let mask = revisions.mask(&touched, keys, rows)?;
            for column in &mut groups {
                *column = filter(column, &mask)?;
            }
            let says = Says { revision: revisions.next(start_us), is_final: true };
            self.give(start_us, (groups, mask.true_count()), &says, out)?;
        }
        Ok(())
    }

    /// Gives running results of open windows: at each multiple of `early` that
    /// event time passes, what is there before it.
    pub(super) fn run_early(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let (frame, from_us) = (self.frame, self.watermark_us);
        let mut due = BTreeSet::new();
        for &pane_us in self.panes.keys().rev() {
            let Some(early_us) = frame.early_of(pane_us) else { return Ok(()) };
            if early_us <= from_us {
                // Earlier panes have been shown.
                break;
            }
            if early_us <= until_us {
                let open = frame.windows_from(pane_us, early_us.max(self.closed_us));
                due.extend(open.map(|start| (early_us, start)));
            }
        }
        for (early_us, start_us) in due {
            let groups = self.gather(start_us, early_us)?;
            self.give(start_us, groups, &Says { revision: 0, is_final: false }, out)?;
        }
        Ok(())
    }

    /// Keys and aggregates of the window that starts here, of what is before `to_us`.
    fn gather(&mut self, start_us: i64, to_us: i64) -> Result<(Vec<ArrayRef>, usize), OperatorError> {
        if self.frame.is_plain() {
            let pane = self.panes.remove(&start_us).map_or_else(|| Pane::new(&self.layout), Ok)?;
            return pane.into_groups(&self.layout)?.evaluate();
        }
        let mut window = Groups::new(&self.layout)?;
        for pane in self.panes.range_mut(start_us..to_us).map(|(_, pane)| pane) {
            pane.add_to(&mut window, &self.layout)?;
        }
        window.evaluate()
    }

    /// Sends them as the result of their window.
    fn give(
        &self,
        start_us: i64,
        (groups, rows): (Vec<ArrayRef>, usize),
        says: &Says,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let instant =
            |at| Arc::new(TimestampMicrosecondArray::from(vec![at; rows]).with_timezone("UTC")) as ArrayRef;
        let bounds = [instant(start_us), instant(self.frame.end_of(start_us))];
        let tail: Vec<ArrayRef> = if self.revisions.is_some() {
            let revision = Int64Array::from(vec![says.revision; rows]);
            vec![Arc::new(revision), Arc::new(BooleanArray::from(vec![says.is_final; rows]))]
        } else {
            Vec::new()
        };
        self.results.emit(&self.layout, bounds, groups, tail, out)
    }
}
