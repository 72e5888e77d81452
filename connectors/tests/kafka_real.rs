//! Source and sink against a real Apache Kafka: produce, consume, groups,
//! commits, a killed and restarted broker, transactions.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests fail by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use support::job::Running;
use support::kafka::{Given, brokers, committed, produce};
use support::kafka_real::Broker;
use support::topology::build_context;
use support::{LIMIT, assert_each_once, is_silent, read, read_to_end, sink, source, until, within};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::topology::node::BuildContext;

fn input() -> Input {
    let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
    Input { name: "s".into(), stream }
}

fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(range);
    RecordBatch::try_new(input().stream.columns, vec![Arc::new(numbers)]).expect("the column fits")
}

fn source_keys(broker: &Broker, topic: &str) -> String {
    let brokers = brokers(&broker.servers);
    format!(
        "{brokers}topics = [\"{topic}\"]\ngroup = \"g\"\nformat = \"json\"\nschema = {{ n = \"int64\" }}\n"
    )
}

#[tokio::test]
async fn produces_consumes_commits_and_goes_on_after_a_killed_broker() {
    let mut broker = Broker::start();
    broker.create_topic("t", 4).await;
    let context = build_context();
    let keys = format!("{}topic = \"t\"\nkey = \"n\"\n", brokers(&broker.servers));
    let mut out = sink("kafka", &keys, &input(), &context);
    out.sink.open().await.expect("opens");
    let mut inlet = source("kafka", &source_keys(&broker, "t"), &context);
    inlet.source.open(None).await.expect("opens");
    out.sink.write(&rows(0..10_000)).await.expect("is taken");
    tokio::time::timeout(LIMIT, out.sink.flush(1)).await.expect("in time").expect("arrives");
    let first = read(inlet.source.as_mut(), 10_000).await;
    inlet.source.committer().expect("has one").commit(&first.position()).await.expect("is left");
    let all_committed =
        || committed(&broker.servers, "g", "t", 4).into_iter().flatten().sum::<i64>() == 10_000;
    until("the group knows all", all_committed).await;
    broker.kill();
    out.sink.write(&rows(10_000..11_000)).await.expect("is taken while the broker is away");
    assert!(is_silent(inlet.source.as_mut(), Duration::from_secs(2)).await);
    broker.restart();
    tokio::time::timeout(LIMIT, out.sink.flush(2))
        .await
        .expect("in time")
        .expect("arrives after the restart");
    let second = read(inlet.source.as_mut(), 1_000).await;
    assert_each_once(first.numbers("n").into_iter().chain(second.numbers("n")), 0..11_000);
    // The position of a checkpoint wins over the group, which knows of less.
    inlet.source.close().await.expect("closes");
    out.sink.write(&rows(11_000..11_010)).await.expect("is taken");
    tokio::time::timeout(LIMIT, out.sink.flush(3)).await.expect("in time").expect("arrives");
    inlet.source.open(Some(&second.position())).await.expect("opens");
    assert_each_once(read(inlet.source.as_mut(), 10).await.numbers("n"), 11_000..11_010);
    inlet.source.close().await.expect("closes");
    out.sink.close().await.expect("closes");
}

