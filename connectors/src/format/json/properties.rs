//! The reader against other readers, on random and on damaged rows: serde_json
//! says what is JSON, arrow-json which values a row has.
//!
//! Deliberate differences to arrow-json, which is more lenient: text is no
//! number (`"5"` for int64), a fraction is no integer (`1.5`; it cuts it off),
//! `60000000000105e4` is that integer exactly (it rounds),
//! what overflows a type is refused (`1e999` is not infinity), and only what
//! RFC 8259 calls JSON is read (`01`, a raw tab in text). One more: one bad row
//! is one bad row; it gives up the batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use serde_json::value::RawValue;

use crate::format::testing::{format, shown};

const SCHEMA: &str = "schema = { b = \"bool\", i = \"int64\", u = \"uint16\", f = \"float64\", g = \"float32\", s = \"string\" }";

fn arrow_schema() -> Schema {
    let columns = [
        ("b", DataType::Boolean),
        ("i", DataType::Int64),
        ("u", DataType::UInt16),
        ("f", DataType::Float64),
        ("g", DataType::Float32),
        ("s", DataType::Utf8),
    ];
    Schema::new(columns.map(|(name, kind)| Field::new(name, kind, true)).to_vec())
}

/// The row as arrow-json reads it; `None` if it refuses it.
fn arrow_json(line: &[u8]) -> Option<String> {
    let mut decoder =
        arrow_json::ReaderBuilder::new(Arc::new(arrow_schema())).build_decoder().expect("a schema");
    decoder.decode(line).ok()?;
    let batch: RecordBatch = decoder.flush().ok()??;
    shown(&batch).pop()
}

/// Whether the row is one JSON object whose values have exactly the columns'
/// types, by serde_json's syntax and the standard library's numbers.
fn is_right(line: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(line) else { return false };
    members.iter().all(|(name, raw)| {
        let raw = raw.get();
        let number =
            |low: f64, high: f64| raw.parse::<f64>().is_ok_and(|value| value >= low && value <= high);
        raw == "null"
            || match name.as_str() {
                "b" => raw == "true" || raw == "false",
                "i" => whole(raw).is_some_and(|value| i64::try_from(value).is_ok()),
                "u" => whole(raw).is_some_and(|value| u16::try_from(value).is_ok()),
                "f" => number(f64::MIN, f64::MAX),
                "g" => raw.parse::<f32>().is_ok_and(f32::is_finite),
                "s" => raw.starts_with('"') && serde_json::from_str::<String>(raw).is_ok(),
                _ => true,
            }
    })
}

/// The whole number that a JSON number is, by moving its point in the text.
fn whole(raw: &str) -> Option<i128> {
    let (mantissa, exponent) = raw.split_once(['e', 'E']).unwrap_or((raw, "0"));
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let places = exponent.parse::<i64>().ok()? - i64::try_from(after.len()).ok()?;
    let digits = format!("{before}{after}");
    if digits.trim_start_matches('-').bytes().all(|digit| digit == b'0') {
        return Some(0);
    }
    match usize::try_from(places) {
        Ok(zeros) if zeros < 40 => format!("{digits}{}", "0".repeat(zeros)).parse().ok(),
        Ok(_) => None,
        Err(_) => {
            let cut = digits.len().checked_sub(usize::try_from(-places).ok()?)?;
            let (kept, fraction) = digits.split_at(cut);
            fraction.bytes().all(|digit| digit == b'0').then(|| kept.parse().ok())?
        }
    }
}

/// Whether arrow-json reads the integer of a right row through a float that
/// cannot hold it.
fn is_rounded(line: &[u8]) -> bool {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(line).expect("a right row");
    let raw = members.get("i").map_or("0", |raw| raw.get());
    raw.contains(['.', 'e', 'E']) && whole(raw).is_some_and(|value| value.unsigned_abs() > 1 << 53)
}

