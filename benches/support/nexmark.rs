//! Nexmark: bids, auctions and persons in memory, the topologies of
//! `examples/nexmark` with these for their files, and the same queries as one
//! batch.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_wrap,
    reason = "a benchmark or a test stops at the first surprise"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};
use tidegate_engine::catalog::{Catalog, Row};
use tidegate_engine::changelog::{CHANGE, CHANGED_AT, gives};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::Engine;
use crate::catalog;

/// Time of the first event, in milliseconds: 2023-11-14T22:13:20Z.
const BASE_TIME_MS: u64 = 1_700_000_000_000;
const BATCH_ROWS: usize = 8_192;

const KEYS: &[Key] = &[required("rows", Kind::Text, "bid, auction or person")];

/// The engine's catalog with the source `nexmark` and the sink `collect`.
const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "nexmark", summary: "", keys: &[KEYS], example: "", build: source }]],
    sinks: &[
        &[Row { name: "collect", summary: "", keys: &[], example: "", build: collect }],
        tidegate_connectors::SINKS,
    ],
    ..catalog::CATALOG
};

/// The rows of each kind of event, in batches.
type Tables = BTreeMap<&'static str, Vec<RecordBatch>>;

static TABLES: OnceLock<Tables> = OnceLock::new();

/// Makes so many events, once for the process.
pub(crate) fn generate(events: usize) {
    let config = NexmarkConfig { base_time: BASE_TIME_MS, ..NexmarkConfig::default() };
    let (mut bids, mut auctions, mut persons) = (Vec::new(), Vec::new(), Vec::new());
    for event in EventGenerator::new(config).take(events) {
        match event {
            Event::Bid(bid) => bids.push(bid),
            Event::Auction(auction) => auctions.push(auction),
            Event::Person(person) => persons.push(person),
        }
    }
    let tables = BTreeMap::from([
        ("bid", bids.chunks(BATCH_ROWS).map(bid_rows).collect()),
        ("auction", auctions.chunks(BATCH_ROWS).map(auction_rows).collect()),
        ("person", persons.chunks(BATCH_ROWS).map(person_rows).collect()),
    ]);
    assert!(TABLES.set(tables).is_ok(), "events are made once");
}

fn numbers<T>(rows: &[T], of: impl Fn(&T) -> usize) -> ArrayRef {
    Arc::new(rows.iter().map(|row| Some(of(row) as i64)).collect::<Int64Array>())
}

fn texts<T>(rows: &[T], of: impl Fn(&T) -> &String) -> ArrayRef {
    Arc::new(rows.iter().map(|row| Some(of(row))).collect::<StringArray>())
}

fn times<T>(rows: &[T], of: impl Fn(&T) -> u64) -> ArrayRef {
    let times: TimestampMicrosecondArray = rows.iter().map(|row| Some(of(row) as i64 * 1_000)).collect();
    Arc::new(times.with_timezone("UTC"))
}

fn bid_rows(rows: &[Bid]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("auction", numbers(rows, |bid| bid.auction)),
        ("bidder", numbers(rows, |bid| bid.bidder)),
        ("price", numbers(rows, |bid| bid.price)),
        ("channel", texts(rows, |bid| &bid.channel)),
        ("url", texts(rows, |bid| &bid.url)),
        ("date_time", times(rows, |bid| bid.date_time)),
        ("extra", texts(rows, |bid| &bid.extra)),
    ])
    .expect("columns of one length")
}

fn auction_rows(rows: &[Auction]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", numbers(rows, |auction| auction.id)),
        ("item_name", texts(rows, |auction| &auction.item_name)),
        ("description", texts(rows, |auction| &auction.description)),
        ("initial_bid", numbers(rows, |auction| auction.initial_bid)),
        ("reserve", numbers(rows, |auction| auction.reserve)),
        ("date_time", times(rows, |auction| auction.date_time)),
        ("expires", times(rows, |auction| auction.expires)),
        ("seller", numbers(rows, |auction| auction.seller)),
        ("category", numbers(rows, |auction| auction.category)),
        ("extra", texts(rows, |auction| &auction.extra)),
    ])
    .expect("columns of one length")
}