#[tokio::test]
async fn two_members_share_the_partitions_and_one_takes_all_over() {
    let broker = Broker::start();
    broker.create_topic("t", 4).await;
    let context = build_context();
    let mut out = sink(
        "kafka",
        &format!("{}topic = \"t\"\nkey = \"n\"\n", brokers(&broker.servers)),
        &input(),
        &context,
    );
    out.sink.open().await.expect("opens");
    let keys = source_keys(&broker, "t");
    let (mut one, mut two) = (source("kafka", &keys, &context), source("kafka", &keys, &context));
    one.source.open(None).await.expect("opens");
    two.source.open(None).await.expect("opens");
    let (mut by_one, mut by_two, mut written) = (Vec::new(), Vec::new(), 0);
    // Nothing is read twice while members come, because nothing was read before they were there.
    let sharing = async {
        while by_one.is_empty()
            || by_two.is_empty()
            || i64::try_from(by_one.len() + by_two.len()) != Ok(written)
        {
            if by_one.is_empty() || by_two.is_empty() {
                out.sink.write(&rows(written..written + 100)).await.expect("is taken");
                out.sink.flush(1).await.expect("arrives");
                written += 100;
            }
            for (part, seen) in [(&mut one, &mut by_one), (&mut two, &mut by_two)] {
                let next = tokio::time::timeout(Duration::from_millis(200), part.source.next()).await;
                if let Ok(Ok(tidegate_engine::source::Polled::Rows(rows))) = next {
                    part.source.committer().expect("has one").commit(&rows.position).await.expect("is left");
                    let item = support::Read { items: vec![rows], ..support::Read::default() };
                    seen.extend(item.numbers("n"));
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, sharing).await.expect("both members read in time");
    assert_each_once(by_one.into_iter().chain(by_two), 0..written);
    one.source.close().await.expect("closes");
    out.sink.write(&rows(written..written + 400)).await.expect("is taken");
    out.sink.flush(2).await.expect("arrives");
    assert_each_once(read(two.source.as_mut(), 400).await.numbers("n"), written..written + 400);
    two.source.close().await.expect("closes");
    out.sink.close().await.expect("closes");
}

#[tokio::test]
async fn starts_at_a_time() {
    let broker = Broker::start();
    broker.create_topic("t", 2).await;
    // Message n of a partition has the time n seconds after 2023-11-14T22:13:20Z; partition 1 ends before.
    let message = |partition: i32, n: i64| Given {
        time: Some(1_700_000_000_000 + n * 1_000),
        ..Given::new(partition, format!("{{\"n\":{}}}", i64::from(partition) * 100 + n))
    };
    produce(&broker.servers, "t", (0..20).map(|n| message(0, n)).chain((0..5).map(|n| message(1, n))));
    let start = "start = { time = \"2023-11-14T22:13:30.500Z\" }\n";
    let mut inlet = source("kafka", &format!("{}{start}", source_keys(&broker, "t")), &build_context());
    inlet.source.open(None).await.expect("opens");
    assert_eq!(read(inlet.source.as_mut(), 9).await.numbers("n"), (11..20).collect::<Vec<_>>());
    produce(&broker.servers, "t", [message(1, 30)]);
    assert_eq!(read(inlet.source.as_mut(), 1).await.numbers("n"), [130]);
    inlet.source.close().await.expect("closes");
}

/// K11: rows of an aborted transaction are not read, and the markers at the
/// end, which are offsets without messages, do not keep `--once` waiting: not
/// where topics share partition numbers, and not beside empty ones.
#[tokio::test]
async fn transactions_are_read_committed_and_once_ends_behind_their_markers() {
    let broker = Broker::start();
    for (topic, partitions) in [("t", 2), ("u", 2), ("empty", 3)] {
        broker.create_topic(topic, partitions).await;
    }
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.servers)
        .set("transactional.id", "x")
        .create()
        .expect("a producer is made");
    producer.init_transactions(LIMIT).expect("transactions begin");
    // t/0 ends with a commit, t/1 with an abort after a commit, u/0 has nothing but an abort, u/1 a commit.
    let all = [
        ("t", 0, 1, true),
        ("t", 0, 2, false),
        ("u", 1, 3, true),
        ("t", 1, 4, true),
        ("u", 0, 5, false),
        ("t", 1, 6, false),
        ("t", 0, 7, true),
    ];
    for (topic, partition, number, commits) in all {
        producer.begin_transaction().expect("begins");
        let payload = format!("{{\"n\":{number}}}");
        let record: BaseRecord<'_, [u8], str> = BaseRecord::to(topic).partition(partition).payload(&payload);
        producer.send(record).map_err(|(error, _)| error).expect("is queued");
        producer.flush(LIMIT).expect("arrives");
        let ended =
            if commits { producer.commit_transaction(LIMIT) } else { producer.abort_transaction(LIMIT) };
        ended.expect("ends");
    }
    let context = BuildContext { once: true, ..build_context() };
    let keys = source_keys(&broker, "t").replace("[\"t\"]", "[\"t\", \"u\", \"empty\"]");
    let mut inlet = source("kafka", &keys, &context);
    inlet.source.open(None).await.expect("opens");
    let found = read_to_end(inlet.source.as_mut()).await;
    let mut numbers = found.numbers("n");
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 3, 4, 7]);
    inlet.source.committer().expect("has one").commit(&found.position()).await.expect("is left");
    inlet.source.close().await.expect("closes");
    // A second run has nothing to read, and ends all the same: only markers are left.
    let mut inlet = source("kafka", &keys, &context);
    inlet.source.open(None).await.expect("opens");
    assert_eq!(read_to_end(inlet.source.as_mut()).await.rows(), 0);
    inlet.source.close().await.expect("closes");
}

