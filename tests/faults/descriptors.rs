//! No descriptors left: senders that never let go cannot cause it, and where
//! something else does, that is said, and everything goes on afterwards.

use std::net::TcpStream;

use crate::parts::free_port;
use crate::plant::{Plant, post, post_until_taken, run};
use crate::process::Daemon;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.orders]
type   = "http"
listen = "127.0.0.1:PORT"
schema = { n = "int64" }

[sink.out]
type = "file"
from = "orders"
path = "out/"

[source.numbers]
type = "generate"
rate = "200/s"

[sink.beside]
type = "file"
from = "numbers"
path = "beside/"
"#;

/// Descriptors of the process: 512 connections, and a few for itself.
const ENOUGH: usize = 570;
/// Connections that say nothing.
const SILENT: usize = 620;

fn limit(daemon: &Daemon, descriptors: usize) {
    run("prlimit", &["--pid", &daemon.id().to_string(), &format!("--nofile={descriptors}:4096")]);
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).expect("it runs").count()
}

fn checkpoints_go_on(plant: &Plant) {
    let before = plant.epoch(&plant.state());
    plant.until("checkpoints go on", || plant.epoch(&plant.state()) >= before + 5);
}

fn each_once(plant: &Plant) {
    let numbers = plant.sorted("beside/", "n");
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn senders_that_never_let_go_leave_descriptors_for_checkpoints() {
    let port = free_port();
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &port.to_string()));
    let daemon = plant.start();
    plant.until("it listens", || post(port, b"").is_ok());
    limit(&daemon, ENOUGH);
    let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("the system takes it");
    let silent: Vec<TcpStream> = (0..SILENT).map(connect).collect();
    plant.until_said("connections are open; further senders wait");
    checkpoints_go_on(&plant);
    plant.until_more("beside/", 100);
    assert!(!plant.log().contains("Too many open files"), "{}", plant.log());
    println!("descriptors: {} in use under {SILENT} silent connections", open_files(&daemon));
    drop(silent);
    post_until_taken(port, b"{\"n\":1}");
    plant.until_rows("out/", 1);
    plant.stop(daemon);
    assert_eq!(plant.numbers("out/", "n"), [1]);
    each_once(&plant);
}

#[test]
fn a_process_without_descriptors_says_so_and_goes_on_when_there_are_some() {
    let port = free_port();
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &port.to_string()));
    let daemon = plant.start();
    plant.until("it listens", || post(port, b"").is_ok());
    checkpoints_go_on(&plant);
    // Nothing can be opened any more, not a file of a checkpoint either.
    limit(&daemon, 8);
    plant.until_said("Too many open files");
    let said = plant.log();
    let line = said.lines().find(|line| line.contains("Too many open files")).unwrap_or_default();
    assert!(line.contains("checkpoint") || line.contains("beside"), "the file is not named: {line}");
    plant.until("its sink or checkpoint waits", || plant.log().matches("Too many open files").count() >= 5);
    limit(&daemon, 1_024);
    checkpoints_go_on(&plant);
    plant.until_more("beside/", 100);
    post_until_taken(port, b"{\"n\":1}");
    plant.until_rows("out/", 1);
    plant.stop(daemon);
    assert_eq!(plant.numbers("out/", "n"), [1]);
    each_once(&plant);
}
