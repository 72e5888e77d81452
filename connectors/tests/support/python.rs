//! Servers written in Python (pymodbus, asyncua), started on a free port and
//! stopped by their process id.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A program that listens on no port.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Process {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(interpreter());
        command.args(["-c", program]).args(arguments).stdout(Stdio::null());
        Process(command.spawn().expect("python starts"))
    }

    pub(crate) fn must_run(&mut self) {
        let ended = self.0.try_wait().expect("can be asked");
        assert!(ended.is_none(), "the program has ended: {ended:?}");
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The interpreter with its packages, installed if need be.
pub(crate) fn interpreter() -> String {
    // Tests of the root package use this file, too.
    let folder =
        ["tests/parts", "../tests/parts"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let script = folder.iter().map(|folder| folder.join("python.sh")).find(|script| script.exists());
    let script = script.expect("the script is there");
    let output = Command::new(script).stderr(Stdio::inherit()).output().expect("python.sh runs");
    assert!(output.status.success(), "python.sh failed");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

impl Server {
    /// Runs a program whose first argument is the port, until it listens.
    pub(crate) async fn start(program: &str, arguments: &[&str]) -> Server {
        Server::start_on(free_port(), program, arguments).await
    }

    pub(crate) async fn start_on(port: u16, program: &str, arguments: &[&str]) -> Server {
        let child = Command::new(interpreter())
            .args(["-c", program, &port.to_string()])
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("python starts");
        let mut server = Server { child, port };
        let listening = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                if let Some(status) = server.child.try_wait().expect("can be asked") {
                    panic!("the server has ended: {status}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), listening).await.expect("listens in time");
        server
    }

    /// Stops the process where it stands (SIGSTOP), as a hung peer.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }
}
