//! MQTT against a scripted broker that lies, refuses or falls silent: M8, M12
//! and M14, the take-over of MQTT 5, and what the sink makes of refusals.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};
use support::mqtt_fake::{Client, Fake, packet_id};
use support::topology::build_context;
use support::{LIMIT, sink, source};
use tempfile::TempDir;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::source::{Polled, Source, SourcePart};
use tidegate_engine::topology::node::BuildContext;

fn build(fake: &Fake, more: &str) -> (SourcePart, TempDir) {
    let folder = tempfile::tempdir().expect("a folder is made");
    let context = BuildContext { data_dir: folder.path().to_owned(), ..build_context() };
    let schema = "format = \"json\"\nschema = { n = \"int64\" }\nkeep_alive = \"5s\"\n";
    (source("mqtt", &format!("{}{schema}{more}", fake.broker()), &context), folder)
}

/// Opens and reads until it fails.
async fn until_failure(source: &mut dyn Source) -> ConnectorError {
    let failing = async {
        source.open(None).await?;
        loop {
            source.next().await?;
        }
    };
    let failed: Result<(), ConnectorError> =
        tokio::time::timeout(LIMIT, failing).await.expect("fails in time");
    failed.expect_err("it only ends by failing")
}

#[tokio::test]
async fn m8_a_packet_that_is_too_large_ends_in_a_clear_error_and_not_in_a_loop() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\npacket_max = \"10KiB\"\n");
    let broker = async {
        for round in 1.. {
            let mut client = fake.welcome(round > 1).await;
            if round == 1 {
                client.answer_subscribe(&[1]).await;
            }
            client.publish(1, 1, "t", &[b'x'; 20_480]).await;
            while client.read().await.is_some() {}
        }
    };
    let reading = async {
        let mut errors = Vec::new();
        loop {
            match until_failure(part.source.as_mut()).await {
                ConnectorError::Fatal(message) => return (errors, message),
                error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_)) => errors.push(error),
            }
            assert!(errors.len() < 10, "never gives up: {errors:?}");
        }
    };
    let (errors, message) = tokio::select! {
        () = broker => unreachable!("the broker never ends"),
        found = reading => found,
    };
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(message.contains("packet_max") && message.contains("20"), "{message}");
}

#[tokio::test]
async fn m11_a_take_over_that_the_broker_names_is_judged_after_three() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\nclient_id = \"twin\"\n");
    for round in 1..=3 {
        let broker = async {
            let mut client = fake.welcome(round > 1).await;
            if round == 1 {
                client.answer_subscribe(&[1]).await;
            }
            // DISCONNECT, session taken over.
            client.write(&[0xe0, 2, 0x8e, 0]).await;
            while client.read().await.is_some() {}
        };
        let (error, ()) = tokio::join!(until_failure(part.source.as_mut()), broker);
        match error {
            ConnectorError::Fatal(message) => {
                assert_eq!(round, 3);
                assert!(message.contains("`twin`"), "{message}");
            }
            ConnectorError::Lost(_) => assert!(round < 3),
            error @ ConnectorError::Rejected(_) => panic!("{error:?}"),
        }
    }
}

/// M6 on the wire: a source whose buffer is full reads nothing more, but what
/// becomes durable is acknowledged, and the broker hears that it is alive.
#[tokio::test]
async fn m6_a_full_buffer_stops_neither_acknowledgements_nor_pings() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\nbuffer = \"64KiB\"\n");
    let broker = async {
        let mut client = fake.welcome(false).await;
        client.answer_subscribe(&[1]).await;
        for packet in 1..=1_000 {
            client.publish(1, packet, "t", b"{\"n\":1}").await;
        }
        client
    };
    let (opened, mut client) = tokio::join!(part.source.open(None), broker);
    opened.expect("opens");
    let mut committer = part.source.committer().expect("has one");
    let Polled::Rows(first) = part.source.next().await.expect("reads") else { panic!("no rows") };
    assert!(first.batch.num_rows() < 900, "the buffer held everything");
    // Long enough for the buffer to be full again, and for a ping to be due.
    let pinged = tokio::time::timeout(Duration::from_secs(8), client.read_kind(12)).await;
    pinged.expect("the client gives a sign of life");
    committer.commit(&first.position).await.expect("is taken");
    for packet in 1..=u16::try_from(first.batch.num_rows()).expect("few") {
        let acknowledged = tokio::time::timeout(LIMIT, client.read_kind(4)).await;
        assert_eq!(acknowledged.expect("comes")[..2], packet.to_be_bytes());
    }
}

