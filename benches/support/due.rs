//! Rows that come one at a time when they are due, and sinks that note how late
//! they are there. Open loop: a row's time begins when it is due, not when it
//! could be sent.

#![allow(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark stops at the first surprise"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, TimestampMicrosecondType};
use async_trait::async_trait;
use tidegate_engine::catalog::{Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::now;
use crate::catalog;

const KEYS: &[Key] = &[
    required("rows", Kind::Int(1, i64::MAX), "how many times"),
    required("every", Kind::Duration, "one of them"),
    optional(
        "burst",
        Kind::Int(1, 1_000),
        "so many rows each time, a microsecond apart, each of a key of its own",
    ),
];

/// The engine's catalog with the source `due` and the sink `arrived`.
pub(crate) const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "due", summary: "", keys: &[KEYS], example: "", build: due }]],
    sinks: &[
        &[Row { name: "arrived", summary: "", keys: &[], example: "", build: arrived }],
        tidegate_connectors::SINKS,
    ],
    ..catalog::CATALOG
};

/// Latencies that a sink gathered, in the order the rows came.
#[derive(Default)]
pub(crate) struct Times(std::sync::Mutex<Vec<Duration>>);

impl Times {
    pub(crate) fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

/// When row number 0 is due, and the pace of the others.
#[derive(Clone, Copy)]
struct Pace {
    start: Instant,
    every: Duration,
    rows: i64,
}

impl Pace {
    fn due(self, row: i64) -> Instant {
        self.start + self.every * row as u32
    }
}

fn due(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let fields = vec![
        Field::new("ts", time_type(), false),
        Field::new("value", DataType::Float64, true),
        Field::new("key", DataType::Int64, true),
    ];
    let burst = config.table.int("burst").unwrap_or(1);
    let stream = StreamSchema::new(fields, Some("ts"));
    let every = config.table.duration("every").expect("is required");
    let rows = config.table.int_as("rows").expect("is required");
    // Everything has started by then.
    let start = now() + Duration::from_millis(500);
    let pace = *context.shared.get_or_insert("pace", || Pace { start, every, rows });
    Ok(SourcePart {
        source: Box::new(Due { row: 0, burst, pace, stream: stream.clone() }),
        stream,
        watermark: WatermarkPolicy { max_future: None, ..WatermarkPolicy::default() },
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

/// A row, or so many, at each due time; event time is its number in milliseconds.
struct Due {
    row: i64,
    burst: i64,
    pace: Pace,
    stream: StreamSchema,
}

#[async_trait]
impl Source for Due {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        if self.row == self.pace.rows {
            return Ok(Polled::End);
        }
        wait_until(self.pace.due(self.row)).await;
        let times = (0..self.burst).map(|row| self.row * 1_000 + row);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
            Arc::new(Float64Array::from(vec![1.0; self.burst as usize])),
            Arc::new(Int64Array::from_iter_values(0..self.burst)),
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

/// Timers are a millisecond coarse: the rest of the wait gives others way.
pub(crate) async fn wait_until(time: Instant) {
    const COARSE: Duration = Duration::from_millis(2);
    if let Some(rest) = time.checked_duration_since(now() + COARSE) {
        tokio::time::sleep(rest).await;
    }
    while now() < time {
        tokio::task::yield_now().await;
    }
}

fn arrived(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let time = input.stream.time.expect("has event time");
    let times = context.shared.get_or_insert(&config.name, Times::default);
    let pace = context.shared.get_or_insert("pace", || -> Pace { unreachable!("the source is built first") });
    Ok(SinkPart { sink: Box::new(Arrived { time, times, pace: *pace }) })
}

/// Notes how long after its due time a row is here. A window that ends at a
/// row's time was closed by that row.
struct Arrived {
    time: usize,
    times: Arc<Times>,
    pace: Pace,
}

#[async_trait]
impl Sink for Arrived {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let mut times = self.times.0.lock().expect("no panic");
        for time_us in batch.column(self.time).as_primitive::<TimestampMicrosecondType>().values() {
            // The last window ends after the last row, with the stream.
            if time_us / 1_000 < self.pace.rows {
                times.push(now().saturating_duration_since(self.pace.due(time_us / 1_000)));
            }
        }
        Ok(())
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}
