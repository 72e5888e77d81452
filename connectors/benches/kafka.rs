//! Messages per second of the source `kafka` before decoding (format `raw`),
//! against a bare loop over librdkafka's consumer, both from the same mock
//! cluster in this process: small messages, read again and again from the
//! beginning. Prints minimum, median and maximum of five runs each; the runs
//! alternate. Both count messages and bytes, so that nobody wins by reading less.
//!
//! `cargo bench -p tidegate-connectors --bench kafka`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark stops at the first surprise, and measures real time"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use support::kafka::Mock;
use support::topology::build_context;
use tidegate_engine::source::Polled;

/// The mock cluster keeps 5 MB of a partition: 47,000 messages and their heads.
const PARTITIONS: i32 = 64;
const MESSAGES: usize = if cfg!(debug_assertions) { 100_000 } else { 3_000_000 };
const MESSAGE_BYTES: usize = 80;
const RUNS: usize = 5;

fn main() {
    let mock = Mock::new(&[("t", PARTITIONS)]);
    fill(&mock.servers);
    println!(
        "{MESSAGES} messages of {MESSAGE_BYTES} bytes, {PARTITIONS} partitions, mock cluster in the same process"
    );
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for run in 0..RUNS {
        ours.push(source(&mock, run));
        bare.push(loop_of_polls(&mock.servers));
    }
    let ours = report("source kafka, raw", ours);
    let bare = report("BaseConsumer::poll", bare);
    println!("the source = {:.2} x the bare loop", ours / bare);
}

fn report(name: &str, mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!("{name:24} {:6.2} {median:6.2} {:6.2} M messages/s", rates[0], rates[RUNS - 1]);
    median
}

fn fill(servers: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("linger.ms", "20").set("batch.num.messages", "10000");
    let producer: BaseProducer = config.create().expect("a producer is made");
    for number in 0..MESSAGES {
        let payload = format!("{number:0>MESSAGE_BYTES$}");
        let partition = i32::try_from(number % 64).expect("small");
        let mut record: BaseRecord<'_, [u8], str> =
            BaseRecord::to("t").partition(partition).payload(&payload);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60)).expect("every message arrives");
}

/// Counts from the first messages on: joining a group is no reading.
#[derive(Default)]
struct Meter {
    first: Option<(Instant, usize)>,
    messages: usize,
    bytes: usize,
}

impl Meter {
    fn add(&mut self, messages: usize, bytes: usize) {
        self.messages += messages;
        self.bytes += bytes;
        self.first.get_or_insert_with(|| (Instant::now(), self.messages));
    }

    /// Millions of messages a second.
    fn rate(&self) -> f64 {
        assert_eq!((self.messages, self.bytes), (MESSAGES, MESSAGES * MESSAGE_BYTES));
        let (since, before) = self.first.expect("something came");
        (self.messages - before) as f64 / since.elapsed().as_secs_f64() / 1e6
    }
}

fn source(mock: &Mock, run: usize) -> f64 {
    let keys = format!("{}topics = [\"t\"]\ngroup = \"run-{run}\"\nformat = \"raw\"\n", mock.brokers());
    let mut part = support::source("kafka", &keys, &build_context());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        part.source.open(None).await.expect("opens");
        let mut meter = Meter::default();
        while meter.messages < MESSAGES {
            match part.source.next().await.expect("reads") {
                Polled::Rows(rows) => {
                    let payloads = rows.batch.column(0).as_binary::<i32>();
                    meter.add(payloads.len(), payloads.value_data().len());
                }
                Polled::Partitions(_) => {}
                Polled::End => panic!("it does not end"),
            }
        }
        let rate = meter.rate();
        part.source.close().await.expect("closes");
        rate
    })
}

fn loop_of_polls(servers: &str) -> f64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", "bare").set("enable.auto.commit", "false");
    // As the source has it: by default a full queue costs a second.
    config.set("fetch.queue.backoff.ms", "20").set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer = config.create().expect("a consumer is made");
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset("t", partition, Offset::Beginning).expect("a partition is added");
    }
    consumer.assign(&all).expect("is assigned");
    let mut meter = Meter::default();
    while meter.messages < MESSAGES {
        match consumer.poll(Duration::from_secs(10)) {
            Some(Ok(message)) => meter.add(1, message.payload().map_or(0, <[u8]>::len)),
            Some(Err(error)) => panic!("{error}"),
            None => panic!("{} of {MESSAGES} messages came", meter.messages),
        }
    }
    meter.rate()
}
