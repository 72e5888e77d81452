//! The rows of a stream in a recorded table are there once, however often the
//! process is killed, and a flow's query reads them while more are written.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "exactly_once/process.rs"]
mod process;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use process::{Feed, kill, pause, run_once, start};

const TOPOLOGY: &str = r#"
[topology]
name = "kills"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[table.history]
type = "recorded"
from = "rows"

[trigger.asked]
from  = "rows"
key   = ["id"]
when  = "device = 'ask'"
on    = "row"
start = "count"

[[flow.count.task]]
id    = "all"
type  = "sql"
query = "SELECT count(*) AS n, count(DISTINCT id) AS ids, max(id) AS last FROM history WHERE device <> 'ask'"

[[flow.count.task]]
id    = "tell"
type  = "ticket"
title = "{all.n} {all.ids} {all.last}"
"#;

/// Kills; each comes at another moment of a life.
const KILLS: u64 = 20;

/// Every title, the newest first.
fn titles(folder: &Path) -> Vec<String> {
    let output = Command::new("timeout")
        .args(["60", env!("CARGO_BIN_EXE_tidegate"), "tickets", "topology.toml", "--json", "--limit", "100"])
        .current_dir(folder)
        .output()
        .expect("tidegate starts");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let title = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        line["title"].as_str().expect("text").to_owned()
    };
    text.lines().map(title).collect()
}

fn append(folder: &Path, device: &str, ids: std::ops::RangeInclusive<u64>) {
    let path = folder.join("rows.jsonl");
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    let line = |id| format!("{{\"id\":{id},\"device\":\"{device}\"}}\n");
    file.expect("opens").write_all(ids.map(line).collect::<String>().as_bytes()).expect("writes");
}

/// Files of the table.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "parquet") {
                found.push(entry);
            }
        }
    }
    found
}

#[test]
fn every_row_is_there_once_after_many_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY).expect("written");
    let feed = Feed::start(&folder.path().join("rows.jsonl"));
    for round in 0..KILLS {
        let child = start(folder.path());
        pause(150 + (round * 7_919) % 701);
        kill(child);
    }
    let rows = feed.stop();
    run_once(folder.path());
    append(folder.path(), "ask", rows + 1..=rows + 1);
    run_once(folder.path());
    assert_eq!(titles(folder.path()), [format!("{rows} {rows} {rows}")]);
    let count = files(folder.path()).len();
    assert!((1..=40).contains(&count), "{count} files");
}

#[test]
fn a_query_reads_what_is_there_while_more_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY).expect("written");
    append(folder.path(), "a", 1..=1);
    let child = start(folder.path());
    let mut rows = 1;
    for question in 0..10 {
        append(folder.path(), "a", rows + 1..=rows + 500);
        rows += 500;
        pause(300);
        append(folder.path(), "ask", 1_000_000 + question..=1_000_000 + question);
    }
    pause(500);
    kill(child);
    run_once(folder.path());
    let mut seen = Vec::new();
    for title in titles(folder.path()) {
        let numbers: Vec<u64> = title.split(' ').filter_map(|word| word.parse().ok()).collect();
        // Before the first checkpoint there is no last row.
        let (n, last) = (numbers[0], numbers.get(2).copied().unwrap_or(0));
        assert!(
            n == numbers[1] && n == last && n <= rows,
            "{title}: a beginning of the stream, each row once"
        );
        seen.push(n);
    }
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.len() > 3, "{seen:?}");
}