/// Reads lines and compares every row with the oracles.
fn check(lines: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let mut decoder = format(SCHEMA).stream_decoder();
    decoder.decode(&lines.join(&b'\n'), &|index| index.to_string());
    let decoded = decoder.finish();
    let mut rows = shown(&decoded.batch).into_iter();
    let mut bad = decoded.bad.into_iter().peekable();
    for (index, line) in lines.iter().enumerate() {
        let text = String::from_utf8_lossy(line).into_owned();
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            continue;
        }
        if bad.next_if(|row| row.position == index.to_string()).is_some() {
            prop_assert!(!is_right(line), "refused {text}");
            continue;
        }
        prop_assert!(is_right(line), "took {text}");
        let row = rows.next();
        prop_assert!(row.is_some(), "lost {text}");
        if !is_rounded(line) {
            prop_assert_eq!(row, arrow_json(line), "{}", text);
        }
    }
    prop_assert_eq!((rows.next(), bad.next()), (None, None));
    Ok(())
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|value| value.to_string()),
        (0..70_000_i32).prop_map(|value| value.to_string()),
        (-9_999_i32..9_999, 0..4_u32).prop_map(|(value, digits)| {
            format!("{}", f64::from(value) / 10_f64.powi(digits.cast_signed()))
        }),
        any::<f64>()
            .prop_filter("JSON has no such number", |value| value.is_finite())
            .prop_map(|value| format!("{value:e}")),
        any::<f32>()
            .prop_filter("JSON has no such number", |value| value.is_finite())
            .prop_map(|value| value.to_string()),
        "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,22})?([eE][-+]?[0-9]{1,2})?",
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9 _.-]{0,20}".prop_map(|text| format!("\"{text}\"")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("text")),
        "(\\\\u00[0-9a-f]{2}|\\\\[\"nrt/]|é|𝄞|x){0,6}".prop_map(|text| format!("\"{text}\"")),
    ]
}

fn value(name: &str) -> BoxedStrategy<String> {
    let right = match name {
        "b" => prop_oneof![Just("true".to_owned()), Just("false".to_owned())].boxed(),
        "i" => any::<i64>().prop_map(|value| value.to_string()).boxed(),
        "u" => any::<u16>().prop_map(|value| value.to_string()).boxed(),
        "f" | "g" => number().boxed(),
        "s" => text().boxed(),
        _ => prop_oneof![
            Just("[1,{\"a\":[]}, \"}\"]".to_owned()),
            Just("{\"b\":true,\"x\":{}}".to_owned()),
            number(),
            text(),
        ]
        .boxed(),
    };
    prop_oneof![
        20 => right,
        1 => Just("null".to_owned()),
        1 => prop_oneof![number(), text(), Just("[]".to_owned()), Just("true".to_owned())],
    ]
    .boxed()
}

fn member() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("b"),
        Just("i"),
        Just("u"),
        Just("f"),
        Just("g"),
        Just("s"),
        Just("other"),
        Just("né")
    ];
    let spaced = ("[ \t]{0,1}", "[ \t]{0,1}", "[ \t]{0,1}");
    (name, spaced).prop_flat_map(|(name, (a, b, c))| {
        value(name).prop_map(move |value| format!("{a}\"{name}\"{b}:{c}{value}"))
    })
}

/// A row with any members, or the layout that most rows of a stream share.
fn row() -> impl Strategy<Value = Vec<u8>> {
    let any_layout =
        proptest::collection::vec(member(), 0..8).prop_map(|members| format!("{{{}}}", members.join(",")));
    let usual = (value("s"), value("i"), value("f"), value("b"))
        .prop_map(|(s, i, f, b)| format!("{{\"s\":{s},\"i\":{i},\"f\":{f},\"b\":{b}}}"));
    prop_oneof![1 => any_layout, 2 => usual].prop_map(String::into_bytes)
}

/// A row after a few bytes were changed, removed or added.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => proptest::sample::select(&b"{}[]\",:\\tn0-.eE \t+\r/u"[..]),
        1 => any::<u8>().prop_filter("a line end makes two rows", |byte| *byte != b'\n'),
    ];
    let change = (any::<proptest::sample::Index>(), byte, 0..3);
    (row(), proptest::collection::vec(change, 0..3)).prop_map(|(mut row, changes)| {
        for (at, byte, kind) in changes {
            let at = at.index(row.len() + 1);
            match kind {
                0 if at < row.len() => row[at] = byte,
                1 if at < row.len() => {
                    row.remove(at);
                }
                _ => row.insert(at, byte),
            }
        }
        row
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_rows_are_read_as_others_read_them(rows in proptest::collection::vec(row(), 1..8)) {
        check(&rows)?;
    }

    #[test]
    fn damaged_rows_are_refused_as_others_refuse_them(rows in proptest::collection::vec(damaged(), 1..8)) {
        // A line that became an array is rows of its own: `tests` has those.
        let array = |row: &Vec<u8>| row.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) == Some(&b'[');
        let rows: Vec<_> = rows.into_iter().filter(|row| !array(row)).collect();
        check(&rows)?;
    }
}
