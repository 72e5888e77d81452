//! The source `kafka` against librdkafka's mock cluster: what it reads, where
//! it begins, what it adds to the rows.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use support::kafka::{Given, Mock, committed, produce};
use support::topology::build_context;
use support::{assert_each_once, read, read_to_end, source, until};
use tidegate_engine::topology::node::BuildContext;

use std::collections::BTreeSet;

fn numbered(range: std::ops::Range<i64>, partitions: i64) -> Vec<Given> {
    let partition = |n: i64| i32::try_from(n % partitions).expect("small");
    range.map(|n| Given::new(partition(n), format!("{{\"n\":{n}}}"))).collect()
}

/// The mock cluster keeps a rebalance open for the session time-out less a
/// second, so that has to be short here.
const SESSION: &str = "\"session.timeout.ms\" = 3000, \"heartbeat.interval.ms\" = 300";

fn keys(mock: &Mock, more: &str) -> String {
    let more = match more.split_once("librdkafka = {") {
        Some((before, after)) => format!("{before}librdkafka = {{ {SESSION}, {after}"),
        None => format!("{more}\nlibrdkafka = {{ {SESSION} }}\n"),
    };
    format!("{}topics = [\"t\"]\nformat = \"json\"\nschema = {{ n = \"int64\" }}\n{more}", mock.brokers())
}

