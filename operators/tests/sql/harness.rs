//! A topology of three streams, a table and one query, loaded by the engine, and its plan
//! run to the end of the rows as the runtime would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use tidegate_engine::catalog::{BuildSink, BuildSource, BuildTable, Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::{Input, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::table::{ReferenceTable, TablePart, as_version};
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::load::{Loaded, load, read};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_operators::expression::SqlExpressions;

const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "rows", summary: "", keys: &[], example: "", build: source as BuildSource }]],
    operators: &[tidegate_operators::OPERATORS],
    composed: &[tidegate_operators::COMPOSED],
    sinks: &[&[Row { name: "nowhere", summary: "", keys: &[], example: "", build: sink as BuildSink }]],
    tables: &[&[Row { name: "rows", summary: "", keys: &[], example: "", build: table as BuildTable }]],
    trigger: &tidegate_operators::TRIGGER,
    tasks: &[],
};

/// A row: key, number, milliseconds, another number.
pub(crate) type TestRow = (Option<&'static str>, Option<i64>, i64, i64);

/// `key, n, ts, m` and, for the stream `timeless`, no event time.
fn stream(has_time: bool) -> StreamSchema {
    let fields = vec![
        Field::new("key", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("ts", time_type(), false),
        Field::new("m", DataType::Int64, false),
        Field::new("value", DataType::Float64, true),
    ];
    StreamSchema::new(fields, has_time.then_some("ts"))
}

pub(crate) fn batch(rows: &[TestRow]) -> RecordBatch {
    let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(row.2 * 1_000)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>()),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(rows.iter().map(|row| Some(row.3)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.1.map(|n| n as f64 / 2.0)).collect::<Float64Array>()),
    ];
    RecordBatch::try_new(stream(true).columns, columns).expect("columns of the schema")
}

/// The topology around a query, and where the query begins in it.
pub(crate) fn topology(query: &str) -> String {
    let sources = ["a", "b", "timeless"].map(|name| format!("[source.{name}]\ntype = \"rows\"\n"));
    format!(
        "{}[table.t]\ntype = \"rows\"\n[operator.q]\ntype = \"sql\"\nquery = '''{query}'''\n[sink.out]\ntype = \"nowhere\"\nfrom = \"q\"\naccept_changes = true\n",
        sources.concat(),
    )
}

pub(crate) fn loaded(text: &str) -> Result<Loaded, ConfigError> {
    let (parsed, name) = read(text, "test", &|_| None)?;
    let nowhere = PathBuf::from("/proc/self/nowhere");
    let context = BuildContext::new(&name, nowhere.clone(), nowhere, Arc::new(SqlExpressions::new()));
    load(&parsed, &CATALOG, &context)
}

/// Rows of the streams `a` and `b`.
pub(crate) type Rows = BTreeMap<&'static str, RecordBatch>;

pub(crate) fn rows(a: &[TestRow], b: &[TestRow]) -> Rows {
    BTreeMap::from([("a", batch(a)), ("b", batch(b))])
}

/// What a query gives, in no order; a line is `column=value …`.
pub(crate) fn answer(query: &str, rows: &Rows, cut: usize) -> Vec<String> {
    let mut lines = lines(&given(query, rows, cut));
    lines.sort_unstable();
    lines
}

/// What stands when the changes that a query gives have been applied in order; what
/// is taken back must be there. Also how many changes there were.
pub(crate) fn applied(query: &str, rows: &Rows, cut: usize) -> (Vec<String>, usize) {
    let changes = lines(&given(query, rows, cut));
    let mut standing: Vec<String> = Vec::new();
    for line in &changes {
        let (image, change) = line.rsplit_once(" change=").expect("a change");
        let (image, _) = image.rsplit_once("changed_at=").expect("a time");
        let image = image.trim_end().to_owned();
        if change.starts_with('+') {
            standing.push(image);
        } else {
            let at = standing.iter().rposition(|known| *known == image);
            standing.remove(at.unwrap_or_else(|| panic!("{query}: {line} takes back what is not there")));
        }
    }
    standing.sort_unstable();
    (standing, changes.len())
}

