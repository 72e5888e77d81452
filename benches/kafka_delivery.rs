//! What exactly once costs: rows per second through the whole binary, from a
//! topic of a real Kafka over a projection to another topic, with `delivery =
//! "exactly_once"` and beside it with `"at_least_once"`, over the same rows in
//! the same run, alternating. Start and stop, measured over an empty topic, are
//! taken off. Prints minimum, median and maximum, and the ratio.
//!
//! `cargo bench --bench kafka_delivery`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise, and measures real time"
)]

#[path = "../connectors/tests/support/kafka.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod kafka;
#[path = "../connectors/tests/support/kafka_real.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod kafka_real;
#[path = "../connectors/tests/support/parts.rs"]
#[allow(dead_code, reason = "tests use the rest")]
mod parts;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kafka_real::Broker;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const TOPOLOGY: &str = r#"
[topology]
name = "RUN"
checkpoint_interval = "1s"

[source.rows]
type    = "kafka"
brokers = ["BROKER"]
topics  = ["FROM"]
format  = "json"
schema  = { n = "int64", device = "string", ts = "timestamp", value = "float64" }
time    = { column = "ts", unit = "ms" }

[operator.doubled]
type   = "project"
from   = "rows"
select = ["n", "device", "ts", "value * 2 AS value"]

[sink.out]
type     = "kafka"
from     = "doubled"
brokers  = ["BROKER"]
topic    = "TO"
key      = "device"
delivery = "DELIVERY"
"#;

const ROWS: usize = if cfg!(debug_assertions) { 300_000 } else { 2_000_000 };
const PARTITIONS: i32 = 4;
const RUNS: usize = 5;

fn main() {
    let broker = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for topic in ["rows", "empty"] {
        runtime.block_on(broker.create_topic(topic, PARTITIONS));
    }
    fill(&broker);
    println!("{ROWS} rows of 80 bytes, {PARTITIONS} partitions, one broker on the same machine");
    let ways = ["at_least_once", "exactly_once"];
    let mut rates = [Vec::new(), Vec::new()];
    for run in 0..RUNS {
        for (way, rates) in ways.iter().zip(&mut rates) {
            let name = format!("{way}-{run}");
            // Messages have their event time, which is long ago.
            runtime.block_on(broker.create_topic_with(&name, PARTITIONS, &[("retention.ms", "-1")]));
            let idle = once(&broker, way, "empty", &name, &format!("{name}-idle"));
            let busy = once(&broker, way, "rows", &name, &name);
            if run == 0 {
                assert_eq!(kafka::read_committed(&broker.servers, &name, PARTITIONS).len(), ROWS, "{way}");
            }
            rates.push(ROWS as f64 / busy.saturating_sub(idle).as_secs_f64() / 1e3);
        }
    }
    let [at_least, exactly] = [0, 1].map(|way| report(ways[way], &mut rates[way]));
    println!("exactly once = {:.2} x at least once", exactly / at_least);
}

fn report(name: &str, rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!("{name:16} {:7.1} {median:7.1} {:7.1} thousand rows/s", rates[0], rates[RUNS - 1]);
    median
}

/// Reads a topic to its end; answers how long the process lived.
fn once(broker: &Broker, delivery: &str, from: &str, to: &str, run: &str) -> Duration {
    let folder = tempfile::tempdir().expect("a folder");
    let words =
        [("RUN", run), ("BROKER", &broker.servers), ("FROM", from), ("TO", to), ("DELIVERY", delivery)];
    let text = words.iter().fold(TOPOLOGY.to_owned(), |text, (word, value)| text.replace(word, value));
    std::fs::write(folder.path().join("topology.toml"), text).expect("written");
    let started = Instant::now();
    let status = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "topology.toml", "--once"])
        .current_dir(folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("tidegate starts");
    assert!(status.success(), "{status}");
    started.elapsed()
}

fn fill(broker: &Broker) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.servers).set("linger.ms", "20").set("compression.type", "lz4");
    let producer: BaseProducer = config.create().expect("a producer is made");
    for n in 0..ROWS {
        let payload = format!(
            "{{\"n\":{n},\"device\":\"device-{:03}\",\"ts\":{},\"value\":{}.5}}",
            n % 100,
            1_700_000_000_000_u64 + n as u64,
            n % 1_000
        );
        let mut record: BaseRecord<'_, [u8], str> = BaseRecord::to("rows").payload(&payload);
        record.partition = i32::try_from(n % 4).ok();
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("every message arrives");
}
