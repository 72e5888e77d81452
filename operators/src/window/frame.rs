//! Where windows lie on the time axis: `[start, end)`, of one size and a fixed
//! distance, or days, weeks and months as a clock on the wall shows them. Pure
//! arithmetic on microseconds.

use std::ops::Range;

use super::calendar::Calendar;

/// Most panes that one row's windows may need: more would make a row cost
/// thousands of times its due.
pub(super) const PANES_MAX: i64 = 4_096;

/// Windows that lie one behind the other, or overlap. They are made of panes,
/// which do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    shape: Shape,
    /// A running result is given at each multiple of this.
    early_us: Option<i64>,
    /// A window's panes are kept for so long after its end.
    lateness_us: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Windows of one size, aligned to 1970-01-01T00:00:00Z plus an offset.
    Even(Even),
    /// Days, weeks, months in a time zone.
    Calendar(Calendar),
}

/// Windows of one size, starting every `slide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Even {
    size_us: i64,
    slide_us: i64,
    offset_us: i64,
    /// A common divisor of size and slide, and of the steps of running results.
    pane_us: i64,
}

impl Frame {
    pub(super) fn even(size_us: i64, slide_us: i64, offset_us: i64) -> Result<Frame, String> {
        if size_us < 1 || slide_us < 1 {
            return Err("a window is at least 1 µs long".into());
        }
        if slide_us > size_us {
            return Err("`slide` is longer than `size`: rows between two windows would vanish".into());
        }
        let pane_us = gcd(size_us, slide_us);
        let even = Even { size_us, slide_us, offset_us: offset_us.rem_euclid(slide_us), pane_us };
        Frame { shape: Shape::Even(even), early_us: None, lateness_us: 0 }.checked()
    }

    pub(super) fn calendar(calendar: Calendar) -> Frame {
        Frame { shape: Shape::Calendar(calendar), early_us: None, lateness_us: 0 }
    }

    /// The same windows, with a running result at each multiple of `early_us`.
    pub(super) fn with_early(mut self, early_us: i64) -> Result<Frame, String> {
        if early_us < 1 {
            return Err("`early` is at least 1 µs".into());
        }
        match &mut self.shape {
            Shape::Even(even) if early_us >= even.size_us => {
                return Err("`early` is shorter than the window".into());
            }
            Shape::Even(even) => even.pane_us = gcd(even.pane_us, early_us),
            Shape::Calendar(calendar) => {
                let panes = calendar.longest_us() / early_us;
                if panes > PANES_MAX {
                    return Err(format!("a window would have {panes} running results; at most {PANES_MAX}"));
                }
            }
        }
        self.early_us = Some(early_us);
        self.checked()
    }

    /// The same windows, whose panes are kept for so long after their end.
    pub(super) fn with_lateness(self, lateness_us: i64) -> Frame {
        Frame { lateness_us, ..self }
    }

    fn checked(self) -> Result<Frame, String> {
        match self.shape {
            Shape::Even(Even { size_us, pane_us, .. }) if size_us / pane_us > PANES_MAX => {
                let message = "a window of this size and slide consists of";
                Err(format!("{message} {} panes; at most {PANES_MAX}", size_us / pane_us))
            }
            Shape::Even(_) | Shape::Calendar(_) => Ok(self),
        }
    }

    /// Whether each pane is a whole window, which is given once.
    pub(super) fn is_plain(&self) -> bool {
        let is_pane = match self.shape {
            Shape::Even(even) => even.size_us == even.pane_us,
            Shape::Calendar(_) => self.early_us.is_none(),
        };
        is_pane && self.lateness_us == 0
    }

    /// Whether a window may be given several times.
    pub(super) fn revises(&self) -> bool {
        self.early_us.is_some() || self.lateness_us > 0
    }

