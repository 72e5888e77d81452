//! `aggregate`, `dedup` and `top` without a window against SQL over all rows.

use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use crate::kit::{Manner, TestRow, batch, build_on, row_lines, run, run_on, sorted, stream};
use crate::table::applied;

const AGGREGATE: &str = r#"
[operator.a]
type   = "aggregate"
from   = "rows"
key    = ["key"]
select = ["count(*) AS c", "sum(n) AS t", "max(value) AS hi", "min(value) AS lo", "count(DISTINCT n) AS d", "median(value) AS mid", "last(n) AS now", "max(n) - min(n) AS span", "sum(n) FILTER (WHERE n > 0) AS up"]
"#;
const AGGREGATE_SQL: &str = "SELECT key, count(*), sum(n), max(value), min(value), count(DISTINCT n), median(value), \
     last_value(n ORDER BY ts) FILTER (WHERE n IS NOT NULL), max(n) - min(n), sum(n) FILTER (WHERE n > 0) FROM rows GROUP BY key";

const LAST: &str =
    "[operator.l]\ntype = \"dedup\"\nfrom = \"rows\"\nkey = [\"key\"]\nkeep = \"last\"\nttl = \"9d\"\n";
const LAST_SQL: &str = "SELECT key, ts, value, n FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY ts DESC) AS r FROM rows) WHERE r = 1";

const TOP: &str =
    "[operator.t]\ntype = \"top\"\nfrom = \"rows\"\nkey = [\"key\"]\nby = \"value\"\nrows = 3\n";
const TOP_SQL: &str = "SELECT * FROM (SELECT key, ts, value, n, row_number() OVER (PARTITION BY key ORDER BY value DESC, ts) AS rank \
     FROM rows WHERE value IS NOT NULL) WHERE rank <= 3";

pub(crate) fn sql(rows: &RecordBatch, query: &str) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let context = SessionContext::new();
    context.register_batch("rows", rows.clone()).expect("registers");
    let batches =
        runtime.block_on(async { context.sql(query).await.expect("plans").collect().await.expect("runs") });
    sorted(batches.iter().flat_map(row_lines).collect())
}

