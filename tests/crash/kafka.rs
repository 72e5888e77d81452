//! A real Kafka topic → project and window → Kafka exactly once, and a folder
//! beside it. The input is the oracle: what readers at `read_committed` see is
//! each row once and each window once and right.

use std::collections::BTreeMap;
use std::path::Path;

use crate::kafka_client::{Given, produce, read_committed};
use crate::kafka_real::Broker;
use crate::process::{Daemon, end_of_log, pause, published};
use crate::random::Random;

const TOPOLOGY: &str = r#"
[topology]
name = "plant"
checkpoint_interval = "60ms"

[source.rows]
type       = "kafka"
brokers    = ["BROKER"]
topics     = ["rows"]
format     = "json"
schema     = { n = "int64", device = "string", ts = "timestamp" }
time       = { column = "ts", unit = "ms" }
# A member that was killed comes back at once, and not after its session.
librdkafka = { "group.instance.id" = "one" }

[operator.doubled]
type   = "project"
from   = "rows"
select = ["n", "n * 2 AS twice", "device"]

[operator.sums]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "1s" }
select = ["count(*) AS rows", "sum(n) AS total"]

[sink.each]
type     = "kafka"
from     = "doubled"
brokers  = ["BROKER"]
topic    = "each"
key      = "device"
delivery = "exactly_once"

[sink.windows]
type     = "kafka"
from     = "sums"
brokers  = ["BROKER"]
topic    = "windows"
key      = "device"
delivery = "exactly_once"

[sink.files]
type = "file"
from = "doubled"
path = "files/"
"#;

/// Rows written before each kill.
const ROWS: u64 = 600;
const DEVICES: u64 = 7;
/// Event time between two rows, in milliseconds.
const STEP_MS: u64 = 10;
const PARTITIONS: i32 = 3;
/// A life of this scenario takes longer than one of the others.
const SLOWER: usize = 4;
/// Of these kills one finds the broker dead.
const BROKER_KILLS: usize = 8;

pub(crate) fn run(cycles: usize, random: &mut Random) {
    let cycles = cycles.div_ceil(SLOWER);
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for topic in ["rows", "each", "windows"] {
        // Messages have their event time, which is long ago.
        runtime.block_on(broker.create_topic_with(topic, PARTITIONS, &[("retention.ms", "-1")]));
    }
    let text = TOPOLOGY.replace("BROKER", &broker.servers);
    std::fs::write(folder.join("plant.toml"), text).expect("writes");
    let (mut count, mut delivered) = (0, Vec::new());
    for cycle in 0..cycles {
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        // It may die while it starts, too.
        let kill_after = random.below(1_600);
        for part in 0..4 {
            produce(&broker.servers, "rows", (count..count + ROWS / 4).map(given));
            count += ROWS / 4;
            if part < 3 {
                pause(kill_after / 4);
            }
        }
        if cycle % BROKER_KILLS == BROKER_KILLS / 2 {
            broker.kill();
            pause(random.below(300));
            daemon.kill();
            broker.restart();
            continue;
        }
        pause(kill_after / 4);
        daemon.kill();
        delivered.push(read_committed(&broker.servers, "each", PARTITIONS).len());
    }
    Daemon::start(folder, "plant.toml", &["--once"]).wait(folder);
    check(folder, &broker, count);
    delivered.dedup();
    // The kills came while rows were on their way.
    assert!(delivered.len() >= cycles / 3, "{delivered:?}; {}", end_of_log(folder));
    println!("kafka: {cycles} kills, {count} rows, 0 lost, 0 twice, every window once");
}

fn given(n: u64) -> Given {
    let payload = format!("{{\"n\":{n},\"device\":\"d{}\",\"ts\":{}}}", n % DEVICES, n * STEP_MS);
    let partition = i32::try_from(n % 3).expect("small");
    Given::new(partition, payload)
}

fn rows(broker: &Broker, topic: &str) -> Vec<serde_json::Value> {
    let found = read_committed(&broker.servers, topic, PARTITIONS);
    found.iter().map(|(_, payload)| serde_json::from_slice(payload).expect("JSON")).collect()
}

fn check(folder: &Path, broker: &Broker, count: u64) {
    for found in [rows(broker, "each"), published(&folder.join("files"))] {
        let mut numbers: Vec<u64> = found.iter().map(|row| row["n"].as_u64().expect("a number")).collect();
        numbers.sort_unstable();
        let wrong = numbers.iter().enumerate().find(|(index, n)| **n != *index as u64);
        assert!(wrong.is_none(), "row {wrong:?} of {count}; {}", end_of_log(folder));
        assert_eq!(numbers.len() as u64, count, "{}", end_of_log(folder));
        assert!(found.iter().all(|row| row["twice"].as_u64() == row["n"].as_u64().map(|n| n * 2)));
    }
    let mut expected: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
    for n in 0..count {
        let sums = expected.entry((n * STEP_MS / 1_000, format!("d{}", n % DEVICES))).or_default();
        *sums = (sums.0 + 1, sums.1 + n);
    }
    let mut found = BTreeMap::new();
    for row in rows(broker, "windows") {
        let start = crate::file::seconds(row["window_start"].as_str().expect("a time"));
        let key = (start, row["device"].as_str().expect("a device").to_owned());
        let sums = (row["rows"].as_u64().expect("a number"), row["total"].as_u64().expect("a number"));
        assert!(found.insert(key.clone(), sums).is_none(), "window {key:?} twice; {}", end_of_log(folder));
    }
    let wrong = expected.iter().find(|(key, sums)| found.get(key) != Some(sums));
    let instead = wrong.and_then(|(key, _)| found.get(key));
    assert!(wrong.is_none(), "window {wrong:?} is {instead:?}; {}", end_of_log(folder));
    assert_eq!(found.len(), expected.len(), "{}", end_of_log(folder));
}
