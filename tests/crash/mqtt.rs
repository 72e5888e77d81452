//! A real broker → ingress log → rows and their count. What the broker was told
//! we have is never missing; a message whose PUBACK was cut off comes again, and
//! is known by its number.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::process::{Daemon, LIMIT, end_of_log, pause, published};
use crate::random::Random;

const PUBLISHER: &str = r#"
[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64" }

[sink.out]
type   = "mqtt"
from   = "rows"
broker = "mqtt://127.0.0.1:PORT"
topic  = "plant/rows"
qos    = 1
"#;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "60ms"

[source.rows]
type      = "mqtt"
broker    = "mqtt://127.0.0.1:PORT"
topics    = ["plant/#"]
client_id = "under-test"
format    = "json"
schema    = { n = "int64" }
unique    = ["n"]

[operator.doubled]
type   = "project"
from   = "rows"
select = ["n", "n * 2 AS twice"]

[sink.all]
type = "file"
from = "rows"
path = "all/"

[sink.twice]
type = "file"
from = "doubled"
path = "doubled/"
"#;

/// Messages published during each life.
const ROWS: u64 = 300;

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn broker(folder: &Path, port: u16) -> Broker {
    let part = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parts/mosquitto.sh");
    let found = Command::new("bash").arg(part).output().expect("bash runs");
    let program = String::from_utf8(found.stdout).expect("a path");
    let settings =
        format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n");
    std::fs::write(folder.join("mosquitto.conf"), settings).expect("writes");
    let mut command = Command::new(program.trim());
    command.arg("-c").arg(folder.join("mosquitto.conf")).stdout(Stdio::null()).stderr(Stdio::null());
    let broker = Broker(command.spawn().expect("mosquitto starts"));
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < LIMIT, "mosquitto does not listen");
        pause(10);
    }
    broker
}

/// Sends the next messages, by a process of its own.
fn publish(folder: &Path, count: &mut u64) -> Daemon {
    let lines: String = (*count..*count + ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    *count += ROWS;
    std::fs::write(folder.join("rows.jsonl"), lines).expect("writes");
    std::fs::remove_dir_all(folder.join("published")).ok();
    Daemon::start(folder, "publisher.toml", &["--once", "--data-dir", "published"])
}

pub(crate) fn run(cycles: usize, random: &mut Random) {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let _broker = broker(folder, port);
    for (name, text) in [("plant.toml", TOPOLOGY), ("publisher.toml", PUBLISHER)] {
        std::fs::write(folder.join(name), text.replace("PORT", &port.to_string())).expect("writes");
    }
    // The broker keeps messages for the session from here on.
    let daemon = Daemon::start(folder, "plant.toml", &[]);
    pause(1_500);
    daemon.stop(folder);
    let mut count = 0;
    for _ in 0..cycles {
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        let publisher = publish(folder, &mut count);
        pause(random.below(500));
        daemon.kill();
        publisher.wait(folder);
    }
    let daemon = Daemon::start(folder, "plant.toml", &[]);
    publish(folder, &mut count).wait(folder);
    let started = Instant::now();
    let numbers = |name: &str| {
        let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
        for row in published(&folder.join(name)) {
            *numbers.entry(row["n"].as_u64().expect("a number")).or_default() += 1;
        }
        numbers
    };
    while (numbers("all").len() as u64) < count {
        assert!(
            started.elapsed() < LIMIT,
            "{} of {count} came; {}",
            numbers("all").len(),
            end_of_log(folder)
        );
        pause(100);
    }
    daemon.stop(folder);
    let (all, doubled) = (numbers("all"), numbers("doubled"));
    assert!(all.keys().copied().eq(0..count), "{}", end_of_log(folder));
    assert_eq!(all, doubled, "two sinks saw other rows; {}", end_of_log(folder));
    let again: u64 = all.values().map(|times| times - 1).sum();
    assert_eq!(again, 0, "messages count twice; {}", end_of_log(folder));
    println!("mqtt: {cycles} kills, {count} messages, 0 lost, 0 twice, both sinks alike");
}