    /// The pane that a row of this time belongs to.
    pub(super) fn pane_of(&self, time_us: i64) -> Range<i64> {
        match (&self.shape, self.early_us) {
            (Shape::Even(even), _) => {
                let start = floor(time_us, even.pane_us, even.offset_us);
                start..start.saturating_add(even.pane_us)
            }
            (Shape::Calendar(calendar), None) => calendar.period_of(time_us),
            (Shape::Calendar(calendar), Some(early_us)) => {
                let period = calendar.period_of(time_us);
                let start = floor(time_us, early_us, period.start).max(period.start);
                start..start.saturating_add(early_us).min(period.end)
            }
        }
    }

    /// Start of the first window that holds this pane: the least that ends after it.
    pub(super) fn first_window_of(&self, pane_us: i64) -> i64 {
        match &self.shape {
            Shape::Even(even) => {
                let earliest = pane_us.saturating_add(even.pane_us).saturating_sub(even.size_us);
                let start = floor(earliest, even.slide_us, even.offset_us);
                if start < earliest { start.saturating_add(even.slide_us) } else { start }
            }
            Shape::Calendar(calendar) => calendar.period_of(pane_us).start,
        }
    }

    /// Start of the last window that holds this pane.
    pub(super) fn last_window_of(&self, pane_us: i64) -> i64 {
        match &self.shape {
            Shape::Even(even) => floor(pane_us, even.slide_us, even.offset_us),
            Shape::Calendar(calendar) => calendar.period_of(pane_us).start,
        }
    }

    /// Start of the window behind the one that starts here.
    pub(super) fn next_window(&self, start_us: i64) -> i64 {
        match &self.shape {
            Shape::Even(even) => start_us.saturating_add(even.slide_us),
            Shape::Calendar(calendar) => calendar.period_of(start_us).end,
        }
    }

    /// Starts of the windows that hold this pane and end after `closed_us`, in order.
    pub(super) fn windows_from(&self, pane_us: i64, closed_us: i64) -> impl Iterator<Item = i64> + '_ {
        let last = self.last_window_of(pane_us);
        let first = self.first_window_of(pane_us).max(self.first_open(closed_us));
        let next = |start: &i64| Some(self.next_window(*start)).filter(|next| next > start);
        std::iter::successors(Some(first), next)
            .take_while(move |start| *start <= last)
            .filter(move |start| self.end_of(*start) > closed_us)
    }

    /// Start of the first window that ends after this, at the latest.
    fn first_open(&self, closed_us: i64) -> i64 {
        match &self.shape {
            Shape::Even(Even { size_us, slide_us, offset_us, .. }) => {
                floor(closed_us.saturating_sub(*size_us), *slide_us, *offset_us).saturating_add(*slide_us)
            }
            Shape::Calendar(_) => i64::MIN,
        }
    }

    /// Whether a window may end after `closed_us` and at or before `until_us`.
    pub(super) fn may_end(&self, closed_us: i64, until_us: i64) -> bool {
        match self.shape {
            Shape::Even(_) => self.end_of(self.first_open(closed_us)) <= until_us,
            Shape::Calendar(_) => true,
        }
    }

    /// End of the window that starts here.
    pub(super) fn end_of(&self, start_us: i64) -> i64 {
        match &self.shape {
            Shape::Even(even) => start_us.saturating_add(even.size_us),
            Shape::Calendar(calendar) => calendar.period_of(start_us).end,
        }
    }

    /// End of the last window that holds this pane.
    pub(super) fn last_end_of(&self, pane_us: i64) -> i64 {
        self.end_of(self.last_window_of(pane_us))
    }

    /// Until when the result of the window that starts here may change.
    pub(super) fn changes_until(&self, start_us: i64) -> i64 {
        self.end_of(start_us).saturating_add(self.lateness_us)
    }

    /// Until when rows of this pane count: then they are late for all its windows.
    pub(super) fn kept_until(&self, pane_us: i64) -> i64 {
        self.changes_until(self.last_window_of(pane_us))
    }

    /// The instant at which rows of this pane show in running results.
    pub(super) fn early_of(&self, pane_us: i64) -> Option<i64> {
        let early_us = self.early_us?;
        let pane = self.pane_of(pane_us);
        Some(match &self.shape {
            Shape::Even(even) => {
                floor(pane.end.saturating_sub(1), early_us, even.offset_us).saturating_add(early_us)
            }
            Shape::Calendar(_) => pane.end,
        })
    }
}