#[tokio::test]
async fn every_message_comes_once_and_in_order_within_its_partition() {
    let mock = Mock::new(&[("t", 4)]);
    produce(&mock.servers, "t", numbered(0..20_000, 4));
    let mut part = source("kafka", &keys(&mock, ""), &build_context());
    part.source.open(None).await.expect("opens");
    let all = read(part.source.as_mut(), 20_000).await;
    assert_each_once(all.numbers("n"), 0..20_000);
    let mut last = [-1_i64; 4];
    for item in &all.items {
        let seen = &mut last[item.partition as usize];
        for n in item
            .batch
            .column_by_name("n")
            .map(|n| arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(n).values().to_vec())
            .expect("n")
        {
            assert!(n > *seen, "{n} after {seen}");
            *seen = n;
        }
    }
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn goes_on_at_the_position_of_the_checkpoint_not_at_the_groups() {
    let mock = Mock::new(&[("t", 2)]);
    produce(&mock.servers, "t", numbered(0..100, 2));
    let context = build_context();
    let mut part = source("kafka", &keys(&mock, "group = \"g\""), &context);
    part.source.open(None).await.expect("opens");
    let first = read(part.source.as_mut(), 100).await;
    // The group hears of everything, the checkpoint that survived is older.
    let mut committer = part.source.committer().expect("has one");
    committer.commit(&first.position()).await.expect("is left");
    until("the group knows all", || committed(&mock.servers, "g", "t", 2) == [Some(50), Some(50)]).await;
    part.source.close().await.expect("closes");
    let old = tidegate_engine::source::Position(b"[[\"t\",1,20],[\"t\",0,40]]".as_slice().into());
    part.source.open(Some(&old)).await.expect("opens");
    let again = read(part.source.as_mut(), 40).await;
    let expected: BTreeSet<i64> = (0..100).filter(|n| n / 2 >= if n % 2 == 0 { 40 } else { 20 }).collect();
    assert_eq!(again.numbers("n").into_iter().collect::<BTreeSet<_>>(), expected);
    // The engine's partition index is that of the checkpoint: t/1 is 0, t/0 is 1.
    let index_of = |n: i64| {
        let has = |item: &&tidegate_engine::source::Rows| {
            let numbers = item.batch.column_by_name("n").expect("n");
            arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(numbers).values().contains(&n)
        };
        again.items.iter().find(has).map(|item| item.partition)
    };
    assert_eq!((index_of(41), index_of(98)), (Some(0), Some(1)));
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn without_a_checkpoint_it_goes_on_where_the_group_is() {
    let mock = Mock::new(&[("t", 1)]);
    produce(&mock.servers, "t", numbered(0..10, 1));
    let context = build_context();
    let mut part = source("kafka", &keys(&mock, "group = \"g\""), &context);
    part.source.open(None).await.expect("opens");
    let first = read(part.source.as_mut(), 10).await;
    part.source.committer().expect("has one").commit(&first.position()).await.expect("is left");
    // The last commit is made at the stop, if a broker answers.
    part.source.close().await.expect("closes");
    assert_eq!(committed(&mock.servers, "g", "t", 1), [Some(10)]);
    produce(&mock.servers, "t", numbered(10..15, 1));
    let mut part = source("kafka", &keys(&mock, "group = \"g\""), &context);
    part.source.open(None).await.expect("opens");
    assert_eq!(read(part.source.as_mut(), 5).await.numbers("n"), [10, 11, 12, 13, 14]);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn starts_at_the_end_once_and_then_where_it_was() {
    let mock = Mock::new(&[("t", 1)]);
    produce(&mock.servers, "t", numbered(0..10, 1));
    let context = build_context();
    let body = keys(&mock, "group = \"g\"\nstart = \"latest\"");
    let mut part = source("kafka", &body, &context);
    part.source.open(None).await.expect("opens");
    until("the start is remembered", || committed(&mock.servers, "g", "t", 1) == [Some(10)]).await;
    part.source.close().await.expect("closes");
    // What came while it was away is not skipped by a second "latest".
    produce(&mock.servers, "t", numbered(10..13, 1));
    part.source.open(None).await.expect("opens");
    assert_eq!(read(part.source.as_mut(), 3).await.numbers("n"), [10, 11, 12]);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn starts_at_named_offsets() {
    let mock = Mock::new(&[("t", 2)]);
    produce(&mock.servers, "t", numbered(0..20, 2));
    let body = keys(&mock, "start = { offsets = { \"t/1\" = 8 } }");
    let mut part = source("kafka", &body, &build_context());
    part.source.open(None).await.expect("opens");
    let all = read(part.source.as_mut(), 12).await;
    let expected: BTreeSet<i64> = (0..20).filter(|n| n % 2 == 0 || n / 2 >= 8).collect();
    assert_eq!(all.numbers("n").into_iter().collect::<BTreeSet<_>>(), expected);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn adds_the_columns_that_are_asked_for() {
    let mock = Mock::new(&[("t", 1)]);
    let told = Given {
        key: Some(b"press-1".to_vec()),
        headers: vec![("trace".into(), "a".into()), ("trace".into(), "b".into())],
        time: Some(1_700_000_000_123),
        ..Given::new(0, "{\"n\":1}")
    };
    let plain = Given { key: Some(vec![0xff]), ..Given::new(0, "{\"n\":2}") };
    produce(&mock.servers, "t", [told, plain]);
    let more = "columns = [\"topic\", \"partition\", \"offset\", \"key\", \"key_bytes\", \"timestamp\"]\nheaders = [\"trace\"]\n";
    let mut part = source("kafka", &keys(&mock, more), &build_context());
    part.source.open(None).await.expect("opens");
    let all = read(part.source.as_mut(), 2).await;
    assert_eq!(all.texts("topic"), ["t", "t"]);
    assert_eq!(all.texts("key"), ["press-1", "\u{fffd}"]);
    assert_eq!(all.texts("trace"), ["b", "NULL"]);
    assert_eq!(all.numbers("offset"), [0, 1]);
    let times = all.items[0].batch.column_by_name("timestamp").expect("is there").clone();
    assert_eq!(
        arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(&times).value(0),
        1_700_000_000_123_000
    );
    let declared: Vec<_> = part.stream.columns.fields().iter().map(|field| field.name().clone()).collect();
    let names: Vec<_> =
        all.items[0].batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, declared);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn reads_every_topic_that_a_pattern_names_even_later_ones() {
    let mock = Mock::new(&[("line-1", 1), ("other", 1)]);
    for topic in ["line-1", "other"] {
        produce(&mock.servers, topic, numbered(0..3, 1));
    }
    let body =
        keys(&mock, "columns = [\"topic\"]\nlibrdkafka = { \"topic.metadata.refresh.interval.ms\" = 500 }\n")
            .replace("[\"t\"]", "[\"^line-[0-9]+$\"]");
    let mut part = source("kafka", &body, &build_context());
    part.source.open(None).await.expect("opens");
    assert_eq!(read(part.source.as_mut(), 3).await.texts("topic"), ["line-1"; 3]);
    mock.cluster.create_topic("line-2", 1, 3).expect("a topic is made");
    produce(&mock.servers, "line-2", numbered(0..3, 1));
    assert_eq!(read(part.source.as_mut(), 3).await.texts("topic"), ["line-2"; 3]);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn once_reads_to_the_ends_of_now_and_still_commits() {
    let mock = Mock::new(&[("t", 3), ("u", 1)]);
    // t/2 and u are empty: their ends are reached without a message.
    produce(&mock.servers, "t", numbered(0..10_000, 2));
    let context = BuildContext { once: true, ..build_context() };
    let body = keys(&mock, "group = \"g\"").replace("[\"t\"]", "[\"t\", \"u\"]");
    let mut part = source("kafka", &body, &context);
    part.source.open(None).await.expect("opens");
    let all = read_to_end(part.source.as_mut()).await;
    assert_eq!(all.rows(), 10_000);
    produce(&mock.servers, "t", numbered(0..10, 1));
    part.source.committer().expect("has one").commit(&all.position()).await.expect("is left");
    part.source.close().await.expect("closes");
    assert_eq!(committed(&mock.servers, "g", "t", 2), [Some(5_000), Some(5_000)]);
}

#[tokio::test]
async fn once_says_which_topic_is_missing() {
    let mock = Mock::new(&[("t", 1)]);
    mock.cluster
        .topic_error("gone", rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        .expect("the mock takes it");
    let context = BuildContext { once: true, ..build_context() };
    let mut part = source("kafka", &keys(&mock, "").replace("[\"t\"]", "[\"gone\"]"), &context);
    let ended = tokio::time::timeout(support::LIMIT, part.source.open(None)).await.expect("in time");
    assert!(matches!(ended, Err(tidegate_engine::error::ConnectorError::Fatal(_))), "{ended:?}");
    part.source.close().await.expect("closes");
}
