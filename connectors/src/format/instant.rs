//! Instants and dates from text and numbers. Times outside what 64 bits of
//! microseconds hold are refused, never wrapped.

use crate::format::number::Decimal;

/// What a number in a time column counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// The words of the topology language.
    pub(crate) const WORDS: &'static [&'static str] = &["s", "ms", "us", "ns"];

    /// The unit of a word.
    pub(crate) fn parse(word: &str) -> Option<Unit> {
        match word {
            "s" => Some(Unit::Seconds),
            "ms" => Some(Unit::Millis),
            "us" => Some(Unit::Micros),
            "ns" => Some(Unit::Nanos),
            _ => None,
        }
    }

    /// Microseconds since 1970 of a whole count of this unit.
    #[inline]
    pub(crate) fn micros(self, count: i64) -> Option<i64> {
        match self {
            Unit::Seconds => count.checked_mul(1_000_000),
            Unit::Millis => count.checked_mul(1_000),
            Unit::Micros => Some(count),
            Unit::Nanos => Some(count.div_euclid(1_000)),
        }
    }

    /// Microseconds since 1970 of a number as written; what is finer than a
    /// microsecond is cut off, towards the past.
    pub(crate) fn micros_of(self, number: &[u8]) -> Option<i64> {
        let scale = match self {
            Unit::Seconds => 6,
            Unit::Millis => 3,
            Unit::Micros => 0,
            Unit::Nanos => -3,
        };
        i64::try_from(Decimal::parse(number)?.scaled_floor(scale)?).ok()
    }
}

/// Microseconds since 1970 of RFC 3339 text such as
/// `2026-11-23T12:00:00.25+01:00`.
///
/// The offset is required: a time without one means another instant on
/// another machine. A leap second (`:60`) is the second after it; what is finer than a
/// microsecond is cut off.
pub(crate) fn rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let days = date_days(bytes.get(..10)?)?;
    let (separator, clock) = bytes.get(10..)?.split_first()?;
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let [h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = clock else { return None };
    let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
    let leap = second == 60 && minute == 59;
    if hour > 23 || minute > 59 || (second > 59 && !leap) {
        return None;
    }
    let (fraction, rest) = fraction_micros(rest)?;
    let offset = offset_seconds(rest)?;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Some(seconds * 1_000_000 + fraction)
}

/// Microseconds of `.123456…`, if there, and what follows.
fn fraction_micros(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let (fraction, rest) = digits.split_at_checked(count)?;
    let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some((padded.fold(0, |value, byte| value * 10 + i64::from(byte - b'0')), rest))
}

/// Seconds east of UTC of `Z` or `+hh:mm`.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    match text {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(*h1, *h2)?, two(*m1, *m2)?);
            let seconds = hours * 3_600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since 1970-01-01 of `2026-11-23`.
pub(crate) fn date(text: &str) -> Option<i32> {
    i32::try_from(date_days(text.as_bytes())?).ok()
}

fn date_days(text: &[u8]) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return None };
    let year = two(*y1, *y2)? * 100 + two(*y3, *y4)?;
    let (month, day) = (two(*m1, *m2)?, two(*d1, *d2)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    (1..=days_in_month).contains(&day).then(|| days_from_civil(year, month, day))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let both = tens.is_ascii_digit() && ones.is_ascii_digit();
    both.then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

/// Days since 1970-01-01 of a proleptic Gregorian date.
///
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `days_from_civil`.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_engine::time::Time;

    #[test]
    fn reads_rfc3339() {
        // Seconds from `date -u -d TEXT +%s`.
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T12:34:56Z", 1_709_210_096_000_000),
            ("2024-02-29T12:34:56.000001999Z", 1_709_210_096_000_001),
            ("2024-02-29 13:34:56.5+01:00", 1_709_210_096_500_000),
            ("1969-12-31T23:59:59.25z", -750_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000_000),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139_000_000),
        ] {
            assert_eq!(rfc3339(text), Some(micros), "{text}");
        }
        for wrong in [
            "",
            "2024-02-30T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00",
            "2024-01-01",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:60Z",
            "24-01-01T00:00:00Z",
            "2024-01-01T00:00:00+25:00",
            "2024-01-01T00:00:00Zjunk",
            "２０２４-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn reads_back_what_the_engine_prints() {
        for micros in [0, -1, 1_709_210_096_000_001, 253_402_300_799_999_999, -62_135_596_800_000_000] {
            assert_eq!(rfc3339(&Time(micros).to_string()), Some(micros));
        }
        assert_eq!(date("1970-01-02"), Some(1));
        assert_eq!(date("1970-1-2"), None);
    }

    #[test]
    fn counts_in_every_unit() {
        assert_eq!(Unit::Seconds.micros_of(b"1.5"), Some(1_500_000));
        assert_eq!(Unit::Millis.micros_of(b"1700000000000.001"), Some(1_700_000_000_000_001));
        assert_eq!(Unit::Nanos.micros_of(b"-1"), Some(-1));
        assert_eq!(Unit::Nanos.micros(-1), Some(-1));
        assert_eq!(Unit::Seconds.micros_of(b"1e40"), None);
        assert_eq!(Unit::Seconds.micros(i64::MAX), None);
    }
}
