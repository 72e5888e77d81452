//! A real S3 server over a folder of files, on a free port.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::process::pause;

pub(crate) const KEY: &str = "tidegate";
pub(crate) const SECRET: &str = "a secret of the test";

/// A server and its buckets.
pub(crate) struct Server {
    program: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// A server with the bucket `plant`.
    pub(crate) fn start() -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/s3.sh");
        let output = Command::new("bash").arg(script).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let program = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let folder = tempfile::tempdir().expect("a folder");
        let mut server = Server { program, folder, port, child: None };
        server.make_bucket();
        server.restart();
        server
    }

    pub(crate) fn bucket(&self) -> PathBuf {
        self.folder.path().join("buckets/plant")
    }

    pub(crate) fn make_bucket(&self) {
        std::fs::create_dir_all(self.bucket()).expect("a folder");
    }

    /// Takes the bucket away.
    pub(crate) fn remove_bucket(&self) {
        std::fs::remove_dir_all(self.bucket()).expect("it was there");
    }

    pub(crate) fn restart(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["--access", KEY, "--secret", SECRET, "--quiet"]);
        command.args(["--port", &format!("127.0.0.1:{}", self.port), "--iam-dir"]);
        command.arg(self.folder.path()).args(["posix", "--sidecar"]);
        let sidecar = self.folder.path().join("sidecar");
        std::fs::create_dir_all(&sidecar).expect("a folder");
        command.arg(sidecar).arg(self.folder.path().join("buckets"));
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        for _ in 0..1_000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            pause(20);
        }
        assert!(TcpStream::connect(("127.0.0.1", self.port)).is_ok(), "the server does not listen");
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
    }

    /// Stops it where it stands, as a hung peer.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
