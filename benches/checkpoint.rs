//! What checkpoints cost where the state is large: rows per second through a
//! window over more than a million keys, some or all of which go on changing,
//! with a checkpoint every second, against the same rows without any; how long a
//! segment stands still for a snapshot of that state, against giving all of it;
//! and the longest batch behind it.
//!
//! `cargo bench --bench checkpoint`

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

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use catalog::CATALOG;
use support::{Engine, Rates, machine, now, percentiles};
use tidegate_engine::catalog::find;
use tidegate_engine::operator::{Input, Operator, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::BuildContext;
use tidegate_engine::topology::parse::parse;
use tidegate_operators::expression::SqlExpressions;

const KEYS: u64 = 1_200_000;
/// Enough that writing the state for the first time is a small part of a run.
const ROWS: u64 = 36_000_000;
const RUNS: usize = 5;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "INTERVAL"

[source.rows]
type   = "file"
path   = "PATH"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }
"#;

const WINDOW: &str = r#"
[operator.load]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "1d" }
select = ["count(*) AS n", "sum(value) AS total", "avg(value) AS mean", "min(value) AS low", "max(value) AS high"]
"#;

const SINK: &str = "[sink.out]\ntype = \"discard\"\nfrom = \"load\"\n";

/// Keys in an order that jumps about, each as often as any other.
fn device(row: u64) -> u64 {
    row.wrapping_mul(7_919_333) % KEYS
}

/// All keys have a row; from then on only so many of them.
fn write_rows(path: &Path, moving: u64) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for row in 0..ROWS {
        let device = if row < KEYS { device(row) } else { device(row) % moving };
        let ts = 1_700_000_000_000 + row / 1_000;
        writeln!(file, "{{\"device\":\"d{device:08}\",\"ts\":{ts},\"value\":{}.5}}", row % 100)
            .expect("writes");
    }
    file.flush().expect("writes");
}

fn throughput(moving: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rows.jsonl");
    write_rows(&path, moving);
    let engine = Engine::start();
    let (mut with, mut without) = (Rates::default(), Rates::default());
    for _ in 0..RUNS {
        for (rates, interval) in [(&mut without, "1d"), (&mut with, "1s")] {
            let text = TOPOLOGY.replace("INTERVAL", interval).replace("PATH", &path.display().to_string());
            let started = now();
            let counts = engine.run(&(text + WINDOW + SINK));
            rates.add(ROWS, started.elapsed());
            assert_eq!(counts["out"], KEYS);
        }
    }
    println!("{ROWS} rows, window over {KEYS} keys, of which {moving} go on changing");
    println!("  a checkpoint every second  {with}");
    println!("  none before the end        {without}");
    println!("  {:.2} x", with.median() / without.median());
}

fn stream() -> StreamSchema {
    let fields = vec![
        Field::new("device", DataType::Utf8, true),
        Field::new("ts", time_type(), false),
        Field::new("value", DataType::Float64, true),
    ];
    StreamSchema::new(fields, Some("ts"))
}

fn batch(from: u64, rows: u64) -> RecordBatch {
    let keys = (from..from + rows).map(|row| format!("d{:08}", device(row)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(keys)),
        Arc::new(
            TimestampMicrosecondArray::from(vec![1_700_000_000_000_000; rows as usize]).with_timezone("UTC"),
        ),
        Arc::new(Float64Array::from(vec![1.5; rows as usize])),
    ];
    RecordBatch::try_new(stream().columns, columns).expect("columns of the schema")
}

fn window() -> Box<dyn Operator> {
    let (parsed, problems) = parse(WINDOW);
    assert_eq!(problems, []);
    let context =
        BuildContext::new("bench", ".".into(), std::env::temp_dir(), Arc::new(SqlExpressions::new()));
    let row = find(CATALOG.operators, "window").expect("there is one");
    let input = Input { name: "rows".into(), stream: stream() };
    (row.build)(&parsed.nodes[0], &context, &[input]).expect("a right window").operator
}

fn bytes(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::get_array_memory_size).sum()
}

fn stalls() {
    let mut window = window();
    let mut out = Output::default();
    let mut from = 0;
    let mut add = |window: &mut Box<dyn Operator>, rows: u64| {
        let mut longest = Duration::ZERO;
        for _ in 0..rows.div_ceil(8_192) {
            let batch = batch(from, 8_192);
            from += 8_192;
            let started = now();
            window.on_batch(0, &batch, &mut out).expect("takes rows");
            longest = longest.max(started.elapsed());
        }
        longest
    };
    add(&mut window, KEYS);
    let started = now();
    drop(window.changes().expect("reports").expect("it is large"));
    println!("first report of {KEYS} keys: {} ms", started.elapsed().as_millis());
    let started = now();
    let state = window.snapshot().expect("snapshots");
    println!("state of {KEYS} keys, {} MB", bytes(&state) / 1_000_000);
    println!("  all of it at once: {} ms", started.elapsed().as_millis());
    drop(state);
    for touched in [10_000, 100_000, KEYS] {
        let (mut stalls, mut batches, mut size) = (Vec::new(), Vec::new(), 0);
        for _ in 0..20 {
            batches.push(add(&mut window, touched));
            let started = now();
            let changes = window.changes().expect("reports").expect("it is large");
            stalls.push(started.elapsed());
            size = bytes(&changes);
        }
        println!("  {touched} rows between two reports: {} MB", size / 1_000_000);
        println!("    a report          {}", percentiles(&stalls));
        println!("    longest batch     {}", percentiles(&batches));
    }
}

fn main() {
    println!("{}", machine());
    stalls();
    for moving in [KEYS / 100, KEYS / 10, KEYS] {
        throughput(moving);
    }
}
