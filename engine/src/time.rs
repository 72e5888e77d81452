//! Instants of event time and the one place that reads the wall clock.
//!
//! Everything that must give the same answer on replay takes a `Time` as an
//! argument; only drivers hold a `Clock`.

use std::fmt;
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};

/// An instant: microseconds since 1970-01-01T00:00:00Z, negative before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub i64);

impl Time {
    /// Earlier than every instant a row can have.
    pub const MIN: Time = Time(i64::MIN);
    /// Later than every instant a row can have: the watermark of an ended input.
    pub const MAX: Time = Time(i64::MAX);

    /// This instant moved later by `span`; stays at the ends of the range.
    #[must_use]
    pub fn plus(self, span: Duration) -> Time {
        Time(self.0.saturating_add(micros(span)))
    }

    /// This instant moved earlier by `span`; stays at the ends of the range.
    #[must_use]
    pub fn minus(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(micros(span)))
    }

    /// Time from `earlier` to here, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        let span = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(span).unwrap_or(0))
    }
}

/// `span` in microseconds, at most `i64::MAX`.
#[must_use]
pub fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// Arrow's type of every event-time column: microseconds, UTC.
#[must_use]
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl fmt::Display for Time {
    /// RFC 3339 with microseconds in UTC, e.g. `2026-11-23T12:00:00.000000Z`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = self.0.div_euclid(MICROS_PER_DAY);
        let micros_of_day = self.0.rem_euclid(MICROS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        let seconds = micros_of_day / 1_000_000;
        write!(
            out,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            micros_of_day % 1_000_000,
        )
    }
}

/// Microseconds in a civil day (UTC has no leap second in POSIX time).
const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Year, month and day of a count of days since 1970-01-01, proleptic Gregorian.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Where drivers read the present.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present instant of the wall clock.
    fn now(&self) -> Time;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Time {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Time(since_epoch.map_or(0, micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc3339_in_utc() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Time(-1).to_string(), "1969-12-31T23:59:59.999999Z");
        // `date -u -d @1709210096` prints this leap day.
        assert_eq!(Time(1_709_210_096_000_001).to_string(), "2024-02-29T12:34:56.000001Z");
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(Time::MAX.plus(Duration::from_secs(1)), Time::MAX);
        assert_eq!(Time::MIN.minus(Duration::MAX), Time::MIN);
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
    }
}
