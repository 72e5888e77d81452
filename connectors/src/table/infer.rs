//! The columns of a CSV file that declares none: names from its header, types
//! from its values. A column is what all its values are; text if they differ.

use arrow::array::{Array, AsArray};
use tidegate_engine::topology::node::NodeConfig;
use tidegate_engine::topology::value::{Data, Entry, Table, Text, Value};

use super::{decode, set};
use crate::format::{RowFormat, column_names, delimiter, time_of};

/// The `schema` that a file's author would have written.
pub(super) fn schema(config: &NodeConfig, bytes: &[u8]) -> Result<Data, String> {
    let delimiter = delimiter(config, &mut Vec::new());
    let names = column_names(bytes, delimiter)?;
    let mut config = config.clone();
    set(&mut config, "schema", columns(names.iter().map(|name| (name.as_str(), "string"))));
    let format = RowFormat::from_config(&config, Vec::new()).map_err(|error| error.to_string())?;
    let rows = decode(&format, bytes).map_err(|reason| format!("line {reason}"))?;
    let types = rows.columns().iter().map(|column| type_of(column.as_ref()));
    Ok(columns(names.iter().map(String::as_str).zip(types)))
}

fn columns<'a>(columns: impl Iterator<Item = (&'a str, &'a str)>) -> Data {
    let entries = columns.map(|(name, kind)| Entry {
        key: name.to_owned(),
        key_span: 0..0,
        value: Value { span: 0..0, data: Data::Text(Text::loose(kind)) },
    });
    Data::Table(Table { span: 0..0, entries: entries.collect() })
}

type Test = fn(&str) -> bool;

/// The narrowest type that holds every value; a column without values is text.
fn type_of(column: &dyn Array) -> &'static str {
    let texts = || column.as_string::<i32>().iter().flatten();
    let all = |fits: Test| texts().next().is_some() && texts().all(fits);
    let types: [(&'static str, Test); 5] = [
        ("int64", |text| is_plain(text) && text.parse::<i64>().is_ok()),
        ("float64", |text| is_plain(text) && text.parse::<f64>().is_ok_and(f64::is_finite)),
        ("bool", |text| matches!(text, "true" | "false")),
        ("timestamp", |text| time_of(text).is_some()),
        ("date", |text| text.len() == 10 && time_of(&format!("{text}T00:00:00Z")).is_some()),
    ];
    types.into_iter().find(|(_, fits)| all(*fits)).map_or("string", |(name, _)| name)
}

/// Digits as people write numbers: `007` and `+1` are names, not numbers.
fn is_plain(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let mut chars = digits.chars();
    let (first, second) = (chars.next(), chars.next());
    let number = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+'));
    number
        && first.is_some_and(|c| c.is_ascii_digit())
        && !(first == Some('0') && second.is_some_and(|c| c.is_ascii_digit()))
}
