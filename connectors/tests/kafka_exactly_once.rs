//! The sink `kafka` with `delivery = "exactly_once"`, against librdkafka's mock
//! cluster, which refuses what it is told to, and against a real Apache Kafka,
//! which knows what a transaction is.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use rdkafka::ClientConfig;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use support::kafka::{Given, Mock, brokers, messages, produce, read_committed};
use support::kafka_real::Broker;
use support::metrics::Counters;
use support::topology::build_context;
use support::{LIMIT, assert_each_once, sink, until};
use tempfile::TempDir;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::Sink;
use tidegate_engine::topology::node::BuildContext;

const MARKERS: &str = "_tidegate_epochs";
/// Transactional id of the sink `k` of the topology `test`.
const ID: &str = "test/k";

fn input() -> Input {
    let fields = vec![Field::new("n", DataType::Int64, false), Field::new("text", DataType::Utf8, false)];
    Input { name: "s".into(), stream: StreamSchema::new(fields, None) }
}

fn batch(rows: impl IntoIterator<Item = (i64, String)>) -> RecordBatch {
    let (numbers, texts): (Vec<i64>, Vec<String>) = rows.into_iter().unzip();
    let columns = input().stream.columns;
    let arrays: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(numbers)), Arc::new(StringArray::from(texts))];
    RecordBatch::try_new(columns, arrays).expect("the columns fit")
}

fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    batch(range.map(|n| (n, format!("row {n}"))))
}

/// A sink whose log is below this folder, and which goes on from this epoch.
async fn opened(servers: &str, folder: &Path, keys: &str, epoch: u64) -> Box<dyn Sink> {
    let context = BuildContext { data_dir: folder.to_owned(), ..build_context() };
    let keys =
        format!("{}topic = \"out\"\nkey = \"n\"\ndelivery = \"exactly_once\"\n{keys}", brokers(servers));
    let mut sink = sink("kafka", &keys, &input(), &context).sink;
    sink.open().await.expect("opens");
    sink.commit(epoch).await.expect("goes on");
    sink
}

/// An epoch: written, flushed and committed.
async fn epoch(sink: &mut dyn Sink, epoch: u64, rows: &RecordBatch) -> Result<(), ConnectorError> {
    sink.write(rows).await?;
    tokio::time::timeout(LIMIT, sink.flush(epoch)).await.expect("in time")?;
    sink.commit(epoch).await
}

async fn close(sink: &mut dyn Sink) {
    tokio::time::timeout(LIMIT, sink.close()).await.expect("in time").expect("everything is delivered");
}

/// Flushes until that fails.
async fn failure(sink: &mut dyn Sink, mut at: u64) -> String {
    let failing = async {
        loop {
            match epoch(sink, at, &rows(900..901)).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(ConnectorError::Fatal(reason)) => return reason,
                Err(other) => panic!("{other:?}"),
            }
            at += 1;
        }
    };
    tokio::time::timeout(LIMIT, failing).await.expect("fails in time")
}

fn numbers(servers: &str, partitions: i32) -> Vec<i64> {
    let number = |payload: Vec<u8>| {
        serde_json::from_slice::<serde_json::Value>(&payload).expect("JSON")["n"].as_i64().expect("n")
    };
    read_committed(servers, "out", partitions).into_iter().map(|(_, payload)| number(payload)).collect()
}

/// The epoch that the marker says.
fn marker(servers: &str) -> Option<u64> {
    let all = read_committed(servers, MARKERS, 1);
    let last = all.into_iter().rfind(|(key, _)| key == ID.as_bytes())?;
    Some(String::from_utf8(last.1).expect("text").parse().expect("a number"))
}

fn mock() -> (Mock, TempDir) {
    (Mock::new(&[("out", 2), (MARKERS, 1)]), tempfile::tempdir().expect("a folder"))
}

