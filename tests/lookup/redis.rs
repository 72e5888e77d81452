//! A real Redis on a free port, with a folder of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::process::pause;

const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Server {
    pub(crate) port: u16,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/redis.sh");
        let output = Command::new("bash").arg(script).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let folder = tempfile::tempdir().expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let child = command.current_dir(folder.path()).stdout(Stdio::null()).spawn().expect("redis starts");
        let server = Server { port, child, _folder: folder };
        let is_there = (0..1_500).any(|_| {
            pause(20);
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        assert!(is_there, "redis does not start");
        server
    }

    /// Sends a command and reads its answer.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut line = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        line.set_read_timeout(Some(LIMIT)).expect("a limit");
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        line.write_all(text.as_bytes()).expect("is sent");
        let mut answer = [0; 512];
        let count = line.read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(!answer.starts_with('-'), "{answer}");
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
