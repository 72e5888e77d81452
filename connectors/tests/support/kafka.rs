//! Kafka for tests: librdkafka's mock cluster, which can be broken on purpose,
//! plain producers and consumers to write and look from outside.

#![allow(clippy::disallowed_methods, reason = "tests wait for real servers in real time")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const WAIT: Duration = Duration::from_secs(20);

/// A cluster of three brokers in this process.
pub(crate) struct Mock {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) servers: String,
}

impl Mock {
    /// A cluster with these topics and numbers of partitions.
    pub(crate) fn new(topics: &[(&str, i32)]) -> Mock {
        let cluster = MockCluster::new(3).expect("a mock cluster starts");
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 3).expect("a topic is made");
        }
        let servers = cluster.bootstrap_servers();
        Mock { cluster, servers }
    }

    /// Every broker refuses connections.
    pub(crate) fn all_down(&self) {
        (1..=3).for_each(|broker| self.cluster.broker_down(broker).expect("a broker goes down"));
    }

    /// Every broker answers again.
    pub(crate) fn all_up(&self) {
        (1..=3).for_each(|broker| self.cluster.broker_up(broker).expect("a broker comes up"));
    }

    /// `brokers = [..]` for a node.
    pub(crate) fn brokers(&self) -> String {
        brokers(&self.servers)
    }
}

/// `brokers = [..]` for a node.
pub(crate) fn brokers(servers: &str) -> String {
    let quoted: Vec<String> = servers.split(',').map(|server| format!("\"{server}\"")).collect();
    format!("brokers = [{}]\n", quoted.join(", "))
}

/// A message to write.
#[derive(Clone, Default)]
pub(crate) struct Given {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) time: Option<i64>,
}

impl Given {
    pub(crate) fn new(partition: i32, payload: impl Into<Vec<u8>>) -> Given {
        Given { partition, payload: Some(payload.into()), ..Given::default() }
    }
}

/// Writes messages and waits until every one arrived.
pub(crate) fn produce(servers: &str, topic: &str, messages: impl IntoIterator<Item = Given>) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .create()
        .expect("a producer is made");
    for message in messages {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(message.partition);
        record.payload = message.payload.as_deref();
        record.key = message.key.as_deref();
        record.timestamp = message.time;
        if !message.headers.is_empty() {
            let headers = message.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(value) })
            });
            record.headers = Some(headers);
        }
        producer.send(record).map_err(|(error, _)| error).expect("the message is queued");
    }
    producer.flush(WAIT).expect("every message arrives");
}

fn consumer(servers: &str, group: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", group).set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "false").create().expect("a consumer is made")
}

/// What the group committed for each partition of a topic.
pub(crate) fn committed(servers: &str, group: &str, topic: &str, partitions: i32) -> Vec<Option<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let known = consumer(servers, group).committed_offsets(list, WAIT).expect("the group answers");
    let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
    known.elements().iter().map(|place| offset(place.offset())).collect()
}

/// The first `count` messages of a topic, read without a group.
pub(crate) fn messages(servers: &str, topic: &str, partitions: i32, count: usize) -> Vec<OwnedMessage> {
    let consumer = consumer(servers, "looking");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition is added");
    }
    consumer.assign(&list).expect("partitions are assigned");
    let mut found = Vec::new();
    let deadline = Instant::now() + WAIT;
    while found.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            found.push(message.detach());
        }
    }
    found
}

/// Keys and payloads of a topic as readers at `read_committed` see them, to the end.
pub(crate) fn read_committed(servers: &str, topic: &str, partitions: i32) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", "looking").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
    config.set("fetch.wait.max.ms", "50").set("fetch.queue.backoff.ms", "20");
    let consumer: BaseConsumer = config.create().expect("a consumer is made");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition is added");
    }
    consumer.assign(&list).expect("partitions are assigned");
    let (mut found, mut ended) = (Vec::new(), BTreeSet::new());
    let mut deadline = Instant::now() + WAIT;
    while i32::try_from(ended.len()) != Ok(partitions) && Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                deadline = Instant::now() + WAIT;
                let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
                found.push((bytes(message.key()), bytes(message.payload())));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            // No such topic yet.
            Some(Err(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition) =>
            {
                return found;
            }
            // A broker that starts.
            Some(Err(_)) | None => {}
        }
    }
    found
}
