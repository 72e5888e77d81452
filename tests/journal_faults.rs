//! The journal meets a full disk, damage and files that are not its own: a
//! clear message and an exit code, nothing overwritten, no firing lost.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// A journal or disk that cannot be used (`EX_IOERR`).
const IO: i32 = 74;
/// Rows, each of which fires.
const ROWS: usize = 2_000;

const TOPOLOGY: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "s" }

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
id   = "tell"
type = "emit"
name = "high"
text = "{device}"
[[flow.look.task]]
id   = "again"
type = "emit"
name = "higher"
"#;

fn plant() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("plant.toml"), TOPOLOGY).expect("writes");
    let row = |at| format!("{{\"device\":\"d{at}\",\"ts\":{at},\"value\":99.0}}\n");
    fs::write(folder.path().join("rows.jsonl"), (0..ROWS).map(row).collect::<String>()).expect("writes");
    folder
}

/// Runs tidegate in a shell that was prepared so.
fn tidegate(folder: &Path, prepare: &str, arguments: &str) -> Output {
    let script = format!("{prepare} exec timeout 120 '{}' {arguments}", env!("CARGO_BIN_EXE_tidegate"));
    Command::new("bash").args(["-c", &script]).current_dir(folder).output().expect("bash runs")
}

const RUN: &str = "run plant.toml --once --data-dir state";

fn said(output: &Output) -> String {
    // The log goes to the one, the last word to the other.
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Key and state of every run.
fn runs(folder: &Path) -> Vec<(String, String)> {
    let output = tidegate(folder, "", &format!("runs --data-dir state --json --limit {}", ROWS * 2));
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut runs: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            let word = |key: &str| line[key].as_str().expect("text").to_owned();
            (word("fired_at"), word("state"))
        })
        .collect();
    runs.sort();
    runs
}

#[test]
fn a_disk_that_is_full_while_it_fires_loses_nothing() {
    let folder = plant();
    // No file can grow beyond 600 KiB: writes answer EFBIG, where a full disk
    // answers ENOSPC; about a quarter of the firings fit.
    let full = tidegate(folder.path(), "trap '' XFSZ; ulimit -f 600;", RUN);
    assert_eq!(full.status.code(), Some(IO), "{}", said(&full));
    assert!(said(&full).contains("journal.db cannot be used"), "{}", said(&full));
    let before = runs(folder.path()).len();
    assert!(before < ROWS, "{before}");
    let better = tidegate(folder.path(), "", RUN);
    assert!(better.status.success(), "{}", said(&better));
    let after = runs(folder.path());
    assert_eq!(after.len(), ROWS, "one run for each row");
    let mut times: Vec<&String> = after.iter().map(|(fired_at, _)| fired_at).collect();
    times.dedup();
    assert_eq!(times.len(), ROWS, "none twice");
    assert!(after.iter().all(|(_, state)| state == "succeeded"), "{after:?}");
}

#[test]
fn a_disk_without_any_room_is_told_at_the_start() {
    let folder = plant();
    let output = tidegate(folder.path(), "trap '' XFSZ; ulimit -f 0;", RUN);
    assert_eq!(output.status.code(), Some(IO), "{}", said(&output));
    assert!(said(&output).contains("cannot use the data directory state"), "{}", said(&output));
}

/// What becomes of a whole journal, and which words tell it.
type Damage = (&'static str, fn(&Path), &'static str);

#[test]
fn a_journal_that_is_damaged_or_somebody_elses_is_refused_and_left_as_it_is() {
    let cases: [Damage; 6] = [
        (
            "a text",
            |file| fs::write(file, "not a database; ".repeat(1_000)).expect("writes"),
            "not a database",
        ),
        ("another database", |file| sql(file, "CREATE TABLE customers (name TEXT)"), "no journal"),
        (
            "another database with a version",
            |file| sql(file, "CREATE TABLE customers (name TEXT); PRAGMA user_version = 1"),
            "no journal",
        ),
        ("a newer version", |file| sql_on(file, "PRAGMA user_version = 99"), "version 99"),
        ("cut", |file| cut(file), "malformed"),
        ("its head overwritten", |file| overwrite(file, 0, 100), "not a database"),
    ];
    let folder = plant();
    fs::write(folder.path().join("rows.jsonl"), "{\"device\":\"a\",\"ts\":1,\"value\":99.0}\n")
        .expect("writes");
    let whole = tidegate(folder.path(), "", RUN);
    assert!(whole.status.success(), "{}", said(&whole));
    let file = folder.path().join("state/journal.db");
    let good = fs::read(&file).expect("a journal");
    for (name, damage, words) in cases {
        for extra in ["-wal", "-shm"] {
            fs::remove_file(format!("{}{extra}", file.display())).ok();
        }
        fs::write(&file, &good).expect("writes");
        damage(&file);
        let found = fs::read(&file).expect("is there");
        let output = tidegate(folder.path(), "", RUN);
        assert_eq!(output.status.code(), Some(IO), "{name}: {}", said(&output));
        let said = said(&output);
        assert!(said.contains("journal.db") && said.contains(words), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
        assert_eq!(fs::read(&file).expect("is there"), found, "{name}: nothing is overwritten");
    }
}

fn sql(file: &Path, statements: &str) {
    fs::remove_file(file).expect("removes");
    sql_on(file, statements);
}

fn sql_on(file: &Path, statements: &str) {
    let connection = rusqlite::Connection::open(file).expect("opens");
    connection.execute_batch(statements).expect("right statements");
}

fn cut(file: &Path) {
    let length = file.metadata().expect("is there").len();
    fs::OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(length / 2)).expect("cuts");
}

fn overwrite(file: &Path, from: usize, length: usize) {
    let mut bytes = fs::read(file).expect("is there");
    bytes[from..from + length].fill(0x55);
    fs::write(file, bytes).expect("writes");
}
