//! Windows against the traps of the semantics and against the same SQL as one
//! batch, at every batch size, with and without snapshots and restores.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use kit::{Manner, TestRow, as_copies, batch, manners, run, run_copies, sorted, stream};
use proptest::prelude::*;

const TUMBLING: &str = r#"
[operator.w]
type = "window"
from = "rows"
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n"]
"#;

fn at(times: &[f64]) -> RecordBatch {
    let rows: Vec<TestRow> = times.iter().map(|time| ("a", *time, Some(1.0))).collect();
    batch(&rows)
}

/// Trap 1: the running maximum. Delay 5, tumble 10, rows 1 4 16 3 9 21 8 30.
#[test]
fn late_rows_are_decided_one_by_one() {
    let rows = at(&[1.0, 4.0, 16.0, 3.0, 9.0, 21.0, 8.0, 30.0]);
    for manner in manners(5.0) {
        let lines = run(TUMBLING, &rows, manner);
        let counts: Vec<String> = lines[0]
            .iter()
            .map(|line| format!("{} {}", &line[17..19], line.rsplit(' ').next().expect("n")))
            .collect();
        assert_eq!(counts, ["00 2", "10 1", "20 1", "30 1"], "{manner:?}");
        let late: Vec<&str> = lines[1].iter().map(|line| &line[19..21]).collect();
        assert_eq!(late, ["03", "09", "08"], "{manner:?}");
    }
    copies_give_the_same(&rows, 5.0);
}

/// The windows of a key, as copies.
fn copies_give_the_same(rows: &RecordBatch, delay_s: f64) {
    let keyed = TUMBLING.replace("window =", "key = [\"key\"]\nwindow =");
    let manner = manners(delay_s)[0];
    as_copies(&stream(), &keyed, rows, delay_s, &run(&keyed, rows, manner));
}

/// Trap 5: windows are half-open, negative times floor.
#[test]
fn edges_belong_to_the_window_that_begins_there() {
    let rows = at(&[-10.0, -0.000_001, 0.0, 9.999_999, 10.0]);
    for manner in manners(0.0) {
        let lines = run(TUMBLING, &rows, manner);
        let counts: Vec<&str> = lines[0].iter().filter_map(|line| line.rsplit(' ').next()).collect();
        assert_eq!(counts, ["2", "2", "1"], "{manner:?}");
        assert_eq!(lines[1], Vec::<String>::new());
    }
    copies_give_the_same(&rows, 0.0);
}

/// A gap of a year costs nothing: no empty window is emitted.
#[test]
fn empty_windows_are_not_emitted() {
    let rows = at(&[1.0, 31_536_000.0]);
    let manner = Manner { batch_size: 1, delay: std::time::Duration::ZERO, restore: false, snapshot: false };
    assert_eq!(run(TUMBLING, &rows, manner)[0].len(), 2);
}

/// Part of trap 9: snapshots do not disturb any kind of aggregate.
#[test]
fn snapshots_disturb_no_aggregate() {
    let text = r#"
[operator.w]
type = "window"
from = "rows"
key = ["key"]
window = { kind = "hopping", size = "10s", slide = "4s" }
select = ["count(*) AS c", "sum(n) AS s", "avg(value) AS a", "min(value) AS lo", "max(value) AS hi",
          "count(DISTINCT n) AS d", "median(value) AS m", "first_value(n ORDER BY ts) AS f", "last_value(n ORDER BY ts) AS l",
          "count(*) FILTER (WHERE value > 3) AS big", "max(value) - min(value) AS span"]
"#;
    let rows: Vec<TestRow> = (0..60)
        .map(|index| {
            let key = ["a", "b", "c"][index % 3];
            (key, index as f64 * 0.7, (index % 7 != 0).then_some((index * 5 % 11) as f64))
        })
        .collect();
    let rows = batch(&rows);
    let mut all = manners(1.0).into_iter().map(|manner| sorted(run(text, &rows, manner)[0].clone()));
    let first = all.next().expect("a manner");
    assert!(first.len() > 30, "{first:?}");
    for other in all {
        assert_eq!(other, first);
    }
    as_copies(&stream(), text, &rows, 1.0, &[first, Vec::new(), Vec::new()]);
}

/// Long runs of rows of one pane, with late rows among them: the answer does
/// not depend on how many rows of a pane stand together.
#[test]
fn long_runs_and_single_rows_give_the_same_windows() {
    let text = r#"
[operator.w]
type = "window"
from = "rows"
key = ["key"]
window = { kind = "tumbling", size = "4s" }
select = ["count(*) AS c", "sum(n) AS s", "first_value(n ORDER BY ts) AS f", "count(*) FILTER (WHERE value > 3) AS big"]
"#;
    let rows: Vec<TestRow> = (0..600)
        .map(|index| {
            let late = if index % 97 == 96 { 20.0 } else { 0.0 };
            (["a", "b"][index % 2], index as f64 * 0.02 - late, Some((index % 11) as f64))
        })
        .collect();
    let rows = batch(&rows);
    let mut all = manners(1.0).into_iter().map(|manner| run(text, &rows, manner));
    let first = all.next().expect("a manner");
    assert_eq!((first[0].len(), first[1].len()), (6, 6), "{first:?}");
    for other in all {
        assert_eq!((sorted(other[0].clone()), &other[1]), (sorted(first[0].clone()), &first[1]));
    }
    as_copies(&stream(), text, &rows, 1.0, &first);
}

