//! Windows that rows make by themselves, and calendar windows, against SQL over
//! the same rows as one batch: random rows, widths, cuts and restores.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod kit;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use kit::{Manner, TestRow, answer, batch, run, run_copies, sorted, stream};
use proptest::prelude::*;

/// Which windows, and the SQL that makes them of `rows (key, t, value, n)`, where
/// `t` is the time in microseconds.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Session { gap_ms: i64 },
    Sliding { size_ms: i64 },
    Count { size: i64, slide: i64 },
    Calendar { unit: &'static str },
    State,
}

const ANSWER: &str = "count(*) AS c, sum(n) AS t, max(value) AS hi";

impl Kind {
    fn window(self) -> String {
        match self {
            Kind::Session { gap_ms } => format!("kind = \"session\", gap = \"{gap_ms}ms\""),
            Kind::Sliding { size_ms } => format!("kind = \"sliding\", size = \"{size_ms}ms\""),
            Kind::Count { size, slide } => format!("kind = \"count\", size = {size}, slide = {slide}"),
            Kind::Calendar { unit } => format!("kind = \"calendar\", unit = \"{unit}\""),
            Kind::State => "kind = \"state\", open = \"n > 4\", close = \"n < 0\"".into(),
        }
    }

    fn sql(self) -> String {
        let time = |sql: &str| format!("arrow_cast({sql}, 'Timestamp(Microsecond, Some(\"UTC\"))')");
        match self {
            Kind::Session { gap_ms } => {
                let gap_us = gap_ms * 1_000;
                format!(
                    "WITH steps AS (SELECT *, t - lag(t) OVER (PARTITION BY key ORDER BY t) AS step FROM rows),
                     marked AS (SELECT *, sum(CASE WHEN step < {gap_us} THEN 0 ELSE 1 END) OVER (PARTITION BY key ORDER BY t) AS session FROM steps)
                     SELECT {}, {}, key, {ANSWER} FROM marked GROUP BY key, session",
                    time("min(t)"),
                    time(&format!("max(t) + {gap_us}")),
                )
            }
            Kind::Sliding { size_ms } => {
                let size_us = size_ms * 1_000;
                format!(
                    "SELECT {}, {}, key, count(*) OVER w, sum(n) OVER w, max(value) OVER w FROM rows
                     WINDOW w AS (PARTITION BY key ORDER BY t RANGE BETWEEN {} PRECEDING AND CURRENT ROW)",
                    time(&format!("t - {size_us}")),
                    time("t"),
                    size_us - 1,
                )
            }
            Kind::Count { size, slide } => format!(
                "WITH numbered AS (SELECT *, row_number() OVER (PARTITION BY key ORDER BY t) - 1 AS place FROM rows)
                 SELECT {}, {}, key, {ANSWER} FROM numbered JOIN numbers ON place >= i * {slide} AND place < i * {slide} + {size}
                 GROUP BY key, i HAVING count(*) = {size}",
                time("min(t)"),
                time("max(t)"),
            ),
            Kind::Calendar { unit } => format!(
                "SELECT date_trunc('{unit}', ts), date_trunc('{unit}', ts) + INTERVAL '1 {unit}', key, {ANSWER} FROM rows GROUP BY 1, 2, key"
            ),
            // A row belongs to the window that was opened by the last row with n > 4, if
            // no row behind that and before this one closed it.
            Kind::State => format!(
                "WITH flagged AS (
                   SELECT *, sum(CASE WHEN n < 0 THEN 1 ELSE 0 END) OVER (PARTITION BY key ORDER BY t) - (CASE WHEN n < 0 THEN 1 ELSE 0 END) AS part FROM rows),
                 opened AS (SELECT key, part, min(t) AS begins FROM flagged WHERE n > 4 GROUP BY key, part),
                 inside AS (SELECT f.* FROM flagged f JOIN opened o ON f.key = o.key AND f.part = o.part AND f.t >= o.begins)
                 SELECT {}, {}, key, {ANSWER} FROM inside GROUP BY key, part HAVING min(n) < 0",
                time("min(t)"),
                time("max(t)"),
            ),
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1..9_000_i64).prop_map(|gap_ms| Kind::Session { gap_ms }),
        (1..20_000_i64).prop_map(|size_ms| Kind::Sliding { size_ms }),
        (1..9_i64, 1..9_i64)
            .prop_map(|(size, slide)| Kind::Count { size: size.max(slide), slide: size.min(slide) }),
        prop::sample::select(&["day", "month", "year"][..]).prop_map(|unit| Kind::Calendar { unit }),
        Just(Kind::State),
    ]
}

fn oracle(rows: &RecordBatch, kind: Kind) -> Vec<String> {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..200));
    let numbers = RecordBatch::try_from_iter([("i", numbers)]).expect("one column");
    let times = stream().times(rows).expect("a time");
    let t: ArrayRef = Arc::new(Int64Array::new(times.values().clone(), None));
    let columns = rows.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>();
    let columns = columns.iter().map(String::as_str).zip(rows.columns().iter().cloned()).chain([("t", t)]);
    let rows = RecordBatch::try_from_iter(columns).expect("columns of one length");
    answer(&[("rows", rows), ("numbers", numbers)], &kind.sql())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 650, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_batch_answer(
        kind in kinds(),
        rows in prop::collection::vec((0..4_usize, -20_000_i64..60_000, prop::option::of(-9_i64..9)), 1..120),
        batch_size in 1..50_usize,
        restore in any::<bool>(),
    ) {
        // Days apart for the calendar; no two rows at one time, since SQL knows no order of arrival.
        let scale = if matches!(kind, Kind::Calendar { .. }) { 40_000.0 } else { 1.0 };
        let rows: Vec<TestRow> = rows
            .into_iter()
            .enumerate()
            .map(|(index, (key, time_ms, value))| {
                let time_s = time_ms as f64 * scale / 1e3 + index as f64 / 1e6;
                (["a", "b", "", "longer key"][key], time_s, value.map(|value| value as f64))
            })
            .collect();
        let rows = batch(&rows);
        let text = format!(
            "[operator.w]\ntype = \"window\"\nfrom = \"rows\"\nkey = [\"key\"]\nwindow = {{ {} }}\nselect = [\"count(*) AS c\", \"sum(n) AS t\", \"max(value) AS hi\"]\n",
            kind.window(),
        );
        // No row is so late.
        let delay = Duration::from_secs_f64(81.0 * scale);
        let lines = run(&text, &rows, Manner { batch_size, delay, restore, snapshot: restore });
        prop_assert!(lines[1].is_empty(), "late: {:?}", lines[1]);
        let expected = oracle(&rows, kind);
        prop_assert_eq!(sorted(lines[0].clone()), &expected[..]);
        let manner = Manner { batch_size, delay, restore, snapshot: restore };
        let copies = run_copies(&stream(), &text, &rows, manner).expect("it has a key");
        prop_assert_eq!(&copies[0], &expected);
    }
}
