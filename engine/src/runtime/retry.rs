//! When a peer that was lost is tried again. Pure: a longer wait after each
//! failure, and a circuit breaker that leaves a peer in peace for a while when
//! it fails time after time.

use std::time::Duration;

use crate::topology::delivery::RetryPolicy;

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Wait, and try again.
    Wait(Duration),
    /// The breaker is open for so long.
    Open(Duration),
}

impl Pause {
    pub(super) const fn time(self) -> Duration {
        match self {
            Pause::Wait(time) | Pause::Open(time) => time,
        }
    }
}

/// Failures in a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    policy: RetryPolicy,
    failures: u32,
}

impl Retry {
    pub(super) fn new(policy: RetryPolicy) -> Retry {
        Retry { policy, failures: 0 }
    }

    /// The peer did what it was asked for.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// It did not.
    pub(super) fn failed(&mut self) -> Pause {
        let RetryPolicy { wait, max, open_after, open_for } = self.policy;
        let doubled = wait.saturating_mul(2_u32.saturating_pow(self.failures.min(20)));
        self.failures = self.failures.saturating_add(1);
        // One failure more keeps it open: the attempt that decides has failed.
        if open_after.is_some_and(|limit| self.failures >= limit) {
            return Pause::Open(open_for);
        }
        Pause::Wait(doubled.min(max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_anew_after_a_success() {
        let ms = Duration::from_millis;
        let mut retry = Retry::new(RetryPolicy { max: ms(1_000), ..RetryPolicy::default() });
        let waits: Vec<Pause> = (0..6).map(|_| retry.failed()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000].map(|wait| Pause::Wait(ms(wait))));
        retry.succeeded();
        assert_eq!(retry.failed(), Pause::Wait(ms(100)));
        for _ in 0..100 {
            assert!(retry.failed().time() <= ms(1_000));
        }
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row_and_one_attempt_decides() {
        let open_for = Duration::from_secs(30);
        let policy = RetryPolicy { open_after: Some(3), open_for, ..RetryPolicy::default() };
        let mut retry = Retry::new(policy);
        assert!(matches!(retry.failed(), Pause::Wait(_)));
        assert!(matches!(retry.failed(), Pause::Wait(_)));
        retry.succeeded();
        assert!(matches!((retry.failed(), retry.failed()), (Pause::Wait(_), Pause::Wait(_))));
        assert_eq!((retry.failed(), retry.failed()), (Pause::Open(open_for), Pause::Open(open_for)));
        retry.succeeded();
        assert!(matches!(retry.failed(), Pause::Wait(_)));
    }
}
