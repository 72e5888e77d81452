//! An fsync of a log fails, each log in its turn: nothing is acknowledged after
//! it, `run` ends with 74 naming the file, and the next start has every row.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "crash/process.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod process;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use process::{LIMIT, end_of_log, pause, published};

/// Exit code after an error of the disk.
const EXIT_IO: i32 = 74;

const PLANT: &str = r#"[topology]
checkpoint_interval = "100ms"

[source.orders]
type   = "http"
listen = "ADDRESS"
schema = { id = "int64" }

[sink.out]
type = "file"
from = "orders"
path = "out/"

[sink.table]
type  = "sqlite"
from  = "orders"
path  = "out.db"
table = "orders"

[sink.away]
type  = "http"
from  = "orders"
url   = "http://PEER/"
queue = { disk = "64MiB" }

[trigger.each]
from  = "orders"
on    = "row"
start = "tell"

[flow.tell]
[[flow.tell.task]]
id   = "tell"
type = "emit"
name = "order"
text = "order"
"#;

fn free() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("bound").to_string()
}

fn strace() -> String {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/strace.sh");
    let found = Command::new("bash").arg(part).output().expect("bash runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).expect("a path").trim().to_owned()
}

/// Runs the plant; every fsync of `file` fails.
fn start(folder: &Path, file: Option<&Path>) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    let tidegate = env!("CARGO_BIN_EXE_tidegate");
    let mut command = match file {
        None => Command::new(tidegate),
        Some(file) => {
            let mut command = Command::new(strace());
            command.args(["-f", "-qqq", "-o", "/dev/null", "-P"]).arg(file);
            command.args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", tidegate]);
            command
        }
    };
    command.args(["run", "plant.toml", "--data-dir", "state"]).current_dir(folder);
    command.stdout(Stdio::null()).stderr(log).spawn().expect("starts")
}

/// Posts a row; whether it was acknowledged.
fn post(address: &str, id: u64, child: &mut Child) -> bool {
    let started = Instant::now();
    let mut stream = loop {
        if let Ok(stream) = TcpStream::connect(address) {
            break stream;
        }
        if child.try_wait().expect("ours").is_some() {
            return false;
        }
        assert!(started.elapsed() < LIMIT, "nobody listens");
        pause(10);
    };
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    let body = format!("{{\"id\":{id}}}");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = String::new();
    let asked = stream.write_all((head + &body).as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.starts_with("HTTP/1.1 200")
}

fn ended(child: &mut Child, folder: &Path) -> Option<i32> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("ours") {
            return status.code();
        }
        if started.elapsed() > LIMIT {
            child.kill().expect("ends");
            panic!("it does not end; {}", end_of_log(folder));
        }
        pause(10);
    }
}

/// Each log by the file whose fsync fails, and whether a row was acknowledged
/// before it is written.
const LOGS: &[(&str, &str)] = &[
    ("the ingress log", "ingress/orders/00000000000000000001.seg"),
    ("the sink's log", "egress/table/00000000000000000001.seg"),
    ("the queue", "egress/away/00000000000000000001.seg"),
    ("how far the queue is", "egress/away/cursor.part"),
    ("dead letters", "dead/away/00000000000000000001.seg"),
    ("a checkpoint", "checkpoints/checkpoint-00000000000000000002.part"),
    ("the folder of checkpoints", "checkpoints"),
    ("the journal", "journal.db-wal"),
];

#[test]
fn a_failed_fsync_of_any_log_ends_with_74_and_nothing_is_lost() {
    for (name, file) in LOGS {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().canonicalize().expect("a path");
        let address = free();
        let peer = Peer::start();
        let plant = PLANT.replace("ADDRESS", &address).replace("PEER", &peer.address);
        std::fs::write(folder.join("plant.toml"), plant).expect("writes");
        let path: PathBuf = folder.join("state").join(file);
        let mut child = start(&folder, Some(&path));
        let mut acknowledged = Vec::new();
        for id in 0..40 {
            if post(&address, id, &mut child) {
                acknowledged.push(id);
            }
            if child.try_wait().expect("ours").is_some() {
                break;
            }
            pause(20);
        }
        assert_eq!(ended(&mut child, &folder), Some(EXIT_IO), "{name}: {}", end_of_log(&folder));
        let log = std::fs::read_to_string(folder.join("log")).expect("a log");
        let last = log.lines().rfind(|line| line.starts_with("error: ")).expect("a last word");
        // It was called so until its folder was synced.
        let named = Path::new(file).with_extension("");
        assert!(last.contains(&*named.to_string_lossy()), "{name}: {last}");

        let mut child = start(&folder, None);
        assert!(post(&address, 100, &mut child), "{name}: it goes on; {}", end_of_log(&folder));
        acknowledged.push(100);
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill starts").success());
        assert_eq!(ended(&mut child, &folder), Some(0), "{name}: {}", end_of_log(&folder));
        let ids: Vec<u64> =
            published(&folder.join("out")).iter().map(|row| row["id"].as_u64().expect("a number")).collect();
        for id in &acknowledged {
            assert_eq!(ids.iter().filter(|row| *row == id).count(), 1, "{name}: {id} of {ids:?}");
        }
    }
}

/// A peer that refuses every third row, so that there are dead letters.
struct Peer {
    address: String,
}

impl Peer {
    fn start() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        std::thread::spawn(move || {
            let mut count = 0;
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                count += 1;
                let word = if count % 3 == 0 { "422 Unprocessable Entity" } else { "200 OK" };
                let mut request = [0; 4096];
                // One small request, one packet.
                if stream.read(&mut request).is_ok() {
                    let answer = format!("HTTP/1.1 {word}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    stream.write_all(answer.as_bytes()).ok();
                }
            }
        });
        Peer { address }
    }
}
