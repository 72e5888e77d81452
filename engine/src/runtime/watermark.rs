//! Watermarks of one source: how far event time has come, row by row, so that
//! the answer does not depend on how rows were cut into batches. Pure: time
//! that passes is told to it.

use std::time::Duration;

use crate::event::Watermark;
use crate::source::WatermarkPolicy;
use crate::time::{Time, micros};

/// Running maxima of every partition of a source.
#[derive(Debug)]
pub struct Watermarks {
    delay_us: i64,
    idle: Duration,
    partitions: Vec<Partition>,
    emitted: Option<Time>,
    idle_told: bool,
}

#[derive(Debug, Clone)]
struct Partition {
    /// Largest event time seen, in microseconds.
    seen_us: Option<i64>,
    /// Monotonic time of the last row, as told by the driver.
    active_at: Duration,
    idle: bool,
}

/// A piece of a batch: rows up to `end`, then this watermark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// End (exclusive) of the piece; it begins where the previous one ends.
    pub end: usize,
    /// What to send after the piece.
    pub watermark: Option<Time>,
}

impl Watermarks {
    /// No rows seen; `restored` is what was promised before a restart.
    #[must_use]
    pub fn new(policy: &WatermarkPolicy, restored: Option<Time>) -> Watermarks {
        Watermarks {
            delay_us: micros(policy.delay),
            idle: policy.idle,
            partitions: Vec::new(),
            emitted: restored,
            idle_told: false,
        }
    }

    /// There are `count` partitions now; new ones hold the watermark back
    /// until they give a row or are idle.
    pub fn set_partitions(&mut self, count: usize, now: Duration) {
        while self.partitions.len() < count {
            self.partitions.push(Partition { seen_us: None, active_at: now, idle: false });
        }
    }

    /// Rows of a partition have come, with these event times in microseconds.
    /// Answers where to cut the batch: before a row that lies behind the
    /// watermark which earlier rows of the batch have raised.
    pub fn observe(&mut self, partition: usize, times_us: &[i64], now: Duration) -> Vec<Cut> {
        self.set_partitions(partition + 1, now);
        let others = self.least_of_others(partition);
        let delay_us = self.delay_us;
        let Some(state) = self.partitions.get_mut(partition) else { return Vec::new() };
        state.active_at = now;
        state.idle = false;
        self.idle_told = false;
        let mut emitted_us = self.emitted.map_or(i64::MIN, |time| time.0);
        let mut seen_us = state.seen_us.unwrap_or(i64::MIN);
        // The watermark that the rows seen so far allow.
        let allowed = |seen_us: i64| seen_us.saturating_sub(delay_us).min(others);
        let mut cuts = Vec::new();
        let mut raised_us = emitted_us;
        for (index, &time_us) in times_us.iter().enumerate() {
            if time_us < raised_us && raised_us > emitted_us {
                cuts.push(Cut { end: index, watermark: Some(Time(raised_us)) });
                emitted_us = raised_us;
            }
            if time_us > seen_us {
                seen_us = time_us;
                raised_us = raised_us.max(allowed(seen_us));
            }
        }
        if !times_us.is_empty() {
            state.seen_us = Some(seen_us);
        }
        let raised = (raised_us > emitted_us).then_some(Time(raised_us));
        cuts.push(Cut { end: times_us.len(), watermark: raised });
        if raised_us > i64::MIN {
            self.emitted = Some(Time(raised_us));
        }
        cuts
    }

    /// Time has passed without rows. `connected`: the peer is there, so that
    /// silence means silence.
    pub fn on_time(&mut self, now: Duration, connected: bool) -> Vec<Watermark> {
        if !connected {
            return Vec::new();
        }
        for partition in &mut self.partitions {
            partition.idle = partition.idle || now.saturating_sub(partition.active_at) >= self.idle;
        }
        if self.partitions.is_empty() || self.partitions.iter().any(|partition| !partition.idle) {
            return self.raise(self.least_of_others(usize::MAX));
        }
        // All silent: event time goes on at the pace of the clock, from where
        // the last row left it.
        let pace = |partition: &Partition| {
            let silent_us = micros(now.saturating_sub(partition.active_at));
            partition.seen_us.map(|seen| seen.saturating_sub(self.delay_us).saturating_add(silent_us))
        };
        let furthest = self.partitions.iter().filter_map(pace).max();
        let mut events = furthest.map(|time| self.raise(time)).unwrap_or_default();
        if !self.idle_told {
            self.idle_told = true;
            events.push(Watermark::Idle);
        }
        events
    }

    /// The source has ended: event time has come to its largest row.
    pub fn on_end(&mut self) -> Option<Time> {
        let largest = self.partitions.iter().filter_map(|partition| partition.seen_us).max()?;
        let raised = self.emitted.is_none_or(|emitted| Time(largest) > emitted);
        raised.then(|| {
            self.emitted = Some(Time(largest));
            Time(largest)
        })
    }

    /// What has been promised so far.
    #[must_use]
    pub fn emitted(&self) -> Option<Time> {
        self.emitted
    }

