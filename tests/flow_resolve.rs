//! A device write of which nobody knows whether it happened: it is listed, a
//! person says what became of it, and its run goes on, with a daemon or without.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and waits in real time"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A device that takes commands, answers none of them and obeys none.
fn deaf_device() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("has one").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepts");
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    let mut head = [0; 8];
    while stream.read_exact(&mut head).is_ok() {
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        let mut rest = vec![0; length - 2];
        stream.read_exact(&mut rest).expect("a whole request");
        // Function 3 reads: one register, which holds 7. Everything else gets no answer.
        if head[7] == 3 {
            let answer = [head[0], head[1], 0, 0, 0, 5, head[6], 3, 2, 0, 7];
            stream.write_all(&answer).expect("is heard");
        } else {
            return;
        }
    }
}

/// A topology with one row, whose flow writes the device and tells of it.
fn plant(device: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let topology = format!(
        r#"
[source.rows]
type   = "file"
path   = "{path}/rows.jsonl"
schema = {{ device = "string", ts = "timestamp" }}
time   = {{ column = "ts", unit = "s" }}

[trigger.dry]
from  = "rows"
start = "open"

[flow.open]
mode    = "armed"
max_age = "36500d"
[[flow.open.task]]
id       = "valve"
type     = "modbus.write"
device   = "tcp://{device}"
register = "holding:40"
value    = "600"
[[flow.open.task]]
id   = "tell"
type = "emit"
name = "opened"
text = "{{valve.value}} {{valve.state}}"
"#,
        path = folder.path().display()
    );
    let config = format!(
        "[daemon]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"state\"\ntopologies = \"topologies\"\n[writes]\n\"tcp://{device}/1/holding:40\" = {{ min = 0, max = 1800 }}\n"
    );
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    std::fs::create_dir(folder.path().join("topologies")).expect("made");
    write("topologies/plant.toml", &topology);
    write("tidegate.toml", &config);
    write("rows.jsonl", "{\"device\":\"d\",\"ts\":1700000000}\n");
    folder
}

fn tidegate(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_tidegate")]).args(arguments.split(' ')).current_dir(folder);
    command.env("USER", "ann").output().expect("runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn runs(folder: &Path, more: &str) -> Vec<Value> {
    let output = tidegate(folder, &format!("flow runs --data-dir state/plant --json{more}"));
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const RUN: &str = "run topologies/plant.toml --once --data-dir state/plant --config tidegate.toml";

/// A run that waits for a word, and its number.
fn unknown(folder: &Path) -> String {
    let output = tidegate(folder, RUN);
    assert!(output.status.success(), "{}", said(&output));
    let waiting = runs(folder, " --state unknown");
    assert_eq!(waiting.len(), 1, "{}", said(&output));
    assert_eq!(
        (&waiting[0]["state"], &waiting[0]["tasks"][0]["state"]),
        (&"paused".into(), &"unknown".into())
    );
    waiting[0]["run"].as_str().expect("a number").to_owned()
}

fn resolve(folder: &Path, arguments: &str) -> (bool, String) {
    let output = tidegate(folder, &format!("flow resolve {arguments}"));
    (output.status.success(), said(&output))
}

#[test]
fn a_word_is_kept_once_and_the_run_goes_on() {
    for (word, state) in [("done", "succeeded"), ("failed", "failed")] {
        let folder = plant(&deaf_device());
        let folder = folder.path();
        let run = unknown(folder);
        let (good, why) = resolve(folder, &format!("{run} tell --as done --data-dir state/plant"));
        assert!(!good && why.contains("has begun a task tell"), "{why}");
        let (good, why) = resolve(folder, "1 valve --as done --data-dir state/plant");
        assert!(!good && why.contains("no open run"), "{why}");
        let arguments = format!("{run} valve --as {word} --data-dir state/plant");
        assert!(resolve(folder, &arguments).0);
        let (good, why) = resolve(folder, &arguments);
        assert!(!good && why.contains("already"), "the first word counts: {why}");
        // The run hears of it when the topology runs again, and only once.
        for _ in 0..2 {
            assert!(tidegate(folder, RUN).status.success());
        }
        let ended = runs(folder, &format!(" --state {state}"));
        assert_eq!(ended.len(), 1, "{:?}", runs(folder, ""));
        assert!(ended[0]["tasks"].to_string().contains("says ann"), "{}", ended[0]["tasks"]);
        let journal = rusqlite::Connection::open(folder.join("state/plant/journal.db")).expect("opens");
        let told = "SELECT ifnull(max(text), '') FROM notices WHERE kind = 'opened'";
        let told: String = journal.query_row(told, (), |row| row.get(0)).expect("one line");
        assert_eq!(told, if word == "done" { "600.0 done" } else { "" });
        let ticket = "SELECT state FROM tickets";
        assert_eq!(journal.query_row(ticket, (), |row| row.get(0)), Ok("closed".to_owned()));
    }
}

/// Killed when it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().expect("has not ended");
        self.0.wait().expect("ends");
    }
}

#[test]
fn a_daemon_takes_the_word_over_its_api() {
    let folder = plant(&deaf_device());
    let folder = folder.path();
    let run = unknown(folder);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--config", "tidegate.toml"]).current_dir(folder).stderr(Stdio::piped());
    let mut daemon = Daemon(command.spawn().expect("starts"));
    let log = BufReader::new(daemon.0.stderr.take().expect("piped")).lines();
    let mut log = log.map(|line| line.expect("readable"));
    let line = log.by_ref().find(|line| line.contains("the API is at http://")).expect("it listens");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('"').next()).expect("an address");
    let (good, why) = resolve(folder, &format!("{run} valve --as done --data-dir state/plant"));
    assert!(!good && why.contains("another running tidegate"), "{why}");
    let (good, why) = resolve(folder, &format!("{run} other --as done --api {address}"));
    assert!(!good && why.contains("task other"), "{why}");
    let (good, why) = resolve(folder, &format!("{run} valve --as done --by bob --api {address}"));
    assert!(good, "{why}");
    // It goes on by itself.
    let succeeded = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        !runs(folder, " --state succeeded").is_empty()
    });
    assert!(succeeded, "{:?}", runs(folder, ""));
}
