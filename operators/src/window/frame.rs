//! Where windows lie on the time axis. Pure arithmetic on microseconds:
//! `[start, end)`, aligned to 1970-01-01T00:00:00Z plus an offset.

/// Most panes that one row's windows may need: more would make a row cost
/// thousands of times its due.
const PANES_MAX: i64 = 4_096;

/// Windows of one size, starting every `slide`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) size_us: i64,
    pub(super) slide_us: i64,
    offset_us: i64,
    /// Windows are made of panes: the greatest common divisor of size and slide.
    pub(super) pane_us: i64,
}

impl Frame {
    pub(super) fn new(size_us: i64, slide_us: i64, offset_us: i64) -> Result<Frame, String> {
        if size_us < 1 || slide_us < 1 {
            return Err("a window is at least 1 µs long".into());
        }
        if slide_us > size_us {
            return Err("`slide` is longer than `size`: rows between two windows would vanish".into());
        }
        let pane_us = gcd(size_us, slide_us);
        if size_us / pane_us > PANES_MAX {
            let message = "a window of this size and slide consists of";
            return Err(format!("{message} {} panes; at most {PANES_MAX}", size_us / pane_us));
        }
        Ok(Frame { size_us, slide_us, offset_us: offset_us.rem_euclid(slide_us), pane_us })
    }

    /// Whether each pane is a whole window.
    pub(super) fn is_tumbling(&self) -> bool {
        self.size_us == self.slide_us
    }

    /// Start of the pane that a row of this time belongs to.
    pub(super) fn pane_of(&self, time_us: i64) -> i64 {
        floor(time_us, self.pane_us, self.offset_us)
    }

    /// Start of the last window that holds this pane.
    pub(super) fn last_window_of(&self, pane_us: i64) -> i64 {
        floor(pane_us, self.slide_us, self.offset_us)
    }

    /// Start of the first window that holds this pane: the least that ends after it.
    pub(super) fn first_window_of(&self, pane_us: i64) -> i64 {
        let earliest = pane_us.saturating_add(self.pane_us).saturating_sub(self.size_us);
        let start = floor(earliest, self.slide_us, self.offset_us);
        if start < earliest { start.saturating_add(self.slide_us) } else { start }
    }

    /// End of the last window that holds this pane: then it is late for all.
    pub(super) fn last_end_of(&self, pane_us: i64) -> i64 {
        self.last_window_of(pane_us).saturating_add(self.size_us)
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
        let frame = Frame::new(10 * S, 10 * S, 0).expect("sound");
        assert_eq!(frame.pane_of(-1), -10 * S);
        assert_eq!(frame.pane_of(-10 * S), -10 * S);
        assert_eq!(frame.pane_of(0), 0);
        assert_eq!(frame.pane_of(10 * S), 10 * S);
        for offset in [3, 13] {
            let frame = Frame::new(10 * S, 10 * S, offset * S).expect("sound");
            assert_eq!(frame.pane_of(S), -7 * S);
        }
        let frame = Frame::new(10 * S, 10 * S, -7 * S).expect("sound");
        assert_eq!(frame.pane_of(S), -7 * S);
    }

    #[test]
    fn a_hopping_row_lies_in_the_windows_that_hold_it() {
        // Slide 3, width 10: time 0 lies in four windows, time 1 in three.
        let frame = Frame::new(10 * S, 3 * S, 0).expect("sound");
        let count = |time: i64| {
            let pane = frame.pane_of(time * S);
            (frame.last_window_of(pane) - frame.first_window_of(pane)) / frame.slide_us + 1
        };
        assert_eq!((count(0), count(1)), (4, 3));
        assert_eq!(frame.first_window_of(0), -9 * S);
        assert_eq!(frame.last_end_of(0), 10 * S);
    }

    #[test]
    fn refuses_what_cannot_be_meant() {
        assert!(Frame::new(0, 1, 0).is_err());
        assert!(Frame::new(10, 11, 0).is_err());
        assert!(Frame::new(3_600 * S, 7 * S + 1, 0).is_err(), "thousands of panes");
    }
}
