//! Four sinks of one source: Kafka, PostgreSQL, HTTP, files. Each peer in turn
//! freezes, as a machine does that is out of memory: it holds its connections
//! and answers nothing. The others get their rows meanwhile, checkpoints go on,
//! and the frozen one gets all of its rows when it wakes.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use crate::kafka_client::{brokers, messages};
use crate::kafka_real::Broker;
use crate::peer::{Answer, Peer};
use crate::plant::Plant;
use crate::postgres::Server;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64" }

[sink.kafka]
type             = "kafka"
from             = "rows"
BROKERS
topic            = "rows"
delivery_timeout = "2s"
librdkafka       = { "socket.timeout.ms" = 1500 }
queue            = { disk = "64MiB" }
retry            = { wait = "50ms", max = "500ms" }

[sink.table]
type  = "postgres"
from  = "rows"
url   = "POSTGRES"
table = "rows"

[sink.web]
type    = "http"
from    = "rows"
url     = "HTTP"
timeout = "1s"
queue   = { disk = "64MiB" }
retry   = { wait = "50ms", max = "500ms" }

[sink.files]
type = "file"
from = "rows"
path = "out/"
"#;

/// Rows that come while a peer is frozen.
const ROWS: u64 = 100;

struct Peers {
    kafka: Broker,
    postgres: Server,
    web: Peer,
}

impl Peers {
    /// How many different rows each of them has, by name of its sink.
    fn count(&self, plant: &Plant, sink: &str) -> u64 {
        let numbers: BTreeSet<u64> = match sink {
            "kafka" => {
                let found = messages(&self.kafka.servers, "rows", 1, self.kafka_end());
                let number =
                    |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("JSON")["n"].as_u64();
                found.iter().filter_map(|message| number(rdkafka::Message::payload(message)?)).collect()
            }
            "table" => {
                if self.postgres.ask("SELECT to_regclass('public.rows')")[0][0].is_none() {
                    return 0;
                }
                let counted = self.postgres.ask("SELECT count(*), count(DISTINCT n) FROM rows");
                let count = |at: usize| {
                    counted[0][at].as_deref().expect("a number").parse::<u64>().expect("a number")
                };
                assert_eq!(count(0), count(1), "a row came twice");
                return count(0);
            }
            "web" => self.web.taken().into_iter().collect(),
            _ => plant.numbers("out/", "n").into_iter().collect(),
        };
        numbers.len() as u64
    }

    /// How many messages there are.
    fn kafka_end(&self) -> usize {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let mut config = rdkafka::ClientConfig::new();
        let consumer: BaseConsumer =
            config.set("bootstrap.servers", &self.kafka.servers).create().expect("a consumer is made");
        let ends = consumer.fetch_watermarks("rows", 0, std::time::Duration::from_secs(20));
        usize::try_from(ends.expect("the broker answers").1).expect("a count")
    }

    fn freeze(&self, sink: &str, is_frozen: bool) {
        let signal = if is_frozen { "STOP" } else { "CONT" };
        match sink {
            "kafka" => self.kafka.signal(signal),
            "table" => self.postgres.signal(signal),
            _ if is_frozen => self.web.change(|_, _| Answer::Never),
            _ => self.web.change(|_, _| Answer::Status(200)),
        }
    }
}

#[test]
fn each_peer_that_freezes_holds_up_nobody_and_misses_nothing() {
    let kafka = Broker::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(kafka.create_topic("rows", 1));
    let peers = Peers { kafka, postgres: Server::start(), web: Peer::start(|_, _| Answer::Status(200)) };
    let topology = TOPOLOGY
        .replace("BROKERS", &brokers(&peers.kafka.servers))
        .replace("POSTGRES", &peers.postgres.url())
        .replace("HTTP", &peers.web.url());
    let plant = Plant::new(&topology);
    plant.append_numbers("rows.jsonl", 0..ROWS);
    let daemon = plant.start();
    let sinks = ["kafka", "table", "web", "files"];
    let mut rows = ROWS;
    for sink in sinks {
        plant.until(sink, || peers.count(&plant, sink) == rows);
    }
    // How the loss of each is told; a server is given a minute before it counts as lost.
    let told = [("kafka", Some("rows wait in the queue")), ("table", None), ("web", Some("no answer from"))];
    for (frozen, words) in told {
        peers.freeze(frozen, true);
        let since = Instant::now();
        plant.append_numbers("rows.jsonl", rows..rows + ROWS);
        rows += ROWS;
        let epoch = plant.epoch(&plant.state());
        for sink in sinks.iter().filter(|sink| **sink != frozen) {
            plant.until(sink, || peers.count(&plant, sink) == rows);
        }
        let others = since.elapsed();
        plant.until("checkpoints", || plant.epoch(&plant.state()) > epoch + 3);
        if let Some(words) = words {
            let is_said = |line: &str| line.contains(words) && line.contains(&format!("node={frozen}"));
            plant.until("its loss is told", || plant.log().lines().any(is_said));
        }
        let noticed = since.elapsed();
        peers.freeze(frozen, false);
        let woken = Instant::now();
        plant.until(frozen, || peers.count(&plant, frozen) == rows);
        println!(
            "peers: {frozen} frozen for {:?}; the others were done after {others:?}; {} after {noticed:?}; caught up {:?} after it woke",
            woken - since,
            if words.is_some() { "told" } else { "woken" },
            woken.elapsed()
        );
    }
    plant.stop(daemon);
}
