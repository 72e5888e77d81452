//! A folder with a topology, the binary that runs it, and what both say.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Daemon, LIMIT, end_of_log, pause, published};

/// The program under test.
pub(crate) const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

pub(crate) struct Plant(TempDir);

impl Plant {
    /// A folder whose `plant.toml` is this.
    pub(crate) fn new(topology: &str) -> Plant {
        let plant = Plant(tempfile::tempdir().expect("a folder"));
        plant.write("plant.toml", topology);
        plant
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("writes");
    }

    pub(crate) fn append(&self, name: &str, text: &str) {
        let file = OpenOptions::new().create(true).append(true).open(self.file(name));
        file.expect("opens").write_all(text.as_bytes()).expect("writes");
    }

    /// `{"n":0}` and so on, each its own line.
    pub(crate) fn append_numbers(&self, name: &str, numbers: std::ops::Range<u64>) {
        self.append(name, &numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::start(self.path(), "plant.toml", &[])
    }

    /// Runs to the end of what is there.
    pub(crate) fn run_once(&self) {
        Daemon::start(self.path(), "plant.toml", &["--once"]).wait(self.path());
    }

    /// A program that is given the binary's command line, such as `sh -c '… exec "$@"' sh`.
    pub(crate) fn start_under(&self, program: &str, arguments: &[&str]) -> Daemon {
        let mut command = Command::new(program);
        command.args(arguments).args([TIDEGATE, "run", "plant.toml"]);
        Daemon::of(command, self.path())
    }

    /// What a command of the binary says.
    pub(crate) fn ask(&self, arguments: &[&str]) -> String {
        let output = Command::new(TIDEGATE).args(arguments).current_dir(self.path()).output();
        let output = output.expect("starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Rows of a file of JSON lines, or of every published file of a folder.
    pub(crate) fn rows(&self, name: &str) -> Vec<Value> {
        if name.ends_with('/') {
            return published(&self.file(name));
        }
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }

    /// A whole-number column of these rows, in order.
    pub(crate) fn numbers(&self, name: &str, column: &str) -> Vec<u64> {
        self.rows(name).iter().map(|row| row[column].as_u64().expect("a number")).collect()
    }

    /// The same, sorted.
    pub(crate) fn sorted(&self, name: &str, column: &str) -> Vec<u64> {
        let mut numbers = self.numbers(name, column);
        numbers.sort_unstable();
        numbers
    }

    /// Dead letters.
    pub(crate) fn letters(&self) -> Vec<Value> {
        let listed = self.ask(&["dead", "list", "plant.toml", "--json", "--limit", "100000"]);
        listed.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Waits, and answers how long it took.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < LIMIT, "not in time: {what}; {}", end_of_log(self.path()));
            pause(20);
        }
        started.elapsed()
    }

    pub(crate) fn until_said(&self, words: &str) -> Duration {
        self.until(words, || self.log().contains(words))
    }

    /// Waits until a file or folder has so many rows more than it has now.
    pub(crate) fn until_more(&self, name: &str, count: usize) {
        let before = self.rows(name).len();
        self.until(name, || self.rows(name).len() >= before + count);
    }

    /// Waits until it has so many: what is acknowledged is in a log, and comes
    /// after a stop that was quicker with the next start.
    pub(crate) fn until_rows(&self, name: &str, count: u64) {
        self.until(name, || self.rows(name).len() as u64 >= count);
    }

    /// The newest checkpoint's epoch.
    pub(crate) fn epoch(&self, state: &Path) -> u64 {
        let Ok(entries) = fs::read_dir(state.join("checkpoints")) else { return 0 };
        let epochs = entries.filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix("checkpoint-")?.parse().ok()
        });
        epochs.max().unwrap_or(0)
    }

    /// Where the state is unless a test says otherwise.
    pub(crate) fn state(&self) -> PathBuf {
        self.file(".tidegate/plant")
    }

    /// A stop in good order, and no panic on the way.
    pub(crate) fn stop(&self, daemon: Daemon) {
        daemon.stop(self.path());
        self.must_not_have_panicked();
    }

    pub(crate) fn must_not_have_panicked(&self) {
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

/// Posts a body; answers the status.
pub(crate) fn post(port: u16, body: &[u8]) -> io::Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: plant\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    status(&mut stream)
}

/// The status of an answer.
pub(crate) fn status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::other(format!("no answer: {text:?}")))
}

/// Posts until it is taken.
pub(crate) fn post_until_taken(port: u16, body: &[u8]) {
    let started = Instant::now();
    loop {
        match post(port, body) {
            Ok(200) => return,
            other => assert!(started.elapsed() < LIMIT, "is not taken: {other:?}"),
        }
        pause(20);
    }
}

/// What a script of `tests/parts` prints.
pub(crate) fn part(script: &str) -> String {
    crate::parts::part(script).display().to_string()
}

/// Runs a command that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("starts");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