#[tokio::test]
async fn rows_leave_when_their_epoch_is_committed_and_the_marker_with_them() {
    let (mock, folder) = mock();
    let keys = "headers = { number = \"no {n}\" }\n";
    let mut sink = opened(&mock.servers, folder.path(), keys, 0).await;
    sink.write(&rows(0..3)).await.expect("taken");
    sink.flush(1).await.expect("durable");
    until("the marker has an owner", || !read_committed(&mock.servers, MARKERS, 1).is_empty()).await;
    assert_eq!(numbers(&mock.servers, 2), Vec::<i64>::new(), "before the checkpoint is durable");
    sink.commit(1).await.expect("ordered");
    close(sink.as_mut()).await;
    let found = messages(&mock.servers, "out", 2, 3);
    let third = found.iter().find(|message| message.key() == Some(b"2")).expect("the third row");
    let header = third.headers().map(|headers| headers.get(0)).expect("has a header");
    assert_eq!((header.key, header.value), ("number", Some(b"no 2".as_slice())));
    assert_eq!(marker(&mock.servers), Some(1));
    // A second life knows the marker: nothing comes again, though the log still has it.
    let mut sink = opened(&mock.servers, folder.path(), keys, 1).await;
    epoch(sink.as_mut(), 2, &rows(3..5)).await.expect("taken");
    close(sink.as_mut()).await;
    assert_each_once(numbers(&mock.servers, 2), 0..5);
    assert_eq!(marker(&mock.servers), Some(2));
}

/// K10: fenced, and nobody else is there, is a transaction that has timed out.
#[tokio::test]
async fn a_producer_that_nobody_has_replaced_goes_on_with_a_new_one() {
    use RDKafkaRespErr::{
        RD_KAFKA_RESP_ERR_INVALID_TXN_STATE as INVALID_STATE, RD_KAFKA_RESP_ERR_PRODUCER_FENCED as FENCED,
    };
    // Not where messages are produced: the mock cluster would show the marker of
    // the transaction that failed, as if it were committed.
    for (request, error) in [
        (RDKafkaApiKey::AddPartitionsToTxn, FENCED),
        (RDKafkaApiKey::AddPartitionsToTxn, INVALID_STATE),
        (RDKafkaApiKey::EndTxn, FENCED),
    ] {
        let (mock, folder) = mock();
        let mut sink = opened(&mock.servers, folder.path(), "", 0).await;
        epoch(sink.as_mut(), 1, &rows(0..1)).await.expect("taken");
        until("it is connected", || marker(&mock.servers) == Some(1)).await;
        mock.cluster.request_errors(request, &[error]);
        epoch(sink.as_mut(), 2, &rows(1..4)).await.expect("taken");
        until("the marker moves on", || marker(&mock.servers) == Some(2)).await;
        close(sink.as_mut()).await;
        // The mock cluster shows what was aborted, too.
        let mut found = numbers(&mock.servers, 2);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, [0, 1, 2, 3], "{request:?} {error:?}");
    }
}

/// K10, the other half: whoever was replaced stops, and does not fence back.
#[tokio::test]
async fn a_producer_that_another_process_has_replaced_stops() {
    let (mock, folder) = mock();
    let mut sink = opened(&mock.servers, folder.path(), "", 0).await;
    epoch(sink.as_mut(), 1, &rows(0..1)).await.expect("taken");
    until("it is connected", || marker(&mock.servers) == Some(1)).await;
    let other = Given { key: Some(format!("{ID} owner").into()), ..Given::new(0, "another process") };
    produce(&mock.servers, MARKERS, [other]);
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_PRODUCER_FENCED;
    mock.cluster.request_errors(RDKafkaApiKey::AddPartitionsToTxn, &[fenced]);
    let reason = failure(sink.as_mut(), 2).await;
    assert!(reason.contains("another process writes") && reason.contains(ID), "{reason}");
    let owners = read_committed(&mock.servers, MARKERS, 1);
    let last = owners.iter().rfind(|(key, _)| key.ends_with(b" owner")).expect("an owner");
    assert_eq!(last.1, b"another process", "it has fenced back");
}

