//! What a written value means for a column of some type. One place for JSON,
//! CSV and coercion, so that the formats cannot disagree. A refused value
//! leaves the column as it was.

use std::borrow::Cow;

use crate::format::column::{Column, Data};
use crate::format::instant::{date, rfc3339};
use crate::format::number::{Decimal, float32, float64, integer};

/// A value as its format wrote it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Written<'a> {
    /// `null`, or an empty cell.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number of the JSON grammar.
    Number(&'a str),
    /// Text, escapes resolved.
    Text(Cow<'a, str>),
    /// An object or array, as it stands.
    Nested(&'a str),
    /// A CSV cell: the column's type says what it is.
    Cell(&'a str),
    /// A CSV cell of two quotes: text of no length, NULL for other types.
    EmptyText,
}

/// Characters of a value that a reason shows.
const SHOWN_CHARS: usize = 60;

impl Column {
    /// Appends a value if it has the column's type.
    ///
    /// # Errors
    /// Why it has not; the column is unchanged.
    pub(crate) fn push(&mut self, value: &Written<'_>, coerce: bool) -> Result<(), String> {
        let taken = match value {
            Written::Null | Written::Cell("") => {
                self.push_null();
                return Ok(());
            }
            Written::Bool(value) => self.data.push_bool(*value, coerce),
            Written::Number(text) => self.data.push_number(text, coerce),
            Written::Text(text) => self.data.push_text(text, coerce),
            Written::Nested(text) => self.data.push_nested(text, coerce),
            Written::Cell(text) => self.data.push_cell(text, coerce),
            Written::EmptyText => match &mut self.data {
                Data::Text(bytes) | Data::Bytes(bytes) => bytes.push(b""),
                Data::Bool(_)
                | Data::Int(..)
                | Data::UInt64(_)
                | Data::Float32(_)
                | Data::Float64(_)
                | Data::Time(..)
                | Data::Date(_)
                | Data::Decimal(..) => {
                    self.push_null();
                    return Ok(());
                }
            },
        };
        if taken.is_none() {
            return Err(format!("{} is no {}", show(value), self.data.word()));
        }
        self.validity.append_non_null();
        Ok(())
    }
}

fn show(value: &Written<'_>) -> String {
    let (text, quote) = match value {
        Written::Null => ("null", ""),
        Written::EmptyText => ("", "\""),
        Written::Bool(value) => (if *value { "true" } else { "false" }, ""),
        Written::Number(text) | Written::Nested(text) => (*text, ""),
        Written::Text(text) => (text.as_ref(), "\""),
        Written::Cell(text) => (*text, "\""),
    };
    let mut chars = text.chars();
    let shown: String = chars.by_ref().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("{quote}{shown}{more}{quote}")
}

impl Data {
    fn push_bool(&mut self, value: bool, coerce: bool) -> Option<()> {
        match self {
            Data::Bool(values) => {
                values.append(value);
                Some(())
            }
            Data::Text(bytes) if coerce => bytes.push(if value { b"true" } else { b"false" }),
            Data::Int(values, _) if coerce => {
                values.push(i64::from(value));
                Some(())
            }
            Data::Int(..)
            | Data::UInt64(_)
            | Data::Float32(_)
            | Data::Float64(_)
            | Data::Text(_)
            | Data::Bytes(_)
            | Data::Time(..)
            | Data::Date(_)
            | Data::Decimal(..) => None,
        }
    }

    fn push_number(&mut self, text: &str, coerce: bool) -> Option<()> {
        let number = text.as_bytes();
        match self {
            Data::Int(values, kind) => {
                let (low, high) = kind.range();
                let value = i64::try_from(integer(number)?).ok()?;
                values.push(Some(value).filter(|value| (low..=high).contains(value))?);
            }
            Data::UInt64(values) => values.push(u64::try_from(integer(number)?).ok()?),
            Data::Float32(values) => values.push(float32(number)?),
            Data::Float64(values) => values.push(float64(number)?),
            Data::Time(values, Some(unit)) => values.push(unit.micros_of(number)?),
            Data::Decimal(values, precision, scale) => {
                let value = Decimal::parse(number)?.scaled(i32::from(*scale))?;
                let limit = 10_u128.pow(u32::from(*precision));
                values.push(Some(value).filter(|value| value.unsigned_abs() < limit)?);
            }
            Data::Text(bytes) if coerce => bytes.push(number)?,
            Data::Bool(values) if coerce => values.append(match integer(number)? {
                0 => false,
                1 => true,
                _ => return None,
            }),
            Data::Text(_) | Data::Bool(_) | Data::Bytes(_) | Data::Time(_, None) | Data::Date(_) => {
                return None;
            }
        }
        Some(())
    }

    fn push_text(&mut self, text: &str, coerce: bool) -> Option<()> {
        match self {
            Data::Text(bytes) => bytes.push(text.as_bytes()),
            Data::Bytes(bytes) => bytes.push(&from_hex(text)?),
            Data::Time(values, None) => {
                values.push(rfc3339(text)?);
                Some(())
            }
            Data::Date(values) => {
                values.push(date(text)?);
                Some(())
            }
            // Exact amounts often travel as text, because JSON readers turn numbers into floats.
            Data::Decimal(..) => self.push_number(text, false),
            Data::Bool(_)
            | Data::Int(..)
            | Data::UInt64(_)
            | Data::Float32(_)
            | Data::Float64(_)
            | Data::Time(_, Some(_)) => {
                if coerce {
                    self.push_cell(text.trim(), true)
                } else {
                    None
                }
            }
        }
    }

    fn push_nested(&mut self, text: &str, coerce: bool) -> Option<()> {
        match self {
            Data::Text(bytes) if coerce => bytes.push(text.as_bytes()),
            Data::Text(_)
            | Data::Bool(_)
            | Data::Int(..)
            | Data::UInt64(_)
            | Data::Float32(_)
            | Data::Float64(_)
            | Data::Bytes(_)
            | Data::Time(..)
            | Data::Date(_)
            | Data::Decimal(..) => None,
        }
    }

    fn push_cell(&mut self, text: &str, coerce: bool) -> Option<()> {
        match self {
            Data::Bool(_) if text.eq_ignore_ascii_case("true") => self.push_bool(true, coerce),
            Data::Bool(_) if text.eq_ignore_ascii_case("false") => self.push_bool(false, coerce),
            Data::Text(_) | Data::Bytes(_) | Data::Time(_, None) | Data::Date(_) => {
                self.push_text(text, coerce)
            }
            Data::Bool(_)
            | Data::Int(..)
            | Data::UInt64(_)
            | Data::Float32(_)
            | Data::Float64(_)
            | Data::Time(_, Some(_))
            | Data::Decimal(..) => self.push_number(text, coerce),
        }
    }
}

/// Bytes of hexadecimal text, two digits a byte.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_engine::schema::parse_type;

    use crate::format::spec::ColumnSpec;

    /// Whether a column of the type takes the value, strictly and with coercion.
    fn takes(kind: &str, value: &Written<'_>) -> (bool, bool) {
        let column = || Column::new(&ColumnSpec::plain("a", parse_type(kind).expect("a type")));
        (column().push(value, false).is_ok(), column().push(value, true).is_ok())
    }

    #[test]
    fn types_are_strict_unless_told_otherwise() {
        let text = |text: &'static str| Written::Text(text.into());
        for (kind, value, expected) in [
            ("int64", Written::Number("1e3"), (true, true)),
            ("int64", Written::Number("1.5"), (false, false)),
            ("int8", Written::Number("128"), (false, false)),
            ("uint8", Written::Number("-1"), (false, false)),
            ("uint64", Written::Number("18446744073709551615"), (true, true)),
            ("uint64", Written::Number("18446744073709551616"), (false, false)),
            ("float64", Written::Number("1e999"), (false, false)),
            ("float64", text(" 1.5 "), (false, true)),
            ("float64", text("NaN"), (false, false)),
            ("string", Written::Number("1"), (false, true)),
            ("string", Written::Nested("[1]"), (false, true)),
            ("bool", Written::Number("1"), (false, true)),
            ("bool", Written::Number("2"), (false, false)),
            ("bool", Written::Cell("TRUE"), (true, true)),
            ("bytes", text("00fF"), (true, true)),
            ("bytes", text("0"), (false, false)),
            ("date", text("2024-02-29"), (true, true)),
            ("timestamp", text("2024-02-29T00:00:00Z"), (true, true)),
            ("timestamp", Written::Number("1"), (false, false)),
            ("decimal(4,2)", Written::Number("99.99"), (true, true)),
            ("decimal(4,2)", Written::Number("100"), (false, false)),
            ("decimal(4,2)", Written::Number("1.001"), (false, false)),
            ("decimal(4,2)", text("1.10"), (true, true)),
        ] {
            assert_eq!(takes(kind, &value), expected, "{kind} {value:?}");
        }
    }

    #[test]
    fn a_reason_names_the_value_and_is_short() {
        let mut column = Column::new(&ColumnSpec::plain("a", parse_type("int64").expect("a type")));
        let long = "x\n".repeat(100);
        let reason = column.push(&Written::Text(long.into()), false).expect_err("is no number");
        assert!(reason.starts_with("\"x\\nx") && reason.ends_with("…\" is no int64"), "{reason}");
        assert!(reason.len() < 150, "{reason}");
        assert_eq!(column.len(), 0);
    }
}
