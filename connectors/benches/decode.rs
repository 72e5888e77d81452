//! Rows per second of one thread from JSON lines to Arrow columns: our reader
//! with all columns and with two, arrow-json, and a loop that knows the rows.
//! Prints minimum, median and maximum of five runs; checks that all read the
//! same sum, so that nobody wins by reading less.
//!
//! `cargo bench -p tidegate-connectors --bench decode`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::too_many_lines,
    reason = "a benchmark stops at the first surprise"
)]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use tidegate_connectors::format::RowFormat;
use tidegate_engine::topology::parse::parse;

const ROWS: u64 = 2_000_000;
const DEVICES: u64 = 1_000;
const RUNS: usize = 5;
/// Pieces as the file source reads them.
const CHUNK_BYTES: usize = 1024 * 1024;

const NODE: &str = r#"[source.rows]
type = "file"
schema = { device = "string", ts = "timestamp", value = "float64", quality = "string" }
time = { column = "ts", unit = "ms" }
"#;

fn main() {
    let text = rows();
    let chunks = chunks(&text);
    println!("{}, one thread; {ROWS} rows, {} bytes a row", machine(), text.len() as u64 / ROWS);
    let (parsed, _) = parse(NODE);
    let all = RowFormat::from_config(&parsed.nodes[0], Vec::new()).expect("a right node");
    let mut two = all.clone();
    two.keep(&["ts", "value"]);
    let mut measured: Vec<(&str, f64)> = Vec::new();
    let mut measure = |name: &'static str, read: &mut dyn FnMut(&[&[u8]]) -> f64| {
        let mut rates = Vec::new();
        for _ in 0..RUNS {
            #[allow(clippy::disallowed_methods, reason = "a benchmark")]
            let started = Instant::now();
            let sum = read(&chunks);
            rates.push(ROWS as f64 / started.elapsed().as_secs_f64() / 1e6);
            assert!((sum - expected_sum()).abs() < 1.0, "{name} read {sum}");
        }
        rates.sort_by(f64::total_cmp);
        println!("{name:32} {:6.2} {:6.2} {:6.2} M rows/s", rates[0], rates[RUNS / 2], rates[RUNS - 1]);
        measured.push((name, rates[RUNS / 2]));
    };
    measure("ours, 4 columns", &mut |chunks| ours(&all, chunks));
    measure("ours, 2 of 4 columns", &mut |chunks| ours(&two, chunks));
    measure("arrow-json, 4 columns", &mut arrow_json);
    measure("a loop that knows the rows", &mut by_hand);
    for (name, rate) in &measured[1..] {
        println!("ours, 4 columns = {:.2} x {name}", measured[0].1 / rate);
    }
}

/// The value of a row, with up to three digits after the point.
fn value(row: u64) -> f64 {
    (row.wrapping_mul(2_654_435_761) % 100_000) as f64 / 1_000.0
}

fn expected_sum() -> f64 {
    (0..ROWS).map(value).sum()
}

fn rows() -> Vec<u8> {
    let mut text = String::new();
    for row in 0..ROWS {
        let (device, ts) = (row % DEVICES, 1_700_000_000_000 + row);
        let quality = if row % 10 == 0 { "uncertain" } else { "good" };
        text += &format!(
            "{{\"device\":\"pump-{device:03}\",\"ts\":{ts},\"value\":{},\"quality\":\"{quality}\"}}\n",
            value(row)
        );
    }
    text.into_bytes()
}

fn chunks(text: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr::memrchr(b'\n', &rest[..rest.len().min(CHUNK_BYTES)]).expect("a line end") + 1;
        let (chunk, after) = rest.split_at(end);
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

fn sum(batch: &RecordBatch) -> f64 {
    batch.column(2).as_primitive::<Float64Type>().values().iter().sum()
}

fn ours(format: &RowFormat, chunks: &[&[u8]]) -> f64 {
    let mut decoder = format.stream_decoder();
    let mut total = 0.0;
    for chunk in chunks {
        decoder.decode(chunk, &|_| String::new());
        let decoded = decoder.finish();
        assert!(decoded.bad.is_empty(), "{:?}", decoded.bad.first());
        total += sum(&decoded.batch);
    }
    total
}

fn arrow_json(chunks: &[&[u8]]) -> f64 {
    let schema = Schema::new(vec![
        Field::new("device", DataType::Utf8, true),
        Field::new("ts", DataType::Int64, true),
        Field::new("value", DataType::Float64, true),
        Field::new("quality", DataType::Utf8, true),
    ]);
    let builder = arrow_json::ReaderBuilder::new(Arc::new(schema)).with_batch_size(8_192);
    let mut decoder = builder.build_decoder().expect("a schema");
    let mut total = 0.0;
    for chunk in chunks {
        let mut rest = *chunk;
        while !rest.is_empty() {
            let read = decoder.decode(rest).expect("JSON");
            rest = &rest[read..];
            if !rest.is_empty() {
                total += sum(&decoder.flush().expect("rows").expect("rows"));
            }
        }
    }
    total + decoder.flush().expect("rows").map_or(0.0, |batch| sum(&batch))
}

/// Knows where every value stands and checks nothing but what building Arrow
/// arrays checks.
fn by_hand(chunks: &[&[u8]]) -> f64 {
    let mut total = 0.0;
    for chunk in chunks {
        let (mut ts, mut values) = (Vec::new(), Vec::new());
        let (mut devices, mut device_ends) = (Vec::new(), vec![0]);
        let (mut qualities, mut quality_ends) = (Vec::new(), vec![0]);
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            let line = &chunk[start..end];
            start = end + 1;
            let line = &line[r#"{"device":""#.len()..];
            let quote = memchr::memchr(b'"', line).expect("a quote");
            devices.extend_from_slice(&line[..quote]);
            device_ends.push(devices.len() as i32);
            let line = &line[quote + r#"","ts":"#.len()..];
            let comma = memchr::memchr(b',', line).expect("a comma");
            ts.push(
                line[..comma].iter().fold(0, |number: i64, digit| number * 10 + i64::from(digit - b'0'))
                    * 1_000,
            );
            let line = &line[comma + r#","value":"#.len()..];
            let comma = memchr::memchr(b',', line).expect("a comma");
            let text = std::str::from_utf8(&line[..comma]).expect("digits");
            values.push(text.parse::<f64>().expect("a number"));
            let line = &line[comma + r#","quality":""#.len()..];
            let quote = memchr::memchr(b'"', line).expect("a quote");
            qualities.extend_from_slice(&line[..quote]);
            quality_ends.push(qualities.len() as i32);
        }
        let text = |ends: Vec<i32>, bytes: Vec<u8>| {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
            Arc::new(StringArray::try_new(offsets, Buffer::from_vec(bytes), None).expect("text"))
        };
        let batch = RecordBatch::try_from_iter([
            ("device", text(device_ends, devices) as _),
            ("ts", Arc::new(Int64Array::from(ts)) as _),
            ("value", Arc::new(Float64Array::from(values)) as _),
            ("quality", text(quality_ends, qualities) as _),
        ]);
        total += sum(&batch.expect("equal lengths"));
    }
    total
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown processor", |(_, name)| name).to_owned()
}