/// Without `--once`: markers at the end do not look like rows that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_ends_in_a_marker_becomes_idle() {
    let broker = Broker::start();
    broker.create_topic("t", 1).await;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.servers)
        .set("transactional.id", "x")
        .create()
        .expect("a producer is made");
    producer.init_transactions(LIMIT).expect("transactions begin");
    producer.begin_transaction().expect("begins");
    let record: BaseRecord<'_, [u8], str> = BaseRecord::to("t").payload("{\"ts\":1700000000}");
    producer.send(record).map_err(|(error, _)| error).expect("is queued");
    producer.commit_transaction(LIMIT).expect("ends");
    let rows = "schema = { ts = \"timestamp\" }\ntime = { column = \"ts\", unit = \"s\" }\nwatermark = { idle = \"2s\" }\n";
    let keys = format!("{}topics = [\"t\"]\n{rows}", brokers(&broker.servers));
    let running = Running::start(source("kafka", &keys, &build_context()));
    until("event time follows the clock", || running.seconds() > Some(1_700_000_002)).await;
    running.stop().await;
}

fn numbered(range: std::ops::Range<i64>) -> Vec<Given> {
    let partition = |n: i64| i32::try_from(n % 4).expect("small");
    range.map(|n| Given::new(partition(n), format!("{{\"n\":{n}}}"))).collect()
}

/// K4: a second member takes partitions over while the first one's rows are on
/// their way; nothing that became durable is read twice.
#[tokio::test]
async fn revoked_partitions_are_drained_before_another_member_reads_on() {
    let broker = Broker::start();
    broker.create_topic("t", 4).await;
    produce(&broker.servers, "t", numbered(0..4_000));
    let quickly = "drain = \"50s\"\nlibrdkafka = { \"heartbeat.interval.ms\" = 300 }\n";
    let body = format!("{}{quickly}", source_keys(&broker, "t"));
    let context = build_context();
    let mut first = source("kafka", &body, &context);
    first.source.open(None).await.expect("opens");
    let mut by_first = read(first.source.as_mut(), 4_000).await;
    let mut second = source("kafka", &body, &context);
    second.source.open(None).await.expect("opens");
    // The first member reads on until the rebalance asks it for partitions; then it waits for us.
    let mut written = 4_000;
    loop {
        produce(&broker.servers, "t", numbered(written..written + 1));
        written += 1;
        let more = within(first.source.as_mut(), Duration::from_secs(2)).await;
        if more.items.is_empty() {
            break;
        }
        by_first.items.extend(more.items);
    }
    let early = within(second.source.as_mut(), Duration::from_secs(2)).await;
    assert_eq!(early.rows(), 0, "read before the drain: {early:?}");
    first.source.committer().expect("has one").commit(&by_first.position()).await.expect("is left");
    let (mut seen, mut by_second) = (by_first.numbers("n"), 0);
    let sharing = async {
        while by_second == 0 || seen.len() < usize::try_from(written).expect("small") {
            if by_second == 0 {
                produce(&broker.servers, "t", numbered(written..written + 40));
                written += 40;
            }
            for (part, is_second) in [(&mut first, false), (&mut second, true)] {
                let more = within(part.source.as_mut(), Duration::from_millis(50)).await;
                if let Some(last) = more.items.last() {
                    let mut committer = part.source.committer().expect("has one");
                    // An error tells of an earlier commit, which is made again.
                    committer.commit(&last.position).await.ok();
                    by_second += if is_second { more.rows() } else { 0 };
                    seen.extend(more.numbers("n"));
                }
            }
        }
    };
    tokio::time::timeout(LIMIT, sharing).await.expect("both members read in time");
    assert_each_once(seen, 0..written);
    first.source.close().await.expect("closes");
    second.source.close().await.expect("closes");
}
