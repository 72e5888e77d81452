//! Tables in a whole topology: a file beside the streams, the last rows of a
//! stream, both read by a flow's query, also after a restart.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const TOPOLOGY: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "s" }

[table.owners]
type = "csv"
path = "owners.csv"
key  = "device"

[table.last_rows]
type = "latest"
from = "rows"
key  = "device"

[trigger.high]
from  = "rows"
key   = ["device"]
when  = "value > 50"
on    = "row"
start = "look"
give  = { device = "device" }

[flow.look]
params = { device = "string" }
[[flow.look.task]]
id    = "seen"
type  = "sql"
query = """
  SELECT o.owner, o.since,
         (SELECT string_agg(device || '=' || value, ' ' ORDER BY device)
          FROM last_rows WHERE device <> $device) AS others
  FROM owners AS o WHERE o.device = $device
"""
[[flow.look.task]]
id    = "tell"
type  = "ticket"
title = "{seen.owner} since {seen.since}: {seen.others}"
"#;

fn tidegate(folder: &Path, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_tidegate")])
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("tidegate starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn newest_ticket(folder: &Path) -> String {
    let output = tidegate(folder, &["tickets", "plant.toml", "--json", "--limit", "1"]);
    let line: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a JSON line");
    line["title"].as_str().expect("text").to_owned()
}

#[test]
fn a_flow_reads_a_file_and_the_last_rows_of_a_stream_that_outlive_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writes");
    write("plant.toml", TOPOLOGY);
    write("owners.csv", "device,owner,since\na,ada,2024-05-01\nb,bob,2023-01-31\n");
    let row = |device: &str, at: u32, value: f64| {
        format!("{{\"device\":\"{device}\",\"ts\":{at},\"value\":{value}}}\n")
    };
    // Event time decides which row is the last one of a device.
    let first = row("a", 1, 1.5) + &row("c", 3, 7.0) + &row("c", 2, 8.0);
    write("rows.jsonl", &first);
    tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    write("rows.jsonl", &(first.clone() + &row("b", 9, 99.0)));
    tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    assert_eq!(newest_ticket(folder.path()), "bob since 2023-01-31: a=1.5 c=7.0");
    // The file is another one now, with its columns in another order.
    write("owners.csv", "since,device,owner\n2026-02-03,a,eve\n");
    write("rows.jsonl", &(first + &row("b", 9, 99.0) + &row("a", 10, 60.0)));
    tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    assert_eq!(newest_ticket(folder.path()), "eve since 2026-02-03: b=99.0 c=7.0");
}

#[test]
fn tables_are_listed_and_documented() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = String::from_utf8(tidegate(folder.path(), &["list"]).stdout).expect("UTF-8");
    for kind in ["csv", "json", "latest"] {
        assert!(list.contains(&format!("table.{kind} ")), "{list}");
        let doc = tidegate(folder.path(), &["doc", &format!("table.{kind}")]);
        let doc = String::from_utf8(doc.stdout).expect("UTF-8");
        assert!(doc.contains("key (") && doc.contains("Example:"), "{doc}");
    }
}