fn person_rows(rows: &[Person]) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", numbers(rows, |person| person.id)),
        ("name", texts(rows, |person| &person.name)),
        ("email_address", texts(rows, |person| &person.email_address)),
        ("credit_card", texts(rows, |person| &person.credit_card)),
        ("city", texts(rows, |person| &person.city)),
        ("state", texts(rows, |person| &person.state)),
        ("date_time", times(rows, |person| person.date_time)),
        ("extra", texts(rows, |person| &person.extra)),
    ])
    .expect("columns of one length")
}

fn rows_of(name: &str) -> &'static [RecordBatch] {
    TABLES.get().expect("events were made").get(name).unwrap_or_else(|| panic!("there are no {name} rows"))
}

/// The queries of `examples/nexmark`, by name: topology and SQL.
pub(crate) fn queries() -> Vec<(String, String, String)> {
    let folder = folder();
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the examples are there") {
        let path = entry.expect("can be read").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("can be read");
            let sql =
                std::fs::read_to_string(path.with_extension("sql")).expect("its batch stands beside it");
            queries.push((name, text, sql));
        }
    }
    queries.sort_by_key(|(name, ..)| name.trim_start_matches('q').parse::<u32>().expect("q and a number"));
    queries
}

/// The topology with rows in memory for its files, and this sink.
fn in_memory(text: &str, sink: &str) -> String {
    let part = |part: &str| {
        if let Some(name) = part.strip_prefix("[source.").and_then(|rest| rest.split(']').next()) {
            return format!("[source.{name}]\ntype = \"nexmark\"\nrows = \"{name}\"");
        }
        if part.starts_with("[sink.out]") {
            let from = part.lines().find(|line| line.starts_with("from")).expect("a sink reads something");
            return format!("[sink.out]\ntype = \"{sink}\"\n{from}");
        }
        // The other files are named from where they stand.
        part.replace("side_input.csv", &folder().join("side_input.csv").to_string_lossy())
    };
    text.split("\n\n").map(part).collect::<Vec<_>>().join("\n\n")
}

/// Runs a query to the end of its rows and forgets what it gives; answers how
/// many rows its sources read.
pub(crate) fn run(engine: &Engine, text: &str) -> u64 {
    let (counts, _) = engine.run_with(&CATALOG, &in_memory(text, "discard"));
    ["bid", "auction", "person"].iter().filter_map(|name| counts.get(*name)).sum()
}

/// What is compared of a query whose rows depend on when it runs.
const COMPARED: &[(&str, &str)] =
    &[("nexmark-q12", "SELECT bidder, sum(bid_count) AS bid_count FROM given GROUP BY bidder")];

/// The rows that a query gives, in no order.
pub(crate) fn answer(engine: &Engine, text: &str) -> Vec<String> {
    let (_, shared) = engine.run_with(&CATALOG, &in_memory(text, "collect"));
    let collected = shared.get_or_insert("out", Collected::default);
    let batches = std::mem::take(&mut *collected.0.lock().expect("no panic"));
    let Some((_, sql)) = COMPARED.iter().find(|(name, _)| text.contains(&format!("\"{name}\""))) else {
        return lines(&applied(batches));
    };
    let schema = batches.first().expect("there are some").schema();
    let context = SessionContext::new();
    let given = MemTable::try_new(schema, vec![batches]).expect("rows of their schema");
    context.register_table("given", Arc::new(given)).expect("a new name");
    lines(&asked(engine, &context, sql))
}

fn asked(engine: &Engine, context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    let batches =
        engine.io().block_on(async { context.sql(sql).await.expect("a right query").collect().await });
    batches.expect("runs")
}

