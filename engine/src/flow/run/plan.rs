//! What the state machine of a run must know of its flow: order, conditions,
//! retries and time-outs. No task, no expression, no name but the id.

use std::time::Duration;

use crate::time::Time;

/// A flow, as far as order and time go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPlan {
    /// Ordinary tasks, each after those it waits for, then `finally` tasks.
    pub tasks: Vec<TaskPlan>,
    /// The ordinary tasks must have ended after this time.
    pub timeout: Option<Duration>,
}

/// A task, as far as order and time go.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPlan {
    /// Its id.
    pub id: String,
    /// Indices of the tasks it waits for, all before its own.
    pub after: Vec<usize>,
    /// Runs even if all tasks before it were skipped.
    pub always: bool,
    /// Has an `if`.
    pub conditional: bool,
    /// Stands in `[[flow.x.finally]]`.
    pub finally: bool,
    /// An attempt under way is never aborted: it writes a device and ends by
    /// its own deadline.
    pub device: bool,
    /// How failed attempts are repeated.
    pub retry: RetryPolicy,
    /// What happens when attempts run out.
    pub on_fail: OnFail,
}

/// What happens when a task's attempts run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFail {
    /// The run waits for a person.
    Pause,
    /// The run fails.
    Fail,
    /// Later tasks run; this one's columns are NULL.
    Continue,
}

impl OnFail {
    /// The words of `on_fail`.
    pub const WORDS: &'static [&'static str] = &["pause", "fail", "continue"];

    /// The meaning of a word.
    #[must_use]
    pub fn parse(word: &str) -> Option<OnFail> {
        match word {
            "pause" => Some(OnFail::Pause),
            "fail" => Some(OnFail::Fail),
            "continue" => Some(OnFail::Continue),
            _ => None,
        }
    }
}

/// How failed attempts are repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts after the first one.
    pub times: u32,
    /// Wait before each of them; the last one stands for those after it.
    pub waits: Vec<Duration>,
    /// Each wait after the last of `waits` is so many times the one before.
    pub factor: f64,
    /// No wait is longer, but for the peer's own wish.
    pub wait_max: Duration,
    /// A wait is changed by up to this part of it, either way: 0 to 1.
    pub jitter: f64,
    /// Only these classes are repeated; empty means all.
    pub on: Vec<String>,
    /// These classes are never repeated.
    pub never: Vec<String>,
}

impl Default for RetryPolicy {
    /// Three more attempts, after about 1 s, 2 s and 4 s.
    fn default() -> RetryPolicy {
        RetryPolicy {
            times: 3,
            waits: vec![Duration::from_secs(1)],
            factor: 2.0,
            wait_max: Duration::from_secs(300),
            jitter: 0.1,
            on: Vec::new(),
            never: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// No attempt after the first one.
    #[must_use]
    pub fn never() -> RetryPolicy {
        RetryPolicy { times: 0, ..RetryPolicy::default() }
    }

    /// When the attempt after the `failures`-th failure begins; `None` if
    /// there is none. `seed` decides the jitter.
    #[must_use]
    pub fn next(
        &self,
        failures: u32,
        class: &str,
        not_before: Option<Time>,
        seed: u64,
        now: Time,
    ) -> Option<Time> {
        let named = |list: &[String]| list.iter().any(|name| name == class);
        if failures > self.times || named(&self.never) || (!self.on.is_empty() && !named(&self.on)) {
            return None;
        }
        let due = now.plus(self.wait(failures, seed));
        Some(not_before.map_or(due, |wish| wish.max(due)))
    }

    fn wait(&self, failures: u32, seed: u64) -> Duration {
        let index = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
        let base = match self.waits.get(index) {
            Some(wait) => wait.as_secs_f64(),
            None => {
                let beyond = index.saturating_sub(self.waits.len().saturating_sub(1));
                // 2^1000 is beyond every `wait_max`.
                let beyond = i32::try_from(beyond).unwrap_or(i32::MAX).min(1_000);
                self.waits.last().map_or(0.0, Duration::as_secs_f64) * self.factor.powi(beyond)
            }
        };
        let swing = 1.0 + self.jitter * (2.0 * unit(seed) - 1.0);
        let longest = self.wait_max.as_secs_f64();
        let seconds = if base.is_finite() { (base * swing).min(longest) } else { longest };
        Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(self.wait_max)
    }
}

/// A number from 0 to below 1 for a seed: SplitMix64 (Steele, Lea, Flood:
/// "Fast splittable pseudorandom number generators", 2014).
#[allow(clippy::cast_precision_loss, reason = "the top 53 bits are exact")]
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn waits(policy: &RetryPolicy, count: u32) -> Vec<Option<u64>> {
        (1..=count)
            .map(|n| policy.next(n, "network", None, 7, Time(0)).map(|at| at.since(Time(0)).as_secs()))
            .collect()
    }

    #[test]
    fn a_list_then_a_factor_up_to_a_maximum() {
        let list = RetryPolicy {
            times: 5,
            waits: vec![secs(10), secs(30), secs(60)],
            factor: 1.0,
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        assert_eq!(waits(&list, 6), [Some(10), Some(30), Some(60), Some(60), Some(60), None]);
        let doubling = RetryPolicy { times: 9, jitter: 0.0, wait_max: secs(10), ..RetryPolicy::default() };
        assert_eq!(waits(&doubling, 5), [Some(1), Some(2), Some(4), Some(8), Some(10)]);
        let huge = RetryPolicy {
            times: u32::MAX,
            factor: 1e9,
            jitter: 0.0,
            wait_max: secs(60),
            ..RetryPolicy::default()
        };
        assert_eq!(huge.next(u32::MAX, "network", None, 0, Time(0)), Some(Time(60_000_000)));
    }

    #[test]
    fn classes_and_the_peers_wish_count() {
        let policy = RetryPolicy {
            on: vec!["network".into(), "429".into()],
            never: vec!["429".into()],
            jitter: 0.0,
            ..RetryPolicy::default()
        };
        assert_eq!(policy.next(1, "rejected", None, 0, Time(0)), None);
        assert_eq!(policy.next(1, "429", None, 0, Time(0)), None);
        assert_eq!(policy.next(1, "network", Some(Time(9_000_000)), 0, Time(0)), Some(Time(9_000_000)));
        assert_eq!(policy.next(1, "network", Some(Time(5)), 0, Time(0)), Some(Time(1_000_000)));
    }

    #[test]
    fn jitter_stays_within_its_part_and_differs() {
        let policy = RetryPolicy { waits: vec![secs(100)], jitter: 0.5, ..RetryPolicy::default() };
        let times: Vec<Time> =
            (0..1_000).filter_map(|seed| policy.next(1, "x", None, seed, Time(0))).collect();
        assert_eq!(times.len(), 1_000);
        assert!(times.iter().all(|at| (50_000_000..=150_000_000).contains(&at.0)));
        let spread =
            times.iter().max().map(|at| at.0).unwrap_or(0) - times.iter().min().map(|at| at.0).unwrap_or(0);
        assert!(spread > 90_000_000, "{spread}");
    }
}
