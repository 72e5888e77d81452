//! The daemon: what its API says, what stops it, and what it refuses to start.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "serve/daemon.rs"]
mod daemon;

use std::process::Command;

use serde_json::Value;

use daemon::{COUNTING, Daemon, counted, folder, serve};

#[test]
fn the_api_tells_and_a_signal_ends_in_good_order() {
    let folder = folder(&[("first", COUNTING), ("second", COUNTING)]);
    let mut daemon = Daemon::start(folder.path());
    for path in ["/livez", "/readyz"] {
        let (status, _) = daemon.get(path);
        assert!(status.contains("200"), "{path}: {status}");
    }
    while counted(&folder.path().join("first.jsonl")) == 0 {
        std::thread::yield_now();
    }
    let (_, metrics) = daemon.get("/metrics");
    for name in ["tidegate_node_rows_in_total{", "topology=\"second\"", "node=\"sums\""] {
        assert!(metrics.contains(name), "{name} is not in {metrics}");
    }
    let status: Value = serde_json::from_str(&daemon.get("/status").1).expect("JSON");
    let names: Vec<_> =
        status.as_array().expect("a list").iter().map(|one| one["topology"].clone()).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(daemon.get("/nothing").0.contains("404"));

    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["status", "--api", &daemon.address])
        .output()
        .expect("tidegate starts");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("numbers"));

    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
    let unreachable = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["status", "--api", &daemon.address])
        .output()
        .expect("tidegate starts");
    assert_eq!(unreachable.status.code(), Some(69));
}

#[test]
fn after_a_kill_it_goes_on_without_help() {
    let folder = folder(&[("first", COUNTING)]);
    let out = folder.path().join("first.jsonl");
    for _ in 0..2 {
        let before = counted(&out);
        let mut daemon = Daemon::start(folder.path());
        while counted(&out) == before {
            std::thread::yield_now();
        }
        daemon.signal("-KILL");
        assert_eq!(daemon.wait(), None, "killed");
    }
    let mut daemon = Daemon::start(folder.path());
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
}

/// Fails when it runs: the file's header has none of its columns.
const FAILING: &str = r#"
[source.rows]
type   = "file"
path   = "ROWS"
format = "csv"
schema = { a = "int64" }

[sink.nothing]
type = "discard"
from = "rows"
"#;

#[test]
fn a_topology_that_fails_stops_no_other_and_is_shown() {
    let rows = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(rows.path(), "b,c\n1,2\n").expect("written");
    let failing = FAILING.replace("ROWS", &rows.path().display().to_string());
    let ending = COUNTING.replace("rate = \"1000/s\"", "count = 10");
    let folder = folder(&[("failing", &failing), ("going", COUNTING), ("ending", &ending)]);
    let mut daemon = Daemon::start(folder.path());
    while !daemon.get("/status").1.contains("failed: ") {
        std::thread::yield_now();
    }
    let before = counted(&folder.path().join("going.jsonl"));
    while counted(&folder.path().join("going.jsonl")) == before {
        std::thread::yield_now();
    }
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(1), "one has failed");
    assert_eq!(counted(&folder.path().join("ending.jsonl")), 10);
}

#[test]
fn a_daemon_whose_topologies_have_all_ended_ends() {
    let ending = COUNTING.replace("rate = \"1000/s\"", "count = 10");
    let folder = folder(&[("ending", &ending)]);
    let mut daemon = Daemon::start(folder.path());
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn two_topologies_of_one_name_are_refused() {
    let named = format!("[topology]\nname = \"press\"\n{COUNTING}");
    let folder = folder(&[("first", &named), ("second", &named)]);
    let output = serve(folder.path()).output().expect("tidegate starts");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another topology called `press`"));
}

#[test]
fn mistakes_of_every_file_are_told_and_nothing_starts() {
    let wrong = COUNTING.replace("window\"", "windw\"");
    let folder = folder(&[("first", &wrong), ("right", COUNTING), ("second", &wrong)]);
    let output = serve(folder.path()).output().expect("tidegate starts");
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    for words in ["first.toml:7:10", "second.toml:7:10", "did you mean `window`", "2 of 3 topologies"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!folder.path().join("state").exists());
}
