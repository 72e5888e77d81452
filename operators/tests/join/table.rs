//! Joins with a table against nested loops: any batches, snapshot and restore,
//! versions that come while rows do.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use tidegate_engine::operator::{Input, OperatorPart, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::table::as_version;
use tidegate_engine::time::Time;

use crate::harness::{R, batch, build_for, row, stream};
use crate::kit::row_lines;

/// A row of the table: `k, s, w`.
type T = (Option<i64>, Option<&'static str>, i64);

fn table(rows: &[T]) -> RecordBatch {
    let fields = vec![
        Field::new("k", DataType::Int64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("w", DataType::Int64, true),
    ];
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of the schema")
}

fn text(on: &str, keys: &str) -> String {
    format!("[operator.j]\ntype = \"join\"\nfrom = [\"a\", \"b\"]\non = \"{on}\"\n{keys}\n")
}

fn inputs() -> [Input; 2] {
    [
        Input { name: "a".into(), stream: stream() },
        Input { name: "b".into(), stream: StreamSchema::of_table(table(&[]).schema()) },
    ]
}

fn build(text: &str) -> OperatorPart {
    build_for(text, &inputs()).unwrap_or_else(|error| panic!("{error}"))
}

struct Run {
    text: String,
    part: OperatorPart,
    /// `a.id b.w` of each row, in order.
    lines: Vec<String>,
    rejects: Vec<String>,
    largest: usize,
}

impl Run {
    fn new(text: &str) -> Run {
        Run { text: text.into(), part: build(text), lines: Vec::new(), rejects: Vec::new(), largest: 0 }
    }

    fn rows(&mut self, rows: &[R]) {
        self.give(0, &batch(rows));
    }

    fn version(&mut self, name: &str, rows: &[T]) {
        self.give(1, &as_version(&table(rows), name).expect("a version"));
    }

    fn give(&mut self, input: usize, batch: &RecordBatch) {
        let mut out = Output::default();
        let mut progress = self.part.operator.on_batch(input, batch, &mut out).expect("takes rows");
        loop {
            for (port, batch) in out.drain() {
                self.largest = self.largest.max(batch.num_rows());
                if port == 1 {
                    self.rejects.extend(row_lines(&batch));
                    continue;
                }
                assert_eq!(batch.schema(), self.part.ports[0].stream.columns);
                for line in row_lines(&batch) {
                    let words: Vec<&str> = line.split(' ').collect();
                    self.lines.push(format!("{} {}", words[4], words[7]));
                }
            }
            if progress == Progress::Done {
                return;
            }
            progress = self.part.operator.resume(&mut out).expect("goes on");
        }
    }

    fn barrier(&mut self) -> Vec<RecordBatch> {
        self.part.operator.snapshot().expect("snapshots")
    }

    fn restore(&mut self, state: Vec<RecordBatch>) {
        self.part = build(&self.text);
        self.part.operator.restore(state).expect("restores");
    }

    fn watermark(&mut self, time_us: i64) -> i64 {
        let mut out = Output::default();
        self.part.operator.on_watermark(Time(time_us), &mut out).expect("takes a watermark");
        self.part.operator.output_watermark(Time(time_us)).0
    }

    fn taken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

#[test]
fn rows_wait_for_the_first_version_and_hold_the_watermark() {
    let mut run = Run::new(&text("a.k = b.k", "kind = \"left\""));
    run.rows(&[row(1, 5), row(2, 6)]);
    assert_eq!(run.watermark(9), 5);
    run.rows(&[row(3, 10)]);
    let state = run.barrier();
    run.restore(state);
    assert_eq!(run.watermark(10), 5);
    assert_eq!(run.taken(), [] as [&str; 0]);
    assert!(run.part.operator.waits(), "silence must not overtake them");
    run.version("v", &[(Some(1), None, 11), (Some(3), None, 31), (Some(3), None, 32), (None, None, 99)]);
    assert_eq!(run.taken(), ["5 11", "6 -", "10 31", "10 32"], "a row for each match, in order");
    assert!(!run.part.operator.waits());
    assert_eq!(run.watermark(10), 10);
    run.rows(&[R { k: None, ..row(0, 12) }]);
    assert_eq!(run.taken(), ["12 -"], "NULL is equal to nothing");
}

#[test]
fn a_version_is_used_from_the_next_barrier_on_and_by_a_replay_from_there() {
    let mut run = Run::new(&text("a.k = b.k", ""));
    run.version("one", &[(Some(1), None, 1)]);
    run.rows(&[row(1, 1)]);
    let before = run.barrier();
    run.version("two", &[(Some(1), None, 2)]);
    run.rows(&[row(1, 2)]);
    assert_eq!(run.taken(), ["1 1", "2 1"]);
    let behind = run.barrier();
    run.rows(&[row(1, 3)]);
    assert_eq!(run.taken(), ["3 2"]);
    // A crash: the table is read before rows come, and is another one by now.
    for (state, expected) in [(before, "2 1"), (behind, "2 2")] {
        run.restore(state);
        run.version("three", &[(Some(1), None, 3)]);
        run.rows(&[row(1, 2)]);
        assert_eq!(run.taken(), [expected]);
        run.barrier();
        run.rows(&[row(1, 2)]);
        assert_eq!(run.taken(), ["2 3"]);
    }
    // A version that is taken back before the barrier was never there.
    run.version("four", &[]);
    run.version("three", &[(Some(1), None, 3)]);
    run.barrier();
    run.rows(&[row(1, 4)]);
    assert_eq!(run.taken(), ["4 3"]);
}

#[test]
fn after_an_end_the_table_speaks_first() {
    for name in ["one", "two"] {
        let mut run = Run::new(&text("a.k = b.k", ""));
        run.version("one", &[(Some(1), None, 1)]);
        run.part.operator.on_end(&mut Output::default()).expect("ends");
        let state = run.barrier();
        run.restore(state);
        run.rows(&[row(1, 2)]);
        assert_eq!(run.taken(), [] as [&str; 0]);
        run.version(name, &[(Some(1), None, 2)]);
        // The same version is not looked at again.
        assert_eq!(run.taken(), [if name == "one" { "2 1" } else { "2 2" }]);
    }
}

#[test]
fn a_row_may_have_very_many_partners() {
    let rows: Vec<T> = (0..100_000).map(|w| (Some(w % 2), None, w)).collect();
    for (on, count) in [("a.k = b.k", 50_000), ("b.w > a.v", 99_999)] {
        let mut run = Run::new(&text(on, "kind = \"left\""));
        run.version("v", &rows);
        run.rows(&[row(1, 1), row(1, 2)]);
        assert_eq!(run.lines.len(), 2 * count);
        assert!(run.largest <= 8_192, "{}", run.largest);
        assert!(run.lines.is_sorted_by_key(|line| line.split(' ').next().map(str::to_owned)));
    }
}

#[test]
fn what_fails_is_rejected_and_costs_no_other_row() {
    let mut run = Run::new(&text("a.k = b.k AND 10 / b.w > 0", "kind = \"left\""));
    run.version("v", &[(Some(1), None, 0), (Some(2), None, 5)]);
    run.rows(&[row(1, 1), row(2, 2)]);
    assert_eq!(run.taken(), ["2 5"]);
    assert_eq!(run.rejects.len(), 1, "{:?}", run.rejects);
    let mut run = Run::new(&text("10 / a.v = 10 / b.w", "kind = \"left\""));
    run.version("v", &[(None, None, 0), (None, None, 5)]);
    assert_eq!(run.rejects.len(), 1, "a row of the table");
    run.rows(&[R { v: Some(0), ..row(1, 1) }, R { v: Some(5), ..row(1, 2) }]);
    assert_eq!(run.taken(), ["2 5"]);
    assert_eq!(run.rejects.len(), 2);
}

#[test]
fn names_times_and_what_is_refused() {
    let part = build(&text("a.k = b.k", "kind = \"left\""));
    let stream = &part.ports[0].stream;
    let names: Vec<&str> = stream.columns.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["ts", "a_k", "a_s", "v", "id", "b_k", "b_s", "w"]);
    assert_eq!((stream.time, stream.is_table()), (Some(0), false));
    let code = |text: &str, inputs: [Input; 2]| {
        build_for(text, &inputs).map(drop).expect_err("is refused").0[0].code
    };
    let [a, b] = inputs();
    for keys in ["kind = \"right\"", "kind = \"full\"", "match = { within = \"5s\" }"] {
        assert_eq!(code(&text("a.k = b.k", keys), inputs()), "TG-T014", "{keys}");
    }
    assert_eq!(code(&text("a.k = b.k", ""), [b.clone(), a]), "TG-T014");
    let c = Input { name: "c".into(), ..b.clone() };
    assert_eq!(code(&text("b.k = c.k", ""), [b, c]), "TG-T014", "two tables");
}

const TEXTS: [&str; 3] = ["x", "y", "z"];

fn rows_of_stream() -> impl Strategy<Value = Vec<R>> {
    let row = (prop::option::of(0..4_i64), prop::option::of(0..3_usize), 0..4_i64);
    prop::collection::vec(row, 0..40).prop_map(|rows| {
        let rows = rows.into_iter().zip(0..);
        rows.map(|((k, s, v), id)| R { ts: id, k, s: s.map(|s| TEXTS[s]), v: Some(v), id }).collect()
    })
}

fn rows_of_table() -> impl Strategy<Value = Vec<T>> {
    let row = (prop::option::of(0..4_i64), prop::option::of(0..3_usize), 0..4_i64);
    prop::collection::vec(row, 0..20)
        .prop_map(|rows| rows.into_iter().map(|(k, s, w)| (k, s.map(|s| TEXTS[s]), w)).collect())
}

type On = (&'static str, fn(&R, &T) -> bool);

/// Conditions, and the same as a person would write them.
const ONS: [On; 5] = [
    ("a.k = b.k", |a, b| a.k.is_some() && a.k == b.0),
    ("a.s = b.s", |a, b| a.s.is_some() && a.s == b.1),
    ("a.k = b.k AND b.s = a.s", |a, b| a.k.is_some() && a.k == b.0 && a.s.is_some() && a.s == b.1),
    ("a.k = b.k AND a.v > b.w", |a, b| a.k.is_some() && a.k == b.0 && a.v > Some(b.2)),
    ("a.v < b.w", |a, b| a.v < Some(b.2)),
];

proptest! {
    #[test]
    fn equal_to_nested_loops(
        rows in rows_of_stream(),
        versions in prop::collection::vec(rows_of_table(), 1..4),
        on in 0..ONS.len(),
        is_left: bool,
        size in 1..9_usize,
        seed: u64,
    ) {
        let (on, fits) = ONS[on];
        let mut run = Run::new(&text(on, if is_left { "kind = \"left\"" } else { "" }));
        let (mut expected, mut current, mut next) = (Vec::new(), None, None);
        let mut versions = versions.iter().zip(0..);
        let mut dice = seed;
        for part in rows.chunks(size) {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if (current.is_none() || dice >> 61 == 0) && let Some((rows, name)) = versions.next() {
                run.version(&format!("{name}"), rows);
                if current.is_none() { current = Some(rows) } else { next = Some(rows) }
            }
            if (dice >> 50) & 3 == 0 {
                let state = run.barrier();
                if (dice >> 52) & 1 == 0 { run.restore(state) }
                current = next.take().or(current);
            }
            run.rows(part);
            for a in part {
                let mut found: Vec<String> =
                    current.iter().flat_map(|rows| rows.iter()).filter(|b| fits(a, b)).map(|b| format!("{} {}", a.id, b.2)).collect();
                if found.is_empty() && is_left { found.push(format!("{} -", a.id)) }
                expected.append(&mut found);
            }
        }
        prop_assert_eq!(run.lines, expected);
    }
}
