//! How long a row takes through the engine when rows come one at a time:
//! source → filter → window → sink, one row a millisecond, each of which closes
//! the window before it; and source → filter → sink. Beside them, in the same
//! run, a bare pair of channels over the same two runtimes.
//! Open loop: a row's time begins when it is due, not when it could be sent.
//!
//! `cargo bench --bench latency`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use async_trait::async_trait;
use support::{Engine, machine, now, percentiles};
use tidegate_engine::catalog::{Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::shared::Shared;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

const ROWS: i64 = 10_000;
const EVERY: Duration = Duration::from_millis(1);
const RUNS: usize = 5;

const TOPOLOGY: &str = r#"
[source.rows]
type = "due"

[operator.positive]
type  = "filter"
from  = "rows"
where = "value >= 0"

[operator.each]
type   = "window"
from   = "positive"
window = { kind = "tumbling", size = "1ms" }
select = ["count(*) AS n", "max(value) AS peak"]

[sink.windows]
type = "arrived"
from = "each"

[sink.rows_through]
type = "arrived"
from = "positive"
"#;

const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "due", summary: "", keys: &[], example: "", build: due }]],
    sinks: &[&[Row { name: "arrived", summary: "", keys: &[], example: "", build: arrived }]],
    ..catalog::CATALOG
};

fn main() {
    println!("{}; one row every {EVERY:?}, {ROWS} rows, {RUNS} runs", machine());
    let engine = Engine::start();
    for run in 1..=RUNS {
        println!("run {run}");
        let shared = engine.run_with(&CATALOG, TOPOLOGY).1;
        for sink in ["windows", "rows_through"] {
            println!("  {sink:14} {}", percentiles(&shared.get_or_insert(sink, Times::default).take()));
        }
        println!("  {:14} {}", "bare channels", percentiles(&bare_channels(&engine)));
    }
}

/// Latencies that a sink gathered.
#[derive(Default)]
struct Times(std::sync::Mutex<Vec<Duration>>);

impl Times {
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// When row number 0 is due.
struct Start(Instant);

fn start(shared: &Shared) -> Instant {
    shared.get_or_insert("start", || Start(now() + Duration::from_millis(50))).0
}

fn due(_: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let fields = vec![Field::new("ts", time_type(), false), Field::new("value", DataType::Float64, true)];
    let stream = StreamSchema::new(fields, Some("ts"));
    let source = Due { row: 0, shared: Arc::clone(&context.shared), stream: stream.clone() };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark: WatermarkPolicy { max_future: None, ..WatermarkPolicy::default() },
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

/// A row at each due time; its event time is its number in milliseconds.
struct Due {
    row: i64,
    shared: Arc<Shared>,
    stream: StreamSchema,
}

#[async_trait]
impl Source for Due {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        if self.row == ROWS {
            return Ok(Polled::End);
        }
        wait_until(due_time(start(&self.shared), self.row)).await;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(vec![self.row * 1_000]).with_timezone("UTC")),
            Arc::new(Float64Array::from(vec![1.0])),
        ];
        self.row += 1;
        let batch = RecordBatch::try_new(Arc::clone(&self.stream.columns), columns).expect("its schema");
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&self.row),
            received: None,
        }))
    }
}

fn due_time(start: Instant, row: i64) -> Instant {
    start + EVERY * row as u32
}

/// Timers are a millisecond coarse: the rest of the wait gives others way.
async fn wait_until(time: Instant) {
    while now() < time {
        tokio::task::yield_now().await;
    }
}

fn arrived(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let time = input.stream.time.expect("has event time");
    let times = context.shared.get_or_insert(&config.name, Times::default);
    Ok(SinkPart { sink: Box::new(Arrived { time, times, shared: Arc::clone(&context.shared) }) })
}

/// Notes how long after its due time a row is here. A window that ends at a
/// row's time was closed by that row.
struct Arrived {
    time: usize,
    times: Arc<Times>,
    shared: Arc<Shared>,
}

#[async_trait]
impl Sink for Arrived {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let start = start(&self.shared);
        let mut times = self.times.0.lock().expect("no panic");
        for time_us in batch.column(self.time).as_primitive::<TimestampMicrosecondType>().values() {
            // The last window ends after the last row, with the stream.
            if time_us / 1_000 < ROWS {
                times.push(now().saturating_duration_since(due_time(start, time_us / 1_000)));
            }
        }
        Ok(())
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// As many hand-overs as the engine has between reader, driver, segment and
/// sink, and nothing else.
fn bare_channels(engine: &Engine) -> Vec<Duration> {
    let start = now() + Duration::from_millis(50);
    let (first, mut to_driver) = tokio::sync::mpsc::channel(64);
    let (second, mut to_segment) = tokio::sync::mpsc::channel(64);
    let (third, mut to_sink) = tokio::sync::mpsc::channel::<Instant>(64);
    engine.io().spawn(async move {
        for row in 0..ROWS {
            wait_until(due_time(start, row)).await;
            first.send(due_time(start, row)).await.expect("is read");
        }
    });
    engine.io().spawn(async move {
        while let Some(row) = to_driver.recv().await {
            second.send(row).await.expect("is read");
        }
    });
    engine.compute().spawn(async move {
        while let Some(row) = to_segment.recv().await {
            third.send(row).await.expect("is read");
        }
    });
    engine.io().block_on(async move {
        let mut times = Vec::new();
        while let Some(row) = to_sink.recv().await {
            times.push(now().saturating_duration_since(row));
        }
        times
    })
}
