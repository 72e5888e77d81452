//! Days, weeks and months as the clocks of a time zone show them: a day of
//! Berlin has 23, 24 or 25 hours. Time that a clock leaps over does not exist; an
//! hour that comes twice begins when it comes first.

use std::ops::Range;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, TimeDelta, TimeZone};
use chrono_tz::Tz;

/// Times that the calendar knows, in microseconds: 200,000 years each way. Those
/// beyond count as the last one.
const RANGE_US: i64 = 200_000 * 365 * 86_400 * 1_000_000;
/// Clocks leap by no more than a day; they are looked at in steps of this.
const LEAP_STEP_MINUTES: i64 = 15;
const LEAP_STEPS: i64 = 24 * 60 / LEAP_STEP_MINUTES + 8;

/// What a window is as long as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Day,
    /// From Monday.
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    pub(super) const WORDS: &'static [&'static str] = &["day", "week", "month", "quarter", "year"];

    pub(super) fn of(word: &str) -> Option<Unit> {
        let units = [Unit::Day, Unit::Week, Unit::Month, Unit::Quarter, Unit::Year];
        Unit::WORDS.iter().position(|known| *known == word).and_then(|index| units.get(index).copied())
    }

    /// First day of the period that holds this day.
    fn first(self, day: NaiveDate) -> Option<NaiveDate> {
        match self {
            Unit::Day => Some(day),
            Unit::Week => day.checked_sub_days(Days::new(u64::from(day.weekday().num_days_from_monday()))),
            Unit::Month => day.with_day(1),
            Unit::Quarter => NaiveDate::from_ymd_opt(day.year(), day.month0() / 3 * 3 + 1, 1),
            Unit::Year => NaiveDate::from_ymd_opt(day.year(), 1, 1),
        }
    }

    /// First day of the period behind the one that begins with this day.
    fn next(self, first: NaiveDate) -> Option<NaiveDate> {
        match self {
            Unit::Day => first.checked_add_days(Days::new(1)),
            Unit::Week => first.checked_add_days(Days::new(7)),
            Unit::Month => first.checked_add_months(Months::new(1)),
            Unit::Quarter => first.checked_add_months(Months::new(3)),
            Unit::Year => first.checked_add_months(Months::new(12)),
        }
    }
}

/// Periods of one unit in a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Calendar {
    unit: Unit,
    zone: Tz,
    /// Each period begins so much after midnight.
    offset: TimeDelta,
}

impl Calendar {
    pub(super) fn new(unit: Unit, zone: Tz, offset_us: i64) -> Result<Calendar, String> {
        if !(0..86_400_000_000).contains(&offset_us) {
            return Err("`offset` of a calendar window is less than a day, e.g. \"6h\"".into());
        }
        Ok(Calendar { unit, zone, offset: TimeDelta::microseconds(offset_us) })
    }

    /// No period is longer.
    pub(super) fn longest_us(&self) -> i64 {
        let days = match self.unit {
            Unit::Day => 1,
            Unit::Week => 7,
            Unit::Month => 31,
            Unit::Quarter => 92,
            Unit::Year => 366,
        };
        (days + 1) * 86_400_000_000
    }

    /// The period that holds this instant.
    pub(super) fn period_of(&self, time_us: i64) -> Range<i64> {
        let time_us = time_us.clamp(-RANGE_US, RANGE_US);
        self.period(time_us).unwrap_or(time_us..time_us.saturating_add(1))
    }

    fn period(&self, time_us: i64) -> Option<Range<i64>> {
        let local = DateTime::from_timestamp_micros(time_us)?.with_timezone(&self.zone).naive_local();
        let mut first = self.unit.first(local.checked_sub_signed(self.offset)?.date())?;
        let mut start = self.begin(first)?;
        // Where clocks go back over the border, the wall shows the former period again.
        let mut next = self.unit.next(first)?;
        let mut end = self.begin(next)?;
        while end <= time_us {
            (first, start) = (next, end);
            next = self.unit.next(first)?;
            end = self.begin(next)?;
        }
        Some(start..end)
    }

    /// The instant at which the period that begins with this day begins.
    fn begin(&self, first: NaiveDate) -> Option<i64> {
        let local = first.and_hms_opt(0, 0, 0)?.checked_add_signed(self.offset)?;
        self.instant(local)
    }

    /// When clocks show this for the first time, or are past it.
    fn instant(&self, local: NaiveDateTime) -> Option<i64> {
        for step in 0..LEAP_STEPS {
            let moved = local.checked_add_signed(TimeDelta::minutes(step * LEAP_STEP_MINUTES))?;
            if let Some(instant) = self.zone.from_local_datetime(&moved).earliest() {
                if step == 0 {
                    return Some(instant.timestamp_micros());
                }
                return Some(self.end_of_leap(local, instant.timestamp_micros()));
            }
        }
        None
    }

