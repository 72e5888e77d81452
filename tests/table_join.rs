//! A join with a table in a whole topology: a file to its end, a table that
//! changes while rows come, one that cannot be read any more, and one in SQLite.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

const ROWS: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp" }
time   = { column = "ts", unit = "s" }
"#;

const JOIN: &str = r#"
[operator.enriched]
type = "join"
from = ["rows", "owners"]
on   = "rows.device = owners.device"
kind = "left"

[operator.short]
type   = "project"
from   = "enriched"
select = ["ts", "rows_device AS device", "owner"]

[operator.counted]
type   = "window"
from   = "short"
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n", "count(owner) AS owned"]

[sink.out]
type = "file"
path = "out.jsonl"
from = "short"

[sink.counts]
type = "file"
path = "counts.jsonl"
from = "counted"
"#;

const CSV: &str = "[table.owners]\ntype = \"csv\"\npath = \"owners.csv\"\n";

fn topology(table: &str) -> String {
    ROWS.to_owned() + table + JOIN
}

fn row(device: &str, ts: u32) -> String {
    format!("{{\"device\":\"{device}\",\"ts\":{ts}}}\n")
}

fn once(folder: &Path) {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_tidegate"), "run", "plant.toml", "--once"]);
    let ran = command.current_dir(folder).output().expect("tidegate starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// `device owner` of each line.
fn answers(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("out.jsonl")).unwrap_or_default();
    let short = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let owner = line["owner"].as_str().unwrap_or("-");
        Some(format!("{} {owner}", line["device"].as_str()?))
    };
    text.lines().filter_map(short).collect()
}

#[test]
fn a_file_is_joined_to_its_end_and_a_second_run_sees_what_the_table_is_then() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("writes");
    write("plant.toml", &topology(CSV));
    write("owners.csv", "device,owner\na,ada\nb,bob\nb,bert\n");
    let first = row("a", 1) + &row("b", 2) + &row("c", 13);
    write("rows.jsonl", &first);
    once(folder.path());
    let mut expected = vec!["a ada", "b bob", "b bert", "c -"];
    assert_eq!(answers(folder.path()), expected);
    write("owners.csv", "device,owner\nc,cyd\n");
    write("rows.jsonl", &(first + &row("c", 14) + &row("a", 25)));
    once(folder.path());
    expected.extend(["c cyd", "a -"]);
    assert_eq!(answers(folder.path()), expected);
    let counts = fs::read_to_string(folder.path().join("counts.jsonl")).expect("was written");
    let counts: Vec<String> = counts
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|line| format!("{} {}", line["n"], line["owned"]))
        .collect();
    assert!(counts.contains(&"3 3".to_owned()), "{counts:?}");
}

#[test]
fn a_table_in_sqlite_has_the_types_of_its_schema() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plant.db");
    let database = rusqlite::Connection::open(&path).expect("opens");
    let make = "CREATE TABLE owners (device TEXT, owner TEXT, active INTEGER, since INTEGER, spare BLOB);
         INSERT INTO owners VALUES ('a', 'ada', 1, 5, x'00'), ('b', 'bob', 0, 6, NULL), (NULL, 'x', NULL, NULL, 1)";
    database.execute_batch(make).expect("rows");
    let table = "[table.owners]\ntype = \"sqlite\"\npath = \"plant.db\"\ntable = \"owners\"\n\
         schema = { device = \"string\", owner = \"string\", active = \"bool\", since = { type = \"timestamp\", unit = \"s\" } }\n";
    let text = topology(table).replace("\"owner\"]", "\"owner || ' ' || active || ' ' || since AS owner\"]");
    fs::write(folder.path().join("plant.toml"), text).expect("writes");
    fs::write(folder.path().join("rows.jsonl"), row("a", 1) + &row("b", 2)).expect("writes");
    once(folder.path());
    let expected = ["a ada true 1970-01-01T00:00:05Z", "b bob false 1970-01-01T00:00:06Z"];
    assert_eq!(answers(folder.path()), expected);
    // A value that does not fit its column is told with its row.
    database.execute_batch("INSERT INTO owners VALUES ('c', 7, 2, 5, NULL)").expect("a row");
    let check = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["check", "plant.toml"])
        .current_dir(folder.path())
        .output()
        .expect("tidegate starts");
    let told = String::from_utf8_lossy(&check.stdout) + String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && told.contains("row 4: "), "{told}");
}

/// A daemon that follows its file, and the lines of its log.
struct Daemon {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Daemon {
    fn start(folder: &Path) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", "plant.toml"]).current_dir(folder).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().expect("tidegate starts");
        let log = BufReader::new(child.stderr.take().expect("was asked for"));
        let (tell, lines) = std::sync::mpsc::sync_channel(10_000);
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Daemon { child, lines }
    }

    fn hears(&self, words: &str) {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            if line.contains(words) {
                return;
            }
            seen.push(line);
        }
        assert!(seen.is_empty(), "no {words:?} in {seen:#?}");
    }

    fn end(&mut self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().expect("kill starts");
        assert!(sent.success());
        self.child.wait().expect("it ends");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[allow(clippy::disallowed_methods, reason = "a test waits for a process")]
fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_table_that_changes_is_seen_and_one_that_breaks_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).expect("writes");
    let append = |text: &str| {
        let mut file = fs::OpenOptions::new().append(true).open(path("rows.jsonl")).expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    };
    let given = |count: usize| {
        wait_for(&format!("{count} rows"), || answers(folder.path()).len() >= count);
        answers(folder.path()).last().cloned().expect("a row")
    };
    write("plant.toml", &topology(CSV));
    write("owners.csv", "device,owner\na,ada\n");
    write("rows.jsonl", &row("a", 1));
    let mut daemon = Daemon::start(folder.path());
    assert_eq!(given(1), "a ada");
    write("owners.csv", "device,owner\na,eve\n");
    daemon.hears("version=");
    let mut count = 1;
    // It changes at one of the next barriers; nobody is joined with a mixture.
    wait_for("the new version", || {
        let before = answers(folder.path()).len();
        append(&row("a", 2));
        wait_for("an answer", || answers(folder.path()).len() > before);
        let last = answers(folder.path()).last().cloned().expect("a row");
        assert!(last == "a eve" || last == "a ada", "{last}");
        last == "a eve"
    });
    write("owners.csv", "device,owner\na,\"bro");
    daemon.hears("its last version stays: owners.csv:2: ");
    count = answers(folder.path()).len().max(count);
    append(&row("a", 3));
    assert_eq!(given(count + 1), "a eve");
    daemon.end("-KILL");
    // The version is that of the checkpoint, though nothing can be read.
    write("owners.csv", "device,owner\na,eve\n");
    append(&row("a", 4));
    let mut daemon = Daemon::start(folder.path());
    let count = count + 2;
    wait_for("the row behind the crash", || answers(folder.path()).len() >= count);
    assert_eq!(answers(folder.path()).last().map(String::as_str), Some("a eve"));
    daemon.end("-TERM");
}
