//! Rows per second of one core through the engine, from a file of JSON lines
//! to a sink that forgets them, against a loop by hand that uses the same
//! decoder in the same run:
//! (a) `value > 50`, `value * 2`, all columns; (b) 10 s tumbling windows per
//! device with count, average and maximum; (c) as (b) with 1 % of the rows out
//! of order and 0.1 % late.
//! Prints minimum, median and maximum; each way's answer is checked.
//!
//! `cargo bench --bench throughput`; it binds itself to one core.

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

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch};
use arrow::compute::kernels::{cmp, numeric};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use support::{Engine, Rates, bind_to_one_core, machine, now};
use tidegate_connectors::format::RowFormat;
use tidegate_engine::topology::parse::parse;

const ROWS: u64 = 5_000_000;
const DEVICES: u64 = 1_000;
const RUNS: usize = 5;
/// As the file source reads.
const CHUNK_BYTES: usize = 1024 * 1024;

const SOURCE: &str = r#"
[source.rows]
type   = "file"
path   = "PATH"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64", quality = "string" }
time   = { column = "ts", unit = "ms" }
watermark = { delay = "5s" }
"#;

const PROJECT: &str = r#"
[operator.high]
type  = "filter"
from  = "rows"
where = "value > 50"

[operator.result]
type   = "project"
from   = "high"
select = ["*", "value * 2 AS doubled"]

[sink.out]
type = "discard"
from = "result"
"#;

const WINDOW: &str = r#"
[operator.result]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n", "avg(value) AS mean", "max(value) AS peak"]

[sink.out]
type = "discard"
from = "result"
"#;

fn main() {
    if !bind_to_one_core() {
        return;
    }
    println!("{}, bound to one core; {ROWS} rows", machine());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let straight = folder.path().join("straight.jsonl");
    let disordered = folder.path().join("disordered.jsonl");
    write_rows(&straight, false);
    write_rows(&disordered, true);
    let engine = Engine::start();
    for (name, file, nodes, by_hand) in [
        ("(a) filter and project", &straight, PROJECT, project_by_hand as fn(&Path) -> u64),
        ("(b) 10 s windows per device", &straight, WINDOW, window_by_hand),
        ("(c) as (b), 1 % out of order, 0.1 % late", &disordered, WINDOW, window_by_hand),
    ] {
        let topology = SOURCE.replace("PATH", &file.display().to_string()) + nodes;
        let (mut ours, mut hand) = (Rates::default(), Rates::default());
        for _ in 0..RUNS {
            let started = now();
            let rows = engine.run(&topology)["result"];
            ours.add(ROWS, started.elapsed());
            let started = now();
            let expected = by_hand(file);
            hand.add(ROWS, started.elapsed());
            assert_eq!(rows, expected, "{name}");
        }
        println!("\n{name}");
        println!("  engine        {ours}");
        println!("  loop by hand  {hand}");
        println!("  engine = {:.2} x loop by hand", ours.median() / hand.median());
    }
}

/// Rows like `{"device":"pump-331","ts":1700000000000,"value":94.787,"quality":"good"}`,
/// one a millisecond.
fn write_rows(path: &Path, disordered: bool) {
    let mut out = BufWriter::new(File::create(path).expect("a file"));
    for row in 0..ROWS {
        let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let back_ms = match mixed >> 40 & 0x3ff {
            0 if disordered => 20_000,
            1..=10 if disordered => 2_000,
            _ => 0,
        };
        let (device, ts) = (mixed % DEVICES, 1_700_000_000_000 + row - back_ms.min(row));
        let value = (mixed >> 20) % 100_000;
        let (whole, part) = (value / 1_000, value % 1_000);
        writeln!(
            out,
            "{{\"device\":\"pump-{device:03}\",\"ts\":{ts},\"value\":{whole}.{part:03},\"quality\":\"good\"}}"
        )
        .expect("room on the disk");
    }
    out.flush().expect("room on the disk");
}

/// The batches of a file, decoded as the source does.
fn batches(path: &Path, mut each: impl FnMut(RecordBatch)) {
    let (parsed, _) = parse(SOURCE);
    let format = RowFormat::from_config(&parsed.nodes[0], Vec::new()).expect("a right node");
    let mut decoder = format.stream_decoder();
    let mut file = File::open(path).expect("the file");
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut kept = 0;
    loop {
        let count = file.read(&mut buffer[kept..]).expect("readable");
        if count == 0 {
            break;
        }
        let whole = decoder.whole_rows(&buffer[..kept + count]);
        decoder.decode(&buffer[..whole], &|_| String::new());
        let decoded = decoder.finish();
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad.first());
        each(decoded.batch);
        buffer.copy_within(whole..kept + count, 0);
        kept = kept + count - whole;
    }
}

fn project_by_hand(path: &Path) -> u64 {
    let mut rows = 0;
    batches(path, |batch| {
        let high = cmp::gt(batch.column(2), &Float64Array::new_scalar(50.0)).expect("comparable");
        let batch = arrow::compute::filter_record_batch(&batch, &high).expect("equal lengths");
        let doubled = numeric::mul(batch.column(2), &Float64Array::new_scalar(2.0)).expect("numbers");
        assert_eq!(doubled.len(), batch.num_rows());
        rows += batch.num_rows() as u64;
    });
    rows
}

/// Count, sum and maximum of one device in one window.
#[derive(Default)]
struct Cell {
    count: u64,
    sum: f64,
    max: f64,
}

/// Windows in a hash map, closed five seconds behind the largest time.
fn window_by_hand(path: &Path) -> u64 {
    const WINDOW_US: i64 = 10_000_000;
    const DELAY_US: i64 = 5_000_000;
    let mut windows: HashMap<i64, HashMap<Box<str>, Cell>> = HashMap::new();
    let (mut seen_us, mut closed_us) = (i64::MIN, i64::MIN);
    let mut results = 0;
    let mut close = |cells: HashMap<Box<str>, Cell>| {
        let mean: ArrayRef = std::sync::Arc::new(Float64Array::from_iter_values(
            cells.values().map(|cell| cell.sum / cell.count as f64),
        ));
        assert!(cells.values().all(|cell| cell.max >= 0.0));
        results += mean.len() as u64;
    };
    batches(path, |batch| {
        let devices = batch.column(0).as_string::<i32>();
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let values = batch.column(2).as_primitive::<Float64Type>().values();
        for ((device, &time_us), &value) in devices.iter().zip(times).zip(values) {
            let start = time_us - time_us.rem_euclid(WINDOW_US);
            if start + WINDOW_US > closed_us {
                let cells = windows.entry(start).or_default();
                let device = device.unwrap_or_default();
                if !cells.contains_key(device) {
                    cells.insert(device.into(), Cell::default());
                }
                let cell = cells.get_mut(device).expect("inserted");
                cell.count += 1;
                cell.sum += value;
                cell.max = cell.max.max(value);
            }
            if time_us > seen_us {
                seen_us = time_us;
                let end = seen_us - DELAY_US;
                if end - end.rem_euclid(WINDOW_US) > closed_us {
                    closed_us = end - end.rem_euclid(WINDOW_US);
                    let done: Vec<i64> =
                        windows.keys().filter(|start| *start + WINDOW_US <= closed_us).copied().collect();
                    done.iter().filter_map(|start| windows.remove(start)).for_each(&mut close);
                }
            }
        }
    });
    windows.drain().for_each(|(_, cells)| close(cells));
    results
}
