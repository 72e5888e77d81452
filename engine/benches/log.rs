//! The ingress log with group commit: small records and megabytes a second,
//! beside a bare file that is written and synced in groups of the same size.
//! Prints minimum, median and maximum of five runs each; the runs alternate.
//!
//! `cargo bench -p tidegate-engine --bench log`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise, and measures real time"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tidegate_engine::storage::group::GroupLog;
use tidegate_engine::storage::log::{Log, LogLimits};
use tidegate_engine::storage::vfs::RealDisk;

const RUNS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        // (bytes of a record, records, records that wait for their fsync at a time)
        for (bytes, records, waiting) in [(100, 500_000, 1), (100, 1_000_000, 1_000), (65_536, 4_000, 64)] {
            let (mut logged, mut bare) = (Vec::new(), Vec::new());
            let records = if waiting == 1 { 2_000 } else { records };
            for _ in 0..RUNS {
                logged.push(log(bytes, records, waiting).await);
                bare.push(file(bytes, records, waiting));
            }
            println!("{bytes} bytes, {waiting} waiting at a time:");
            let logged = report("ingress log", bytes, logged);
            let bare = report("write and fdatasync by hand", bytes, bare);
            println!("  the log = {:.2} x by hand", logged / bare);
        }
    });
}

fn report(name: &str, bytes: usize, mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!(
        "  {name:28} {:9.0} {median:9.0} {:9.0} records/s, {:.0} MB/s",
        rates[0],
        rates[RUNS - 1],
        median * bytes as f64 / 1e6
    );
    median
}

fn folder() -> tempfile::TempDir {
    // Not a folder in memory: what is measured is the disk.
    tempfile::tempdir_in(Path::new(env!("CARGO_TARGET_TMPDIR"))).expect("a folder")
}

async fn log(bytes: usize, records: usize, waiting: usize) -> f64 {
    let folder = folder();
    let log = Log::open(Arc::new(RealDisk), folder.path(), LogLimits::default(), 0).expect("opens");
    let log = GroupLog::start(log);
    let payload = vec![7; bytes];
    let start = Instant::now();
    let mut tickets = std::collections::VecDeque::new();
    for _ in 0..records {
        tickets.push_back(log.append(1, payload.clone()).await.expect("is taken"));
        if tickets.len() >= waiting {
            tickets.pop_front().expect("some wait").durable().await.expect("is durable");
        }
    }
    for mut ticket in tickets {
        ticket.durable().await.expect("is durable");
    }
    records as f64 / start.elapsed().as_secs_f64()
}

fn file(bytes: usize, records: usize, waiting: usize) -> f64 {
    let folder = folder();
    let mut file = File::create(folder.path().join("log")).expect("a file");
    let group = vec![7; (bytes + 32) * waiting];
    let start = Instant::now();
    for _ in 0..records / waiting {
        file.write_all(&group).expect("writes");
        file.sync_data().expect("syncs");
    }
    records as f64 / start.elapsed().as_secs_f64()
}
