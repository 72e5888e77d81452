//! The real binary and a peer that is away, refuses rows, and comes back: what
//! waits on disk outlives kills, other branches go on meanwhile, and what was
//! refused is delivered when a person asks for it.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "crash/process.rs"]
mod process;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;

use process::{Daemon, LIMIT, end_of_log, pause, published};

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64" }

[sink.out]
type     = "http"
from     = "rows"
url      = "http://127.0.0.1:PORT/rows"
rows_max = 1
queue    = { disk = "64MiB" }
retry    = { wait = "20ms", max = "100ms", open_after = 5, open_for = "200ms" }

[sink.beside]
type = "file"
from = "rows"
path = "beside/"
"#;

/// A peer that takes rows, one a request; with `strict` no multiples of ten.
#[derive(Default)]
struct Peer {
    rows: Mutex<Vec<u64>>,
    is_lenient: AtomicBool,
}

impl Peer {
    fn take(&self, body: &str) -> StatusCode {
        let row: Value = serde_json::from_str(body).expect("one row");
        let n = row["n"].as_u64().expect("a number");
        if n.is_multiple_of(10) && !self.is_lenient.load(Ordering::SeqCst) {
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
        self.rows.lock().expect("not poisoned").push(n);
        StatusCode::OK
    }

    fn rows(&self) -> Vec<u64> {
        self.rows.lock().expect("not poisoned").clone()
    }
}

fn append(folder: &Path, numbers: std::ops::Range<u64>) {
    let mut file =
        OpenOptions::new().create(true).append(true).open(folder.join("rows.jsonl")).expect("opens");
    let lines: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
    file.write_all(lines.as_bytes()).expect("writes");
}

fn tidegate(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(arguments).current_dir(folder).output().expect("starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn letters(folder: &Path) -> Vec<(u64, String)> {
    let listed = tidegate(folder, &["dead", "list", "plant.toml", "--json", "--limit", "1000"]);
    let letter = |line: &str| {
        let letter: Value = serde_json::from_str(line).expect("JSON");
        assert!(letter["reason"].as_str().expect("text").contains("422"), "{line}");
        let row: Value = serde_json::from_str(letter["content"].as_str().expect("text")).expect("a row");
        (row["n"].as_u64().expect("a number"), letter["state"].as_str().expect("text").to_owned())
    };
    listed.lines().map(letter).collect()
}

fn wait_until(folder: &Path, what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "{what}; {}", end_of_log(folder));
        pause(20);
    }
}

fn beside(folder: &Path) -> Vec<u64> {
    published(&folder.join("beside")).iter().map(|row| row["n"].as_u64().expect("a number")).collect()
}

#[test]
fn an_outage_and_kills_cost_nothing_and_refused_rows_are_delivered_when_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    drop(listener);
    std::fs::write(folder.join("plant.toml"), TOPOLOGY.replace("PORT", &port.to_string())).expect("writes");
    // Nobody listens: three lives that are killed, and the branch beside goes on.
    for life in 0..3 {
        append(folder, life * 50..life * 50 + 50);
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        let expected = (life + 1) * 50;
        wait_until(folder, "the branch beside stands still", || beside(folder).len() as u64 == expected);
        daemon.kill();
    }
    let peer = Arc::new(Peer::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let (shared, address) = (Arc::clone(&peer), format!("127.0.0.1:{port}"));
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free");
        let take = move |body: String| async move { shared.take(&body) };
        axum::serve(listener, Router::new().route("/rows", post(take))).await.expect("serves");
    });
    let daemon = Daemon::start(folder, "plant.toml", &[]);
    append(folder, 150..200);
    wait_until(folder, "the queue stands still", || peer.rows().last() == Some(&199));
    let rows = peer.rows();
    let wanted: BTreeSet<u64> = (0..200).filter(|n| n % 10 != 0).collect();
    assert_eq!(rows.iter().copied().collect::<BTreeSet<_>>(), wanted);
    // After a kill rows may go out twice; those of one life keep their order.
    assert!(rows.windows(2).filter(|pair| pair[0] > pair[1]).count() <= 3, "{rows:?}");
    wait_until(folder, "refused rows are not kept", || letters(folder).len() >= 20);
    let refused: BTreeSet<u64> = letters(folder).into_iter().map(|(n, _)| n).collect();
    assert_eq!(refused, (0..200).step_by(10).collect());
    assert!(letters(folder).iter().all(|(_, state)| state == "refused"));
    // Somebody mends the peer, and asks for them while the daemon runs.
    peer.is_lenient.store(true, Ordering::SeqCst);
    tidegate(folder, &["dead", "replay", "plant.toml", "--node", "out", "--all"]);
    wait_until(folder, "nothing is delivered again", || {
        letters(folder).iter().all(|(_, state)| state == "delivered")
    });
    wait_until(folder, "they do not come", || {
        let came: BTreeSet<u64> = peer.rows().into_iter().collect();
        came == (0..200).collect()
    });
    assert!(
        tidegate(folder, &["dead", "replay", "plant.toml", "--node", "out", "--all"]).contains("nothing")
    );
    daemon.stop(folder);
    assert_eq!(beside(folder), (0..200).collect::<Vec<_>>());
    let late = peer.rows().len();
    let daemon = Daemon::start(folder, "plant.toml", &[]);
    pause(1_000);
    daemon.stop(folder);
    assert_eq!(peer.rows().len(), late, "a restart repeats what was delivered");
}