/// What leaves, in order.
fn given(query: &str, rows: &Rows, cut: usize) -> Vec<RecordBatch> {
    let loaded = loaded(&topology(query)).unwrap_or_else(|error| panic!("{query}\n{error}"));
    let mut given: BTreeMap<(String, usize), Vec<RecordBatch>> = BTreeMap::new();
    for (name, batch) in rows {
        let pieces =
            (0..batch.num_rows()).step_by(cut).map(|at| batch.slice(at, cut.min(batch.num_rows() - at)));
        given.insert(((*name).to_owned(), 0), pieces.collect());
    }
    let version = as_version(&table_rows(), "1").expect("a version");
    given.insert(("t.rows".into(), 0), vec![version]);
    let mut before_all = -1_000_000;
    for mut node in loaded.plan.operators {
        let mut out = Output::default();
        for (input, port) in node.inputs.iter().enumerate() {
            for batch in given.get(&(port.node.clone(), port.port)).cloned().unwrap_or_default() {
                let progress = node.part.operator.on_batch(input, &batch, &mut out).expect("takes rows");
                go_on(node.part.operator.as_mut(), progress, &mut out);
                // No row is late, but what is known so far is told.
                before_all += 1;
                let progress = node.part.operator.on_watermark(Time(before_all), &mut out);
                go_on(node.part.operator.as_mut(), progress.expect("takes a watermark"), &mut out);
            }
        }
        let end = Time(1_000_000_000_000_000);
        let progress = node.part.operator.on_watermark(end, &mut out).expect("takes a watermark");
        go_on(node.part.operator.as_mut(), progress, &mut out);
        let progress = node.part.operator.on_end(&mut out).expect("ends");
        go_on(node.part.operator.as_mut(), progress, &mut out);
        for (port, batch) in out.drain() {
            assert_eq!(batch.schema(), node.part.ports[port].stream.columns, "{}", node.name);
            assert!(
                node.part.ports[port].name.is_empty(),
                "{query}: rows leave by {}",
                node.part.ports[port].name
            );
            given.entry((node.name.clone(), port)).or_default().push(batch);
        }
    }
    given.remove(&("q".to_owned(), 0)).unwrap_or_default()
}

fn go_on(operator: &mut dyn Operator, mut progress: Progress, out: &mut Output) {
    while progress == Progress::More {
        progress = operator.resume(out).expect("goes on");
    }
}

/// What the same rows give as one batch.
pub(crate) fn batch_answer(query: &str, rows: &Rows) -> Vec<String> {
    let context = SessionContext::new();
    for (name, batch) in rows {
        context.register_batch(*name, batch.clone()).expect("registers");
    }
    context.register_batch("t", table_rows()).expect("registers");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let batches = runtime.block_on(async {
        let frame = context.sql(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        frame.collect().await.expect("runs")
    });
    let mut lines = lines(&batches);
    lines.sort_unstable();
    lines
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut lines = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns = batch.columns().iter().zip(schema.fields());
        let columns: Vec<_> = columns
            .map(|(column, field)| (field.name(), ArrayFormatter::try_new(column, &options).expect("prints")))
            .collect();
        for row in 0..batch.num_rows() {
            let values = columns.iter().map(|(name, column)| format!("{name}={}", column.value(row)));
            lines.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

/// The table `t`: `key, w`.
fn table_rows() -> RecordBatch {
    let keys: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), Some("y"), None]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    RecordBatch::try_from_iter_with_nullable([("key", keys, true), ("w", numbers, false)])
        .expect("two columns")
}

#[derive(Debug)]
struct TestTable;

impl ReferenceTable for TestTable {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        Ok(vec![table_rows()])
    }

    fn reload_every(&self) -> Option<Duration> {
        Some(Duration::from_secs(60))
    }
}

fn table(_config: &NodeConfig, _context: &BuildContext, _inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let columns = table_rows().schema();
    Ok(TablePart { table: Arc::new(TestTable), columns, recorder: None, sink: None })
}

fn source(config: &NodeConfig, _context: &BuildContext) -> Result<SourcePart, ConfigError> {
    Ok(SourcePart {
        source: Box::new(Nothing),
        stream: stream(config.name != "timeless"),
        watermark: WatermarkPolicy::default(),
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

fn sink(_config: &NodeConfig, _context: &BuildContext, _input: &Input) -> Result<SinkPart, ConfigError> {
    Ok(SinkPart { sink: Box::new(Nothing) })
}

/// Nothing is started: the plan alone is tried.
struct Nothing;

#[async_trait]
impl Source for Nothing {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        Ok(Polled::End)
    }
}

#[async_trait]
impl Sink for Nothing {
    fn delivery(&self) -> Delivery {
        Delivery::Local
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, _batch: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}
