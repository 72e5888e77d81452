//! TOML values that remember where they stand in the file.

use std::time::Duration;

use crate::diagnostic::Span;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its bytes in the file, quotes included.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A string, with `${VAR}` already replaced.
    Text(Text),
    /// A whole number.
    Int(i64),
    /// A number with a point.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A date or time of TOML's own; the topology language has none.
    Datetime,
    /// An array.
    List(Vec<Value>),
    /// A table.
    Table(Table),
}

/// Text with its place, so that an error inside it has a column of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text.
    pub value: String,
    /// The whole value in the file, quotes included.
    pub span: Span,
    /// Where the text's first byte stands in the file; `None` if the file's
    /// bytes differ from the text (escapes, `${VAR}`).
    pub starts_at: Option<usize>,
}

impl Text {
    /// Text that stands in no file.
    #[must_use]
    pub fn loose(value: impl Into<String>) -> Text {
        Text { value: value.into(), span: 0..0, starts_at: None }
    }

    /// The file's bytes for `range` of this text; the whole value where the
    /// two do not line up.
    #[must_use]
    pub fn span_of(&self, range: Span) -> Span {
        match self.starts_at {
            Some(start) => start + range.start..start + range.end,
            None => self.span.clone(),
        }
    }

    /// The part `range` (bytes) of this text, keeping its place.
    #[must_use]
    pub fn part(&self, range: Span) -> Text {
        Text {
            value: self.value.get(range.clone()).unwrap_or_default().to_owned(),
            span: self.span_of(range.clone()),
            starts_at: self.starts_at.map(|start| start + range.start),
        }
    }
}

/// A table, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The header or braces.
    pub span: Span,
    /// Keys and values.
    pub entries: Vec<Entry>,
}

/// One line of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Its value.
    pub value: Value,
}

impl Value {
    /// The text, if it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&Text> {
        if let Data::Text(text) = &self.data { Some(text) } else { None }
    }

    /// The whole number, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Data::Int(value) = self.data { Some(value) } else { None }
    }

    /// The table, if it is one.
    #[must_use]
    pub fn as_table(&self) -> Option<&Table> {
        if let Data::Table(table) = &self.data { Some(table) } else { None }
    }

    /// The number, whole or not.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a number in a file is meant as the nearest float")]
    pub fn as_number(&self) -> Option<f64> {
        match &self.data {
            Data::Int(value) => Some(*value as f64),
            Data::Float(value) => Some(*value),
            Data::Text(_) | Data::Bool(_) | Data::Datetime | Data::List(_) | Data::Table(_) => None,
        }
    }

    /// The items of an array; a single value counts as an array of one.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        if let Data::List(items) = &self.data { items } else { std::slice::from_ref(self) }
    }
}

/// Reading a table whose keys were checked against its `Key` table before:
/// each reader answers `None` where the key is absent.
impl Table {
    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Where the key's value stands; the table's own place if it is absent.
    #[must_use]
    pub fn span_of(&self, key: &str) -> Span {
        self.get(key).map_or_else(|| self.span.clone(), |value| value.span.clone())
    }

    /// Text with its place.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&Text> {
        self.get(key).and_then(Value::as_text)
    }

    /// Text without its place.
    #[must_use]
    pub fn str(&self, key: &str) -> Option<&str> {
        self.text(key).map(|text| text.value.as_str())
    }

    /// Every text of an array, or the one text.
    #[must_use]
    pub fn texts(&self, key: &str) -> Vec<&Text> {
        let items = self.get(key).map(Value::items).unwrap_or_default();
        items.iter().filter_map(Value::as_text).collect()
    }

    /// A whole number.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        if let Some(Data::Int(value)) = self.get(key).map(|value| &value.data) { Some(*value) } else { None }
    }

    /// A whole number that its `Kind::Int` range keeps within the type asked for.
    #[must_use]
    pub fn int_as<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        self.int(key).and_then(|value| T::try_from(value).ok())
    }

    /// A number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_number)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        if let Some(Data::Bool(value)) = self.get(key).map(|value| &value.data) { Some(*value) } else { None }
    }

    /// A time.
    #[must_use]
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.str(key).and_then(parse_duration)
    }

    /// A size in bytes.
    #[must_use]
    pub fn size(&self, key: &str) -> Option<u64> {
        self.str(key).and_then(parse_size)
    }

    /// A table.
    #[must_use]
    pub fn table(&self, key: &str) -> Option<&Table> {
        self.get(key).and_then(Value::as_table)
    }

    /// Every table of an array, or the one table.
    #[must_use]
    pub fn tables(&self, key: &str) -> Vec<&Table> {
        let items = self.get(key).map(Value::items).unwrap_or_default();
        items.iter().filter_map(Value::as_table).collect()
    }
}

/// A time such as `250ms`, `1.5s`, `5m`, `48h`, `30d`; `us` and `ns` too.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let seconds = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

/// A size such as `64KiB`, `4MiB`, `1GiB`, `500B`, `10MB`, in bytes.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be in range just before"
)]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let bytes = number
        * match unit {
            "B" => 1.0,
            "KB" | "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "KiB" => 1_024.0,
            "MiB" => 1_048_576.0,
            "GiB" => 1_073_741_824.0,
            "TiB" => 1_099_511_627_776.0,
            _ => return None,
        };
    // Above 2^53 a float no longer counts single bytes; no store here is that large.
    (0.0..=9_007_199_254_740_992.0).contains(&bytes).then(|| bytes.round() as u64)
}

/// A rate such as `10/s` or `100/m`: events per second.
#[must_use]
pub fn parse_rate(text: &str) -> Option<f64> {
    let (count, unit) = text.split_once('/')?;
    let count: f64 = count.trim().parse().ok()?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    (count.is_finite() && count > 0.0).then_some(count / seconds)
}

fn split_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    Some((number.parse().ok()?, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_sizes_and_rates() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_duration("30d"), Some(Duration::from_secs(2_592_000)));
        for wrong in ["10", "s", "-1s", "10 parsecs", "1e9999d", ""] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
        assert_eq!(parse_size("4MiB"), Some(4_194_304));
        assert_eq!(parse_size("4 potatoes"), None);
        assert_eq!(parse_rate("120/m"), Some(2.0));
        assert_eq!(parse_rate("0/s"), None);
    }

    #[test]
    fn a_part_of_a_text_knows_its_place() {
        let text = Text { value: "a > 1".into(), span: 10..17, starts_at: Some(11) };
        assert_eq!(text.span_of(4..5), 15..16);
        let escaped = Text { starts_at: None, ..text };
        assert_eq!(escaped.span_of(4..5), 10..17);
    }
}