/// A peer that takes the request and never answers.
#[test]
fn a_hung_peer_holds_no_stop_up_and_a_second_signal_is_obeyed_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let topology = TOPOLOGY.replace("PORT", &port).replace("queue    = { disk = \"64MiB\" }\n", "");
    std::fs::write(folder.join("plant.toml"), topology).expect("writes");
    append(folder, 0..10);
    for signals in [2, 1] {
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        let (peer, _) = listener.accept().expect("a request");
        let started = Instant::now();
        for _ in 0..signals {
            daemon.signal("-TERM");
            pause(500);
        }
        let code = daemon.exit_code();
        let limit = if signals == 2 { 5 } else { 30 };
        assert!(started.elapsed().as_secs() < limit, "{signals} signals: {:?}", started.elapsed());
        assert_eq!(code, Some(if signals == 2 { 1 } else { 0 }), "{}", end_of_log(folder));
        drop(peer);
    }
}

#[test]
fn what_may_be_relied_on_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let text = TOPOLOGY.replace("PORT", "1")
        + "[source.orders]\ntype = \"http\"\nlisten = \"127.0.0.1:1\"\nschema = { id = \"int64\" }\nunique = [\"id\"]\n\
           [sink.table]\ntype = \"sqlite\"\nfrom = \"orders\"\npath = \"t.db\"\ntable = \"t\"\n\
           [sink.bare]\ntype = \"http\"\nfrom = \"orders\"\nurl = \"http://127.0.0.1:1/\"\n";
    std::fs::write(folder.join("plant.toml"), text).expect("writes");
    let told = tidegate(folder, &["check", "--promises", "plant.toml"]);
    let line = |node: &str| told.lines().find(|line| line.starts_with(node)).unwrap_or_default().to_owned();
    assert!(line("source.rows").contains("read again"), "{told}");
    assert!(line("source.orders").contains("is known and left out"), "{told}");
    assert!(line("sink.out").contains("64 MiB wait on disk"), "{told}");
    assert!(line("sink.beside").contains("exactly once, in files"), "{told}");
    assert!(line("sink.table").contains("exactly once, from a log"), "{told}");
    assert!(line("sink.bare").contains("its sources wait"), "{told}");
    assert_eq!(told.lines().count(), 6, "{told}");
}

#[test]
fn what_cannot_be_used_is_a_dead_letter_where_nobody_reads_the_rejects() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let topology = TOPOLOGY.split("[sink.out]").next().expect("its beginning").to_owned()
        + "[sink.beside]\ntype = \"file\"\nfrom = \"rows\"\npath = \"beside/\"\n";
    std::fs::write(folder.join("plant.toml"), topology).expect("writes");
    std::fs::write(folder.join("rows.jsonl"), "{\"n\":1}\n{\"n\":\"x\u{1b}\"}\n{\"n\":3}\n").expect("writes");
    for _ in 0..2 {
        Daemon::start(folder, "plant.toml", &["--once"]).wait(folder);
    }
    assert_eq!(beside(folder), [1, 3]);
    let listed = tidegate(folder, &["dead", "list", "plant.toml", "--json"]);
    let letter: Value = serde_json::from_str(listed.trim()).expect("one letter");
    assert_eq!(letter["state"], "rejected");
    assert!(!tidegate(folder, &["dead", "list", "plant.toml"]).contains('\u{1b}'));
    let id = letter["id"].as_str().expect("text");
    let raw = tidegate(folder, &["dead", "show", id, "plant.toml", "--raw"]);
    assert_eq!(raw, "{\"n\":\"x\u{1b}\"}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let replay = ["dead", "replay", "plant.toml", "--node", "rows", "--all"];
    let refused = command.args(replay).current_dir(folder).output().expect("starts");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--raw"));
}
