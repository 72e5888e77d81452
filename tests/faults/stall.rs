//! An fsync that takes five seconds: who waits for the disk waits, nobody else.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::parts::{Server, free_port};
use crate::peer::{Answer, Peer};
use crate::plant::{Plant, part, post};
use crate::process::pause;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "500ms"

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
rate = "50/s"

[sink.peer]
type = "http"
from = "numbers"
url  = "URL"
"#;

const STALL: Duration = Duration::from_secs(5);

#[test]
fn an_fsync_that_takes_five_seconds_holds_only_those_up_who_need_it() {
    let (port, peer) = (free_port(), Peer::start(|_, _| Answer::Status(200)));
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &port.to_string()).replace("URL", &peer.url()));
    let daemon = plant.start();
    plant.until("it listens", || post(port, b"").is_ok());
    plant.until("the branch beside goes", || peer.taken().len() > 50);
    let mut strace = Command::new(part("strace.sh"));
    strace.args(["-f", "-qqq", "-o", "/dev/null", "-p", &daemon.id().to_string(), "-e", "trace=fdatasync"]);
    strace.args(["-e", "inject=fdatasync:delay_enter=5000000:when=1"]);
    let mut strace = Server::start(strace.stdout(Stdio::null()).stderr(Stdio::null()));
    pause(500);
    let asked = Instant::now();
    assert_eq!(post(port, b"{\"n\":1}").expect("answers"), 200);
    let took = asked.elapsed();
    // It lets the process go on untraced.
    strace.signal("INT");
    pause(200);
    strace.kill();
    let seen = peer.requests();
    let during: Vec<Instant> =
        seen.iter().map(|one| one.at).filter(|at| *at >= asked && *at <= asked + took).collect();
    let gaps = during.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().unwrap_or(took);
    println!(
        "stall: an answer took {took:?}; beside it {} requests, {longest:?} apart at most",
        during.len()
    );
    assert!(
        took >= STALL - Duration::from_millis(600),
        "the row was acknowledged before its fsync: {took:?}"
    );
    assert!(longest < Duration::from_millis(2_500), "the branch beside stood still for {longest:?}");
    assert_eq!(post(port, b"{\"n\":2}").expect("answers"), 200);
    plant.until_rows("out/", 2);
    plant.stop(daemon);
    assert_eq!(plant.numbers("out/", "n"), [1, 2]);
    let numbers = peer.taken();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}