/// What stands when changes have been applied in order: every image that is taken
/// back was given before. Rows that stand are as they are.
fn applied(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let Some(change) = batches.first().and_then(|first| first.schema().index_of(CHANGE).ok()) else {
        return batches;
    };
    let schema = batches.first().expect("there is one").schema();
    let rows = arrow::compute::concat_batches(&schema, &batches).expect("of one shape");
    let given = gives(&rows, change).expect("words of a changelog");
    let image: Vec<usize> = (0..rows.num_columns())
        .filter(|column| ![CHANGE, CHANGED_AT].contains(&schema.field(*column).name().as_str()))
        .collect();
    let rows = rows.project(&image).expect("columns of its own");
    let types = rows.columns().iter().map(|column| SortField::new(column.data_type().clone()));
    let converter = RowConverter::new(types.collect()).expect("plain types");
    let images = converter.convert_columns(rows.columns()).expect("plain values");
    let mut standing: HashMap<&[u8], Vec<u32>> = HashMap::new();
    for (row, gives) in given.values().iter().enumerate() {
        let known = standing.entry(images.row(row).data()).or_default();
        if gives {
            known.push(u32::try_from(row).expect("few rows"));
        } else {
            assert!(known.pop().is_some(), "row {row} takes back what is not there");
        }
    }
    let standing: UInt32Array = standing.into_values().flatten().collect::<Vec<_>>().into();
    vec![arrow::compute::take_record_batch(&rows, &standing).expect("rows that are there")]
}

/// The same rows by SQL over all events at once.
pub(crate) fn batch_answer(engine: &Engine, sql: &str) -> Vec<String> {
    let context = SessionContext::new();
    for name in ["bid", "auction", "person"] {
        let batches = rows_of(name);
        let schema = batches.first().expect("there are some").schema();
        let table = MemTable::try_new(schema, vec![batches.to_vec()]).expect("rows of their schema");
        context.register_table(name, Arc::new(table)).expect("a new name");
    }
    let side_input = MemTable::try_new(side_input().schema(), vec![vec![side_input()]]);
    context
        .register_table("side_input", Arc::new(side_input.expect("rows of their schema")))
        .expect("a new name");
    lines(&asked(engine, &context, sql))
}

/// The table of `side_input.csv`.
fn side_input() -> RecordBatch {
    let text = std::fs::read_to_string(folder().join("side_input.csv")).expect("stands there");
    let rows: Vec<(i64, String)> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(','))
        .map(|(key, value)| (key.parse().expect("a number"), value.to_owned()))
        .collect();
    let keys: ArrayRef = Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>());
    RecordBatch::try_from_iter([("key", keys), ("value", texts(&rows, |row| &row.1))])
        .expect("columns of one length")
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/nexmark")
}

/// Each row as `column=value …`, in no order.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let mut lines = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .zip(schema.fields())
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
    let batches = rows_of(config.table.str("rows").expect("is required"));
    let fields = batches.first().expect("there are some").schema().fields().to_vec();
    let fields = fields.iter().map(|field| field.as_ref().clone().with_nullable(field.name() != "date_time"));
    let stream = StreamSchema::new(fields.collect(), Some("date_time"));
    Ok(SourcePart {
        source: Box::new(Events { batches, next: 0, stream: stream.clone() }),
        stream,
        watermark: WatermarkPolicy { max_future: None, ..WatermarkPolicy::default() },
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

struct Events {
    batches: &'static [RecordBatch],
    next: usize,
    stream: StreamSchema,
}

#[async_trait]
impl Source for Events {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some(batch) = self.batches.get(self.next) else { return Ok(Polled::End) };
        self.next += 1;
        let batch = RecordBatch::try_new(Arc::clone(&self.stream.columns), batch.columns().to_vec());
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch: batch.expect("its schema"),
            rejects: None,
            position: Position::of(&self.next),
            received: None,
        }))
    }
}

#[derive(Default)]
struct Collected(Mutex<Vec<RecordBatch>>);

fn collect(config: &NodeConfig, context: &BuildContext, _input: &Input) -> Result<SinkPart, ConfigError> {
    let collected = context.shared.get_or_insert(&config.name, Collected::default);
    Ok(SinkPart { sink: Box::new(Collect(collected)) })
}

struct Collect(Arc<Collected>);

#[async_trait]
impl Sink for Collect {
    /// Changes are applied when all are there.
    fn upserts(&self) -> bool {
        true
    }

    fn delivery(&self) -> Delivery {
        Delivery::Local
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.0.0.lock().expect("no panic").push(batch.clone());
        Ok(())
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}
