//! How much memory the state of a node takes, and the most that it may take:
//! a node that outgrows it fails its topology by name, before the system ends
//! the process without a word.

use std::sync::Arc;

use super::stats::NodeStats;
use crate::operator::Operator;

/// A state is measured with every so many rows, a large one less often, since
/// that may look at each of its keys.
const ROWS: u64 = 16_384;
const BYTES_PER_ROW: u64 = 256;
/// A batch counts as so many rows at least: it may make many of one.
const BATCH_ROWS: u64 = 64;

/// The limit of an operator, or of one copy of it.
pub(super) struct StateLimit {
    /// Most bytes of all copies together.
    max: Option<u64>,
    /// Copies count together.
    stats: Arc<NodeStats>,
    /// What this one has counted.
    counted: u64,
    rows: u64,
}

impl StateLimit {
    pub(super) fn new(max: Option<u64>, stats: Arc<NodeStats>) -> StateLimit {
        StateLimit { max, stats, counted: 0, rows: 0 }
    }

    /// A batch of so many rows has been taken in.
    ///
    /// # Errors
    /// What is too large, and the cure.
    pub(super) fn on_batch(&mut self, operator: &dyn Operator, rows: usize) -> Result<(), String> {
        self.rows += BATCH_ROWS.max(rows as u64);
        if self.rows < ROWS.max(self.counted / BYTES_PER_ROW) {
            return Ok(());
        }
        self.measure(operator)
    }

    /// Measures now.
    ///
    /// # Errors
    /// As `on_batch`.
    pub(super) fn measure(&mut self, operator: &dyn Operator) -> Result<(), String> {
        self.rows = 0;
        let now = operator.state_bytes() as u64;
        let all = self.stats.state_changed(self.counted, now);
        self.counted = now;
        match self.max {
            Some(max) if all > max => Err(format!(
                "its state takes {}, `state_max` is {}: give it more, fewer keys, shorter windows or a smaller delay",
                shown(all),
                shown(max)
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// Bytes as a person reads them.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
fn shown(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while size >= 1_024.0 && unit + 1 < units.len() {
        size /= 1_024.0;
        unit += 1;
    }
    format!("{size:.1} {}", units.get(unit).copied().unwrap_or("KiB"))
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;

    use super::*;
    use crate::error::OperatorError;
    use crate::operator::{Output, Progress};

    struct Takes(usize);

    impl Operator for Takes {
        fn on_batch(&mut self, _: usize, _: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
            Ok(Progress::Done)
        }

        fn state_bytes(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn copies_count_together_and_what_is_freed_is_free() {
        let stats = NodeStats::new("t", "load", "operator", &[""]);
        let mut copies = [0, 1].map(|_| StateLimit::new(Some(3 << 20), Arc::clone(&stats)));
        assert_eq!(copies[0].measure(&Takes(2 << 20)), Ok(()));
        assert_eq!(copies[1].measure(&Takes(1 << 20)), Ok(()));
        let told = copies[1].measure(&Takes(3 << 19)).expect_err("too much");
        assert!(told.contains("3.5 MiB") && told.contains("`state_max` is 3.0 MiB"), "{told}");
        assert_eq!(copies[0].measure(&Takes(0)), Ok(()));
        assert_eq!(stats.read().state_bytes, 3 << 19);
    }

    #[test]
    fn not_every_batch_is_measured_and_none_is_forgotten() {
        let stats = NodeStats::new("t", "load", "operator", &[""]);
        let mut limit = StateLimit::new(Some(10), stats);
        let refused = (0..ROWS / BATCH_ROWS).filter(|_| limit.on_batch(&Takes(11), 1).is_err()).count();
        assert_eq!(refused, 1);
    }
}
