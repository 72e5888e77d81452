//! Servers for tests: installed by the scripts in `tests/parts`, started on
//! free ports, stopped by process id.

#![allow(clippy::disallowed_methods, reason = "tests wait for real servers in real time")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What a script of `tests/parts` prints: where the part is.
pub(crate) fn part(script: &str) -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    // Tests of the root package use this file, too.
    let folder = ["tests/parts", "../tests/parts"].map(|folder| package.join(folder));
    let path = folder.iter().map(|folder| folder.join(script)).find(|path| path.exists());
    let path = path.expect("the script is there");
    let output = Command::new("bash").arg(&path).output().expect("bash runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed: {said}");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// A process that ends with the value.
pub(crate) struct Server(Option<Child>);

impl Server {
    pub(crate) fn start(command: &mut Command) -> Server {
        Server(Some(command.spawn().expect("the server starts")))
    }

    /// A process that was started before.
    #[allow(dead_code, reason = "not every test file uses every helper")]
    pub(crate) fn of(child: Child) -> Server {
        Server(Some(child))
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.0.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs");
        assert!(status.success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.0.as_mut() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Waits until something listens on a port of this machine.
pub(crate) fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
