//! Lengths of time as queries write them: `'1m'`, `'90 seconds'`,
//! `INTERVAL '1' HOUR`, `INTERVAL '1 day 6 hours'`.

use std::time::Duration;

use datafusion::sql::sqlparser::ast::{Expr, Value};
use tidegate_engine::time::micros;

/// A length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interval {
    /// In microseconds.
    Fixed(i64),
    /// As long as a calendar says.
    Months(i64),
}

/// The length that an expression stands for, if it is nothing else.
pub(super) fn of(expr: &Expr) -> Option<Interval> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => of_text(text),
            _ => None,
        },
        Expr::Interval(interval) if interval.last_field.is_none() => {
            let Expr::Value(value) = interval.value.as_ref() else { return None };
            let text = match &value.value {
                Value::SingleQuotedString(text) | Value::Number(text, _) => text,
                _ => return None,
            };
            match &interval.leading_field {
                Some(unit) => of_text(&format!("{text} {unit}")),
                None => of_text(text),
            }
        }
        Expr::Nested(inner) => of(inner),
        _ => None,
    }
}

/// Numbers with their units, one behind the other.
fn of_text(text: &str) -> Option<Interval> {
    let mut rest = text.trim();
    let (mut fixed, mut months) = (Duration::ZERO, 0_i64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.')?;
        let (unit, after) = split(after.trim_start(), char::is_alphabetic)?;
        rest = after.trim_start();
        match unit.to_lowercase().as_str() {
            "month" | "months" | "mon" => months = months.checked_add(number.parse().ok()?)?,
            "quarter" | "quarters" => {
                months = months.checked_add(number.parse::<i64>().ok()?.checked_mul(3)?)?;
            }
            "year" | "years" => {
                months = months.checked_add(number.parse::<i64>().ok()?.checked_mul(12)?)?;
            }
            unit => {
                let seconds = number.parse::<f64>().ok()? * seconds(unit)?;
                fixed = fixed.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
            }
        }
    }
    match (fixed, months) {
        (fixed, 0) => Some(Interval::Fixed(micros(fixed))),
        (Duration::ZERO, months) => Some(Interval::Months(months)),
        (_, _) => None,
    }
}

/// What a text begins with of such characters, and the rest.
fn split(text: &str, is_of: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !is_of(c)).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(piece, _)| !piece.is_empty())
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "µs" | "microsecond" | "microseconds" => 1e-6,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}

/// The length as a topology writes it.
pub(super) fn written(length_us: i64) -> String {
    let units = [
        (86_400_000_000, "d"),
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
        (1, "us"),
    ];
    let unit = units.iter().find(|(unit_us, _)| length_us != 0 && length_us % unit_us == 0);
    unit.map_or_else(|| "0s".to_owned(), |(unit_us, unit)| format!("{}{unit}", length_us / unit_us))
}

#[cfg(test)]
mod tests {
    use tidegate_engine::topology::value::parse_duration;

    use super::*;

    #[test]
    fn reads_lengths_in_every_manner() {
        let fixed = |text: &str| of_text(text);
        for (text, us) in [
            ("1m", 60_000_000),
            ("90 seconds", 90_000_000),
            ("1 day 6 hours", 108_000_000_000),
            ("1.5 Minutes", 90_000_000),
            ("250ms", 250_000),
            ("2 week", 1_209_600_000_000),
        ] {
            assert_eq!(fixed(text), Some(Interval::Fixed(us)), "{text}");
        }
        assert_eq!(fixed("1 year"), Some(Interval::Months(12)));
        for wrong in
            ["", "m", "1", "1 parsec", "-1s", "1 month 2 days", "1e9 days", "9999999999999999999999 days"]
        {
            assert_eq!(fixed(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for us in [1, 999, 1_000, 60_000_000, 59_999_999, 86_399_999_999, 86_400_000_000, 90_000_000, 0] {
            assert_eq!(parse_duration(&written(us)).map(micros), Some(us), "{}", written(us));
        }
    }
}