    fn raise(&mut self, to_us: i64) -> Vec<Watermark> {
        let higher = to_us != i64::MAX && self.emitted.map_or(i64::MIN, |time| time.0) < to_us;
        if !higher {
            return Vec::new();
        }
        self.emitted = Some(Time(to_us));
        vec![Watermark::Time(Time(to_us))]
    }

    /// The least watermark of the active partitions but one, in microseconds;
    /// `i64::MAX` if there are none.
    fn least_of_others(&self, but: usize) -> i64 {
        let others = self.partitions.iter().enumerate().filter(|(index, state)| *index != but && !state.idle);
        let watermark =
            |state: &Partition| state.seen_us.map_or(i64::MIN, |seen| seen.saturating_sub(self.delay_us));
        others.map(|(_, state)| watermark(state)).min().unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(delay_s: u64, idle_s: u64) -> WatermarkPolicy {
        WatermarkPolicy {
            delay: Duration::from_secs(delay_s),
            idle: Duration::from_secs(idle_s),
            max_future: None,
        }
    }

    fn seconds(times: &[i64]) -> Vec<i64> {
        times.iter().map(|time| time * 1_000_000).collect()
    }

    /// Trap 1 of the semantics: the running maximum, at every batch size.
    #[test]
    fn the_running_maximum_does_not_depend_on_batches() {
        let rows = seconds(&[1, 4, 16, 3, 9, 21, 8, 30]);
        let expected = [-4, -1, 11, 11, 11, 16, 16, 25];
        for size in [1, 2, 3, 7, 8] {
            let mut marks = Watermarks::new(&policy(5, 30), None);
            let mut before_row = Vec::new();
            for chunk in rows.chunks(size) {
                let mut start = 0;
                for cut in marks.observe(0, chunk, Duration::ZERO) {
                    for time in &chunk[start..cut.end] {
                        before_row.push((*time, before_row.len()));
                    }
                    start = cut.end;
                }
            }
            assert_eq!(before_row.len(), rows.len());
            assert_eq!(marks.emitted(), Some(Time(25_000_000)));
        }
        let mut marks = Watermarks::new(&policy(5, 30), None);
        for (row, expected) in rows.iter().zip(expected) {
            marks.observe(0, &[*row], Duration::ZERO);
            assert_eq!(marks.emitted(), Some(Time(expected * 1_000_000)));
        }
    }

    #[test]
    fn a_batch_is_cut_before_a_row_behind_the_raised_watermark() {
        let mut marks = Watermarks::new(&policy(5, 30), None);
        let cuts = marks.observe(0, &seconds(&[1, 4, 16, 3, 9, 21]), Duration::ZERO);
        assert_eq!(
            cuts,
            [
                Cut { end: 3, watermark: Some(Time(11_000_000)) },
                Cut { end: 6, watermark: Some(Time(16_000_000)) },
            ]
        );
    }

    /// Trap 2 of the semantics: idle and back.
    #[test]
    fn an_idle_partition_comes_back_without_moving_the_watermark_back() {
        let mut marks = Watermarks::new(&policy(0, 1), None);
        marks.set_partitions(2, Duration::ZERO);
        assert_eq!(
            marks.observe(0, &seconds(&[1, 12, 25]), Duration::ZERO).last().expect("one").watermark,
            None
        );
        let later = Duration::from_secs(1);
        // P0 is kept active by the driver (a row of it waits), P1 is silent.
        marks.observe(0, &[], later);
        assert_eq!(marks.on_time(later, true), [Watermark::Time(Time(25_000_000))]);
        let mut after = |partition, time| {
            marks.observe(partition, &seconds(&[time]), later);
            marks.emitted().map(|time| time.0 / 1_000_000)
        };
        assert_eq!(after(1, 15), Some(25));
        assert_eq!(after(0, 31), Some(25));
        assert_eq!(after(1, 28), Some(28));
        assert_eq!(after(1, 40), Some(31));
    }

    #[test]
    fn in_silence_event_time_follows_the_clock_while_connected() {
        let mut marks = Watermarks::new(&policy(2, 10), None);
        marks.observe(0, &seconds(&[100]), Duration::ZERO);
        assert_eq!(marks.emitted(), Some(Time(98_000_000)));
        assert_eq!(marks.on_time(Duration::from_secs(9), true), []);
        assert_eq!(marks.on_time(Duration::from_secs(60), false), [], "disconnected: it stands");
        let told = marks.on_time(Duration::from_secs(60), true);
        assert_eq!(told, [Watermark::Time(Time(158_000_000)), Watermark::Idle]);
    }

    #[test]
    fn the_end_brings_the_largest_time() {
        let mut marks = Watermarks::new(&policy(5, 30), None);
        assert_eq!(marks.on_end(), None);
        marks.observe(0, &seconds(&[30, 8]), Duration::ZERO);
        assert_eq!(marks.on_end(), Some(Time(30_000_000)));
        assert_eq!(marks.on_end(), None);
    }
}
