//! Runs a join as the runtime would: rows of two streams in any interleaving
//! and any batches, the watermark of both, snapshot and restore in between.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::{Input, OperatorPart, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::parse::parse;
use tidegate_operators::expression::SqlExpressions;

use crate::kit::{copied, row_lines, sorted};

/// Rows `ts, k, s, v, id`.
pub(crate) fn stream() -> StreamSchema {
    StreamSchema::new(
        vec![
            Field::new("ts", time_type(), false),
            Field::new("k", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("v", DataType::Int64, true),
            Field::new("id", DataType::Int64, false),
        ],
        Some("ts"),
    )
}

/// One row; times are microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct R {
    pub(crate) ts: i64,
    pub(crate) k: Option<i64>,
    pub(crate) s: Option<&'static str>,
    pub(crate) v: Option<i64>,
    pub(crate) id: i64,
}

pub(crate) fn row(k: i64, ts: i64) -> R {
    R { ts, k: Some(k), s: Some("x"), v: Some(0), id: ts }
}

pub(crate) fn batch(rows: &[R]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            rows.iter().map(|row| Some(row.ts)).collect::<TimestampMicrosecondArray>().with_timezone("UTC"),
        ),
        Arc::new(rows.iter().map(|row| row.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.s).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.v).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.id)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

/// Builds the join of a topology's text for inputs of these names.
pub(crate) fn build(text: &str, names: [&str; 2]) -> Result<OperatorPart, ConfigError> {
    build_for(text, &names.map(|name| Input { name: name.into(), stream: stream() }))
}

/// The same for inputs of other shapes.
pub(crate) fn build_for(text: &str, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let (parsed, problems) = parse(text);
    assert_eq!(problems, []);
    let context =
        BuildContext::new("test", PathBuf::from("."), std::env::temp_dir(), Arc::new(SqlExpressions::new()));
    let row: Option<&Row<BuildOperator>> =
        tidegate_operators::OPERATORS.iter().find(|row| row.name == "join");
    (row.expect("a join").build)(&parsed.nodes[0], &context, inputs)
}

pub(crate) fn text(on: &str, kind: &str, near: &str) -> String {
    format!(
        "[operator.j]\ntype = \"join\"\nfrom = [\"a\", \"b\"]\non = \"{on}\"\nkind = \"{kind}\"\nmatch = {{ {near} }}\n"
    )
}

/// A join that runs, and what has left it.
pub(crate) struct Run {
    text: String,
    part: OperatorPart,
    /// As so many copies, another number of them after each restore.
    copies: Option<usize>,
    /// Lines of each port.
    pub(crate) lines: Vec<Vec<String>>,
    /// Newest watermark that readers were promised.
    pub(crate) promised: i64,
    /// Times a method had more to do.
    pub(crate) resumed: usize,
    /// Rows of the largest batch.
    pub(crate) largest: usize,
}

/// Key, number of the left row and number of the right row of each line, in
/// any order; `-` where there is none.
pub(crate) fn short(lines: &[String]) -> Vec<String> {
    let short = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let from = words.len() - 10;
        let key = if words[from + 1] == "-" { words[from + 6] } else { words[from + 1] };
        format!("{key} {} {}", words[from + 4], words[from + 9])
    };
    sorted(lines.iter().map(short).collect())
}

impl Run {
    pub(crate) fn new(text: &str) -> Run {
        let part = build(text, ["a", "b"]).unwrap_or_else(|error| panic!("{error}"));
        let lines = part.ports.iter().map(|_| Vec::new()).collect();
        Run { text: text.into(), part, copies: None, lines, promised: i64::MIN, resumed: 0, largest: 0 }
    }

    /// As several copies; `None` if there can be none.
    pub(crate) fn copied(text: &str, copies: usize) -> Option<Run> {
        let part = copied(|| build(text, ["a", "b"]).expect("is right"), copies)?;
        Some(Run { part, copies: Some(copies), ..Run::new(text) })
    }

    /// Rows of the input with this index.
    pub(crate) fn rows(&mut self, input: usize, rows: &[R]) {
        let mut out = Output::default();
        let progress = self.part.operator.on_batch(input, &batch(rows), &mut out);
        self.sent(progress.expect("takes rows"), out);
    }

    pub(crate) fn watermark(&mut self, time_us: i64) {
        let mut out = Output::default();
        let progress = self.part.operator.on_watermark(Time(time_us), &mut out);
        self.sent(progress.expect("takes a watermark"), out);
        let promised = self.part.operator.output_watermark(Time(time_us)).0;
        assert!(promised >= self.promised, "a watermark went back: {} to {promised}", self.promised);
        self.promised = promised;
    }

    pub(crate) fn end(&mut self) {
        let mut out = Output::default();
        let progress = self.part.operator.on_end(&mut out);
        self.sent(progress.expect("ends"), out);
    }

    /// Kill and restore.
    pub(crate) fn restore(&mut self) {
        let state = self.state();
        let build = || build(&self.text, ["a", "b"]).expect("built before");
        self.copies = self.copies.map(|copies| 1 + copies % 3);
        let part = self.copies.map(|copies| copied(build, copies).expect("could be copied before"));
        self.part = part.unwrap_or_else(build);
        self.part.operator.restore(state).expect("restores");
    }

    pub(crate) fn columns(&self) -> Vec<String> {
        let fields = self.part.ports[0].stream.columns.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    }

    pub(crate) fn state(&mut self) -> Vec<RecordBatch> {
        self.part.operator.snapshot().expect("snapshots")
    }

    /// Whether a snapshot holds no rows of either side.
    pub(crate) fn is_free(&mut self) -> bool {
        let is_row = |batch: &RecordBatch| batch.num_columns() > 1 && batch.num_rows() > 0;
        !self.state().iter().any(is_row)
    }

    /// Rows that a snapshot holds.
    pub(crate) fn state_rows(&mut self) -> usize {
        let state = self.state();
        // The first batch says how far time has come.
        state.iter().skip(1).map(RecordBatch::num_rows).sum()
    }

    fn sent(&mut self, mut progress: Progress, mut out: Output) {
        loop {
            for (port, batch) in out.drain() {
                let stream = &self.part.ports[port].stream;
                assert_eq!(batch.schema(), stream.columns, "the shape of port {port}");
                if port == 0 {
                    let times = stream.times(&batch).expect("event time");
                    let oldest = times.values().iter().min().copied();
                    assert!(oldest.is_none_or(|time| time >= self.promised), "a row behind the promise");
                }
                self.largest = self.largest.max(batch.num_rows());
                self.lines[port].extend(row_lines(&batch));
            }
            if progress == Progress::Done {
                break;
            }
            self.resumed += 1;
            progress = self.part.operator.resume(&mut out).expect("goes on");
        }
    }
}
