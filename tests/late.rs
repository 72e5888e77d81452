//! A late row of a trigger in a whole topology: it starts nothing, is counted,
//! and can be read by `from = "trigger.late"`.

#![allow(clippy::expect_used, reason = "a test that fails says where")]

use std::fs;
use std::process::Command;

const TOPOLOGY: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { k = "string", ts = "timestamp", v = "float64" }
time   = { column = "ts", unit = "s" }

[trigger.high]
from  = "rows"
key   = ["k"]
when  = "v > 5"
hold  = "10s"
start = "tell"
give  = { k = "k" }

[sink.late]
type = "file"
path = "late.jsonl"
from = "high.late"

[flow.tell]
params = { k = "string" }
[[flow.tell.task]]
id    = "ticket"
type  = "ticket"
title = "{k} {run.fired_at}"
"#;

#[test]
fn a_late_row_leaves_by_its_port_and_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("plant.toml"), TOPOLOGY).expect("writes");
    // a's second row is late. b's clock is behind a's, its rows are in order.
    let rows =
        [("a", 10, 9), ("a", 5, 1), ("b", 6, 9), ("a", 21, 9), ("b", 12, 9), ("b", 17, 9), ("a", 30, 9)];
    let line = |(k, ts, v): &(&str, u32, u32)| format!("{{\"k\":\"{k}\",\"ts\":{ts},\"v\":{v}}}\n");
    fs::write(folder.path().join("rows.jsonl"), rows.iter().map(line).collect::<String>()).expect("writes");
    let tidegate = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_tidegate")]).args(arguments).current_dir(folder.path());
        command.output().expect("tidegate starts")
    };
    let ran = tidegate(&["run", "plant.toml", "--once"]);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("7 in, 2 out, 1 late"), "{said}");
    let late = fs::read_to_string(folder.path().join("late.jsonl")).expect("was written");
    assert_eq!(late, "{\"k\":\"a\",\"ts\":\"1970-01-01T00:00:05.000000Z\",\"v\":1.0}\n");
    let tickets = tidegate(&["tickets", "plant.toml"]);
    let tickets = String::from_utf8_lossy(&tickets.stdout);
    for words in [" a 1970-01-01T00:00:20", " b 1970-01-01T00:00:16"] {
        assert!(tickets.contains(words), "{tickets}");
    }
    assert_eq!(tickets.lines().count(), 2, "{tickets}");
}
