//! Whether a topology that has failed is started again, and when. Pure: it
//! knows only what failed inside this process, so a kill counts for nothing.

use std::time::Duration;

/// Waits before another start; the last one counts for all further ones.
const WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// So many failures without a checkpoint between them, and it stays stopped:
/// the next start would meet the same row.
const FAILURES_MAX: u32 = 3;
/// Whoever ran for so long begins with the shortest wait again.
const STABLE: Duration = Duration::from_secs(300);

/// The failures of one topology.
#[derive(Debug, Default)]
pub(super) struct Failures {
    since_stable: u32,
    without_checkpoint: u32,
}

/// What to do after a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Start it again after this time.
    Again(Duration),
    /// Safe mode: it stays stopped until a person starts the daemon again.
    SafeMode,
}

impl Failures {
    /// Something outside keeps it from running, or from ending well, after it ran
    /// for so long: no row is to blame, so it is never given up.
    pub(super) fn on_passing(&mut self, ran: Duration) -> Next {
        Next::Again(self.wait(ran))
    }

    /// It has failed after it ran for so long and completed so many checkpoints.
    pub(super) fn on_failure(&mut self, ran: Duration, checkpoints: u64) -> Next {
        if checkpoints > 0 {
            self.without_checkpoint = 0;
        }
        let wait = self.wait(ran);
        self.without_checkpoint += 1;
        if self.without_checkpoint >= FAILURES_MAX { Next::SafeMode } else { Next::Again(wait) }
    }

    /// The next wait, longer than the last one.
    fn wait(&mut self, ran: Duration) -> Duration {
        if ran >= STABLE {
            self.since_stable = 0;
        }
        let wait = WAITS.get(self.since_stable as usize).or(WAITS.last()).copied().unwrap_or_default();
        self.since_stable += 1;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(2);

    fn again(seconds: u64) -> Next {
        Next::Again(Duration::from_secs(seconds))
    }

    #[test]
    fn three_failures_without_a_checkpoint_between_them_are_safe_mode() {
        let mut failures = Failures::default();
        // What it completed before its first failure says nothing about the next start.
        assert_eq!(failures.on_failure(SHORT, 7), again(1));
        assert_eq!(failures.on_failure(SHORT, 0), again(5));
        assert_eq!(failures.on_failure(SHORT, 0), Next::SafeMode);
    }

    #[test]
    fn what_is_outside_is_waited_for_and_counts_for_nothing() {
        let mut failures = Failures::default();
        let waits: Vec<Next> = (0..5).map(|_| failures.on_passing(Duration::ZERO)).collect();
        assert_eq!(waits, [again(1), again(5), again(30), again(30), again(30)]);
        assert_eq!(failures.on_failure(SHORT, 0), again(30), "the first of its own");
        assert_eq!(failures.on_failure(SHORT, 0), again(30));
        assert_eq!(failures.on_failure(SHORT, 0), Next::SafeMode);
    }

    #[test]
    fn a_checkpoint_between_them_keeps_it_going_and_the_waits_growing() {
        let mut failures = Failures::default();
        let waits: Vec<Next> = (0..5).map(|_| failures.on_failure(SHORT, 1)).collect();
        assert_eq!(waits, [again(1), again(5), again(30), again(30), again(30)]);
        assert_eq!(failures.on_failure(SHORT, 0), again(30), "the second in a row");
        assert_eq!(failures.on_failure(STABLE, 1), again(1), "it was well for long");
    }
}