/// How far the watermark had come before each row.
fn watermarks(rows: &RecordBatch, delay_us: i64) -> Vec<i64> {
    let times = kit::stream().times(rows).expect("a time");
    let mut newest = i64::MIN;
    let before = times.values().iter().map(|time| {
        let before = newest.saturating_sub(delay_us);
        newest = newest.max(*time);
        before
    });
    before.collect()
}

/// The same windows as one batch of SQL: a row counts in those that had not
/// ended when it came.
fn oracle(rows: &RecordBatch, watermarks: &[i64], size_us: i64, slide_us: i64) -> Vec<String> {
    let times = kit::stream().times(rows).expect("a time");
    let (first, last) = times
        .values()
        .iter()
        .fold((i64::MAX, i64::MIN), |(low, high), time| (low.min(*time), high.max(*time)));
    let mut starts = Vec::new();
    let mut start = (first - size_us).div_euclid(slide_us) * slide_us;
    while start <= last {
        starts.push(start);
        start += slide_us;
    }
    let starts: arrow::array::ArrayRef = Arc::new(Int64Array::from(starts));
    let windows = RecordBatch::try_from_iter([("start", starts)]).expect("one column");
    let sql = format!(
        "SELECT arrow_cast(w.start, 'Timestamp(Microsecond, Some(\"UTC\"))') AS s,
                arrow_cast(w.start + {size_us}, 'Timestamp(Microsecond, Some(\"UTC\"))') AS e,
                key, count(*) AS c, sum(n) AS t, max(value) AS hi
         FROM rows JOIN windows w ON arrow_cast(ts, 'Int64') >= w.start AND arrow_cast(ts, 'Int64') < w.start + {size_us}
              AND w.start + {size_us} > rows.w
         GROUP BY w.start, key"
    );
    let w: arrow::array::ArrayRef = Arc::new(Int64Array::from(watermarks.to_vec()));
    let schema = rows.schema();
    let columns =
        schema.fields().iter().map(|field| field.name().as_str()).zip(rows.columns().iter().cloned());
    let rows = RecordBatch::try_from_iter(columns.chain([("w", w)])).expect("columns of one length");
    kit::answer(&[("windows", windows), ("rows", rows)], &sql)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 450, ..ProptestConfig::default() })]

    /// The batch answer over the rows that are not late is the streaming answer,
    /// and the others leave by their port.
    #[test]
    fn equals_the_batch_answer(
        rows in prop::collection::vec((0..4_usize, -20_000_i64..60_000, prop::option::of(-9_i64..9)), 1..120),
        size_ms in 1_i64..5_000,
        slide_part in 1_i64..6,
        batch_size in 1..50_usize,
        restore in any::<bool>(),
        delay_ms in prop_oneof![Just(81_000_i64), 0_i64..30_000],
    ) {
        let slide_ms = (size_ms / slide_part).max(1);
        let rows: Vec<TestRow> = rows
            .into_iter()
            .map(|(key, time_ms, value)| (["a", "b", "", "longer key"][key], time_ms as f64 / 1e3, value.map(|value| value as f64)))
            .collect();
        let rows = batch(&rows);
        let kind = if slide_ms == size_ms { "kind = \"tumbling\"".to_owned() } else { format!("kind = \"hopping\", slide = \"{slide_ms}ms\"") };
        let text = format!(
            "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nkey = [\"key\"]\nwindow = {{ {kind}, size = \"{size_ms}ms\" }}\nselect = [\"count(*) AS c\", \"sum(n) AS t\", \"max(value) AS hi\"]\n"
        );
        // Sizes whose panes are too many are refused when the file is loaded.
        prop_assume!(size_ms / gcd(size_ms, slide_ms) <= 4_096);
        let delay = std::time::Duration::from_millis(delay_ms.unsigned_abs());
        let manner = Manner { batch_size, delay, restore, snapshot: restore };
        let lines = run(&text, &rows, manner);
        let watermarks = watermarks(&rows, delay_ms * 1_000);
        let times = kit::stream().times(&rows).expect("a time");
        let last_end_us = |time_us: i64| (time_us.div_euclid(slide_ms * 1_000) * slide_ms + size_ms) * 1_000;
        let late = times.values().iter().zip(&watermarks).filter(|(time, w)| last_end_us(**time) <= **w).count();
        prop_assert_eq!(lines[1].len(), late);
        let expected = oracle(&rows, &watermarks, size_ms * 1_000, slide_ms * 1_000);
        prop_assert_eq!(sorted(lines[0].clone()), &expected[..]);
        let copies = run_copies(&stream(), &text, &rows, manner).expect("it has a key");
        prop_assert_eq!(&copies[0], &expected);
        prop_assert_eq!(&copies[1], &sorted(lines[1].clone()));
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