    /// The instant of a leap over this local time; `after_us` lies behind it.
    fn end_of_leap(&self, local: NaiveDateTime, after_us: i64) -> i64 {
        let mut before_us = after_us.saturating_sub(2 * 86_400_000_000);
        let mut after_us = after_us;
        while after_us.saturating_sub(before_us) > 1 {
            let middle = before_us + (after_us - before_us) / 2;
            let shown = DateTime::from_timestamp_micros(middle)
                .map(|instant| instant.with_timezone(&self.zone).naive_local());
            if shown.is_some_and(|shown| shown >= local) {
                after_us = middle;
            } else {
                before_us = middle;
            }
        }
        after_us
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(unit: Unit, zone: &str) -> Calendar {
        Calendar::new(unit, zone.parse().expect("a zone"), 0).expect("sound")
    }

    fn at(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).expect("a time").timestamp_micros()
    }

    fn hours(period: &Range<i64>) -> f64 {
        (period.end - period.start) as f64 / 3_600e6
    }

    #[test]
    fn a_day_has_the_hours_that_its_clocks_show() {
        let berlin = calendar(Unit::Day, "Europe/Berlin");
        let of = |text| hours(&berlin.period_of(at(text)));
        assert_eq!(of("2024-03-31T12:00:00Z"), 23.0);
        assert_eq!(of("2024-10-27T12:00:00Z"), 25.0);
        assert_eq!(of("2024-06-01T12:00:00Z"), 24.0);
        let first = berlin.period_of(at("2024-03-30T23:00:00Z"));
        assert_eq!(first.start, at("2024-03-31T00:00:00+01:00"), "half open");
        assert_eq!(berlin.period_of(first.start - 1).end, first.start);
    }

    #[test]
    fn weeks_begin_on_monday_and_months_have_their_length() {
        let week = calendar(Unit::Week, "UTC").period_of(at("2024-09-01T23:59:59Z"));
        assert_eq!(week, at("2024-08-26T00:00:00Z")..at("2024-09-02T00:00:00Z"));
        let month = calendar(Unit::Month, "Asia/Kolkata").period_of(at("2024-02-29T20:00:00Z"));
        assert_eq!(month.start, at("2024-03-01T00:00:00+05:30"));
        let quarter = calendar(Unit::Quarter, "UTC").period_of(at("2023-11-05T00:00:00Z"));
        assert_eq!(quarter, at("2023-10-01T00:00:00Z")..at("2024-01-01T00:00:00Z"));
        let year = calendar(Unit::Year, "UTC").period_of(at("1969-11-05T00:00:00Z"));
        assert_eq!(year, at("1969-01-01T00:00:00Z")..at("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn a_midnight_that_no_clock_shows_is_where_it_leaps() {
        // In 2018 clocks of Sao Paulo went from 24:00 to 01:00 on November 4.
        let day = calendar(Unit::Day, "America/Sao_Paulo").period_of(at("2018-11-04T12:00:00Z"));
        assert_eq!(day.start, at("2018-11-04T03:00:00Z"));
        assert_eq!(hours(&day), 23.0);
        // In February of that year they went back from 24:00 to 23:00.
        let day = calendar(Unit::Day, "America/Sao_Paulo").period_of(at("2018-02-18T02:30:00Z"));
        assert_eq!(hours(&day), 25.0);
        // Samoa left out the 30th of December 2011.
        let apia = calendar(Unit::Day, "Pacific/Apia");
        let before = apia.period_of(at("2011-12-30T09:59:59Z"));
        let after = apia.period_of(at("2011-12-30T10:00:00Z"));
        assert_eq!((before.end, hours(&before), hours(&after)), (after.start, 24.0, 24.0));
    }

    #[test]
    fn a_shift_begins_when_it_says() {
        let shift = Calendar::new(Unit::Day, chrono_tz::Europe::Berlin, 6 * 3_600_000_000).expect("sound");
        let day = shift.period_of(at("2024-03-31T05:59:59+02:00"));
        assert_eq!(day, at("2024-03-30T06:00:00+01:00")..at("2024-03-31T06:00:00+02:00"));
        assert!(Calendar::new(Unit::Day, Tz::UTC, 86_400_000_000).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn periods_hold_their_time_and_leave_no_gap(
            time_us in -4_000_000_000_000_000_i64..8_000_000_000_000_000,
            zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
            unit in proptest::sample::select(&[Unit::Day, Unit::Week, Unit::Month, Unit::Quarter, Unit::Year][..]),
            hour in 0..24_i64,
        ) {
            let calendar = Calendar::new(unit, zone, hour * 3_600_000_000).expect("sound");
            let period = calendar.period_of(time_us);
            prop_assert!(period.contains(&time_us), "{period:?} {time_us}");
            prop_assert_eq!(&calendar.period_of(period.start), &period);
            prop_assert_eq!(&calendar.period_of(period.end - 1), &period);
            prop_assert_eq!(calendar.period_of(period.end).start, period.end);
            prop_assert_eq!(calendar.period_of(period.start - 1).end, period.start);
        }

        #[test]
        fn no_time_is_too_far_away(time_us in any::<i64>()) {
            let period = calendar(Unit::Month, "Europe/Berlin").period_of(time_us);
            prop_assert!(period.start < period.end);
        }
    }
}