#[tokio::test]
async fn a_row_that_is_too_large_is_refused_before_anything_leaves() {
    let counters = Counters::default();
    let _listening = counters.listen();
    let (mock, folder) = mock();
    let keys = "librdkafka = { \"message.max.bytes\" = 2000 }\n";
    let mut sink = opened(&mock.servers, folder.path(), keys, 0).await;
    let large = |n: i64| if n == 7 { "x".repeat(5_000) } else { String::new() };
    epoch(sink.as_mut(), 1, &batch((0..20).map(|n| (n, large(n))))).await.expect("taken");
    close(sink.as_mut()).await;
    let mut found = numbers(&mock.servers, 2);
    found.sort_unstable();
    assert_eq!(found, (0..20).filter(|n| *n != 7).collect::<Vec<_>>());
    assert_eq!(marker(&mock.servers), Some(1));
    assert_eq!(counters.get("tidegate_sink_refused_total"), 1);
}

/// The broker refuses after rows have left: the transaction is begun anew
/// without them, and does not fail for ever.
#[tokio::test]
async fn rows_that_a_real_broker_refuses_do_not_spoil_their_transaction_for_ever() {
    let counters = Counters::default();
    let _listening = counters.listen();
    let broker = Broker::start();
    broker.create_topic_with("out", 2, &[("max.message.bytes", "3000")]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = opened(&broker.servers, folder.path(), "compression = \"none\"\n", 0).await;
    let text = |n: i64| if n % 40 == 7 { "x".repeat(4_000) } else { "y".repeat(50) };
    epoch(sink.as_mut(), 1, &batch((0..100).map(|n| (n, text(n))))).await.expect("taken");
    epoch(sink.as_mut(), 2, &rows(100..150)).await.expect("taken");
    until("both epochs are there", || marker(&broker.servers) == Some(2)).await;
    close(sink.as_mut()).await;
    let mut found = numbers(&broker.servers, 2);
    found.sort_unstable();
    assert_eq!(found, (0..150).filter(|n| *n >= 100 || n % 40 != 7).collect::<Vec<_>>());
    assert_eq!(counters.get("tidegate_sink_refused_total"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_and_the_first_one_stops() {
    let broker = Broker::start();
    broker.create_topic("out", 2).await;
    let folders: [TempDir; 3] = std::array::from_fn(|_| tempfile::tempdir().expect("a folder"));
    let mut first = opened(&broker.servers, folders[0].path(), "", 0).await;
    epoch(first.as_mut(), 1, &rows(0..100)).await.expect("taken");
    until("it delivers", || marker(&broker.servers) == Some(1)).await;
    // One without the state of the first must stop, and must not disturb it.
    let mut empty = opened(&broker.servers, folders[1].path(), "", 0).await;
    let reason = failure(empty.as_mut(), 1).await;
    assert!(reason.contains("epoch 1") && reason.contains(MARKERS), "{reason}");
    epoch(first.as_mut(), 2, &rows(100..200)).await.expect("taken");
    until("it still delivers", || marker(&broker.servers) == Some(2)).await;
    // One with its state takes over.
    copy(folders[0].path(), folders[2].path());
    let mut second = opened(&broker.servers, folders[2].path(), "", 2).await;
    epoch(second.as_mut(), 3, &rows(200..300)).await.expect("taken");
    until("the second delivers", || marker(&broker.servers) == Some(3)).await;
    let reason = failure(first.as_mut(), 3).await;
    assert!(reason.contains("another process"), "{reason}");
    epoch(second.as_mut(), 4, &rows(300..400)).await.expect("taken");
    close(second.as_mut()).await;
    assert_each_once(numbers(&broker.servers, 2), 0..400);
}

/// What a killed process has left: rows and a marker, not committed.
#[tokio::test]
async fn a_transaction_that_was_left_under_way_counts_for_nothing() {
    let broker = Broker::start();
    broker.create_topic("out", 2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = opened(&broker.servers, folder.path(), "", 0).await;
    epoch(sink.as_mut(), 1, &rows(0..10)).await.expect("taken");
    close(sink.as_mut()).await;
    let killed: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.servers)
        .set("transactional.id", ID)
        .create()
        .expect("a producer is made");
    killed.init_transactions(LIMIT).expect("transactions begin");
    killed.begin_transaction().expect("begins");
    for (topic, key, payload) in [("out", "10", "{\"n\":10}"), (MARKERS, ID, "2")] {
        let record = BaseRecord::to(topic).key(key).payload(payload);
        killed.send(record).map_err(|(error, _)| error).expect("is queued");
    }
    killed.flush(LIMIT).expect("arrives");
    // Epoch 2 is in the log, and its marker was never committed.
    let mut sink = opened(&broker.servers, folder.path(), "", 1).await;
    epoch(sink.as_mut(), 2, &rows(10..20)).await.expect("taken");
    close(sink.as_mut()).await;
    assert_each_once(numbers(&broker.servers, 2), 0..20);
    assert_eq!(marker(&broker.servers), Some(2));
}

/// Readers do not see what is committed behind a transaction of somebody else
/// that is under way: a marker that is not seen yet is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_marker_behind_the_open_transaction_of_another_sink_is_waited_for() {
    let broker = Broker::start();
    broker.create_topic("out", 2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = opened(&broker.servers, folder.path(), "", 0).await;
    epoch(sink.as_mut(), 1, &rows(0..10)).await.expect("taken");
    until("it delivers", || marker(&broker.servers) == Some(1)).await;
    let other: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.servers)
        .set("transactional.id", "another sink")
        .create()
        .expect("a producer is made");
    other.init_transactions(LIMIT).expect("transactions begin");
    other.begin_transaction().expect("begins");
    let record = BaseRecord::to(MARKERS).key("another sink").payload("5");
    other.send(record).map_err(|(error, _)| error).expect("is queued");
    other.flush(LIMIT).expect("arrives");
    epoch(sink.as_mut(), 2, &rows(10..20)).await.expect("taken");
    close(sink.as_mut()).await;
    assert_eq!(marker(&broker.servers), Some(1), "the other one does not hide it");
    // The log has the rows of epoch 2 still.
    let mut sink = opened(&broker.servers, folder.path(), "", 2).await;
    epoch(sink.as_mut(), 3, &rows(20..30)).await.expect("taken");
    tokio::time::sleep(Duration::from_secs(3)).await;
    other.abort_transaction(LIMIT).expect("ends");
    until("it delivers again", || marker(&broker.servers) == Some(3)).await;
    close(sink.as_mut()).await;
    assert_each_once(numbers(&broker.servers, 2), 0..30);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_in_the_middle_of_transactions_costs_no_row_and_doubles_none() {
    let mut broker = Broker::start();
    broker.create_topic("out", 4).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = opened(&broker.servers, folder.path(), "", 0).await;
    let mut at = 0;
    for round in 0..4 {
        for part in 0..15 {
            let first = i64::try_from(at).expect("small") * 500;
            at += 1;
            epoch(sink.as_mut(), at, &rows(first..first + 500)).await.expect("taken");
            if part == 4 + round {
                broker.kill();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        broker.restart();
        until("it delivers again", || marker(&broker.servers) == Some(at)).await;
    }
    close(sink.as_mut()).await;
    assert_each_once(numbers(&broker.servers, 4), 0..i64::try_from(at).expect("small") * 500);
}

/// A topic in which markers expire is no place for them.
#[tokio::test]
async fn markers_are_not_left_in_a_topic_that_forgets_them() {
    let broker = Broker::start();
    broker.create_topic("out", 1).await;
    broker.create_topic_with("forgetful", 1, &[("cleanup.policy", "delete")]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut sink = opened(&broker.servers, folder.path(), "marker_topic = \"forgetful\"\n", 0).await;
    epoch(sink.as_mut(), 1, &rows(0..10)).await.expect("taken");
    let closed = tokio::time::timeout(LIMIT, sink.close()).await.expect("in time");
    assert!(matches!(closed, Err(ConnectorError::Lost(_))), "{closed:?}");
    assert_eq!(numbers(&broker.servers, 1), Vec::<i64>::new());
    broker.configure_topic("forgetful", &[("cleanup.policy", "compact")]).await;
    let mut sink = opened(&broker.servers, folder.path(), "marker_topic = \"forgetful\"\n", 1).await;
    close(sink.as_mut()).await;
    assert_each_once(numbers(&broker.servers, 1), 0..10);
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("readable").path();
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            std::fs::create_dir_all(&target).expect("a folder is made");
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).expect("is copied");
        }
    }
}
