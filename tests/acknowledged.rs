//! A row that was acknowledged between two checkpoints survives a kill, and
//! acknowledging quickly does not cut a sink's files small.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "INTERVAL"

[source.orders]
type   = "http"
listen = "ADDRESS"
schema = { id = "int64" }

[sink.out]
type = "file"
from = "orders"
path = "out/"
"#;

const LIMIT: Duration = Duration::from_secs(60);

fn start(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "topology.toml"])
        .current_dir(folder)
        .stderr(Stdio::null())
        .spawn()
        .expect("tidegate starts")
}

/// Posts a row and waits until it is acknowledged.
fn post(address: &str, id: u32) {
    #[allow(clippy::disallowed_methods, reason = "a time limit")]
    let started = Instant::now();
    let body = format!("{{\"id\":{id}}}");
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(error) => assert!(started.elapsed() < LIMIT, "nobody listens: {error}"),
        }
    };
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nIdempotency-Key: order-{id}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("is read");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// Files with a final name, and the ids in them in the order of the files.
fn published(folder: &Path) -> (usize, Vec<u64>) {
    let entries = std::fs::read_dir(folder.join("out")).expect("a folder");
    let paths: BTreeSet<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    let files: Vec<_> =
        paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).expect("readable")).collect();
    let id = |line: &str| serde_json::from_str::<Value>(line).expect("JSON lines")["id"].as_u64();
    (files.len(), text.lines().filter_map(id).collect())
}

fn stop(mut child: Child, signal: &str) {
    let status = Command::new("kill").args([signal, &child.id().to_string()]).status().expect("kill starts");
    assert!(status.success());
    child.wait().expect("ends");
}

const TABLE: &str = r#"
[topology]
checkpoint_interval = "30ms"

[source.orders]
type   = "http"
listen = "ADDRESS"
schema = { id = "int64" }

[sink.out]
type  = "sqlite"
from  = "orders"
path  = "out.db"
table = "orders"
"#;

fn folder(interval: &str) -> (tempfile::TempDir, String) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let topology = TOPOLOGY.replace("ADDRESS", &address).replace("INTERVAL", interval);
    std::fs::write(folder.path().join("topology.toml"), topology).expect("written");
    (folder, address)
}

#[test]
fn acknowledged_rows_survive_a_kill_before_the_first_checkpoint_and_after_it() {
    let (folder, address) = folder("1h");
    for round in 0..3 {
        let child = start(folder.path());
        (round * 20..round * 20 + 20).for_each(|id| post(&address, id));
        stop(child, "-KILL");
    }
    let child = start(folder.path());
    post(&address, 60);
    stop(child, "-TERM");
    let (files, ids) = published(folder.path());
    assert_eq!(ids, (0..=60).collect::<Vec<_>>());
    assert!(files <= 4, "{files} files for three kills and a stop");
}

#[test]
fn acknowledged_rows_are_in_a_table_once_after_many_kills() {
    let (folder, address) = folder("1h");
    std::fs::write(folder.path().join("topology.toml"), TABLE.replace("ADDRESS", &address)).expect("written");
    for round in 0..15 {
        let child = start(folder.path());
        (round * 7..round * 7 + 7).for_each(|id| post(&address, id));
        stop(child, "-KILL");
    }
    let child = start(folder.path());
    post(&address, 105);
    stop(child, "-TERM");
    let database = rusqlite::Connection::open(folder.path().join("out.db")).expect("a database");
    let mut query = database.prepare("SELECT id FROM orders ORDER BY id").expect("a query");
    let ids = query.query_map([], |row| row.get(0)).expect("rows");
    assert_eq!(ids.collect::<Result<Vec<i64>, _>>().expect("rows"), (0..=105).collect::<Vec<_>>());
}

/// A sender that heard nothing sends again, to the same process or to the next.
#[test]
fn a_request_that_is_sent_again_counts_once() {
    let (folder, address) = folder("50ms");
    let path = folder.path().join("topology.toml");
    let topology = std::fs::read_to_string(&path).expect("is there");
    let known = "request_id = \"request\"\nunique = [\"request\"]\nschema =";
    std::fs::write(&path, topology.replace("schema =", known)).expect("written");
    for round in 0..6_u32 {
        let child = start(folder.path());
        (round.saturating_sub(2) * 10..round * 10 + 10).for_each(|id| post(&address, id));
        (round * 10..round * 10 + 10).for_each(|id| post(&address, id));
        stop(child, "-KILL");
    }
    let child = start(folder.path());
    (0..61).for_each(|id| post(&address, id));
    stop(child, "-TERM");
    let (_, mut ids) = published(folder.path());
    ids.sort_unstable();
    assert_eq!(ids, (0..=60).collect::<Vec<_>>());
}

#[test]
fn acknowledging_quickly_does_not_cut_files_small() {
    let (folder, address) = folder("1h");
    let child = start(folder.path());
    (0..50).for_each(|id| post(&address, id));
    stop(child, "-TERM");
    assert_eq!(published(folder.path()), (1, (0..50).collect()));
}
