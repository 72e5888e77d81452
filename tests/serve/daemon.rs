//! The daemon as a process of a test.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

pub(crate) const COUNTING: &str = r#"
[source.numbers]
type = "generate"
rate = "1000/s"

[operator.sums]
type   = "window"
from   = "numbers"
window = { kind = "tumbling", size = "100ms" }
select = ["count(*) AS n"]

[sink.out]
type = "file"
from = "sums"
path = "OUT"
"#;

/// A folder with a configuration and topologies.
pub(crate) fn folder(topologies: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[daemon]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"state\"\ntopologies = \"topologies\"\n";
    std::fs::write(folder.path().join("tidegate.toml"), config).expect("written");
    std::fs::create_dir(folder.path().join("topologies")).expect("made");
    for (name, text) in topologies {
        let out = folder.path().join(format!("{name}.jsonl")).display().to_string();
        let path = folder.path().join("topologies").join(format!("{name}.toml"));
        std::fs::write(path, text.replace("OUT", &out)).expect("written");
    }
    folder
}

pub(crate) fn serve(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["serve", "--config", "tidegate.toml"]).current_dir(folder).stderr(Stdio::piped());
    command
}

/// A running daemon; killed when it is dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    log: BufReader<ChildStderr>,
    pub(crate) address: String,
}

impl Daemon {
    pub(crate) fn start(folder: &Path) -> Daemon {
        Daemon::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: &Path, arguments: &[&str]) -> Daemon {
        let mut child = serve(folder).args(arguments).spawn().expect("tidegate starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).expect("readable") > 0, "ended before it was ready");
            let entry: Value = serde_json::from_str(&line).expect("JSON lines");
            let message =
                entry["fields"]["message"].as_str().or(entry["message"].as_str()).unwrap_or_default();
            if let Some((_, address)) = message.split_once("the API is at http://") {
                break address.to_owned();
            }
        };
        Daemon { child, log, address }
    }

    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).expect("listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("is read");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    }

    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill starts").success());
    }

    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.wait_with_log().0
    }

    /// Its exit code and what it has said since it was ready.
    pub(crate) fn wait_with_log(&mut self) -> (Option<i32>, String) {
        // A pipe that nobody reads would hold the daemon up.
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("readable");
        assert!(!rest.contains("panicked"), "{rest}");
        (self.child.wait().expect("ends").code(), rest)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill() {
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "it has ended");
        }
    }
}

pub(crate) fn counted(path: &Path) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["n"].as_u64().unwrap_or(0))
        .sum()
}
