//! What people read of runs and tickets in a terminal: data cannot steer it.

#![allow(clippy::expect_used, reason = "a test that fails says where")]

use std::fs;
use std::process::Command;

const TOPOLOGY: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp" }
time   = { column = "ts", unit = "s" }

[trigger.all]
from  = "rows"
start = "look"
give  = { device = "device" }

[flow.look]
params = { device = "string" }
[[flow.look.task]]
id    = "tell"
type  = "ticket"
title = "look at {device}"
body  = "first line\nthen {device}"
[[flow.look.task]]
id    = "count"
type  = "sql"
query = "SELECT CAST({device} AS INT) AS n"
"#;

#[test]
fn data_cannot_steer_the_terminal() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("plant.toml"), TOPOLOGY).expect("writes");
    let row = r#"{"device":"\u001b[2J\u001b]0;x\u0007pump\r\n#9 low","ts":1}"#;
    fs::write(folder.path().join("rows.jsonl"), row).expect("writes");
    let tidegate = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["60", env!("CARGO_BIN_EXE_tidegate")]).args(arguments).current_dir(folder.path());
        String::from_utf8(command.output().expect("tidegate starts").stdout).expect("UTF-8")
    };
    tidegate(&["run", "plant.toml", "--once"]);
    for (command, words) in [("tickets", "look at \\u{1b}[2J"), ("runs", "\\u{1b}[2J")] {
        let shown = tidegate(&[command, "plant.toml"]);
        assert!(shown.contains(words), "{shown:?}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
        let line = |begin: &str| shown.lines().any(|line| line.starts_with(begin));
        assert!(!line("#9"), "{shown:?}");
        // As JSON everything is kept.
        let json = tidegate(&[command, "plant.toml", "--json"]);
        assert!(json.contains("\\u001b[2J"), "{json:?}");
    }
}