/// The greatest `n * step + offset` that is not above `at`.
fn floor(at: i64, step: i64, offset: i64) -> i64 {
    let moved = at.saturating_sub(offset);
    moved.saturating_sub(moved.rem_euclid(step)).saturating_add(offset)
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    /// Trap 5 of the semantics: edges.
    #[test]
    fn windows_are_half_open_and_negative_times_floor() {
        let frame = Frame::even(10 * S, 10 * S, 0).expect("sound");
        assert_eq!(frame.pane_of(-1).start, -10 * S);
        assert_eq!(frame.pane_of(-10 * S), -10 * S..0);
        assert_eq!(frame.pane_of(0), 0..10 * S);
        assert_eq!(frame.pane_of(10 * S).start, 10 * S);
        for offset in [3, 13] {
            let frame = Frame::even(10 * S, 10 * S, offset * S).expect("sound");
            assert_eq!(frame.pane_of(S).start, -7 * S);
        }
        let frame = Frame::even(10 * S, 10 * S, -7 * S).expect("sound");
        assert_eq!(frame.pane_of(S).start, -7 * S);
    }

    #[test]
    fn a_hopping_row_lies_in_the_windows_that_hold_it() {
        // Slide 3, width 10: time 0 lies in four windows, time 1 in three.
        let frame = Frame::even(10 * S, 3 * S, 0).expect("sound");
        let count = |time: i64| {
            let pane = frame.pane_of(time * S).start;
            (frame.last_window_of(pane) - frame.first_window_of(pane)) / (3 * S) + 1
        };
        assert_eq!((count(0), count(1)), (4, 3));
        assert_eq!(frame.first_window_of(0), -9 * S);
        assert_eq!(frame.next_window(-9 * S), -6 * S);
        assert_eq!(frame.last_end_of(0), 10 * S);
    }

    #[test]
    fn windows_that_are_open_are_found_from_any_time() {
        let frame = Frame::even(10 * S, 3 * S, S).expect("sound");
        for closed in [i64::MIN, -40 * S, -3 * S, 0, S, 2 * S, 11 * S, 20 * S, i64::MAX] {
            for pane in -5..25 {
                let pane = frame.pane_of(pane * S).start;
                let last = frame.last_window_of(pane);
                let all =
                    std::iter::successors(Some(frame.first_window_of(pane)), |start| Some(start + 3 * S));
                let all =
                    all.take_while(|start| *start <= last).filter(|start| frame.end_of(*start) > closed);
                assert_eq!(frame.windows_from(pane, closed).collect::<Vec<_>>(), all.collect::<Vec<_>>());
            }
        }
        assert!(
            frame.may_end(10 * S, 11 * S) && !frame.may_end(11 * S, 13 * S) && frame.may_end(11 * S, 14 * S)
        );
        let frame = Frame::even(1, 1, 0).expect("sound");
        assert!(frame.windows_from(i64::MAX, 0).count() <= 2, "no end of time is without end");
    }

    #[test]
    fn running_results_cut_windows_into_panes() {
        let frame =
            Frame::even(10 * S, 10 * S, 3 * S).and_then(|frame| frame.with_early(4 * S)).expect("sound");
        assert_eq!(frame.pane_of(4 * S), 3 * S..5 * S);
        assert_eq!(frame.early_of(3 * S), Some(7 * S), "3 + 4");
        assert_eq!(frame.early_of(7 * S), Some(11 * S));
        assert!(!frame.is_plain() && frame.revises());
        assert!(Frame::even(10, 10, 0).and_then(|frame| frame.with_early(10)).is_err());
        let frame = Frame::even(10, 10, 0).expect("sound").with_lateness(5);
        assert_eq!((frame.last_end_of(0), frame.kept_until(0), frame.is_plain()), (10, 15, false));
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        assert!(Frame::even(0, 1, 0).is_err());
        assert!(Frame::even(10, 11, 0).is_err());
        assert!(Frame::even(3_600 * S, 7 * S + 1, 0).is_err(), "thousands of panes");
    }
}
