//! Values taken back in any order, with a restart between any two.

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use proptest::prelude::*;
use tidegate_engine::changelog::changelog_of;
use tidegate_engine::operator::{OperatorPart, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::Time;

use crate::kit::{build_on, row_lines};
use crate::oracle::sql;
use crate::table::{applied, parts};

/// A changelog of rows `k, v, x`.
fn changes() -> StreamSchema {
    changelog_of(vec![
        Field::new("k", DataType::Utf8, true),
        Field::new("v", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
    ])
}

/// Word, key and value; the third column is the value less a half.
type Step = (&'static str, &'static str, Option<i64>);

fn rows(steps: &[Step], at_us: i64) -> RecordBatch {
    let times: Vec<i64> = (0..).zip(steps).map(|(index, _)| at_us + index).collect();
    let columns: Vec<ArrayRef> = vec![
        std::sync::Arc::new(steps.iter().map(|step| Some(step.1)).collect::<StringArray>()),
        std::sync::Arc::new(steps.iter().map(|step| step.2).collect::<Int64Array>()),
        std::sync::Arc::new(
            steps.iter().map(|step| step.2.map(|v| v as f64 - 0.5)).collect::<Float64Array>(),
        ),
        std::sync::Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        std::sync::Arc::new(StringArray::from_iter_values(steps.iter().map(|step| step.0))),
    ];
    RecordBatch::try_new(changes().columns, columns).expect("columns of the schema")
}

fn aggregate(select: &str) -> String {
    format!("[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"k\"]\nselect = [{select}]\n")
}

/// Feeds pieces of steps, each with a restart before it if `restart`; lines by port.
fn fed(text: &str, pieces: &[&[Step]], restart: bool) -> Vec<Vec<String>> {
    let build = || build_on(&changes(), text);
    let mut part: OperatorPart = build();
    let mut lines: Vec<Vec<String>> = part.ports.iter().map(|_| Vec::new()).collect();
    let mut at_us = 0;
    for piece in pieces {
        let mut out = Output::default();
        part.operator.on_batch(0, &rows(piece, at_us), &mut out).expect("takes rows");
        at_us += 1_000;
        part.operator.on_watermark(Time(at_us), &mut out).expect("takes a watermark");
        for (port, batch) in out.drain() {
            lines[port].extend(row_lines(&batch));
        }
        if restart {
            let state = part.operator.snapshot().expect("snapshots");
            part = build();
            part.operator.restore(state).expect("restores");
        }
    }
    lines
}

/// What stands in the end, the same in one piece, in pieces of one row and with
/// a restart between any two.
fn stands(select: &str, steps: &[Step]) -> Vec<String> {
    let text = aggregate(select);
    let single: Vec<&[Step]> = steps.chunks(1).collect();
    let all: Vec<Vec<String>> = [(vec![steps], false), (single.clone(), false), (single, true)]
        .into_iter()
        .map(|(pieces, restart)| applied(&fed(&text, &pieces, restart)[0], &[0]))
        .collect();
    assert_eq!(all[0], all[1]);
    assert_eq!(all[1], all[2], "with restarts");
    all[2].clone()
}

fn given(values: &[i64]) -> Vec<Step> {
    values.iter().map(|value| ("+I", "k", Some(*value))).collect()
}

#[test]
fn out_of_order() {
    let back = |value| ("-D", "k", Some(value));
    let mut steps = given(&[5, 3]);
    steps.push(back(3));
    assert_eq!(stands("\"max(v) AS m\"", &steps), ["k 5"]);
    let mut steps = given(&[5, 5]);
    steps.push(back(5));
    assert_eq!(stands("\"count(*) AS c\", \"max(v) AS m\"", &steps), ["k 1 5"]);
    let mut steps = given(&[1, 2, 3]);
    steps.push(back(2));
    assert_eq!(stands("\"array_agg(v) AS all\"", &steps), ["k [1, 3]"]);
    let mut steps = given(&[1, 2, 9]);
    steps.push(back(1));
    assert_eq!(stands("\"median(x) AS mid\"", &steps), ["k 5.0"]);
    // Largest first, smallest last, everything, and again.
    let mut steps = given(&[4, 8, 6]);
    steps.extend([back(8), back(4)]);
    assert_eq!(stands("\"min(v) AS lo\", \"max(v) AS hi\"", &steps), ["k 6 6"]);
    steps.push(back(6));
    assert_eq!(stands("\"min(v) AS lo\", \"max(v) AS hi\"", &steps), Vec::<String>::new());
    steps.push(("+I", "k", Some(7)));
    assert_eq!(stands("\"min(v) AS lo\", \"max(v) AS hi\"", &steps), ["k 7 7"]);
}

const ALL: &str = "\"count(*) AS c\", \"count(v) AS n\", \"sum(v) AS s\", \"sum(x) AS f\", \"avg(v) AS a\", \"min(v) AS lo\", \
     \"max(x) AS hi\", \"count(DISTINCT v) AS d\", \"median(x) AS mid\", \"sum(v) FILTER (WHERE v > 3) AS up\", \
     \"sum(arrow_cast(v, 'Decimal128(10, 2)')) AS dec\", \"max(arrow_cast(v, 'Utf8')) AS text\"";
const ALL_SQL: &str = "SELECT k, count(*), count(v), sum(v), sum(x), avg(v), min(v), max(x), count(DISTINCT v), median(x), \
     sum(v) FILTER (WHERE v > 3), sum(arrow_cast(v, 'Decimal128(10, 2)')), max(arrow_cast(v, 'Utf8')) FROM rows GROUP BY k";

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows come, and any of those that are there goes: what is left decides.
    #[test]
    fn any_order_gives_what_is_left(
        steps in prop::collection::vec((any::<bool>(), 0..3_usize, prop::option::of(0..8_i64), any::<prop::sample::Index>()), 1..60),
        cut in 1..9_usize,
        restart in any::<bool>(),
    ) {
        let mut live: Vec<(&str, Option<i64>)> = Vec::new();
        let mut given: Vec<Step> = Vec::new();
        for (goes, key, value, index) in steps {
            if goes && !live.is_empty() {
                let (key, value) = live.remove(index.index(live.len()));
                given.push((if value.is_none() { "-D" } else { "-U" }, key, value));
            } else {
                let key = ["a", "b", "c"][key];
                live.push((key, value));
                given.push((if value.is_none() { "+I" } else { "+U" }, key, value));
            }
        }
        let pieces: Vec<&[Step]> = given.chunks(cut).collect();
        let lines = fed(&aggregate(ALL), &pieces, restart);
        let left: Vec<Step> = live.into_iter().map(|(key, value)| ("+I", key, value)).collect();
        let expected = if left.is_empty() { Vec::new() } else { sql(&rows(&left, 0), ALL_SQL) };
        prop_assert_eq!(applied(&lines[0], &[0]), expected);
        prop_assert!(lines[1].is_empty());
    }
}

#[test]
fn what_is_not_finite_leaves_no_trace() {
    let stream = changelog_of(vec![Field::new("x", DataType::Float64, true)]);
    let rows = |values: &[f64], word: &str, at_us: i64| {
        let columns: Vec<ArrayRef> = vec![
            std::sync::Arc::new(Float64Array::from(values.to_vec())),
            std::sync::Arc::new(
                TimestampMicrosecondArray::from(vec![at_us; values.len()]).with_timezone("UTC"),
            ),
            std::sync::Arc::new(StringArray::from(vec![word; values.len()])),
        ];
        RecordBatch::try_new(stream.columns.clone(), columns).expect("columns")
    };
    let text =
        "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nselect = [\"sum(x) AS s\", \"avg(x) AS a\"]\n";
    let mut part = build_on(&stream, text);
    let mut last = String::new();
    let mut step = |values: &[f64], word: &str, at_us: i64| {
        let mut out = Output::default();
        part.operator.on_batch(0, &rows(values, word, at_us), &mut out).expect("takes rows");
        part.operator.on_watermark(Time(at_us), &mut out).expect("takes a watermark");
        let lines: Vec<String> = out.drain().flat_map(|(_, batch)| row_lines(&batch)).collect();
        last = lines.last().map(|line| parts(line).0.join(" ")).unwrap_or_default();
        last.clone()
    };
    assert_eq!(step(&[1.5, 2.5], "+I", 1), "4.0 2.0");
    assert_eq!(step(&[f64::INFINITY], "+I", 2), "inf inf");
    assert_eq!(step(&[f64::NEG_INFINITY], "+I", 3), "NaN NaN");
    assert_eq!(step(&[f64::NAN, f64::INFINITY], "-D", 4), "-inf -inf", "a NaN is owed");
}

#[test]
fn a_forgotten_key_begins_afresh_and_what_takes_back_more_is_late() {
    let text = format!("{}ttl = \"10ms\"\n", aggregate("\"sum(v) AS s\""));
    let hour: &[Step] = &[("+I", "other", Some(0))];
    // Nine other pieces let 9 ms pass, and one more.
    let before: &[Step] = &[("+I", "k", Some(5)), ("+I", "k", Some(6))];
    let after: &[Step] = &[("-D", "k", Some(5)), ("+I", "k", Some(7))];
    let mut pieces = vec![before];
    pieces.extend(std::iter::repeat_n(hour, 8));
    pieces.push(after);
    let lines = fed(&text, &pieces, false);
    assert_eq!(parts(lines[0].last().expect("a change")).0, ["k", "13"], "8 ms are no time: {lines:?}");
    assert!(lines[1].is_empty());
    let mut pieces = vec![before];
    pieces.extend(std::iter::repeat_n(hour, 12));
    pieces.push(after);
    let lines = fed(&text, &pieces, true);
    let of_k: Vec<String> = lines[0]
        .iter()
        .filter(|line| line.starts_with("k "))
        .map(|line| {
            let (image, _, change) = parts(line);
            format!("{} {change}", image.join(" "))
        })
        .collect();
    assert_eq!(of_k, ["k 11 +I", "k 7 +I"], "nothing leaves when it is forgotten");
    assert_eq!(lines[1].len(), 1);
    assert!(lines[1][0].starts_with("k 5 ") && lines[1][0].ends_with("-D"), "{:?}", lines[1]);
}

#[test]
fn a_key_that_begins_with_what_nobody_knows_survives_snapshots() {
    let text = aggregate("\"sum(v) AS s\"");
    let unknown: &[Step] = &[("-D", "k", Some(5))];
    let known: &[Step] = &[("+I", "k", Some(7)), ("+I", "l", Some(1))];
    for restart in [false, true] {
        let lines = fed(&text, &[unknown, unknown, known], restart);
        assert_eq!(applied(&lines[0], &[0]), ["k 7", "l 1"], "restart: {restart}");
        assert_eq!(lines[1].len(), 2, "{:?}", lines[1]);
    }
}

/// A row of `k` is given, a hundred days pass, and it changes: with a number of
/// keys that are gone in between.
#[test]
fn what_stands_is_never_forgotten_by_whoever_reads_changes() {
    let day_us = 86_400_000_000;
    let text = aggregate("\"sum(v) AS s\"");
    for restart in [false, true] {
        let mut part = build_on(&changes(), &text);
        let mut lines = vec![Vec::new(); part.ports.len()];
        let gone: &[Step] = &[("+I", "gone", Some(1)), ("-D", "gone", Some(1))];
        let mut pieces: Vec<(i64, &[Step])> =
            vec![(0, &[("+I", "k", Some(5)), ("+I", "k", Some(6))]), (1, gone)];
        pieces.extend((1..10).map(|ten| (ten * 10, [("+U", "other", Some(1))].as_slice())));
        pieces.push((101, &[("-U", "k", Some(5)), ("+U", "k", Some(7))]));
        for (day, steps) in pieces {
            let mut out = Output::default();
            part.operator.on_batch(0, &rows(steps, day * day_us), &mut out).expect("takes rows");
            part.operator.on_watermark(Time(day * day_us + 10), &mut out).expect("takes a watermark");
            out.drain().for_each(|(port, batch)| lines[port].extend(row_lines(&batch)));
            let state = part.operator.snapshot().expect("snapshots");
            if day == 90 {
                let keys: usize = state.iter().map(RecordBatch::num_rows).max().expect("batches");
                assert_eq!(keys, 2, "k and other are kept, what is gone is not");
            }
            if restart {
                part = build_on(&changes(), &text);
                part.operator.restore(state).expect("restores");
            }
        }
        assert_eq!(applied(&lines[0], &[0])[0], "k 13", "restart: {restart}");
        assert!(lines[1].is_empty(), "{:?}", lines[1]);
    }
}