/// Mosquitto 2.0.11 does so once acknowledgements come: 2,701 messages without
/// one at a window of 20, measured. Nothing is lost by it.
#[tokio::test]
async fn a_broker_that_sends_more_than_the_window_gets_every_acknowledgement_in_order() {
    const MESSAGES: u16 = 50_000;
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\nreceive_maximum = 10\n");
    let broker = async {
        let mut client = fake.welcome(false).await;
        client.answer_subscribe(&[1]).await;
        let (reader, writer) = client.0.into_split();
        let writing = tokio::spawn(async move {
            let mut to = writer;
            for packet in 1..=MESSAGES {
                let [high, low] = packet.to_be_bytes();
                let message = [0x32, 13, 0, 1, b't', high, low, 0, b'{', b'"', b'n', b'"', b':', b'1', b'}'];
                tokio::io::AsyncWriteExt::write_all(&mut to, &message).await.expect("is read");
            }
            to
        });
        let mut from = tokio::io::BufReader::new(reader);
        for packet in 1..=MESSAGES {
            let mut answer = [0; 4];
            tokio::io::AsyncReadExt::read_exact(&mut from, &mut answer).await.expect("comes");
            let [high, low] = packet.to_be_bytes();
            assert_eq!(answer, [0x40, 2, high, low]);
        }
        writing.await.expect("writes")
    };
    let reading = async {
        part.source.open(None).await.expect("opens");
        let mut committer = part.source.committer().expect("has one");
        loop {
            let Polled::Rows(rows) = part.source.next().await.expect("reads") else { panic!("no rows") };
            committer.commit(&rows.position).await.expect("is taken");
        }
    };
    let both = async {
        tokio::select! {
            writer = broker => drop(writer),
            () = reading => {}
        }
    };
    tokio::time::timeout(LIMIT, both).await.expect("in time");
}

/// M10 as the broker sees it: the session it kept loses the topics that the
/// file no longer names.
#[tokio::test]
async fn m10_topics_taken_out_are_unsubscribed_and_known_ones_are_left_alone() {
    let fake = Fake::new().await;
    let (mut part, folder) = build(&fake, "topics = [\"a/+\", \"b/+\"]\n");
    let fresh = async {
        let mut client = fake.welcome(false).await;
        client.answer_subscribe(&[1, 1]).await;
        client
    };
    let (opened, client) = tokio::join!(part.source.open(None), fresh);
    opened.expect("opens");
    drop((part, client));
    let context = BuildContext { data_dir: folder.path().to_owned(), ..build_context() };
    let keys = "topics = [\"b/+\"]\nformat = \"json\"\nschema = { n = \"int64\" }\n";
    let mut part = source("mqtt", &format!("{}{keys}", fake.broker()), &context);
    let kept = async {
        let mut client = fake.welcome(true).await;
        let unsubscribed = client.read_kind(10).await;
        assert!(unsubscribed.ends_with(b"a/+"), "{unsubscribed:?}");
        // Neither a second UNSUBSCRIBE nor a SUBSCRIBE, which would bring kept messages again.
        let more = tokio::time::timeout(Duration::from_millis(500), client.read()).await;
        assert!(more.is_err(), "{more:?}");
    };
    let (opened, ()) = tokio::join!(part.source.open(None), kept);
    opened.expect("opens");
}

#[tokio::test]
async fn m12_a_refused_subscription_names_the_topic_and_is_tried_again() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"open\", \"secret/{x}\"]\n");
    let refuses = async {
        let mut client = fake.welcome(false).await;
        // QoS 1 granted, not authorized.
        client.answer_subscribe(&[1, 0x87]).await;
        while client.read().await.is_some() {}
    };
    let (opened, ()) = tokio::join!(part.source.open(None), refuses);
    let Err(ConnectorError::Lost(reason)) = opened else { panic!("{opened:?}") };
    assert!(reason.contains("`secret/+`") && reason.contains("NotAuthorized"), "{reason}");
    let allows = async {
        let mut client = fake.welcome(true).await;
        client.answer_subscribe(&[1, 1]).await;
        client.publish(1, 5, "secret/a", b"{\"n\":1}").await;
        client
    };
    let (opened, _client) = tokio::join!(part.source.open(None), allows);
    opened.expect("opens");
    let next = tokio::time::timeout(LIMIT, part.source.next()).await.expect("in time");
    assert!(matches!(next, Ok(Polled::Rows(rows)) if rows.batch.num_rows() == 1));
}

