//! Starts, kills and stops the binary; reads what it has published.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// A process that ends with the value.
pub(crate) struct Daemon(Child);

impl Daemon {
    pub(crate) fn start(folder: &Path, topology: &str, more: &[&str]) -> Daemon {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["run", topology]).args(more);
        Daemon::of(command, folder)
    }

    /// Any command that becomes tidegate or holds it.
    pub(crate) fn of(mut command: Command, folder: &Path) -> Daemon {
        let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
        let child = command.current_dir(folder).stdout(Stdio::null()).stderr(log).spawn();
        Daemon(child.expect("the command starts"))
    }

    /// The same under strace, which makes this call have this effect.
    #[allow(dead_code, reason = "not every test traces")]
    pub(crate) fn traced(folder: &Path, strace: &str, call: &str, inject: &str) -> Daemon {
        let mut command = Command::new(strace);
        command.args(["-f", "-qqq", "-o", "/dev/null"]);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={inject}")]);
        command.args([env!("CARGO_BIN_EXE_tidegate"), "run", "plant.toml"]);
        Daemon::of(command, folder)
    }

    /// Its process.
    #[allow(dead_code, reason = "not every test looks at its process")]
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code, or none if a signal ended it, if it ends within so many
    /// milliseconds.
    #[allow(dead_code, reason = "not every test traces")]
    pub(crate) fn ended_within(&mut self, ms: u64) -> Option<Option<i32>> {
        let until = Instant::now() + Duration::from_millis(ms);
        loop {
            if let Some(status) = self.0.try_wait().expect("it is ours") {
                return Some(status.code());
            }
            if Instant::now() >= until {
                return None;
            }
            pause(5);
        }
    }

    /// SIGKILL to what strace runs: strace alone would let it go on.
    #[allow(dead_code, reason = "not every test traces")]
    pub(crate) fn kill_traced(mut self) {
        let id = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            Command::new("kill").args(["-KILL", child]).status().expect("kill starts");
        }
        self.0.wait().expect("it ends");
    }

    /// SIGKILL.
    #[allow(dead_code, reason = "not every test kills")]
    pub(crate) fn kill(mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it ends");
    }

    /// Any signal.
    #[allow(dead_code, reason = "not every test signals")]
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill starts").success());
    }

    /// Waits for its end, however it comes.
    #[allow(dead_code, reason = "not every test signals")]
    pub(crate) fn exit_code(mut self) -> Option<i32> {
        self.0.wait().expect("it ends").code()
    }

    /// SIGTERM, and a clean end.
    pub(crate) fn stop(mut self, folder: &Path) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
        self.ends_well(folder);
    }

    /// Waits for exit code 0.
    #[allow(dead_code, reason = "not every test waits")]
    pub(crate) fn wait(mut self, folder: &Path) {
        self.ends_well(folder);
    }

    fn ends_well(&mut self, folder: &Path) {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().expect("it is ours") {
                break status;
            }
            assert!(started.elapsed() < LIMIT, "it does not end; {}", end_of_log(folder));
            std::thread::park_timeout(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}; {}", end_of_log(folder));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The last lines of its log.
pub(crate) fn end_of_log(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(10).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The rows of every published file of a folder.
pub(crate) fn published(folder: &Path) -> Vec<Value> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths: BTreeSet<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    let files = paths.iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl"));
    let text: String = files.map(|path| std::fs::read_to_string(path).expect("readable")).collect();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// A pause of the test, not of the product.
pub(crate) fn pause(ms: u64) {
    let until = Instant::now() + Duration::from_millis(ms);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
}
