//! A network that swallows everything: the broker lives in a network namespace
//! whose route to it becomes a black hole. The source notices within twice its
//! keep-alive, other branches go on, and what was published meanwhile comes.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::broker;
use crate::parts::Server;
use crate::plant::{Plant, TIDEGATE};
use crate::process::{Daemon, pause};

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "200ms"

[source.messages]
type            = "mqtt"
broker          = "mqtt://10.11.12.13:1883"
topics          = ["plant/#"]
client_id       = "cut-off"
keep_alive      = "5s"
connect_timeout = "1s"
schema          = { n = "int64", text = "string" }
unique          = ["n"]

[sink.out]
type = "file"
from = "messages"
path = "out/"

[source.numbers]
type = "generate"
rate = "100/s"

[sink.beside]
type = "file"
from = "numbers"
path = "beside/"
"#;

/// The source's keep-alive.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Where only the source reaches the broker; publishers take 127.0.0.1.
const ADDRESS: &str = "10.11.12.13";

/// A network of its own, until the value is dropped.
struct Network {
    _holder: Server,
    enter: Vec<String>,
}

impl Network {
    fn new() -> Network {
        let mut command = Command::new("unshare");
        let script = format!("ip link set lo up && ip addr add {ADDRESS}/32 dev lo && exec sleep 300");
        command.args(["--map-root-user", "--net", "sh", "-c", &script]);
        let child = command.spawn().expect("unshare, of util-linux");
        let id = child.id().to_string();
        let enter = ["nsenter", "--target", &id, "--user", "--net", "--preserve-credentials"];
        Network { _holder: Server::of(child), enter: enter.map(str::to_owned).to_vec() }
    }

    fn run(&self, words: &str) -> bool {
        let mut words = words.split(' ');
        let mut command = broker::within(&self.enter, words.next().expect("a program"));
        command.args(words).status().expect("nsenter, of util-linux").success()
    }
}

fn rows(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{{\"n\":{n},\"text\":\"\"}}\n")).collect()
}

#[test]
fn a_network_that_swallows_everything_is_noticed_and_outlived() {
    let network = Network::new();
    let plant = Plant::new(TOPOLOGY);
    plant.until("the network is there", || network.run("ip -o -4 addr show to 10.11.12.13/32 dev lo up"));
    let _broker = broker::start(&plant, 1883, &network.enter);
    let mut command = broker::within(&network.enter, TIDEGATE);
    command.args(["run", "plant.toml"]);
    let daemon = Daemon::of(command, plant.path());
    plant.until("it is subscribed", || {
        plant.log().lines().any(|line| line.contains("connected") && line.contains("messages"))
    });
    broker::publish(&plant, 1883, &network.enter, &rows(0..50));
    plant.until("what was published before", || plant.rows("out/").len() == 50);
    // First of all rules: even what is of this machine goes nowhere.
    assert!(network.run("ip rule add pref 1000 lookup local"));
    assert!(network.run("ip rule add pref 10 to 10.11.12.13 blackhole"));
    assert!(network.run("ip rule del pref 0"));
    let cut = Instant::now();
    let lost = || plant.log().lines().any(|line| line.contains("lost: ") && line.contains("messages"));
    plant.until("it is noticed", lost);
    let noticed = cut.elapsed();
    plant.until_more("beside/", 50);
    broker::publish(&plant, 1883, &network.enter, &rows(50..150));
    pause(500);
    assert_eq!(plant.rows("out/").len(), 50, "the network is not cut");
    assert!(network.run("ip rule del pref 10"));
    let mended = Instant::now();
    plant.until("what was published meanwhile", || plant.rows("out/").len() >= 150);
    println!(
        "partition: noticed after {noticed:?}, everything is there {:?} after it was mended",
        mended.elapsed()
    );
    // Twice the keep-alive, and a busy machine.
    assert!(noticed < KEEP_ALIVE * 2 + Duration::from_secs(5), "{noticed:?}");
    plant.stop(daemon);
    assert_eq!(plant.sorted("out/", "n"), (0..150).collect::<Vec<_>>());
    let beside = plant.numbers("beside/", "n");
    assert_eq!(beside, (0..beside.len() as u64).collect::<Vec<_>>());
}