/// M14: the client library takes a PUBREL that it does not expect for an
/// error, at every connect, for ever.
#[tokio::test]
async fn m14_a_release_of_an_earlier_connection_is_completed() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\nqos = 2\n");
    let broker = async {
        let mut client = fake.welcome(true).await;
        client.answer_subscribe(&[2]).await;
        client.write(&[0x62, 2, 0, 7]).await;
        let completed = client.read_kind(7).await;
        assert_eq!(completed[..2], [0, 7]);
        client.publish(2, 8, "t", b"{\"n\":1}").await;
        client
    };
    let (opened, mut client) = tokio::join!(part.source.open(None), broker);
    opened.expect("opens");
    let Ok(Ok(Polled::Rows(rows))) = tokio::time::timeout(LIMIT, part.source.next()).await else {
        panic!("the connection did not survive");
    };
    // PUBREC only when the rows are durable.
    let early = tokio::time::timeout(Duration::from_millis(500), client.read_kind(5)).await;
    assert!(early.is_err(), "received before it was durable");
    part.source.committer().expect("has one").commit(&rows.position).await.expect("is taken");
    assert_eq!(client.read_kind(5).await[..2], [0, 8]);
}

#[tokio::test]
async fn a_broker_that_never_answers_the_subscription_is_given_up() {
    let fake = Fake::new().await;
    let (mut part, _folder) = build(&fake, "topics = [\"t\"]\nconnect_timeout = \"1s\"\n");
    let silent = async {
        let mut client = fake.welcome(false).await;
        while client.read().await.is_some() {}
    };
    let (opened, ()) = tokio::join!(part.source.open(None), silent);
    assert!(matches!(opened, Err(ConnectorError::Lost(_))), "{opened:?}");
}

fn out(fake: &Fake, more: &str) -> SinkPart {
    let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
    let input = Input { name: "s".into(), stream };
    let keys = format!("{}keep_alive = \"5s\"\ntopic = \"out/{{n}}\"\n{more}", fake.broker());
    sink("mqtt", &keys, &input, &build_context())
}

fn rows(range: std::ops::Range<i64>) -> RecordBatch {
    let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
    RecordBatch::try_new(stream.columns, vec![Arc::new(Int64Array::from_iter_values(range))]).expect("fits")
}

/// Accepts with MQTT 5 and these properties.
async fn welcome_with(fake: &Fake, properties: &[u8]) -> Client {
    let mut client = fake.accept().await;
    let length = u8::try_from(properties.len()).expect("few");
    client.write(&[&[0x20, length + 3, 0, 0, length], properties].concat()).await;
    client
}

/// M13: refused for good is a row for the dead letters; the others arrive.
#[tokio::test]
async fn m13_refused_messages_are_rows_or_reasons_by_their_class() {
    let fake = Fake::new().await;
    let mut part = out(&fake, "");
    let broker = async {
        let mut client = fake.welcome(false).await;
        for code in [0x00, 0x87, 0x10, 0x99] {
            let [high, low] = packet_id(&client.read_kind(3).await);
            client.write(&[0x40, 3, high, low, code]).await;
        }
        client
    };
    let sending = async {
        part.sink.open().await.expect("opens");
        part.sink.write(&rows(0..4)).await.expect("is taken");
        part.sink.flush(1).await
    };
    let (flushed, mut client) = tokio::join!(tokio::time::timeout(LIMIT, sending), broker);
    let Ok(Err(ConnectorError::Rejected(refused))) = flushed else { panic!("{flushed:?}") };
    assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), [1, 3]);
    assert!(refused[0].reason.contains("NotAuthorized"), "{refused:?}");
    // Quota exceeded passes: everything since the flush is to be written again.
    let again = async {
        let [high, low] = packet_id(&client.read_kind(3).await);
        client.write(&[0x40, 3, high, low, 0x97]).await;
    };
    let sending = async {
        part.sink.write(&rows(4..5)).await.expect("is taken");
        part.sink.flush(2).await
    };
    let (flushed, ()) = tokio::join!(tokio::time::timeout(LIMIT, sending), again);
    assert!(matches!(flushed, Ok(Err(ConnectorError::Lost(_)))), "{flushed:?}");
}

