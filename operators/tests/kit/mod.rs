//! Runs one operator as the runtime would: rows cut into batches, watermarks
//! from the engine's own rules, snapshot and restore between any two batches.

#![allow(dead_code, reason = "not every test file uses every helper")]
#![allow(clippy::cast_possible_truncation, reason = "times of tests are small")]

mod copies;
mod oracle;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Progress};
use tidegate_engine::runtime::watermark::Watermarks;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::WatermarkPolicy;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::parse::parse;
use tidegate_operators::expression::SqlExpressions;

pub(crate) use copies::copied;
#[allow(unused_imports, reason = "not every test file asks")]
pub(crate) use oracle::answer;

/// Rows `key, ts, value, n`.
pub(crate) fn stream() -> StreamSchema {
    StreamSchema::new(
        vec![
            Field::new("key", DataType::Utf8, true),
            Field::new("ts", time_type(), false),
            Field::new("value", DataType::Float64, true),
            Field::new("n", DataType::Int64, true),
        ],
        Some("ts"),
    )
}

/// One row: key, time in seconds, value.
pub(crate) type TestRow = (&'static str, f64, Option<f64>);

pub(crate) fn batch(rows: &[TestRow]) -> RecordBatch {
    let times: Vec<i64> = rows.iter().map(|row| (row.1 * 1e6).round() as i64).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.2.map(|value| value as i64)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

/// Builds the one operator (or trigger) of a topology's text for `stream()`.
pub(crate) fn build(text: &str) -> OperatorPart {
    build_on(&stream(), text)
}

/// The same for a stream of another shape.
pub(crate) fn build_on(stream: &StreamSchema, text: &str) -> OperatorPart {
    try_build_on(stream, text).unwrap_or_else(|error| panic!("{error}"))
}

/// The same where the topology may be refused.
pub(crate) fn try_build_on(stream: &StreamSchema, text: &str) -> Result<OperatorPart, ConfigError> {
    built(&context(), stream, text)
}

pub(crate) fn context() -> BuildContext {
    BuildContext::new("test", PathBuf::from("."), std::env::temp_dir(), Arc::new(SqlExpressions::new()))
}

/// The same in a context that is looked at afterwards.
pub(crate) fn built(
    context: &BuildContext,
    stream: &StreamSchema,
    text: &str,
) -> Result<OperatorPart, ConfigError> {
    let (parsed, problems) = parse(text);
    assert_eq!(problems, []);
    let node = &parsed.nodes[0];
    let rows = tidegate_operators::OPERATORS.iter();
    let row: &Row<BuildOperator> =
        rows.into_iter().find(|row| row.name == node.kind.value).unwrap_or(&tidegate_operators::TRIGGER);
    let input = Input { name: "rows".into(), stream: stream.clone() };
    (row.build)(node, context, &[input])
}

/// How rows reach the operator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) batch_size: usize,
    pub(crate) delay: Duration,
    /// Snapshot after each batch and go on with a fresh, restored operator.
    pub(crate) restore: bool,
    /// Snapshot after each batch and go on with the same one.
    pub(crate) snapshot: bool,
}

/// Every manner that must not change a result.
pub(crate) fn manners(delay_s: f64) -> Vec<Manner> {
    let delay = Duration::from_secs_f64(delay_s);
    let mut manners = Vec::new();
    for batch_size in [1, 2, 3, 7, 8_192] {
        for (snapshot, restore) in [(false, false), (true, false), (true, true)] {
            manners.push(Manner { batch_size, delay, restore, snapshot });
        }
    }
    manners
}

/// Output lines of each port, in order; a line is the row's values.
pub(crate) fn run(text: &str, rows: &RecordBatch, manner: Manner) -> Vec<Vec<String>> {
    run_on(&stream(), text, rows, manner)
}

/// The same for a stream of another shape.
pub(crate) fn run_on(
    stream: &StreamSchema,
    text: &str,
    rows: &RecordBatch,
    manner: Manner,
) -> Vec<Vec<String>> {
    run_part(stream, |_| build_on(stream, text), rows, manner, usize::MAX)
}

/// As several copies, with some restores, each among another number of them;
/// nothing if there can be no copies.
pub(crate) fn run_copies(
    stream: &StreamSchema,
    text: &str,
    rows: &RecordBatch,
    manner: Manner,
) -> Option<Vec<Vec<String>>> {
    copied(|| build_on(stream, text), 1)?;
    let build = |lives: usize| {
        let copies = [2, 3, 1][lives % 3];
        copied(|| build_on(stream, text), copies).expect("it can be copied")
    };
    let lines = run_part(stream, build, rows, Manner { snapshot: true, restore: true, ..manner }, 8);
    Some(lines.into_iter().map(sorted).collect())
}

fn run_part(
    stream: &StreamSchema,
    build: impl Fn(usize) -> OperatorPart,
    rows: &RecordBatch,
    manner: Manner,
    restores_max: usize,
) -> Vec<Vec<String>> {
    let every = rows.num_rows().div_ceil(manner.batch_size).div_ceil(restores_max);
    let mut lives = 0;
    let mut part = build(lives);
    let mut lines: Vec<Vec<String>> = part.ports.iter().map(|_| Vec::new()).collect();
    let policy = WatermarkPolicy { delay: manner.delay, idle: Duration::MAX, max_future: None, drift: None };
    let mut marks = Watermarks::new(&policy, None);
    let mut out = Output::default();
    let mut start = 0;
    while start < rows.num_rows() {
        let count = manner.batch_size.min(rows.num_rows() - start);
        let piece = rows.slice(start, count);
        start += count;
        let times = stream.times(&piece).expect("has a time");
        let mut from = 0;
        for cut in marks.observe(0, times.values(), Duration::ZERO) {
            if cut.end > from {
                let part_rows = piece.slice(from, cut.end - from);
                let progress = part.operator.on_batch(0, &part_rows, &mut out).expect("takes rows");
                go_on(part.operator.as_mut(), progress, &mut out);
            }
            from = cut.end;
            if let Some(time) = cut.watermark {
                let progress = part.operator.on_watermark(time, &mut out).expect("takes a watermark");
                go_on(part.operator.as_mut(), progress, &mut out);
            }
        }
        collect(&mut out, &mut lines);
        if manner.snapshot {
            let state = part.operator.snapshot().expect("snapshots");
            if manner.restore && (start / manner.batch_size).is_multiple_of(every) {
                lives += 1;
                part = build(lives);
                part.operator.restore(state).expect("restores");
            }
        }
    }
    if let Some(time) = marks.on_end() {
        let progress = part.operator.on_watermark(time, &mut out).expect("takes a watermark");
        go_on(part.operator.as_mut(), progress, &mut out);
    }
    let progress = part.operator.on_end(&mut out).expect("ends");
    go_on(part.operator.as_mut(), progress, &mut out);
    collect(&mut out, &mut lines);
    lines
}

/// As the runtime does where an operator has more to emit.
fn go_on(operator: &mut dyn Operator, mut progress: Progress, out: &mut Output) {
    while progress == Progress::More {
        progress = operator.resume(out).expect("goes on");
    }
}

/// What leaves by each port in every manner; it must be the same in all.
pub(crate) fn in_all_manners(stream: &StreamSchema, text: &str, rows: &RecordBatch) -> Vec<Vec<String>> {
    let mut all = manners(0.0).into_iter().map(|manner| (manner, run_on(stream, text, rows, manner)));
    let (_, first) = all.next().expect("a manner");
    for (manner, other) in all {
        assert_eq!(other, first, "{manner:?}");
    }
    as_copies(stream, text, rows, 0.0, &first);
    first
}

/// The same leaves where it runs as copies.
pub(crate) fn as_copies(
    stream: &StreamSchema,
    text: &str,
    rows: &RecordBatch,
    delay_s: f64,
    alone: &[Vec<String>],
) {
    let alone: Vec<Vec<String>> = alone.iter().cloned().map(sorted).collect();
    for manner in
        manners(delay_s).into_iter().filter(|manner| manner.restore && matches!(manner.batch_size, 1 | 7))
    {
        if let Some(copies) = run_copies(stream, text, rows, manner) {
            assert_eq!(copies, alone, "as copies, {manner:?}");
        }
    }
}

fn collect(out: &mut Output, lines: &mut [Vec<String>]) {
    for (port, batch) in out.drain() {
        lines[port].extend(row_lines(&batch));
    }
}

/// Each row as its values, separated by spaces; times in seconds.
pub(crate) fn row_lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let formatters: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("prints"))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            formatters.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Lines without their order.
pub(crate) fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}
