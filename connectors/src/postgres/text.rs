//! Rows as PostgreSQL reads them: the text format of COPY, and arrays of texts
//! for an upsert, in which the last row of each key stands for all of them.
//! Pure.

use std::collections::HashSet;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::FormatOptions;
use tidegate_engine::time::time_type;

use crate::sql_table::Texts;

/// Rows in the text format of COPY.
///
/// # Errors
/// A value that cannot be printed.
pub(super) fn copy_text(rows: &RecordBatch) -> Result<String, String> {
    let (arrays, options) = (simplified(rows)?, FormatOptions::default());
    let columns = texts(&arrays, &options)?;
    let (mut out, mut value) = (String::new(), String::new());
    for row in 0..rows.num_rows() {
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.push('\t');
            }
            value.clear();
            if column.append(row, &mut value)? { escape(&value, &mut out) } else { out.push_str("\\N") }
        }
        out.push('\n');
    }
    Ok(out)
}

fn escape(value: &str, out: &mut String) {
    let mut rest = value;
    while let Some((before, found, behind)) = cut(rest) {
        out.push_str(before);
        out.push('\\');
        out.push(match found {
            '\n' => 'n',
            '\r' => 'r',
            '\t' => 't',
            other => other,
        });
        rest = behind;
    }
    out.push_str(rest);
}

fn cut(text: &str) -> Option<(&str, char, &str)> {
    let at = text.find(['\\', '\n', '\r', '\t'])?;
    let (before, rest) = text.split_at(at);
    let mut chars = rest.chars();
    let found = chars.next()?;
    Some((before, found, chars.as_str()))
}

/// The columns of rows as texts, without rows whose key comes again. Keys with
/// NULL in them are never the same.
///
/// # Errors
/// A value that cannot be printed.
pub(super) fn last_of_each_key(
    rows: &RecordBatch,
    key: &[String],
) -> Result<Vec<Vec<Option<String>>>, String> {
    let (arrays, options) = (simplified(rows)?, FormatOptions::default());
    let columns = texts(&arrays, &options)?;
    let schema = rows.schema();
    let of_key: Vec<usize> = key.iter().filter_map(|name| schema.index_of(name).ok()).collect();
    let mut all: Vec<Vec<Option<String>>> = Vec::with_capacity(columns.len());
    for column in &columns {
        let text = |row| {
            let mut text = String::new();
            Ok(column.append(row, &mut text)?.then_some(text))
        };
        all.push((0..rows.num_rows()).map(text).collect::<Result<_, String>>()?);
    }
    let mut seen = HashSet::new();
    let mut is_kept = vec![true; rows.num_rows()];
    for (row, is_kept) in is_kept.iter_mut().enumerate().rev() {
        let value = |column: &usize| all.get(*column)?.get(row)?.as_deref();
        if let Some(key) = of_key.iter().map(value).collect::<Option<Vec<&str>>>() {
            *is_kept = seen.insert(key);
        }
    }
    drop(seen);
    for column in &mut all {
        let mut kept = is_kept.iter();
        column.retain(|_| kept.next().copied().unwrap_or(true));
    }
    Ok(all)
}

fn texts<'a>(arrays: &'a [ArrayRef], options: &'a FormatOptions<'a>) -> Result<Vec<Texts<'a>>, String> {
    arrays.iter().map(|array| Texts::new(array, options)).collect()
}

/// Columns in types that print as PostgreSQL reads them.
#[allow(clippy::wildcard_enum_match_arm, reason = "all others do")]
fn simplified(rows: &RecordBatch) -> Result<Vec<ArrayRef>, String> {
    let simplify = |column: &ArrayRef| {
        let to = match column.data_type() {
            DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
            DataType::Timestamp(unit, Some(_)) if *unit != TimeUnit::Microsecond => time_type(),
            _ => return Ok(ArrayRef::clone(column)),
        };
        cast(column, &to).map_err(|error| error.to_string())
    };
    rows.columns().iter().map(simplify).collect()
}

/// The type of a column of a table that we make.
#[allow(clippy::wildcard_enum_match_arm, reason = "all others are text")]
pub(super) fn type_of(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 => "numeric(20)",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "bytea",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Date32 => "date",
        DataType::Decimal128(precision, scale) => return format!("numeric({precision}, {scale})"),
        _ => "text",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    #[test]
    fn copy_writes_what_the_manual_says() {
        let columns: [(&str, ArrayRef); 5] = [
            ("n", Arc::new(Int64Array::from(vec![Some(-1), None]))),
            ("t", Arc::new(StringArray::from(vec!["a\tb\\c\nd\re", "\\N"]))),
            ("f", Arc::new(Float64Array::from(vec![1e300, f64::NAN]))),
            ("b", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], &b""[..]]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, -1]).with_timezone("UTC"))),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("equal lengths");
        let expected = "-1\ta\\tb\\\\c\\nd\\re\t1e300\t\\\\x00ff\t1970-01-01T00:00:00.000000Z\n\
                        \\N\t\\\\N\tNaN\t\\\\x\t1969-12-31T23:59:59.999999Z\n";
        assert_eq!(copy_text(&rows).expect("prints"), expected);
    }

    #[test]
    fn the_last_row_of_each_key_stands_for_all() {
        let columns: [(&str, ArrayRef); 2] = [
            ("k", Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("a"), None]))),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("equal lengths");
        let kept = last_of_each_key(&rows, &["k".into()]).expect("prints");
        let numbers: Vec<&str> = kept[1].iter().flatten().map(String::as_str).collect();
        assert_eq!(numbers, ["2", "3", "4", "5"]);
        assert_eq!(kept[0], [Some("b".to_owned()), None, Some("a".to_owned()), None]);
    }
}