/// QoS 2: a refusal answers the message; its place in the broker's window is free again.
#[tokio::test]
async fn m13_refused_messages_of_qos_2_do_not_block_the_sink() {
    let fake = Fake::new().await;
    let mut part = out(&fake, "qos = 2\n");
    // Receive maximum 4.
    let broker = async {
        let mut client = welcome_with(&fake, &[0x21, 0, 4]).await;
        while let Some((kind, body)) = client.read().await {
            if kind >> 4 == 3 {
                let [high, low] = packet_id(&body);
                client.write(&[0x50, 3, high, low, 0x87]).await;
            }
        }
    };
    let sending = async {
        part.sink.open().await.expect("opens");
        part.sink.write(&rows(0..20)).await.expect("is taken");
        let flushed = part.sink.flush(1).await;
        part.sink.close().await.expect("closes");
        flushed
    };
    let (flushed, ()) = tokio::join!(tokio::time::timeout(LIMIT, sending), broker);
    let Ok(Err(ConnectorError::Rejected(refused))) = flushed else { panic!("{flushed:?}") };
    assert_eq!(refused.iter().map(|row| row.row).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
}

/// A message counts as delivered by the answer that is due, and by no other.
#[tokio::test]
async fn an_answer_that_is_not_due_ends_the_connection() {
    for (qos, lie) in [(1, 0x50), (1, 0x70), (2, 0x40), (2, 0x70)] {
        let fake = Fake::new().await;
        let mut part = out(&fake, &format!("qos = {qos}\n"));
        let broker = async {
            let mut client = fake.welcome(false).await;
            let [high, low] = packet_id(&client.read_kind(3).await);
            client.write(&[lie, 2, high, low]).await;
            client
        };
        let sending = async {
            part.sink.open().await.expect("opens");
            part.sink.write(&rows(0..1)).await.expect("is taken");
            part.sink.flush(1).await
        };
        let (flushed, _client) = tokio::join!(tokio::time::timeout(LIMIT, sending), broker);
        let Ok(Err(ConnectorError::Lost(reason))) = flushed else { panic!("{qos} {lie}: {flushed:?}") };
        assert!(reason.contains("was due"), "{reason}");
    }
}

#[tokio::test]
async fn limits_of_the_broker_are_kept() {
    let fake = Fake::new().await;
    let mut part = out(&fake, "payload = \"{n}\"\n");
    // Maximum packet size 28 bytes, receive maximum 2.
    let broker = async {
        let mut client = welcome_with(&fake, &[0x27, 0, 0, 0, 28, 0x21, 0, 2]).await;
        let first = client.read_kind(3).await;
        let second = client.read_kind(3).await;
        let third = tokio::time::timeout(Duration::from_millis(500), client.read_kind(3)).await;
        assert!(third.is_err(), "a third message was sent before an acknowledgement");
        for body in [first, second] {
            let [high, low] = packet_id(&body);
            client.write(&[0x40, 2, high, low]).await;
        }
        let [high, low] = packet_id(&client.read_kind(3).await);
        client.write(&[0x40, 2, high, low]).await;
    };
    let sending = async {
        part.sink.open().await.expect("opens");
        part.sink.write(&rows(1..4)).await.expect("is taken");
        part.sink.flush(1).await.expect("arrives");
        part.sink.write(&rows(1_000_000..1_000_001)).await
    };
    let (written, ()) = tokio::join!(tokio::time::timeout(LIMIT, sending), broker);
    let Ok(Err(ConnectorError::Rejected(refused))) = written else { panic!("{written:?}") };
    assert!(refused[0].reason.contains("28"), "{refused:?}");
}

/// M3 (b): the peer stops reading while large messages are sent; version 5 of
/// the client library hangs in the middle of a write.
#[tokio::test]
async fn m3_a_peer_that_stops_reading_is_noticed_within_twice_the_keep_alive() {
    let fake = Fake::new().await;
    let input = Input {
        name: "s".into(),
        stream: StreamSchema::new(vec![Field::new("text", DataType::Utf8, false)], None),
    };
    let text = "x".repeat(65_536);
    let column = arrow::array::StringArray::from(vec![text.as_str(); 500]);
    let batch =
        RecordBatch::try_new(Arc::clone(&input.stream.columns), vec![Arc::new(column)]).expect("fits");
    let keys =
        format!("{}keep_alive = \"5s\"\ntopic = \"t\"\npayload = \"{{text}}\"\nqos = 0\n", fake.broker());
    let mut part = sink("mqtt", &keys, &input, &build_context());
    let (opened, _client) = tokio::join!(part.sink.open(), fake.welcome(false));
    opened.expect("opens");
    let start = Instant::now();
    let sending = async {
        part.sink.write(&batch).await?;
        part.sink.flush(1).await
    };
    let sent = tokio::time::timeout(LIMIT, sending).await.expect("does not hang");
    assert!(matches!(sent, Err(ConnectorError::Lost(_))), "{sent:?}");
    assert!(start.elapsed() < Duration::from_secs(13), "noticed after {:?}", start.elapsed());
}
