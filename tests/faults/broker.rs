//! A real Mosquitto, and a publisher: the binary itself, from a file.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::parts::Server;
use crate::plant::{Plant, TIDEGATE, part};
use crate::process::{Daemon, LIMIT, pause};

const PUBLISHER: &str = r#"
[source.rows]
type   = "file"
path   = "published.jsonl"
schema = { n = "int64", text = "string" }

[sink.out]
type   = "mqtt"
from   = "rows"
broker = "mqtt://127.0.0.1:PORT"
topic  = "plant/rows"
qos    = 1
"#;

/// How the broker, or a publisher, is started: nothing, or words such as `nsenter …`.
pub(crate) type Inside<'w> = &'w [String];

/// Starts the broker on every address; it ends with the value.
pub(crate) fn start(plant: &Plant, port: u16, inside: Inside<'_>) -> Server {
    let settings = format!(
        "listener {port}\nallow_anonymous true\nmax_queued_messages 0\nmax_queued_bytes 0\nuser root\n"
    );
    plant.write("mosquitto.conf", &settings);
    let mut command = within(inside, &part("mosquitto.sh"));
    command.arg("-c").arg(plant.file("mosquitto.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Server::start(&mut command);
    if inside.is_empty() {
        wait_for(port);
    }
    server
}

fn wait_for(port: u16) {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < LIMIT, "mosquitto does not listen");
        pause(10);
    }
}

/// Publishes rows, and waits until the broker has them.
pub(crate) fn publish(plant: &Plant, port: u16, inside: Inside<'_>, rows: &str) {
    plant.write("published.jsonl", rows);
    plant.write("publisher.toml", &PUBLISHER.replace("PORT", &port.to_string()));
    std::fs::remove_dir_all(plant.file("publisher")).ok();
    let mut command = within(inside, TIDEGATE);
    command.args(["run", "publisher.toml", "--once", "--data-dir", "publisher"]);
    let folder: &Path = plant.path();
    Daemon::of(command, folder).wait(folder);
}

/// A command that runs inside something else.
pub(crate) fn within(inside: Inside<'_>, program: &str) -> Command {
    let Some((first, rest)) = inside.split_first() else { return Command::new(program) };
    let mut command = Command::new(first);
    command.args(rest).arg(program);
    command
}
