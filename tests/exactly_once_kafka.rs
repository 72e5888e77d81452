//! Rows to Kafka are there exactly once although a process was stopped for
//! longer than its transaction, and although another one has taken its place.
//! `tests/crash` kills the same sink at random.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "../connectors/tests/support/kafka.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka;
#[path = "../connectors/tests/support/kafka_real.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka_real;
#[path = "../connectors/tests/support/parts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod parts;
#[path = "exactly_once/process.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod process;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kafka::read_committed;
use kafka_real::Broker;
use process::{Feed, pause};

/// A transaction is given up by the broker after a second.
const TOPOLOGY: &str = r#"
[topology]
name = "takeover"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[sink.out]
type             = "kafka"
from             = "rows"
brokers          = ["BROKER"]
topic            = "out"
key              = "device"
delivery         = "exactly_once"
delivery_timeout = "1s"
linger           = "40ms"
"#;

const PARTITIONS: i32 = 2;
const LIMIT: Duration = Duration::from_secs(60);

/// A life over the state in this folder.
fn start(folder: &Path, state: &str, more: &[&str]) -> Child {
    let log = File::create(folder.join(format!("{state}.log"))).expect("a log");
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "topology.toml", "--data-dir", state])
        .args(more)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("tidegate starts")
}

fn said(folder: &Path, state: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{state}.log"))).unwrap_or_default()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill starts");
    assert!(sent.success());
}

fn end(mut child: Child, folder: &Path, state: &str) -> Option<i32> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status.code();
        }
        if started.elapsed() > LIMIT {
            child.kill().ok();
            panic!("it does not end: {}", said(folder, state));
        }
        pause(10);
    }
}

fn ids(broker: &Broker) -> Vec<u64> {
    let id = |payload: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(payload).expect("JSON")["id"].as_u64().expect("an id")
    };
    let found = read_committed(&broker.servers, "out", PARTITIONS);
    let mut ids: Vec<u64> = found.iter().map(|(_, payload)| id(payload)).collect();
    ids.sort_unstable();
    ids
}

/// Waits until more rows are there than before.
fn grows(broker: &Broker, folder: &Path, state: &str) {
    let (started, before) = (Instant::now(), ids(broker).len());
    while ids(broker).len() == before {
        assert!(started.elapsed() < LIMIT, "nothing more comes: {}", said(folder, state));
        pause(50);
    }
}

fn assert_all(found: &[u64], rows: u64) {
    let wrong = found.iter().zip(1..).find(|(id, expected)| **id != *expected);
    assert!(wrong.is_none(), "row {wrong:?} of {rows}");
    assert_eq!(found.len() as u64, rows);
}

fn prepare() -> (Broker, tempfile::TempDir) {
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(broker.create_topic("out", PARTITIONS));
    let folder = tempfile::tempdir().expect("a folder");
    let text = TOPOLOGY.replace("BROKER", &broker.servers);
    std::fs::write(folder.path().join("topology.toml"), text).expect("written");
    (broker, folder)
}

fn copy(folder: &Path, from: &str, to: &str) {
    let copied = Command::new("cp").args(["-a", from, to]).current_dir(folder).status().expect("cp starts");
    assert!(copied.success());
}

#[test]
fn a_process_that_was_stopped_goes_on_unless_another_one_has_taken_its_place() {
    let (broker, folder) = prepare();
    let folder = folder.path();
    let feed = Feed::start(&folder.join("rows.jsonl"));
    let first = start(folder, "first", &[]);
    grows(&broker, folder, "first");
    // Longer than its transaction may take, which the broker gives up meanwhile.
    for round in 0..4 {
        pause(130 + round * 17);
        signal(&first, "-STOP");
        pause(2_500);
        signal(&first, "-CONT");
        grows(&broker, folder, "first");
    }
    signal(&first, "-STOP");
    pause(2_500);
    copy(folder, "first", "second");
    let second = start(folder, "second", &[]);
    grows(&broker, folder, "second");
    signal(&first, "-CONT");
    let code = end(first, folder, "first");
    let told = said(folder, "first");
    assert!(code == Some(1) && told.contains("another process writes"), "{code:?}: {told}");
    grows(&broker, folder, "second");
    let rows = feed.stop();
    signal(&second, "-TERM");
    assert_eq!(end(second, folder, "second"), Some(0), "{}", said(folder, "second"));
    let last = start(folder, "second", &["--once"]);
    assert_eq!(end(last, folder, "second"), Some(0), "{}", said(folder, "second"));
    assert_all(&ids(&broker), rows);
}

#[test]
fn a_state_that_is_older_than_what_was_delivered_is_refused() {
    let (broker, folder) = prepare();
    let folder = folder.path();
    let mut text = String::new();
    let mut append = |id: u64| {
        text += &format!("{{\"id\":{id},\"device\":\"d\"}}\n");
        std::fs::write(folder.join("rows.jsonl"), &text).expect("written");
    };
    let once = || end(start(folder, "state", &["--once"]), folder, "state");
    for id in 1..=3 {
        append(id);
        assert_eq!(once(), Some(0), "{}", said(folder, "state"));
    }
    assert_all(&ids(&broker), 3);
    copy(folder, "state", "kept");
    let checkpoints = std::fs::read_dir(folder.join("state/checkpoints")).expect("checkpoints");
    let mut all: Vec<_> = checkpoints.map(|entry| entry.expect("readable").path()).collect();
    all.retain(|path| path.to_string_lossy().contains("/checkpoint-"));
    all.sort();
    assert!(all.len() > 1, "{all:?}");
    std::fs::remove_file(all.last().expect("a checkpoint")).expect("removed");
    append(4);
    // By then it has checkpoints that are newer than the one that is gone.
    for _ in 0..2 {
        let code = end(start(folder, "state", &[]), folder, "state");
        let told = said(folder, "state");
        let refused = told.contains("its state is older than what was delivered");
        assert!(code == Some(1) && refused, "{code:?}: {told}");
    }
    assert_all(&ids(&broker), 3);
    std::fs::remove_dir_all(folder.join("state")).expect("removed");
    copy(folder, "kept", "state");
    assert_eq!(once(), Some(0), "{}", said(folder, "state"));
    assert_all(&ids(&broker), 4);
}
