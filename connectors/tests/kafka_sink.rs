//! The sink `kafka` against librdkafka's mock cluster: what arrives, what is
//! refused, what happens while brokers are away or the queue is full.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use rdkafka::message::{Headers, Message, OwnedMessage};
use support::kafka::{Mock, messages};
use support::topology::build_context;
use support::{LIMIT, assert_each_once, sink};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::Sink;
use tidegate_engine::time::time_type;

fn input() -> Input {
    let fields = vec![
        Field::new("device", DataType::Utf8, true),
        Field::new("n", DataType::Int64, false),
        Field::new("ts", time_type(), false),
    ];
    Input { name: "s".into(), stream: StreamSchema::new(fields, Some("ts")) }
}

fn rows(devices: &[Option<&str>], from: i64) -> RecordBatch {
    let count = i64::try_from(devices.len()).expect("small");
    let times =
        TimestampMicrosecondArray::from_iter_values((0..count).map(|n| 1_700_000_000_000_000 + n * 1_000));
    RecordBatch::try_new(
        input().stream.columns,
        vec![
            Arc::new(StringArray::from(devices.to_vec())),
            Arc::new(Int64Array::from_iter_values(from..from + count)),
            Arc::new(times.with_timezone("UTC")),
        ],
    )
    .expect("the columns fit")
}

fn numbers(messages: &[OwnedMessage]) -> Vec<i64> {
    let number = |message: &OwnedMessage| {
        let value: serde_json::Value =
            serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
        value.get("n").and_then(serde_json::Value::as_i64).expect("n")
    };
    messages.iter().map(number).collect()
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

async fn write_all(sink: &mut dyn Sink, batch: &RecordBatch) {
    in_time(sink.write(batch)).await.expect("is taken");
}

#[tokio::test]
async fn every_row_is_a_message_with_key_headers_and_time() {
    let mock = Mock::new(&[("out-a", 1), ("out-b_c", 1)]);
    let keys = format!(
        "{}topic = \"out-{{device}}\"\nkey = \"device\"\nheaders = {{ number = \"no {{n}}\" }}\n",
        mock.brokers()
    );
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&[Some("a"), Some("b/c"), Some("a")], 1)).await;
    in_time(part.sink.flush(1)).await.expect("everything arrives");
    let found = messages(&mock.servers, "out-a", 1, 2);
    assert_eq!(numbers(&found), [1, 3]);
    assert_eq!(found[0].key(), Some(b"a".as_slice()));
    assert_eq!(found[1].timestamp().to_millis(), Some(1_700_000_000_002));
    let header = found[1].headers().map(|headers| headers.get(0)).expect("has a header");
    assert_eq!((header.key, header.value), ("number", Some(b"no 3".as_slice())));
    // A value cannot leave the alphabet of topic names.
    assert_eq!(numbers(&messages(&mock.servers, "out-b_c", 1, 1)), [2]);
    in_time(part.sink.close()).await.expect("closes");
}

/// Expected partitions from the hashes in Kafka's own test
/// (`org.apache.kafka.common.utils.UtilsTest.testMurmur2`), made positive as
/// its clients do (`& 0x7fffffff`), modulo 7 partitions.
#[tokio::test]
async fn keys_choose_partitions_as_kafkas_own_clients_do() {
    let hashes: [(&str, i32); 5] = [
        ("21", -973_932_308),
        ("foobar", -790_332_482),
        ("a-little-bit-long-string", -985_981_536),
        ("a-little-bit-longer-string", -1_486_304_829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ];
    let mock = Mock::new(&[("out", 7)]);
    let keys = format!("{}topic = \"out\"\nkey = \"device\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    let devices: Vec<_> = hashes.iter().map(|(key, _)| Some(*key)).collect();
    write_all(part.sink.as_mut(), &rows(&devices, 0)).await;
    in_time(part.sink.flush(1)).await.expect("everything arrives");
    let found = messages(&mock.servers, "out", 7, 5);
    assert_eq!(found.len(), 5);
    for message in found {
        let key = std::str::from_utf8(message.key().unwrap_or_default()).expect("text");
        let hash = hashes.iter().find(|(other, _)| *other == key).expect("one of ours").1;
        assert_eq!(message.partition(), (hash & 0x7fff_ffff) % 7, "{key}");
    }
    in_time(part.sink.close()).await.expect("closes");
}

/// K7 too: only the row that is too large is refused.
#[tokio::test]
async fn a_row_that_is_too_large_is_refused_and_its_neighbours_arrive() {
    let mock = Mock::new(&[("out", 1)]);
    let keys =
        format!("{}topic = \"out\"\nlibrdkafka = {{ \"message.max.bytes\" = 2000 }}\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    let large = "x".repeat(5_000);
    let written = in_time(part.sink.write(&rows(&[Some("a"), Some(&large), Some("c")], 0))).await;
    let Err(ConnectorError::Rejected(refused)) = written else { panic!("{written:?}") };
    assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), [1]);
    in_time(part.sink.flush(1)).await.expect("the others arrive");
    assert_eq!(numbers(&messages(&mock.servers, "out", 1, 2)), [0, 2]);
    in_time(part.sink.close()).await.expect("closes");
}

/// The broker refuses after `write` has returned: `flush` counts the row over
/// all batches since the last flush.
#[tokio::test]
async fn a_refusal_by_the_broker_names_the_row_at_the_flush() {
    let mock = Mock::new(&[("out", 1)]);
    let keys = format!("{}topic = \"out\"\nidempotent = false\nlinger = \"0ms\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&[Some("a"); 3], 0)).await;
    in_time(part.sink.flush(1)).await.expect("everything arrives");
    write_all(part.sink.as_mut(), &rows(&[Some("a"); 2], 3)).await;
    // The two are delivered before the broker begins to refuse.
    assert_eq!(messages(&mock.servers, "out", 1, 5).len(), 5);
    let refuses = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD;
    mock.cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[refuses]);
    write_all(part.sink.as_mut(), &rows(&[Some("a")], 5)).await;
    let flushed = in_time(part.sink.flush(2)).await;
    let Err(ConnectorError::Rejected(refused)) = flushed else { panic!("{flushed:?}") };
    assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), [2]);
    in_time(part.sink.close()).await.expect("closes");
}

