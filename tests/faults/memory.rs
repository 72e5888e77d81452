//! 256 MB for the whole process, and ten times the load that it ever had, by
//! HTTP, MQTT and a file at once: senders wait, nothing is lost, nothing is
//! killed, and the backlog is gone faster than it would have come.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::broker;
use crate::cgroup::{Memory, memory_of};
use crate::parts::free_port;
use crate::plant::{Plant, post, post_until_taken};

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "500ms"

[source.orders]
type   = "http"
listen = "127.0.0.1:HTTP"
schema = { n = "int64", text = "string" }

[source.messages]
type      = "mqtt"
broker    = "mqtt://127.0.0.1:MQTT"
topics    = ["plant/#"]
client_id = "spike"
schema    = { n = "int64", text = "string" }
unique    = ["n"]

[source.lines]
type   = "file"
path   = "lines.jsonl"
schema = { n = "int64", text = "string" }

[operator.short_orders]
type   = "project"
from   = "orders"
select = ["n", "length(text) AS length"]

[operator.short_messages]
type   = "project"
from   = "messages"
select = ["n", "length(text) AS length"]

[operator.by_length]
type   = "window"
from   = "lines"
key    = ["n"]
window = { kind = "tumbling", size = "1h" }
select = ["count(*) AS rows"]

[sink.orders_out]
type = "file"
from = "short_orders"
path = "orders/"

[sink.messages_out]
type = "file"
from = "short_messages"
path = "messages/"

[sink.lines_out]
type = "file"
from = "lines"
path = "lines/"

[sink.windows]
type = "discard"
from = "by_length"

[sink.away]
type  = "http"
from  = "lines"
url   = "http://127.0.0.1:1/"
queue = { disk = "1GiB" }
"#;

const LIMIT_BYTES: u64 = 256 << 20;
/// Rows of an ordinary second, by HTTP (100 kB each), MQTT (1 kB) and file (1 kB).
const NOMINAL: [u64; 3] = [20, 100, 1_000];
/// The spike is ten times that, for so many seconds.
const SPIKE_S: u64 = 4;
/// Large bodies that are sent at a time.
const BODIES: u64 = 32;
/// Requests under way at a time.
const SENDERS: u64 = 48;

fn row(n: u64, bytes: usize) -> String {
    format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(bytes))
}

fn rows(count: u64, bytes: usize) -> String {
    (0..count).fold(String::new(), |mut all, n| {
        writeln!(all, "{}", row(n, bytes)).expect("memory");
        all
    })
}

#[test]
fn a_tenfold_spike_in_256_megabytes_loses_nothing_and_is_caught_up_with() {
    let [http, mqtt] = [free_port(), free_port()];
    let plant = Plant::new(&TOPOLOGY.replace("HTTP", &http.to_string()).replace("MQTT", &mqtt.to_string()));
    let _broker = broker::start(&plant, mqtt, &[]);
    plant.append("lines.jsonl", "");
    let group = Memory::limit(LIMIT_BYTES);
    let daemon = plant.start_under("sh", &["-c", &group.script(), "sh"]);
    plant.until("it listens", || post(http, b"").is_ok());
    plant.until_said("connected");
    let [orders, messages, lines] = NOMINAL.map(|rows| rows * 10 * SPIKE_S);
    let started = Instant::now();
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < orders) {
                    post_until_taken(http, row(n, 100_000).as_bytes());
                }
            });
        }
        scope.spawn(|| plant.append("lines.jsonl", &rows(lines, 1_000)));
        broker::publish(&plant, mqtt, &[], &rows(messages, 1_000));
    });
    for (name, count) in [("orders/", orders), ("messages/", messages), ("lines/", lines)] {
        plant.until_rows(name, count);
    }
    let took = started.elapsed().as_secs_f64();
    let (_, most) = memory_of(daemon.id());
    let pace = (10 * SPIKE_S) as f64 / took;
    println!(
        "memory: {} s of ordinary load came at once and took {took:.1} s, {pace:.1} times as fast; {} MB resident at most",
        10 * SPIKE_S,
        most >> 20
    );
    assert_eq!(group.kills(), 0, "killed for want of memory");
    assert!(pace >= 2.0, "it never catches up: {pace}");
    plant.stop(daemon);
    for (name, count) in [("orders/", orders), ("messages/", messages), ("lines/", lines)] {
        assert_eq!(plant.sorted(name, "n"), (0..count).collect::<Vec<_>>(), "{name}");
    }
}

/// What all bodies under way may take together has a limit, so that large ones
/// wait for each other.
#[test]
fn many_large_bodies_at_once_do_not_add_up() {
    let port = free_port();
    let head = TOPOLOGY.split("[source.messages]").next().expect("its beginning");
    let text = head.replace("HTTP", &port.to_string())
        + "[sink.orders_out]\ntype = \"file\"\nfrom = \"orders\"\npath = \"orders/\"\n";
    let plant = Plant::new(&text);
    let group = Memory::limit(LIMIT_BYTES);
    let daemon = plant.start_under("sh", &["-c", &group.script(), "sh"]);
    plant.until("it listens", || post(port, b"").is_ok());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..BODIES {
            scope.spawn(|| {
                let n = next.fetch_add(1, Ordering::Relaxed);
                post_until_taken(port, row(n, 4_000_000).as_bytes());
            });
        }
    });
    plant.until_rows("orders/", BODIES);
    let (_, most) = memory_of(daemon.id());
    println!("memory: {BODIES} bodies of 4 MB at once; {} MB resident at most", most >> 20);
    assert_eq!(group.kills(), 0, "killed for want of memory");
    plant.stop(daemon);
    assert_eq!(plant.sorted("orders/", "n"), (0..BODIES).collect::<Vec<_>>());
}
