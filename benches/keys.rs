//! Ten million keys in one tumbling window: rows a second, memory of the process
//! beside what the engine says that the state takes, and bytes for each key.
//!
//! `cargo bench --bench keys -- [--keys 10000000]`

#![allow(
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use support::{Engine, machine, now};
use tidegate_engine::catalog::{Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

const KEYS: i64 = 10_000_000;
const BATCH_ROWS: i64 = 8_192;

const SOURCE_KEYS: &[Key] = &[required("keys", Kind::Int(1, i64::MAX), "how many")];
const CATALOG: Catalog = Catalog {
    sources: &[&[Row { name: "keys", summary: "", keys: &[SOURCE_KEYS], example: "", build }]],
    ..catalog::CATALOG
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let keys = arguments.iter().position(|word| word == "--keys").and_then(|at| arguments.get(at + 1));
    let keys: i64 = keys.map_or(KEYS, |text| text.parse().expect("a number of keys"));
    println!("{}; {keys} keys", machine());
    let engine = Engine::start();
    for select in ["count(*) AS n", "count(*) AS n\", \"avg(value) AS mean\", \"max(value) AS peak"] {
        let before = resident();
        let topology = format!(
            "[source.rows]\ntype = \"keys\"\nkeys = {keys}\n\n[operator.load]\ntype = \"window\"\nfrom = \"rows\"\nkey = [\"key\"]\nwindow = {{ kind = \"tumbling\", size = \"1h\" }}\nselect = [\"{select}\"]\n\n[sink.out]\ntype = \"discard\"\nfrom = \"load\"\n"
        );
        let started = now();
        let most = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let watched = Arc::clone(&most);
        let watcher = engine.io().spawn(async move {
            loop {
                watched.fetch_max(resident(), std::sync::atomic::Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
        let (counts, _) = engine.run_with(&CATALOG, &topology);
        watcher.abort();
        assert_eq!(counts.get("load"), Some(&keys.unsigned_abs()), "each key is there once");
        let seconds = started.elapsed().as_secs_f64();
        let most = most.load(std::sync::atomic::Ordering::Relaxed).saturating_sub(before);
        println!(
            "{:50} {:5.2} M rows/s, {:5.2} GB at most, {:4.0} bytes a key",
            select.replace('"', ""),
            keys as f64 / seconds / 1e6,
            most as f64 / 1e9,
            most as f64 / keys as f64
        );
    }
}

/// Memory of the process that is in use.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = text.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number");
    pages * 4_096
}

fn build(config: &NodeConfig, _context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let fields = vec![
        Field::new("ts", time_type(), false),
        Field::new("key", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
    ];
    let stream = StreamSchema::new(fields, Some("ts"));
    let keys = config.table.int("keys").expect("is required");
    Ok(SourcePart {
        source: Box::new(Many { next: 0, keys, stream: stream.clone() }),
        stream,
        watermark: WatermarkPolicy { max_future: None, ..WatermarkPolicy::default() },
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

/// One row for each key, in no order.
struct Many {
    next: i64,
    keys: i64,
    stream: StreamSchema,
}

#[async_trait]
impl Source for Many {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        if self.next == self.keys {
            return Ok(Polled::End);
        }
        let rows = self.next..self.keys.min(self.next + BATCH_ROWS);
        self.next = rows.end;
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(
            rows.clone().map(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed())),
        ));
        let times = TimestampMicrosecondArray::from_iter_values(rows.clone().map(|row| row / 10));
        let columns: Vec<ArrayRef> = vec![Arc::new(times.with_timezone("UTC")), Arc::clone(&keys), keys];
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch: RecordBatch::try_new(Arc::clone(&self.stream.columns), columns).expect("its schema"),
            rejects: None,
            position: Position::of(&self.next),
            received: None,
        }))
    }
}