/// K12: 20,000 rows through a queue of 200 places. A client that sleeps 100 ms
/// whenever it is full would need ten seconds.
#[tokio::test]
async fn a_full_queue_slows_the_writer_without_stalls() {
    let mock = Mock::new(&[("out", 4)]);
    let keys = format!(
        "{}topic = \"out\"\nlinger = \"0ms\"\nlibrdkafka = {{ \"queue.buffering.max.messages\" = 200 }}\n",
        mock.brokers()
    );
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&[None; 1], 0)).await;
    in_time(part.sink.flush(1)).await.expect("connected");
    let start = Instant::now();
    for from in 0..20 {
        write_all(part.sink.as_mut(), &rows(&vec![Some("a"); 1_000], 1 + from * 1_000)).await;
    }
    in_time(part.sink.flush(2)).await.expect("everything arrives");
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    assert_each_once(numbers(&messages(&mock.servers, "out", 4, 20_001)), 0..20_001);
    in_time(part.sink.close()).await.expect("closes");
}

#[tokio::test]
async fn brokers_away_delay_the_flush_and_lose_nothing() {
    let mock = Mock::new(&[("out", 4)]);
    let keys = format!("{}topic = \"out\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&vec![Some("a"); 100], 0)).await;
    in_time(part.sink.flush(1)).await.expect("everything arrives");
    mock.all_down();
    write_all(part.sink.as_mut(), &rows(&vec![Some("b"); 100], 100)).await;
    let early = tokio::time::timeout(Duration::from_secs(2), part.sink.flush(2)).await;
    assert!(early.is_err(), "flushed without a broker: {early:?}");
    mock.all_up();
    in_time(part.sink.flush(2)).await.expect("everything arrives");
    // Each once: the producer is idempotent.
    assert_each_once(numbers(&messages(&mock.servers, "out", 4, 200)), 0..200);
    in_time(part.sink.close()).await.expect("closes");
}

/// Dropped without `close`, right after a write: the rows arrive all the same.
#[tokio::test]
async fn nothing_is_lost_when_the_sink_is_dropped() {
    let mock = Mock::new(&[("out", 1)]);
    let keys = format!("{}topic = \"out\"\nlinger = \"200ms\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&vec![Some("a"); 500], 0)).await;
    drop(part);
    assert_eq!(messages(&mock.servers, "out", 1, 500).len(), 500);
}

/// K13 for the sink, and an undelivered message that is sent anew.
#[tokio::test]
async fn a_stop_with_the_brokers_away_says_what_was_not_delivered() {
    let mock = Mock::new(&[("out", 1)]);
    let keys = format!("{}topic = \"out\"\ndelivery_timeout = \"1s\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    mock.all_down();
    write_all(part.sink.as_mut(), &rows(&[Some("a")], 0)).await;
    let flushed = in_time(part.sink.flush(1)).await;
    assert!(matches!(flushed, Err(ConnectorError::Lost(_))), "{flushed:?}");
    part.sink.open().await.expect("opens again");
    let keys = format!("{}topic = \"out\"\n", mock.brokers());
    let mut part = sink("kafka", &keys, &input(), &build_context());
    part.sink.open().await.expect("opens");
    write_all(part.sink.as_mut(), &rows(&[Some("a"); 7], 0)).await;
    let stop = Instant::now();
    let closed = in_time(part.sink.close()).await;
    assert!(matches!(&closed, Err(ConnectorError::Lost(reason)) if reason.contains('7')), "{closed:?}");
    assert!(stop.elapsed() < Duration::from_secs(7), "closed after {:?}", stop.elapsed());
}
