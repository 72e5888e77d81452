//! The real binary, killed at random instants while it subscribes to a counting
//! node: each number comes once, or lies in a gap that is told; the server hears
//! of a message when its rows are on our disk and not before.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::float_cmp,
    reason = "a test that fails says where; the values are whole numbers"
)]

#[path = "../connectors/tests/support/asyncua.rs"]
mod asyncua;
#[path = "crash/process.rs"]
mod process;
#[path = "../connectors/tests/support/python.rs"]
mod python;
#[path = "crash/random.rs"]
mod random;
#[path = "../connectors/tests/support/uaserver.rs"]
mod uaserver;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use asyncua::{Asyncua, Options};
use opcua::types::DataValue;
use process::{Daemon, LIMIT, end_of_log, published};
use random::Random;
use uaserver::UaServer;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.counter]
type       = "opcua"
endpoint   = "ENDPOINT"
nodes      = [{ node = "nsu=urn:t;s=v1", name = "counter" }]
sampling   = "0s"
publishing = "50ms"
queue      = 1000
MORE

[sink.out]
type = "file"
from = "counter"
path = "out/"
"#;

/// Kills of each server; each fifth life ends in good order instead.
const LIVES: usize = 25;

/// Messages that asyncua keeps until they are acknowledged.
const UNACKNOWLEDGED: &str = "sum(len(s._not_acknowledged_results) for s in server.iserver.subscription_service.subscriptions.values())";

fn folder(endpoint: &str, more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let topology = TOPOLOGY.replace("ENDPOINT", endpoint).replace("MORE", more);
    std::fs::write(folder.path().join("plant.toml"), topology).expect("written");
    folder
}

/// A row of the sink.
#[derive(Clone, Debug)]
struct Row {
    value: Option<f64>,
    quality: String,
    status: String,
}

fn rows(folder: &Path) -> Vec<Row> {
    let row = |row: &serde_json::Value| {
        let text = |name: &str| row[name].as_str().expect("a text").to_owned();
        Row { value: row["value"].as_f64(), quality: text("quality"), status: text("status") }
    };
    published(&folder.join("out")).iter().map(row).collect()
}

async fn until(folder: &Path, what: &str, is: impl Fn(&[Row]) -> bool) -> Vec<Row> {
    let started = Instant::now();
    loop {
        let rows = rows(folder);
        if is(&rows) {
            return rows;
        }
        assert!(started.elapsed() < LIMIT, "{what}: {} rows; {}", rows.len(), end_of_log(folder));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Each number once and in order, except where a gap is told; how many are, and
/// how many numbers are missing in them.
fn gaps(rows: &[Row]) -> (usize, f64) {
    let (mut last, mut in_gap, mut gaps, mut missing) = (None, false, 0, 0.0);
    for (at, row) in rows.iter().enumerate() {
        let Some(value) = row.value else {
            assert!(row.status.starts_with("Gap: ") && row.quality == "bad", "{row:?}");
            (in_gap, gaps) = (true, gaps + 1);
            continue;
        };
        let next = last.map_or(value, |last| last + 1.0);
        // A subscription begins with the value that the node has.
        let around = &rows[at.saturating_sub(3)..(at + 3).min(rows.len())];
        assert!(value == next || (in_gap && value >= next - 1.0), "{value} and not {next}: {around:#?}");
        missing += (value - next).max(0.0);
        (last, in_gap) = (Some(value), false);
    }
    (gaps, missing)
}

/// Lives of random length, and one at the end; their rows.
async fn lives(folder: &Path) -> Vec<Row> {
    let seed = std::process::id();
    let mut random = Random::new(seed.into());
    for life in 0..LIVES {
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        // Some end before they have taken over, some a good while after.
        tokio::time::sleep(Duration::from_millis(200 + random.below(1_500))).await;
        if life % 5 == 4 { daemon.stop(folder) } else { daemon.kill() }
    }
    let before = rows(folder).len();
    let daemon = Daemon::start(folder, "plant.toml", &[]);
    let rows = until(folder, "the last life", |rows| rows.len() > before + 100).await;
    daemon.stop(folder);
    println!("seed {seed}: {} rows, gaps and numbers missing in them: {:?}", rows.len(), gaps(&rows));
    rows
}

fn taken_over(folder: &Path) -> usize {
    let log = std::fs::read_to_string(folder.join("log")).expect("a log");
    log.matches("of an earlier process is taken over").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_of_asyncua_in_silence() {
    let server = Asyncua::start(Options::default()).await;
    server.order("start_counting('v1', 0.02)").await;
    let folder = folder(&server.endpoint(), "");
    let rows = lives(folder.path()).await;
    let (gaps, _) = gaps(&rows);
    assert!(rows.len() > 500 && taken_over(folder.path()) >= 5, "{} taken over", taken_over(folder.path()));
    assert!(gaps <= LIVES / 5, "{gaps} gaps: the subscription is there to be taken over");
}

fn counting(server: &UaServer) -> tokio::task::JoinHandle<()> {
    let (node, set) = (server.node("v1"), server.setter());
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for number in 1_u32.. {
            ticks.tick().await;
            set(&[(node.clone(), DataValue::new_now(f64::from(number)))]);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_of_async_opcua() {
    let pki = tempfile::tempdir().expect("a folder");
    let server = UaServer::start_with(2, pki.path(), true).await;
    let counting = counting(&server);
    let folder = folder(&server.endpoint(), "user = \"operator\"\npassword = \"right\"");
    let rows = lives(folder.path()).await;
    assert_eq!(gaps(&rows), (0, 0.0));
    assert!(rows.len() > 500 && taken_over(folder.path()) >= 5, "{} taken over", taken_over(folder.path()));
    counting.abort();
}

/// A server that gives no subscription back, and a source that does not ask.
#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_taken_over_each_kill_is_a_gap() {
    let pki = tempfile::tempdir().expect("a folder");
    let server = UaServer::start(2, pki.path()).await;
    let counting = counting(&server);
    for more in ["", "durable = false"] {
        let folder = folder(&server.endpoint(), more);
        let mut last = 0;
        for life in 0..4 {
            let daemon = Daemon::start(folder.path(), "plant.toml", &[]);
            let rows = until(folder.path(), "values", |rows| rows.len() > last + 30).await;
            last = rows.len();
            if life % 2 == 1 { daemon.stop(folder.path()) } else { daemon.kill() }
        }
        let rows = rows(folder.path());
        let (gaps, missing) = gaps(&rows);
        assert!(gaps >= 3 && missing > 0.0, "{gaps} gaps, {missing} missing");
    }
    counting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_acknowledged_after_the_fsync_and_not_before() {
    let strace = Command::new("bash").arg("tests/parts/strace.sh").output().expect("bash runs");
    let strace = String::from_utf8(strace.stdout).expect("a path");
    let server = Asyncua::start(Options::default()).await;
    let folder = folder(&server.endpoint(), "");
    // Each fsync takes a second longer.
    let slow = "fdatasync:delay_enter=1000000";
    let daemon = Daemon::traced(folder.path(), strace.trim(), "fdatasync", slow);
    server.until(&format!("subscriptions() and {UNACKNOWLEDGED}"), "1").await;
    let came = Instant::now();
    while came.elapsed() < Duration::from_secs(20) {
        if server.order(UNACKNOWLEDGED).await == "0" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = came.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(20)).contains(&after), "after {after:?}");
    daemon.kill_traced();
}
