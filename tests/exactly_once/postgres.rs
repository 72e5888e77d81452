//! A real PostgreSQL on a free port, with a folder of its own.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::pause;

const LIMIT: Duration = Duration::from_secs(60);

/// For time limits.
pub(crate) fn now() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "a time limit")]
    Instant::now()
}

/// A server with its data.
pub(crate) struct Server {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/postgres.sh");
        let output = Command::new("bash").arg(script).output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let programs = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let folder = tempfile::tempdir().expect("a folder");
        if is_root(folder.path()) {
            let owned = Command::new("chown").arg("postgres").arg(folder.path()).status().expect("chown");
            assert!(owned.success());
        }
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let mut server = Server { programs, folder, port, child: None };
        let made = server
            .command("initdb")
            .args(["--no-sync", "--auth=trust", "--username=tidegate", "--encoding=UTF8", "--locale=C"])
            .arg("--pgdata")
            .arg(server.data())
            .stdout(Stdio::null())
            .status();
        assert!(made.expect("initdb").success());
        server.restart();
        server
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program of the server, as the user who may start it.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = if is_root(Path::new("/proc/self")) {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(self.folder.path());
        command
    }

    pub(crate) fn restart(&mut self) {
        let started = now();
        loop {
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
            command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
            self.child =
                Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("postgres starts"));
            if self.wait() {
                return;
            }
            assert!(started.elapsed() < LIMIT, "the server does not start");
            pause(100);
        }
    }

    /// Whether it listens; not if it has ended because its former self still ends.
    fn wait(&mut self) -> bool {
        let started = now();
        while started.elapsed() < LIMIT {
            let child = self.child.as_mut().expect("started");
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return true;
            }
            pause(20);
        }
        false
    }

    /// SIGKILL to its first process, whose others end by themselves.
    pub(crate) fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let id = file.lines().next().map_or_else(|| child.id().to_string(), str::to_owned);
        let killed = Command::new("kill").args(["-KILL", &id]).stderr(Stdio::null()).status();
        assert!(killed.is_ok());
        child.wait().expect("it ends");
    }

    /// STOP or CONT to all of its processes.
    #[allow(dead_code, reason = "not every test freezes it")]
    pub(crate) fn signal(&self, name: &str) {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid")).expect("it runs");
        let first = file.lines().next().expect("a process").to_owned();
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
        let children = children.expect("it runs");
        // `runuser` stops by itself when its child does, and is not woken with it.
        let starter = self.child.as_ref().expect("it runs").id().to_string();
        let starter = Some(starter.as_str()).filter(|_| name == "CONT");
        let all = children.split_whitespace().chain([first.as_str()]).chain(starter);
        let status = Command::new("kill").arg(format!("-{name}")).args(all).status();
        assert!(status.expect("kill starts").success());
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql://tidegate@127.0.0.1:{}/postgres", self.port)
    }

    /// Begins a transaction with this statement, and leaves it under way.
    pub(crate) fn hold(&self, statement: &str) -> Held {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = runtime.block_on(async {
            let connected = tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await;
            let (client, connection) = connected.expect("connects");
            tokio::spawn(connection);
            client.batch_execute(&format!("BEGIN; {statement}")).await.expect("holds");
            client
        });
        Held { runtime, client }
    }

    /// A statement, and its first rows as text.
    pub(crate) fn ask(&self, statement: &str) -> Vec<Vec<Option<String>>> {
        let work = async {
            let (client, connection) = loop {
                match tokio_postgres::connect(&self.url(), tokio_postgres::NoTls).await {
                    Ok(connected) => break connected,
                    // It listens before it is ready.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            tokio::spawn(connection);
            let messages = client.simple_query(statement).await.expect("answers");
            let row = |message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
                }
                _ => None,
            };
            messages.into_iter().filter_map(row).collect()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("in time") })
    }
}

/// A transaction that is under way.
pub(crate) struct Held {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Held {
    /// Commits it with these statements more.
    pub(crate) fn finish(self, statements: &str) {
        let all = format!("{statements}; COMMIT");
        self.runtime.block_on(self.client.batch_execute(&all)).expect("commits");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // Its processes write until they notice.
        pause(200);
    }
}

fn is_root(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.uid() == 0)
}
