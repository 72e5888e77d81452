//! Topologies of the daemon that fail: by name, started again from their
//! checkpoint, left stopped when that does not help, and never at the cost of
//! another one.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "serve/daemon.rs"]
mod daemon;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use daemon::{COUNTING, Daemon, counted, folder};

const LIMIT: Duration = Duration::from_secs(90);

/// What `/status` says of a topology: its state and why.
fn state(daemon: &Daemon, name: &str) -> (String, String) {
    let status: Value = serde_json::from_str(&daemon.get("/status").1).expect("JSON");
    let one =
        status.as_array().expect("a list").iter().find(|one| one["topology"] == name).expect("is there");
    let text = |key: &str| one[key].as_str().expect("text").to_owned();
    (text("state"), text("reason"))
}

fn wait_for(daemon: &Daemon, name: &str, wanted: &str) -> String {
    let started = Instant::now();
    loop {
        let (now, reason) = state(daemon, name);
        if now == wanted {
            return reason;
        }
        assert!(started.elapsed() < LIMIT, "{name} is {now}: {reason}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Goes on counting.
fn goes_on(folder: &Path, name: &str) {
    let out = folder.join(format!("{name}.jsonl"));
    let (started, before) = (Instant::now(), counted(&out));
    while counted(&out) == before {
        assert!(started.elapsed() < LIMIT, "{name} stands");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn metric(daemon: &Daemon, line: &str) -> bool {
    daemon.get("/metrics").1.lines().any(|known| known == line)
}

fn status(daemon: &Daemon) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["status", "--api", &daemon.address]).output();
    String::from_utf8(output.expect("tidegate starts").stdout).expect("text")
}

#[test]
fn state_that_does_not_fit_stops_one_topology_by_name_and_no_other() {
    let folder = folder(&[("first", COUNTING), ("second", COUNTING)]);
    let folder = folder.path();
    let mut daemon = Daemon::start(folder);
    goes_on(folder, "first");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
    let path = folder.join("topologies/first.toml");
    let text = std::fs::read_to_string(&path).expect("is there").replace("100ms", "200ms");
    std::fs::write(&path, text).expect("writes");

    let mut daemon = Daemon::start(folder);
    let reason = wait_for(&daemon, "first", "safe mode");
    for words in
        [r#"operator.sums: window.size was "100ms", is "200ms""#, "first.toml:9:38", "--reset-state sums"]
    {
        assert!(reason.contains(words), "{words} is not in {reason}");
    }
    goes_on(folder, "second");
    assert!(metric(&daemon, r#"tidegate_topology_state{topology="first",state="safe_mode"} 1"#));
    assert!(metric(&daemon, r#"tidegate_topology_state{topology="first",state="running"} 0"#));
    assert!(metric(&daemon, r#"tidegate_topology_state{topology="second",state="running"} 1"#));
    let shown = status(&daemon);
    assert!(shown.contains("first  safe mode: the saved state does not fit"), "{shown}");
    assert!(shown.contains("second  running"), "{shown}");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(1), "one did not run");

    let wrong = daemon::serve(folder).args(["--reset-state", "frist/sums"]).output().expect("starts");
    assert_eq!(wrong.status.code(), Some(78), "{}", String::from_utf8_lossy(&wrong.stderr));
    let mut daemon = Daemon::start_with(folder, &["--reset-state", "first/sums"]);
    goes_on(folder, "first");
    assert_eq!(state(&daemon, "first"), ("running".into(), String::new()));
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn a_state_that_cannot_be_read_stops_one_topology_and_no_other() {
    let folder = folder(&[("first", COUNTING), ("second", COUNTING)]);
    let folder = folder.path();
    let checkpoints = folder.join("state/first/checkpoints");
    std::fs::create_dir_all(&checkpoints).expect("made");
    std::fs::write(checkpoints.join("checkpoint-00000000000000000007"), "not ours").expect("writes");
    let mut daemon = Daemon::start(folder);
    let reason = wait_for(&daemon, "first", "safe mode");
    assert!(
        reason.contains("no checkpoint is whole") && reason.contains("checkpoint-00000000000000000007"),
        "{reason}"
    );
    goes_on(folder, "second");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(1));
}

/// Fails when it runs: the file's header has none of its columns.
const FAILING: &str = r#"
[source.rows]
type   = "file"
path   = "ROWS"
format = "csv"
schema = { a = "int64" }

[sink.out]
type = "file"
from = "rows"
path = "DIRECTORY/"
"#;

#[test]
fn after_three_failures_it_stays_stopped_and_a_start_of_the_daemon_tries_again() {
    let rows = tempfile::tempdir().expect("a folder");
    let (path, out) = (rows.path().join("rows.csv"), rows.path().join("out"));
    std::fs::write(&path, "b,c\n1,2\n").expect("writes");
    let text = FAILING.replace("ROWS", &path.display().to_string());
    let text = text.replace("DIRECTORY", &out.display().to_string());
    let folder = folder(&[("failing", &text), ("going", COUNTING)]);
    let folder = folder.path();
    let mut daemon = Daemon::start(folder);
    let began = Instant::now();
    let reason = wait_for(&daemon, "failing", "waiting");
    assert!(reason.contains("`rows` failed"), "{reason}");
    let reason = wait_for(&daemon, "failing", "safe mode");
    // One second, then five.
    assert!(began.elapsed() >= Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(reason.contains("`rows` failed"), "{reason}");
    assert!(metric(&daemon, r#"tidegate_topology_restarts_total{topology="failing"} 2"#));
    goes_on(folder, "going");
    assert!(daemon.get("/livez").0.contains("200"));
    daemon.signal("-TERM");
    let (code, log) = daemon.wait_with_log();
    assert_eq!(code, Some(1));
    let safe: Vec<&str> = log.lines().filter(|line| line.contains("safe mode: it stays stopped")).collect();
    assert!(safe.len() == 1 && safe[0].contains("\"ERROR\""), "{log}");

    // Mended meanwhile: a start of the daemon tries again.
    std::fs::write(&path, "a\n1\n2\n").expect("writes");
    let mut daemon = Daemon::start(folder);
    wait_for(&daemon, "failing", "running");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn what_was_mended_between_two_failures_goes_on_by_itself() {
    let rows = tempfile::tempdir().expect("a folder");
    let (path, out) = (rows.path().join("rows.csv"), rows.path().join("out"));
    std::fs::write(&path, "b\n1\n").expect("writes");
    let text = FAILING.replace("ROWS", &path.display().to_string());
    let text = text.replace("DIRECTORY", &out.display().to_string());
    let folder = folder(&[("failing", &text)]);
    let mut daemon = Daemon::start(folder.path());
    wait_for(&daemon, "failing", "waiting");
    std::fs::write(&path, "a\n1\n2\n").expect("writes");
    wait_for(&daemon, "failing", "running");
    let started = Instant::now();
    while std::fs::read_dir(&out).map_or(0, Iterator::count) == 0 {
        assert!(started.elapsed() < LIMIT, "no rows");
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0), "it is well again");
    let files = std::fs::read_dir(&out).expect("a folder").map(|entry| entry.expect("readable").path());
    let text: String = files.map(|path| std::fs::read_to_string(path).expect("readable")).collect();
    let value = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["a"].as_i64();
    assert_eq!(text.lines().map(value).collect::<Vec<_>>(), [Some(1), Some(2)]);
}

#[test]
fn kills_never_lead_to_safe_mode() {
    let folder = folder(&[("first", COUNTING)]);
    let folder = folder.path();
    for _ in 0..5 {
        let mut daemon = Daemon::start(folder);
        daemon.signal("-KILL");
        assert_eq!(daemon.wait(), None, "killed");
    }
    let mut daemon = Daemon::start(folder);
    goes_on(folder, "first");
    assert_eq!(state(&daemon, "first"), ("running".into(), String::new()));
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
}

/// Fails when it runs, and reads a file when it is loaded.
const TABLE: &str = r#"
[table.sites]
type = "csv"
path = "SITES"
"#;

#[test]
fn a_file_that_is_away_when_it_is_loaded_again_is_waited_for() {
    let files = tempfile::tempdir().expect("a folder");
    let [rows, sites, out] = ["rows.csv", "sites.csv", "out"].map(|name| files.path().join(name));
    std::fs::write(&rows, "b\n1\n").expect("writes");
    std::fs::write(&sites, "site\nnorth\n").expect("writes");
    let text = (FAILING.to_owned() + TABLE).replace("ROWS", &rows.display().to_string());
    let text = text.replace("DIRECTORY", &out.display().to_string());
    let folder = folder(&[("failing", &text.replace("SITES", &sites.display().to_string()))]);
    let mut daemon = Daemon::start(folder.path());
    wait_for(&daemon, "failing", "waiting");
    // Somebody replaces it, and takes his time.
    std::fs::remove_file(&sites).expect("removes");
    std::fs::write(&rows, "a\n1\n").expect("writes");
    let started = Instant::now();
    while !state(&daemon, "failing").1.contains("sites.csv") {
        assert!(started.elapsed() < LIMIT, "{:?}", state(&daemon, "failing"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let (now, reason) = state(&daemon, "failing");
    assert!(now == "waiting" && reason.contains("TG-C009"), "{now}: {reason}");
    std::fs::write(&sites, "site\nnorth\n").expect("writes");
    wait_for(&daemon, "failing", "running");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0), "it is well again");
}

/// Ends by itself, and makes its only checkpoint then.
const BOUNDED: &str = r#"
[topology]
checkpoint_interval = "1h"

[source.numbers]
type  = "generate"
rate  = "100/s"
count = 300

[sink.out]
type = "file"
from = "numbers"
path = "OUT.d/"
"#;

/// A disk that takes no checkpoint: a file stands where their folder is to be.
fn block(state: &Path) -> std::path::PathBuf {
    let (started, blocked) = (Instant::now(), state.join("checkpoints"));
    while !state.exists() {
        assert!(started.elapsed() < LIMIT, "no state");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::write(&blocked, "").expect("no checkpoint yet");
    blocked
}

/// Rows may be doubled by each attempt: there are no more than for any failure.
#[test]
fn a_last_checkpoint_that_fails_again_and_again_is_given_up() {
    let folder = folder(&[("first", BOUNDED), ("second", COUNTING)]);
    let folder = folder.path();
    // It can be read whether there is one, and none can be written.
    for epoch in 1..20 {
        let part = format!("state/first/checkpoints/checkpoint-{epoch:020}.part");
        std::fs::create_dir_all(folder.join(part)).expect("makes");
    }
    let mut daemon = Daemon::start(folder);
    let reason = wait_for(&daemon, "first", "safe mode");
    assert!(reason.contains("cannot write") && reason.contains("first/checkpoints"), "{reason}");
    assert!(metric(&daemon, r#"tidegate_topology_restarts_total{topology="first"} 2"#));
    goes_on(folder, "second");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(74));
}

/// Flows of one life never run beside those of the next.
#[test]
fn a_start_that_fails_leaves_no_flows_running() {
    let folder = folder(&[("first", BOUNDED)]);
    let folder = folder.path();
    let state = folder.join("state/first");
    std::fs::create_dir_all(&state).expect("makes");
    // Former flows go on, and checkpoints cannot be read.
    std::fs::write(state.join("journal.db"), "").expect("writes");
    std::fs::write(state.join("checkpoints"), "").expect("writes");
    let mut daemon = Daemon::start(folder);
    wait_for(&daemon, "first", "waiting");
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).expect("is there");
    let open = open.filter_map(|file| std::fs::read_link(file.expect("readable").path()).ok());
    let journals: Vec<_> = open.filter(|path| path.to_string_lossy().contains("journal.db")).collect();
    assert!(journals.is_empty(), "{journals:?}");
    assert!(std::fs::metadata(state.join("journal.db")).expect("is there").len() > 0, "none was open");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(74));
}

#[test]
fn a_last_checkpoint_that_no_disk_takes_is_waited_for_and_ends_with_74() {
    let folder = folder(&[("first", BOUNDED), ("second", COUNTING)]);
    let folder = folder.path();
    let mut daemon = Daemon::start(folder);
    wait_for(&daemon, "first", "running");
    let blocked = block(&folder.join("state/first"));
    let reason = wait_for(&daemon, "first", "waiting");
    assert!(reason.contains("cannot write") && reason.contains("first/checkpoints"), "{reason}");
    goes_on(folder, "second");
    // The next starts cannot even read it: however many there are.
    let restarted = r#"tidegate_topology_restarts_total{topology="first"} "#;
    let restarts = |daemon: &Daemon| {
        let metrics = daemon.get("/metrics").1;
        metrics.lines().find_map(|line| line.strip_prefix(restarted)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let started = Instant::now();
    while restarts(&daemon) < 2 {
        assert!(started.elapsed() < LIMIT, "{:?}", state(&daemon, "first"));
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(state(&daemon, "first").0, "waiting");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(74), "the disk alone is to blame");

    std::fs::remove_file(&blocked).expect("removes");
    let mut daemon = Daemon::start(folder);
    wait_for(&daemon, "first", "ended");
    daemon.signal("-TERM");
    assert_eq!(daemon.wait(), Some(0));
    let files = std::fs::read_dir(folder.join("first.jsonl.d")).expect("a folder");
    let text: String = files
        .map(|file| std::fs::read_to_string(file.expect("readable").path()).expect("readable"))
        .collect();
    assert_eq!(text.lines().count(), 300, "each row once");

    // The same in the foreground.
    let mut run = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let mut run = run.args(["run", "topologies/first.toml", "--data-dir", "alone"]).current_dir(folder);
    run = run.stderr(std::process::Stdio::null());
    let mut child = run.spawn().expect("starts");
    block(&folder.join("alone"));
    assert_eq!(child.wait().expect("ends").code(), Some(74));
}
