//! How soon the daemon gives a right result after `kill -9`, with a state of
//! about 100 MB and a queue of GIGABYTES (argument, default 10) that waits for
//! a peer that is away. The result counts rows from before the kill and after
//! it. Printed beside it: the same with neither state nor queue.
//!
//! `cargo bench --bench recovery -- --gigabytes 10`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use support::{machine, now, percentiles};

const KEYS: u64 = 1_200_000;
const CYCLES: u64 = 30;
const DAY_MS: u64 = 86_400_000;
const START_MS: u64 = 1_700_006_400_000;

const SMALL: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.probes]
type   = "file"
path   = "probes.jsonl"
schema = { ts = "timestamp", n = "int64" }
time   = { column = "ts", unit = "ms" }
watermark = { idle = "1h" }

[operator.counts]
type   = "window"
from   = "probes"
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n"]

[sink.out]
type = "stdout"
from = "counts"
"#;

const LARGE: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64", text = "string" }
time   = { column = "ts", unit = "ms" }

[operator.load]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "1d" }
select = ["count(*) AS n", "sum(value) AS total", "avg(value) AS mean", "min(value) AS low", "max(value) AS high"]

[sink.done]
type = "discard"
from = "load"

[source.bulk]
type   = "file"
path   = "bulk.jsonl"
schema = { text = "string" }

[sink.away]
type  = "http"
from  = "bulk"
url   = "http://127.0.0.1:1/rows"
queue = { disk = "40GiB" }
"#;

struct Daemon {
    child: Child,
    lines: Receiver<String>,
}

impl Daemon {
    fn start(folder: &Path) -> Daemon {
        let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "plant.toml"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("starts");
        let (sender, lines) = sync_channel(1_000);
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Daemon { child, lines }
    }

    fn kill(mut self) {
        self.child.kill().expect("can be killed");
        self.child.wait().expect("ends");
    }
}

fn probe(folder: &Path, times: impl Iterator<Item = u64>) {
    let path = folder.join("probes.jsonl");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    let lines: String = times.map(|ts| format!("{{\"ts\":{ts},\"n\":1}}\n")).collect();
    file.write_all(lines.as_bytes()).expect("writes");
}

/// Five rows before the kill, five after it, and one that closes the window.
fn cycles(folder: &Path) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut daemon = Daemon::start(folder);
    for cycle in 0..CYCLES {
        let window = START_MS + cycle * 10_000;
        let first = if cycle == 0 { 0 } else { 1 };
        probe(folder, (first..5).map(|row| window + row));
        std::thread::sleep(Duration::from_millis(1_500));
        daemon.kill();
        let started = now();
        daemon = Daemon::start(folder);
        probe(folder, (5..10).map(|row| window + row).chain([window + 10_000]));
        loop {
            let line = daemon.lines.recv_timeout(Duration::from_secs(120)).expect("a result");
            // Those printed just before the kill may come again.
            if line.contains(&time_text(window)) {
                assert!(line.contains("\"n\":10"), "{line}");
                break;
            }
        }
        times.push(started.elapsed());
    }
    daemon.kill();
    times
}

fn time_text(ms: u64) -> String {
    let seconds = ms / 1_000 % 86_400;
    format!("T{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// State and queue, as a daemon makes them.
fn fill(folder: &Path, gigabytes: u64) -> u64 {
    let mut rows = BufWriter::new(File::create(folder.join("rows.jsonl")).expect("a file"));
    for key in 0..KEYS {
        let ts = START_MS / DAY_MS * DAY_MS + key / 1_000;
        writeln!(rows, "{{\"device\":\"d{key:08}\",\"ts\":{ts},\"value\":1.5,\"text\":\"\"}}")
            .expect("writes");
    }
    rows.flush().expect("writes");
    let mut bulk = BufWriter::new(File::create(folder.join("bulk.jsonl")).expect("a file"));
    let text = "x".repeat(100_000);
    for _ in 0..gigabytes * 10_000 {
        writeln!(bulk, "{{\"text\":\"{text}\"}}").expect("writes");
    }
    bulk.flush().expect("writes");
    drop((rows, bulk));
    let daemon = Daemon::start(folder);
    let queue = folder.join(".tidegate/plant/egress/away");
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_secs(3));
        let bytes = size(&queue);
        if bytes == before && bytes >= gigabytes * 1_000_000_000 {
            break;
        }
        before = bytes;
    }
    std::thread::sleep(Duration::from_secs(3));
    daemon.kill();
    before
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
}

fn main() {
    println!("{}", machine());
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == "--gigabytes");
    let gigabytes = at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(10);
    let small = tempfile::tempdir().expect("a folder");
    std::fs::write(small.path().join("plant.toml"), SMALL).expect("writes");
    std::fs::write(small.path().join("probes.jsonl"), "").expect("writes");
    println!("neither state nor queue:  {}", percentiles(&cycles(small.path())));
    let large = tempfile::tempdir().expect("a folder");
    std::fs::write(large.path().join("plant.toml"), format!("{SMALL}{LARGE}")).expect("writes");
    std::fs::write(large.path().join("probes.jsonl"), "").expect("writes");
    let bytes = fill(large.path(), gigabytes);
    let times = cycles(large.path());
    let checkpoints = size(&large.path().join(".tidegate/plant/checkpoints"));
    println!(
        "queue of {} MB, checkpoints of {} MB: {}",
        bytes / 1_000_000,
        checkpoints / 1_000_000,
        percentiles(&times)
    );
}
