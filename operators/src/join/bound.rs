//! How far apart in event time two rows may lie that belong together. Pure
//! arithmetic on microseconds; bounds are inclusive.

/// One of the two inputs, in the order of `from`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Left, Side::Right];

    pub(super) fn of_input(input: usize) -> Side {
        if input == 0 { Side::Left } else { Side::Right }
    }

    pub(super) fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// Something that both sides have.
#[derive(Clone, Debug)]
pub(super) struct Both<T> {
    pub(super) left: T,
    pub(super) right: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, side: Side) -> &T {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    pub(super) fn of_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Left => &mut self.left,
            Side::Right => &mut self.right,
        }
    }
}

/// Which rows may belong together, by their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// The right row lies at most so far before or behind the left one.
    Within { before_us: i64, after_us: i64 },
    /// Both lie in one window, aligned to 1970-01-01T00:00:00Z.
    Window { size_us: i64 },
}

impl Bound {
    /// First and last time of partners of a row of this side.
    pub(super) fn partners(self, side: Side, time_us: i64) -> (i64, i64) {
        match (self, side) {
            (Bound::Within { before_us, after_us }, Side::Left) => {
                (time_us.saturating_sub(before_us), time_us.saturating_add(after_us))
            }
            (Bound::Within { before_us, after_us }, Side::Right) => {
                (time_us.saturating_sub(after_us), time_us.saturating_add(before_us))
            }
            (Bound::Window { size_us }, _) => {
                let start_us = floor(time_us, size_us);
                (start_us, start_us.saturating_add(size_us - 1))
            }
        }
    }

    /// Rows of this side before this time find no partner any more when the
    /// watermark stands at `watermark_us`.
    pub(super) fn freed_before(self, side: Side, watermark_us: i64) -> i64 {
        match (self, side) {
            (Bound::Within { after_us, .. }, Side::Left) => watermark_us.saturating_sub(after_us),
            (Bound::Within { before_us, .. }, Side::Right) => watermark_us.saturating_sub(before_us),
            (Bound::Window { size_us }, _) => floor(watermark_us, size_us),
        }
    }

    /// Rows before this time are late: a partner of theirs may have been freed.
    pub(super) fn late_before(self, watermark_us: i64) -> i64 {
        match self {
            Bound::Within { .. } => watermark_us,
            Bound::Window { size_us } => floor(watermark_us, size_us),
        }
    }
}

/// Start of the window that holds this time.
pub(super) fn floor(time_us: i64, size_us: i64) -> i64 {
    time_us.saturating_sub(time_us.rem_euclid(size_us.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_seen_from_both_sides() {
        let bound = Bound::Within { before_us: 2, after_us: 5 };
        assert_eq!(bound.partners(Side::Left, 10), (8, 15));
        assert_eq!(bound.partners(Side::Right, 10), (5, 12));
        for left in 0..30 {
            for right in 0..30 {
                let (from, to) = bound.partners(Side::Left, left);
                let (back_from, back_to) = bound.partners(Side::Right, right);
                assert_eq!((from..=to).contains(&right), (back_from..=back_to).contains(&left));
            }
        }
    }

    #[test]
    fn a_row_is_freed_when_its_last_partner_cannot_come_any_more() {
        let bounds = [Bound::Within { before_us: 2, after_us: 5 }, Bound::Window { size_us: 7 }];
        for bound in bounds {
            for side in Side::BOTH {
                for time in -20..20 {
                    for watermark in -20..20 {
                        let freed = time < bound.freed_before(side, watermark);
                        assert_eq!(freed, bound.partners(side, time).1 < watermark, "{bound:?} {side:?}");
                        // A row that is not late finds all its partners.
                        let first = bound.partners(side, time).0;
                        let complete = first >= bound.freed_before(side.other(), watermark);
                        assert_eq!(complete, time >= bound.late_before(watermark), "{bound:?} {side:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_ends_of_time_do_not_overflow() {
        for bound in [Bound::Within { before_us: i64::MAX, after_us: 1 }, Bound::Window { size_us: i64::MAX }]
        {
            for time in [i64::MIN, i64::MAX] {
                for side in Side::BOTH {
                    let (from, to) = bound.partners(side, time);
                    assert!(from <= to);
                    bound.freed_before(side, time);
                }
            }
        }
    }
}
