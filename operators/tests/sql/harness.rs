//! A topology of three streams and one query, loaded by the engine, and its plan
//! run to the end of the rows as the runtime would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use tidegate_engine::catalog::{BuildSink, BuildSource, Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::{Input, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::{Time, time_type};
use tidegate_engine::topology::load::{Loaded, load, read};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_operators::expression::SqlExpressions;

const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "rows", summary: "", keys: &[], example: "", build: source as BuildSource }]],
    operators: &[tidegate_operators::OPERATORS],
    composed: &[tidegate_operators::COMPOSED],
    sinks: &[&[Row { name: "nowhere", summary: "", keys: &[], example: "", build: sink as BuildSink }]],
    tables: &[],
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
        "{}[operator.q]\ntype = \"sql\"\nquery = '''{query}'''\n[sink.out]\ntype = \"nowhere\"\nfrom = \"q\"\n",
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
    let loaded = loaded(&topology(query)).unwrap_or_else(|error| panic!("{query}\n{error}"));
    let mut given: BTreeMap<(String, usize), Vec<RecordBatch>> = BTreeMap::new();
    for (name, batch) in rows {
        let pieces =
            (0..batch.num_rows()).step_by(cut).map(|at| batch.slice(at, cut.min(batch.num_rows() - at)));
        given.insert(((*name).to_owned(), 0), pieces.collect());
    }
    for mut node in loaded.plan.operators {
        let mut out = Output::default();
        for (input, port) in node.inputs.iter().enumerate() {
            for batch in given.get(&(port.node.clone(), port.port)).cloned().unwrap_or_default() {
                let progress = node.part.operator.on_batch(input, &batch, &mut out).expect("takes rows");
                go_on(node.part.operator.as_mut(), progress, &mut out);
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
    lines(&given.remove(&("q".to_owned(), 0)).unwrap_or_default())
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
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let batches = runtime.block_on(async {
        let frame = context.sql(query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        frame.collect().await.expect("runs")
    });
    lines(&batches)
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
    lines.sort_unstable();
    lines
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
