//! Sources whose file is changed while they have a position. One whose rows were
//! acknowledged begins anew when a person says so: what nobody has worked on is
//! put aside and named, and what comes from then on is never lost. One that
//! reads more goes on where it was.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "edits/orders.rs"]
mod orders;
#[path = "crash/process.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod process;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use orders::{ORDERS, post};
use process::{Daemon, LIMIT, end_of_log, pause, published};

/// Exit code and everything that was said.
fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "plant.toml", "--json", "--for", "1s"]).args(arguments).current_dir(folder);
    let output = command.output().expect("tidegate starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

fn ids(folder: &Path) -> Vec<u64> {
    let rows = published(&folder.join("out"));
    rows.iter().map(|row| row["id"].as_u64().expect("a number")).collect()
}

/// Segments that were put aside.
fn aside(folder: &Path) -> usize {
    let log = std::fs::read_dir(folder.join(".tidegate/plant/ingress/orders")).expect("a log");
    let names = log.map(|entry| entry.expect("readable").file_name());
    names.filter(|name| name.to_string_lossy().starts_with("lost-")).count()
}

#[test]
fn a_source_that_is_reset_begins_anew_and_nothing_is_lost_without_a_word() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let plant = ORDERS.replace("ADDRESS", &address);
    std::fs::write(folder.join("plant.toml"), &plant).expect("writes");
    let first = Daemon::start(folder, "plant.toml", &[]);
    post(folder, &address, 1);
    first.stop(folder);
    let second = Daemon::start(folder, "plant.toml", &[]);
    (2..5).for_each(|id| post(folder, &address, id));
    second.kill();

    // Its rows have other columns now: what waits does not fit.
    let changed = plant.replace("{ id = \"int64\" }", "{ id = \"int64\", site = \"string\" }");
    std::fs::write(folder.join("plant.toml"), &changed).expect("writes");
    let (code, said) = run(folder, &[]);
    assert_eq!(code, Some(1), "{said}");
    for words in ["cannot replay record 2 of", "--reset-state orders"] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let third = Daemon::start(folder, "plant.toml", &["--json", "--reset-state", "orders"]);
    post(folder, &address, 5);
    let said = std::fs::read_to_string(folder.join("log")).expect("a log");
    let told: Vec<&str> = said.lines().filter(|line| line.contains("--reset-state orders: ")).collect();
    let [told] = told.as_slice() else { panic!("{said}") };
    for words in ["\"ERROR\"", "3 records that were acknowledged", "ingress/orders/lost-"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert_eq!(aside(folder), 1);
    third.kill();

    // The word was durable: what has come since then is not thrown away, though no
    // checkpoint has been made.
    let fourth = Daemon::start(folder, "plant.toml", &[]);
    post(folder, &address, 6);
    fourth.stop(folder);
    assert_eq!(ids(folder), [1, 5, 6]);
    let said = std::fs::read_to_string(folder.join("log")).expect("a log");
    assert!(!said.contains("gap: records"), "what was put aside is not missed: {said}");

    // What was worked on is at stake no more, and does not come again.
    let (code, said) = run(folder, &["--reset-state", "orders"]);
    assert_eq!((code, said.contains("put aside")), (Some(0), false), "{said}");
    assert_eq!((ids(folder), aside(folder)), (vec![1, 5, 6], 1));
    let (code, said) = run(folder, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ids(folder), [1, 5, 6]);
}

const TOPICS: &str = r#"[topology]
checkpoint_interval = "100ms"

[source.rows]
type    = "kafka"
brokers = ["BROKERS"]
topics  = "a"
group   = "GROUP"
format  = "json"
schema  = { id = "int64" }

[sink.out]
type = "file"
from = "rows"
path = "out/"
"#;

/// Runs until these rows have been published.
fn until_there(folder: &Path, expected: &[u64]) -> String {
    let daemon = Daemon::start(folder, "plant.toml", &["--json"]);
    let started = Instant::now();
    loop {
        let mut found = ids(folder);
        found.sort_unstable();
        if found == expected {
            break;
        }
        assert!(started.elapsed() < LIMIT, "{found:?}; {}", end_of_log(folder));
        pause(50);
    }
    daemon.stop(folder);
    std::fs::read_to_string(folder.join("log")).expect("a log")
}

#[test]
fn a_list_of_topics_grows_and_shrinks_and_what_stays_goes_on() {
    let cluster = MockCluster::new(1).expect("a cluster");
    for topic in ["a", "b"] {
        cluster.create_topic(topic, 1, 1).expect("made");
    }
    let mut client = ClientConfig::new();
    let producer: BaseProducer =
        client.set("bootstrap.servers", cluster.bootstrap_servers()).create().expect("a producer");
    let put = |topic: &str, id: u64| {
        let payload = format!("{{\"id\":{id}}}");
        producer.send(BaseRecord::<str, str>::to(topic).payload(&payload)).expect("taken");
        producer.flush(LIMIT).expect("durable");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let plant = TOPICS.replace("BROKERS", &cluster.bootstrap_servers());
    // Of a group that has committed nothing: positions are those of the checkpoint.
    let write = |group: &str, topics: &str| {
        let text = plant.replace("\"a\"", topics).replace("GROUP", group);
        std::fs::write(folder.join("plant.toml"), text).expect("writes");
    };
    let told = |said: &str, words: &str| {
        said.lines()
            .filter(|line| line.contains("\"WARN\"") && line.contains("topics has") && line.contains(words))
            .count()
    };
    write("first", "\"a\"");
    (1..4).for_each(|id| put("a", id));
    (11..14).for_each(|id| put("b", id));
    let said = until_there(folder, &[1, 2, 3]);
    assert_eq!(told(&said, ""), 0, "{said}");
    write("second", "[\"a\", \"b\"]");
    put("a", 4);
    let said = until_there(folder, &[1, 2, 3, 4, 11, 12, 13]);
    assert_eq!(told(&said, "besides what it had"), 1, "{said}");
    write("third", "\"b\"");
    put("b", 14);
    let said = until_there(folder, &[1, 2, 3, 4, 11, 12, 13, 14]);
    assert_eq!(told(&said, "no more"), 1, "{said}");
}
