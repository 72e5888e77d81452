//! Rows to an S3 store are there exactly once, however often the process or
//! the store is killed; nobody ever sees half an object. Read back by DuckDB.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "exactly_once/process.rs"]
mod process;
#[path = "exactly_once/reader.rs"]
mod reader;
#[path = "exactly_once/s3.rs"]
mod s3;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use process::{Feed, kill, pause, run_once, start};
use reader::{counted, names};
use s3::{KEY, SECRET, Server};

const TOPOLOGY: &str = r#"
[topology]
name = "kills"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[sink.lake]
type              = "s3"
from              = "rows"
path              = "s3://plant/load/"
endpoint          = "ENDPOINT"
allow_http        = true
access_key_id     = "secret://file/./key"
secret_access_key = "secret://file/./secret"
format            = "FORMAT"
roll              = { size = "SIZE", age = "AGE" }
"#;

/// Kills of the process; each third one comes while the store is dead.
const KILLS: u64 = 18;

fn prepare(folder: &Path, server: &Server, format: &str, size: &str, age: &str) {
    let text = TOPOLOGY.replace("ENDPOINT", &server.endpoint()).replace("FORMAT", format);
    let text = text.replace("SIZE", size).replace("AGE", age);
    std::fs::write(folder.join("topology.toml"), text).expect("written");
    std::fs::write(folder.join("key"), KEY).expect("written");
    std::fs::write(folder.join("secret"), format!("{SECRET}\n")).expect("written");
}

fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "a time limit")]
    Instant::now()
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not in time");
        pause(50);
    }
}

#[test]
fn every_row_is_there_once_after_kills_of_both_sides() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &server, "parquet", "16KiB", "300ms");
    let load = server.bucket().join("load");
    let feed = Feed::start(&folder.path().join("rows.jsonl"));
    for round in 0..KILLS {
        let child = start(folder.path());
        pause(150 + (round * 7_919) % 701);
        if round % 3 == 2 {
            server.kill();
            pause(100);
            // The one that goes on without a store lives on into its next life.
            if round % 2 == 0 {
                server.restart();
                pause(600);
            }
        }
        kill(child);
        if round % 3 == 2 && round % 2 != 0 {
            let child = start(folder.path());
            pause(400);
            kill(child);
            server.restart();
        }
        if round % 4 == 3 {
            let (rows, distinct, _) = counted(&load);
            assert_eq!(rows, distinct, "after kill {round}");
        }
    }
    let rows = feed.stop();
    run_once(folder.path());
    assert_eq!(counted(&load), (rows, rows, rows));
    let objects = names(&load).len();
    assert!((KILLS..800).contains(&u64::try_from(objects).expect("small")), "{objects} objects");
}

#[test]
fn a_dead_or_hung_store_stops_neither_checkpoints_nor_a_stop() {
    for is_hung in [false, true] {
        let mut server = Server::start();
        let folder = tempfile::tempdir().expect("a folder");
        prepare(folder.path(), &server, "parquet", "1MiB", "100ms");
        if is_hung {
            server.freeze()
        } else {
            server.kill()
        }
        let rows = folder.path().join("rows.jsonl");
        std::fs::write(&rows, "{\"id\":1,\"device\":\"d\"}\n").expect("written");
        let mut child = start(folder.path());
        pause(1_500);
        let stopping = now();
        let stopped = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
        assert!(stopped.success());
        let status = child.wait().expect("ends");
        assert!(status.success(), "{status}");
        assert!(stopping.elapsed().as_secs() < 15, "{:?}", stopping.elapsed());
        // The row is not read again: it waits in the log.
        std::fs::write(&rows, "{\"id\":1,\"device\":\"d\"}\n{\"id\":2,\"device\":\"d\"}\n").expect("written");
        if is_hung {
            server.thaw()
        } else {
            server.restart()
        }
        run_once(folder.path());
        assert_eq!(counted(&server.bucket().join("load")), (2, 2, 2));
    }
}

/// A process whose words are kept.
fn start_and_listen(folder: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "topology.toml"]).current_dir(folder);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tidegate starts")
}

fn said(mut child: Child) -> String {
    child.kill().expect("it runs");
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
    child.wait().expect("ends");
    text
}

#[test]
fn a_missing_bucket_and_a_wrong_key_are_named_and_got_over() {
    let server = Server::start();
    server.remove_bucket();
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &server, "parquet", "1MiB", "100ms");
    std::fs::write(folder.path().join("rows.jsonl"), "{\"id\":1,\"device\":\"d\"}\n").expect("written");
    let load = server.bucket().join("load");
    let child = start_and_listen(folder.path());
    pause(1_500);
    server.make_bucket();
    until("the bucket is used", || names(&load).len() == 1);
    let text = said(child);
    assert!(text.contains("there is no bucket `plant`") && text.contains("NoSuchBucket"), "{text}");

    std::fs::write(folder.path().join("secret"), "no longer right").expect("written");
    let rows = "{\"id\":1,\"device\":\"d\"}\n{\"id\":2,\"device\":\"d\"}\n";
    std::fs::write(folder.path().join("rows.jsonl"), rows).expect("written");
    let child = start_and_listen(folder.path());
    pause(1_500);
    assert_eq!(names(&load).len(), 1);
    // A key that is put right is used without a restart.
    std::fs::write(folder.path().join("secret"), SECRET).expect("written");
    until("the key is used", || names(&load).len() == 2);
    let text = said(child);
    assert!(text.contains("refuses access to the bucket `plant`"), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("no longer right"), "{text}");
    assert_eq!(counted(&load), (2, 2, 2));
}

/// Uploads with parts that nobody has completed or aborted, as the server keeps
/// them. One that was begun by a process which died before it noted the id has
/// no part.
fn uploads(server: &Server) -> usize {
    let entries = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries.filter_map(|entry| Some(entry.ok()?.path())).collect::<Vec<_>>()
    };
    let of_objects = entries(&server.bucket().join(".sgwtmp/multipart"));
    let uploads = of_objects.iter().flat_map(|object| entries(object));
    uploads.filter(|upload| !entries(upload).is_empty()).count()
}

#[test]
fn uploads_that_kills_leave_are_aborted_and_never_seen() {
    let mut server = Server::start();
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path(), &server, "json", "24MiB", "1h");
    // 48 MB of rows: each object is an upload of several parts.
    let filler = "0123456789abcdef".repeat(30);
    let rows: String = (1..=96_000).map(|id| format!("{{\"id\":{id},\"device\":\"{filler}\"}}\n")).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).expect("written");
    let load = server.bucket().join("load");
    let mut left = 0;
    for round in 0..10 {
        let child = start(folder.path());
        let started = now();
        // In the middle of an upload, at another place each time.
        while uploads(&server) == 0 && started.elapsed() < Duration::from_secs(4) {
            pause(5);
        }
        pause(round * 17 % 90);
        if round % 4 == 3 {
            server.kill();
            pause(200);
        }
        kill(child);
        left += uploads(&server);
        if round % 4 == 3 {
            server.restart();
        }
    }
    run_once(folder.path());
    assert!(left > 2, "only {left} uploads were left by kills");
    assert_eq!(uploads(&server), 0, "uploads are left");
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(&load).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).expect("text");
            assert!(text.ends_with("}\n"), "half an object");
            let id = |line: &str| line.split([':', ',']).nth(1).and_then(|id| id.parse().ok());
            ids.extend(text.lines().map(|line| -> u32 { id(line).expect("a row") }));
        }
    }
    ids.sort_unstable();
    assert!(ids == (1..=96_000).collect::<Vec<_>>(), "{} rows", ids.len());
}