/// Rows at times of their own: SQL knows no order of arrival.
fn rows() -> impl Strategy<Value = RecordBatch> {
    let row = (0..4_usize, 0_i64..60_000, prop::option::of(-9_i64..9));
    prop::collection::vec(row, 1..120).prop_map(|rows| {
        let rows: Vec<TestRow> = rows
            .into_iter()
            .enumerate()
            .map(|(index, (key, time_ms, value))| {
                let time_s = time_ms as f64 / 1e3 + index as f64 / 1e6;
                (["a", "b", "c", "d"][key], time_s, value.map(|value| value as f64))
            })
            .collect();
        batch(&rows)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applied_it_is_the_batch_answer(
        rows in rows(),
        batch_size in 1..50_usize,
        delay_s in prop::sample::select(vec![0, 10, 70]),
        restore in any::<bool>(),
        case in 0..3_usize,
    ) {
        let (text, query, key): (_, _, &[usize]) =
            [(AGGREGATE, AGGREGATE_SQL, &[0][..]), (LAST, LAST_SQL, &[0]), (TOP, TOP_SQL, &[0, 4])][case];
        // Rows may come far behind the watermark: every one counts.
        let manner = Manner { batch_size, delay: Duration::from_secs(delay_s), restore, snapshot: restore };
        let lines = run(text, &rows, manner);
        prop_assert_eq!(applied(&lines[0], key), sql(&rows, query));
        prop_assert!(lines[1].is_empty(), "late: {:?}", lines[1]);
    }

    /// The highest value of each key, and of these the average by n: rows of the
    /// second are taken back whenever one of the first changes.
    #[test]
    fn aggregates_over_aggregates_are_the_batch_answer(rows in rows(), batch_size in 1..50_usize, again in 1..50_usize, restore in any::<bool>()) {
        let first = "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"key\"]\nselect = [\"max(n) AS high\", \"count(*) % 2 AS odd\"]\n";
        let second = "[operator.b]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"odd\"]\nselect = [\"avg(high) AS mean\", \"sum(high) AS total\", \"max(high) AS most\", \"count(DISTINCT high) AS d\"]\n";
        let manner = |batch_size| Manner { batch_size, delay: Duration::ZERO, restore, snapshot: restore };
        let changes = batches(first, &rows, batch_size);
        let stream = build_on(&stream(), first).ports[0].stream.clone();
        let lines = run_on(&stream, second, &changes, manner(again));
        let query = "SELECT odd, avg(high), sum(high), max(high), count(DISTINCT high) FROM \
             (SELECT key, max(n) AS high, count(*) % 2 AS odd FROM rows GROUP BY key) GROUP BY odd";
        prop_assert_eq!(applied(&lines[0], &[0]), sql(&rows, query));
        prop_assert!(lines[1].is_empty(), "unknown: {:?}", lines[1]);
    }
}

/// What leaves the main port of an operator over `rows`, as one batch.
pub(crate) fn batches(text: &str, rows: &RecordBatch, batch_size: usize) -> RecordBatch {
    use tidegate_engine::operator::Output;
    use tidegate_engine::time::Time;
    let mut part = build_on(&stream(), text);
    let mut out = Output::default();
    let mut all = Vec::new();
    for start in (0..rows.num_rows()).step_by(batch_size) {
        let piece = rows.slice(start, batch_size.min(rows.num_rows() - start));
        part.operator.on_batch(0, &piece, &mut out).expect("takes rows");
        part.operator.on_watermark(Time(start as i64), &mut out).expect("takes a watermark");
    }
    part.operator.on_end(&mut out).expect("ends");
    all.extend(out.drain().filter(|(port, _)| *port == 0).map(|(_, batch)| batch));
    let schema = part.ports[0].stream.columns.clone();
    arrow::compute::concat_batches(&schema, &all).expect("one shape")
}

/// More keys than are saved whole each time: what has changed is told, put
/// together, and gives the same.
#[test]
fn changes_of_many_keys_are_told_and_come_back() {
    use tidegate_engine::operator::Output;
    use tidegate_engine::time::Time;
    const KEYS: i64 = 60_000;
    let changes_of = |text: &str, key: &[usize], rows: usize| {
        let by_number = text.replace("\"key\"", "\"n\"");
        let build = || build_on(&stream(), &by_number);
        let piece = |from: i64, to: i64, time_s: f64| {
            let rows: Vec<TestRow> = (from..to).map(|n| ("k", time_s, Some(n as f64))).collect();
            batch(&rows)
        };
        let mut part = build();
        let mut left = Vec::new();
        let mut feed =
            |part: &mut tidegate_engine::operator::OperatorPart, rows: &RecordBatch, time_s: i64| {
                let mut out = Output::default();
                part.operator.on_batch(0, rows, &mut out).expect("takes rows");
                part.operator.on_watermark(Time(time_s * 1_000_000), &mut out).expect("takes a watermark");
                left.extend(out.drain().flat_map(|(_, batch)| row_lines(&batch)));
            };
        feed(&mut part, &piece(0, KEYS, 1.0), 1);
        let mut chain = part.operator.snapshot().expect("snapshots");
        feed(&mut part, &piece(10, 20, 2.0), 2);
        let first = part.operator.changes().expect("reports").expect("changes, not everything");
        assert_eq!(first[0].num_rows(), 10, "only what rows have touched");
        chain.extend(first);
        feed(&mut part, &piece(15, 25, 3.0), 3);
        chain.extend(part.operator.changes().expect("reports").expect("changes"));
        let together = part.operator.compaction().expect("has one")(&chain).expect("goes together");
        for state in [chain, together] {
            let mut restored = build();
            restored.operator.restore(state).expect("restores");
            let mut out = Output::default();
            restored.operator.on_batch(0, &piece(5, 30, 4.0), &mut out).expect("takes rows");
            restored.operator.on_watermark(Time(4_000_000), &mut out).expect("takes a watermark");
            let more: Vec<String> = out.drain().flat_map(|(_, batch)| row_lines(&batch)).collect();
            let all: Vec<String> = left.iter().cloned().chain(more).collect();
            let table = applied(&all, key);
            assert_eq!(table.len(), rows);
        }
    };
    let counted = "[operator.a]\ntype = \"aggregate\"\nfrom = \"rows\"\nkey = [\"key\"]\nselect = [\"count(*) AS c\", \"max(ts) AS at\"]\n";
    changes_of(counted, &[0], 60_000);
    changes_of(LAST, &[3], 60_000);
    // Ten keys have a second place, fifteen a second and a third one.
    changes_of(TOP, &[3, 4], 60_040);
}
