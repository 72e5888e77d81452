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
    restored: Option<Time>,
    emitted: Option<Time>,
    idle_told: bool,
}

#[derive(Debug, Clone)]
struct Partition {
    /// Whether the source reads it now; others hold nothing back.
    ours: bool,
    /// Largest event time seen, in microseconds.
    seen_us: Option<i64>,
    /// Monotonic time of the last row, as told by the driver.
    active_at: Duration,
    /// Since when its silence is believed without a break.
    believed_since: Option<Duration>,
    /// Until when it is known to be silent, as told last.
    silent_until: Duration,
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
            // Sources without partitions never say that they have this one.
            partitions: vec![Partition::new(Duration::ZERO)],
            restored,
            emitted: restored,
            idle_told: false,
        }
    }

    /// The source reads these partitions from now on. New ones hold the
    /// watermark back until they give a row or are idle; with others gone it
    /// may rise.
    pub fn set_partitions(&mut self, ours: &[u32], now: Duration) -> Vec<Watermark> {
        for (index, partition) in (0_u32..).zip(&mut self.partitions) {
            partition.ours = partition.ours && ours.contains(&index);
        }
        for index in ours.iter().filter_map(|index| usize::try_from(*index).ok()) {
            self.know(index, now);
            if let Some(partition) = self.partitions.get_mut(index).filter(|partition| !partition.ours) {
                *partition = Partition::new(now);
            }
        }
        self.raise(self.least_of_others(usize::MAX))
    }

    /// Makes sure that a partition is in the table; those before it that are
    /// new there are not ours.
    fn know(&mut self, index: usize, now: Duration) {
        while self.partitions.len() <= index {
            self.partitions.push(Partition { ours: false, ..Partition::new(now) });
        }
    }

    /// Rows of a partition have come, with these event times in microseconds.
    /// Answers where to cut the batch: before a row that lies behind the
    /// watermark which earlier rows of the batch have raised.
    pub fn observe(&mut self, partition: usize, times_us: &[i64], now: Duration) -> Vec<Cut> {
        if self.partitions.len() <= partition {
            self.know(partition, now);
            if let Some(new) = self.partitions.get_mut(partition) {
                new.ours = true;
            }
        }
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

    /// Time has passed without rows. `known_until` says for each partition until
    /// when it is certain that it has no row; `None` where silence means
    /// nothing: such a partition is not idle, and its silence begins anew when
    /// it is believed again.
    pub fn on_time(&mut self, known_until: impl Fn(u32) -> Option<Duration>) -> Vec<Watermark> {
        for (index, partition) in (0_u32..).zip(&mut self.partitions).filter(|(_, partition)| partition.ours)
        {
            partition.look(known_until(index), self.idle);
        }
        let mut ours = self.partitions.iter().filter(|partition| partition.ours);
        if ours.any(|partition| !partition.idle) {
            let mut events = self.raise(self.least_of_others(usize::MAX));
            if std::mem::take(&mut self.idle_told) && events.is_empty() {
                // Readers must wait for us again: what was promised is said once more.
                events.extend(self.emitted.map(Watermark::Time));
            }
            return events;
        }
        // All silent: event time goes on at the pace of the clock, from where
        // the last row (or a restart) left it.
        let (delay_us, restored) = (self.delay_us, self.restored);
        let pace = |partition: &Partition| {
            let silent_us = micros(partition.silent_until.saturating_sub(partition.active_at));
            let left = partition.watermark_us(delay_us).or(restored.map(|time| time.0));
            left.map(|left| left.saturating_add(silent_us))
        };
        let furthest = self.partitions.iter().filter(|partition| partition.ours).filter_map(pace).max();
        let mut events = furthest.map(|time| self.raise(time)).unwrap_or_default();
        if !self.idle_told {
            self.idle_told = true;
            events.push(Watermark::Idle);
        }
        events
    }

    /// The source has ended: event time has come to its largest row, which may
    /// have come before a restart.
    pub fn on_end(&mut self) -> Option<Time> {
        let before = self.restored.map(|promised| promised.0.saturating_add(self.delay_us));
        let largest = self.partitions.iter().filter_map(|partition| partition.seen_us).chain(before).max()?;
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

    /// The event time that rows have come to: what has been promised, without the
    /// delay, so that sources with different ones can be compared.
    #[must_use]
    pub fn reached(&self) -> Option<Time> {
        self.emitted.map(|time| Time(time.0.saturating_add(self.delay_us)))
    }

    /// Whether all partitions are silent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle_told
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
        let others = self.partitions.iter().enumerate();
        let others = others.filter(|(index, state)| *index != but && state.ours && !state.idle);
        let watermark = |state: &Partition| state.watermark_us(self.delay_us).unwrap_or(i64::MIN);
        others.map(|(_, state)| watermark(state)).min().unwrap_or(i64::MAX)
    }
}

impl Partition {
    /// Ours, without rows, and not idle before its time.
    fn new(now: Duration) -> Partition {
        Partition {
            ours: true,
            seen_us: None,
            active_at: now,
            believed_since: Some(now),
            silent_until: now,
            idle: false,
        }
    }

    /// The watermark that its rows allow, in microseconds.
    fn watermark_us(&self, delay_us: i64) -> Option<i64> {
        self.seen_us.map(|seen| seen.saturating_sub(delay_us))
    }

