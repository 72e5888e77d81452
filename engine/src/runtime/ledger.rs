//! Which part has reported what for which epoch, and when an epoch is
//! complete. Pure: no channel, no await, no clock.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;

use crate::source::Position;
use crate::time::Time;

/// A part's word about an epoch.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A source: where it goes on and what it has promised.
    Source {
        /// `None` if it has given no rows yet.
        position: Option<Position>,
        /// `None` if it has promised nothing yet.
        watermark: Option<Time>,
        /// What its port `received` has told, if that is read.
        received: Option<Time>,
    },
    /// An operator: its state.
    State(Vec<RecordBatch>),
    /// An operator: what has changed in its state since its last report.
    Changes(Vec<RecordBatch>),
    /// A sink: everything before the barrier survives a crash.
    Flushed,
}

/// An epoch whose every part has reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Complete {
    /// The epoch.
    pub epoch: u64,
    /// Whether operators kept their state to themselves.
    pub light: bool,
    /// Each part's report, by node name.
    pub reports: BTreeMap<String, Report>,
}

/// The reports of all open epochs.
#[derive(Debug)]
pub struct Ledger {
    parts: BTreeSet<String>,
    ended: BTreeMap<String, Report>,
    open: BTreeMap<u64, Open>,
    last_complete: u64,
}

#[derive(Debug, Default)]
struct Open {
    light: bool,
    reports: BTreeMap<String, Report>,
}

impl Ledger {
    /// A ledger over these parts; epochs up to `last_complete` are history.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = String>, last_complete: u64) -> Ledger {
        let parts = parts.into_iter().collect();
        Ledger { parts, ended: BTreeMap::new(), open: BTreeMap::new(), last_complete }
    }

    /// Opens the next epoch and answers its number; `None` while another one
    /// is open, or when no part is left to report.
    pub fn begin(&mut self, light: bool) -> Option<u64> {
        if !self.may_begin() {
            return None;
        }
        let epoch = self.last_complete + 1;
        self.open.insert(epoch, Open { light, reports: BTreeMap::new() });
        Some(epoch)
    }

    /// Whether `begin` would open an epoch.
    #[must_use]
    pub fn may_begin(&self) -> bool {
        self.open.is_empty() && !self.all_ended()
    }

    /// Takes a part's report. Answers the epoch if it is complete now.
    pub fn report(&mut self, part: &str, epoch: u64, report: Report) -> Option<Complete> {
        if let Some(open) = self.open.get_mut(&epoch)
            && self.parts.contains(part)
        {
            open.reports.insert(part.to_owned(), report);
        }
        self.complete(epoch)
    }

    /// A part has ended with this as its last word, which counts for every
    /// epoch from now on. Answers an epoch that only waited for it; the last
    /// part to end completes a final epoch.
    pub fn ended(&mut self, part: &str, report: Report) -> Option<Complete> {
        if self.parts.contains(part) {
            self.ended.insert(part.to_owned(), report);
        }
        let open = self.open.keys().next().copied();
        if let Some(epoch) = open {
            let complete = self.complete(epoch);
            if complete.is_some() && !self.all_ended() {
                return complete;
            }
        }
        self.all_ended().then(|| {
            let epoch = self.last_complete + 1;
            self.open.clear();
            self.last_complete = epoch;
            Complete { epoch, light: false, reports: self.ended.clone() }
        })
    }

    /// Whether every part has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.ended.len() == self.parts.len()
    }

    fn complete(&mut self, epoch: u64) -> Option<Complete> {
        let open = self.open.get(&epoch)?;
        let known = |part: &String| open.reports.contains_key(part) || self.ended.contains_key(part);
        if !self.parts.iter().all(known) {
            return None;
        }
        let open = self.open.remove(&epoch)?;
        self.last_complete = epoch;
        let mut reports = self.ended.clone();
        reports.extend(open.reports);
        Some(Complete { epoch, light: open.light, reports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(["a".to_owned(), "b".to_owned()], 4)
    }

    #[test]
    fn an_epoch_is_complete_when_every_part_has_reported() {
        let mut ledger = ledger();
        assert_eq!(ledger.begin(false), Some(5));
        assert_eq!(ledger.begin(false), None, "one at a time");
        assert_eq!(ledger.report("a", 5, Report::Flushed), None);
        assert_eq!(ledger.report("a", 5, Report::Flushed), None, "twice is once");
        let complete = ledger.report("b", 5, Report::Flushed).expect("both have reported");
        assert_eq!((complete.epoch, complete.reports.len()), (5, 2));
        assert_eq!(ledger.begin(true), Some(6));
    }

    #[test]
    fn an_ended_part_counts_with_its_last_word() {
        let mut ledger = ledger();
        let last = Report::Source { position: Some(Position::of(&7)), watermark: None, received: None };
        assert_eq!(ledger.ended("a", last.clone()), None);
        assert_eq!(ledger.begin(false), Some(5));
        let complete = ledger.report("b", 5, Report::Flushed).expect("a has ended");
        assert_eq!(complete.reports.get("a"), Some(&last));
        let last = ledger.ended("b", Report::Flushed).expect("the final epoch");
        assert_eq!(last.epoch, 6);
        assert!(ledger.all_ended());
        assert_eq!(ledger.begin(false), None);
    }

    #[test]
    fn an_end_completes_the_epoch_that_waits_for_it() {
        let mut ledger = ledger();
        assert_eq!(ledger.begin(false), Some(5));
        assert_eq!(ledger.report("b", 5, Report::Flushed), None);
        let complete = ledger.ended("a", Report::Flushed).expect("only a was missing");
        assert_eq!(complete.epoch, 5);
    }
}
