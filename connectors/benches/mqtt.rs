//! QoS 1 messages per second drained from a real Mosquitto's queue with manual
//! acknowledgements: through the source `mqtt`, through it inside a topology
//! (acknowledged at barriers), and by a bare loop over the client library. The
//! messages wait at the broker before each run. Prints minimum, median and
//! maximum of five runs each; the runs alternate.
//!
//! `cargo bench -p tidegate-connectors --bench mqtt`

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

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use support::job::Running;
use support::mosquitto::{Mosquitto, publish};
use support::topology::build_context;
use tempfile::TempDir;
use tidegate_engine::source::{Polled, SourcePart};
use tidegate_engine::topology::node::BuildContext;

const MESSAGES: usize = if cfg!(debug_assertions) { 5_000 } else { 200_000 };
const MESSAGE_BYTES: usize = 100;
const RUNS: usize = 5;
/// As the source has it by default.
const WINDOW: u16 = 10_000;
/// Messages that one client of the outside sends.
const PUBLISHED_AT_ONCE: usize = 5_000;

/// A broker that keeps everything that waits, in memory, and logs no message.
const SETTINGS: &str = "allow_anonymous true\nlog_type warning\nlog_type error\nmax_queued_messages 0\nmax_inflight_messages 0\n";

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let bench =
            Bench { broker: Mosquitto::start(SETTINGS), folder: tempfile::tempdir().expect("a folder") };
        println!("{MESSAGES} messages of {MESSAGE_BYTES} bytes, QoS 1, window {WINDOW}");
        let (mut alone, mut inside, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            alone.push(bench.source().await);
            inside.push(bench.topology().await);
            bare.push(bench.bare().await);
        }
        let alone = report("source mqtt, raw", alone);
        report("the same in a topology", inside);
        let bare = report("rumqttc EventLoop::poll", bare);
        println!("the source = {:.2} x the bare loop", alone / bare);
    });
}

fn report(name: &str, mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    let median = rates[RUNS / 2];
    println!("{name:24} {:8.0} {median:8.0} {:8.0} messages/s", rates[0], rates[RUNS - 1]);
    median
}

struct Bench {
    broker: Mosquitto,
    folder: TempDir,
}

impl Bench {
    fn part(&self, id: &str) -> SourcePart {
        let context = BuildContext { data_dir: self.folder.path().to_owned(), ..build_context() };
        let keys = format!("topics = [\"{id}\"]\nclient_id = \"{id}\"\nformat = \"raw\"\n");
        support::source("mqtt", &format!("{}{keys}", self.broker.broker()), &context)
    }

    /// Messages to the topic `id`, whose subscriber is away.
    async fn fill(&self, id: &str) {
        let payload = vec![b'x'; MESSAGE_BYTES];
        for _ in 0..MESSAGES / PUBLISHED_AT_ONCE {
            let messages = std::iter::repeat_n((id.to_owned(), payload.clone()), PUBLISHED_AT_ONCE);
            publish(self.broker.port, messages).await;
        }
    }

    async fn source(&self) -> f64 {
        let mut part = self.part("alone");
        part.source.open(None).await.expect("opens");
        part.source.close().await.expect("closes");
        self.fill("alone").await;
        part.source.open(None).await.expect("opens");
        let mut committer = part.source.committer().expect("has one");
        let (mut count, mut first) = (0, None);
        while count < MESSAGES {
            let Polled::Rows(rows) = part.source.next().await.expect("reads") else { panic!("no rows") };
            count += rows.batch.num_rows();
            committer.commit(&rows.position).await.expect("is taken");
            first.get_or_insert_with(|| (Instant::now(), count));
        }
        let rate = rate(first, count);
        part.source.close().await.expect("closes");
        rate
    }

    async fn topology(&self) -> f64 {
        let mut part = self.part("inside");
        part.source.open(None).await.expect("opens");
        part.source.close().await.expect("closes");
        self.fill("inside").await;
        let running = Running::start(part);
        let mut first = None;
        loop {
            let rows = running.seen().rows;
            if rows > 0 {
                first.get_or_insert_with(|| (Instant::now(), rows));
            }
            if rows >= MESSAGES {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rate = rate(first, MESSAGES);
        running.stop().await;
        rate
    }

    async fn bare(&self) -> f64 {
        let (client, mut events) = self.client();
        client.try_subscribe("bare", QoS::AtLeastOnce).expect("is queued");
        while !matches!(packet(&mut events).await, Packet::SubAck(_)) {}
        client.try_disconnect().expect("is queued");
        while events.poll().await.is_ok() {}
        self.fill("bare").await;
        let (client, mut events) = self.client();
        let (mut count, mut first) = (0, None);
        while count < MESSAGES {
            if let Packet::Publish(publish) = packet(&mut events).await {
                client.try_ack(&publish).expect("is queued");
                count += 1;
                first.get_or_insert_with(|| (Instant::now(), count));
            }
        }
        let rate = rate(first, count);
        client.try_disconnect().expect("is queued");
        while events.poll().await.is_ok() {}
        rate
    }

    fn client(&self) -> (AsyncClient, EventLoop) {
        let mut options = MqttOptions::new("bare", "127.0.0.1", self.broker.port);
        options.set_clean_start(false).set_session_expiry_interval(Some(3_600));
        options.set_receive_maximum(Some(WINDOW)).set_manual_acks(true);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        // The client sends one acknowledgement for ten messages that it reads.
        AsyncClient::new(options, MESSAGES)
    }
}

async fn packet(events: &mut EventLoop) -> Packet {
    loop {
        if let Event::Incoming(packet) = events.poll().await.expect("the connection holds") {
            return packet;
        }
    }
}

/// Messages a second since the first ones.
fn rate(first: Option<(Instant, usize)>, count: usize) -> f64 {
    let (since, before) = first.expect("something came");
    (count - before).max(1) as f64 / since.elapsed().as_secs_f64()
}