    fn look(&mut self, known_until: Option<Duration>, idle: Duration) {
        let Some(until) = known_until else {
            self.believed_since = None;
            self.idle = false;
            return;
        };
        let since = *self.believed_since.get_or_insert(until);
        self.silent_until = self.silent_until.max(until);
        self.idle = until.saturating_sub(self.active_at.max(since)) >= idle;
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
            drift: None,
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
        assert_eq!(marks.set_partitions(&[0, 1], Duration::ZERO), []);
        assert_eq!(
            marks.observe(0, &seconds(&[1, 12, 25]), Duration::ZERO).last().expect("one").watermark,
            None
        );
        let later = Duration::from_secs(1);
        // P0 is kept active by the driver (a row of it waits), P1 is silent.
        marks.observe(0, &[], later);
        assert_eq!(marks.on_time(|_| Some(later)), [Watermark::Time(Time(25_000_000))]);
        let mut after = |partition, time| {
            marks.observe(partition, &seconds(&[time]), later);
            marks.emitted().map(|time| time.0 / 1_000_000)
        };
        assert_eq!(after(1, 15), Some(25));
        assert_eq!(after(0, 31), Some(25));
        assert_eq!(after(1, 28), Some(28));
        assert_eq!(after(1, 40), Some(31));
    }

    /// What readers hear when a partition is silent until then.
    fn silent(marks: &mut Watermarks, until_s: u64) -> Vec<Watermark> {
        marks.on_time(|_| Some(Duration::from_secs(until_s)))
    }

    fn time(seconds: i64) -> Watermark {
        Watermark::Time(Time(seconds * 1_000_000))
    }

    #[test]
    fn in_silence_event_time_follows_the_clock_as_far_as_it_is_believed() {
        let mut marks = Watermarks::new(&policy(2, 10), None);
        marks.observe(0, &seconds(&[100]), Duration::ZERO);
        assert_eq!(marks.emitted(), Some(Time(98_000_000)));
        assert_eq!(silent(&mut marks, 9), []);
        assert_eq!(silent(&mut marks, 12), [time(110), Watermark::Idle]);
        assert_eq!(silent(&mut marks, 20), [time(118)]);
        assert_eq!(silent(&mut marks, 20), [], "no sign of life since");
    }

    /// An outage is no silence: it stands, others wait again, and after it the
    /// source has the whole of `idle` to bring what waited.
    #[test]
    fn in_an_outage_event_time_stands() {
        let mut marks = Watermarks::new(&policy(2, 10), None);
        marks.observe(0, &seconds(&[100]), Duration::ZERO);
        assert_eq!(silent(&mut marks, 12), [time(110), Watermark::Idle]);
        assert_eq!(marks.on_time(|_| None), [time(110)], "no longer idle");
        assert_eq!(marks.on_time(|_| None), []);
        assert_eq!(silent(&mut marks, 60), [], "back, and about to bring what waited");
        let rows = seconds(&[111]);
        assert_eq!(marks.observe(0, &rows, Duration::from_secs(61))[0].end, 1);
        assert_eq!(marks.emitted(), Some(Time(110_000_000)), "the row is not late");
        assert_eq!(silent(&mut marks, 70), []);
        assert_eq!(silent(&mut marks, 71), [time(119), Watermark::Idle]);
    }

    #[test]
    fn a_source_that_never_gave_a_row_holds_nobody_back_for_ever() {
        let mut marks = Watermarks::new(&policy(0, 10), None);
        assert_eq!(silent(&mut marks, 9), []);
        assert_eq!(silent(&mut marks, 10), [Watermark::Idle]);
        // After a restart event time goes on from where it was.
        let mut marks = Watermarks::new(&policy(0, 10), Some(Time(50_000_000)));
        assert_eq!(silent(&mut marks, 10), [time(60), Watermark::Idle]);
    }

    /// Three partitions: one that lags, one that went to another reader, one
    /// that came.
    #[test]
    fn partitions_come_and_go() {
        let mut marks = Watermarks::new(&policy(0, 10), None);
        assert_eq!(marks.set_partitions(&[2, 5], Duration::ZERO), []);
        marks.observe(2, &seconds(&[40]), Duration::ZERO);
        assert_eq!(marks.emitted(), None, "5 has given nothing yet, 0 is not ours");
        marks.observe(5, &seconds(&[10]), Duration::ZERO);
        assert_eq!(marks.emitted(), Some(Time(10_000_000)));
        assert_eq!(marks.set_partitions(&[2], Duration::ZERO), [time(40)], "5 went");
        assert_eq!(marks.set_partitions(&[2, 5], Duration::from_secs(1)), []);
        marks.observe(2, &seconds(&[70]), Duration::from_secs(1));
        assert_eq!(marks.emitted(), Some(Time(40_000_000)), "5 came back and holds it");
        // 5 waits outside, 2 is silent: neither its silence nor the other's pace moves anything.
        let waits = |partition| (partition != 5).then_some(Duration::from_secs(60));
        assert_eq!(marks.on_time(waits), []);
        marks.observe(5, &seconds(&[55]), Duration::from_secs(60));
        assert_eq!(marks.emitted(), Some(Time(55_000_000)), "2 is idle");
        assert_eq!(marks.set_partitions(&[], Duration::from_secs(61)), []);
        assert_eq!(silent(&mut marks, 61), [Watermark::Idle], "no partition at all");
        assert_eq!(marks.on_end(), Some(Time(70_000_000)));
    }

    #[test]
    fn the_end_brings_the_largest_time() {
        let mut marks = Watermarks::new(&policy(5, 30), None);
        assert_eq!(marks.on_end(), None);
        marks.observe(0, &seconds(&[30, 8]), Duration::ZERO);
        assert_eq!(marks.on_end(), Some(Time(30_000_000)));
        assert_eq!(marks.on_end(), None);
        // Nothing new came after a restart: the largest row is the same one.
        let mut marks = Watermarks::new(&policy(5, 30), Some(Time(25_000_000)));
        marks.observe(0, &seconds(&[8]), Duration::ZERO);
        assert_eq!(marks.on_end(), Some(Time(30_000_000)));
    }
}
