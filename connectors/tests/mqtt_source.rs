//! The source `mqtt` against a real Mosquitto: what it reads, acknowledges and
//! finds again. M1, M2, M3, M4, M6, M9, M10 and M11 by name.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use rumqttc::v5::mqttbytes::QoS;
use support::metrics::Counters;
use support::mosquitto::{
    FORGETFUL, Mosquitto, Outside, PERSISTENT, SILENCE, numbered, publish, publish_with,
};
use support::topology::build_context;
use support::{LIMIT, Read, assert_each_once, is_silent, read, source};
use tempfile::TempDir;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Source, SourcePart};
use tidegate_engine::topology::node::BuildContext;

/// A context with a data folder of its own.
fn context() -> (BuildContext, TempDir) {
    let folder = tempfile::tempdir().expect("a folder is made");
    (BuildContext { data_dir: folder.path().to_owned(), ..build_context() }, folder)
}

fn build(broker: &Mosquitto, more: &str, context: &BuildContext) -> SourcePart {
    let schema = "format = \"json\"\nschema = { n = \"int64\" }\nkeep_alive = \"5s\"\n";
    source("mqtt", &format!("{}{schema}{more}", broker.broker()), context)
}

async fn open(source: &mut dyn Source) {
    tokio::time::timeout(LIMIT, source.open(None)).await.expect("in time").expect("opens");
}

async fn commit(source: &dyn Source, read: &Read) {
    source.committer().expect("has one").commit(&read.position()).await.expect("is taken");
}

/// Reads numbers, each round durable at once.
async fn read_committing(source: &mut dyn Source, rows: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < rows {
        let round = read(source, 1).await;
        numbers.extend(round.numbers("n"));
        commit(source, &round).await;
    }
    numbers
}

async fn fails(source: &mut dyn Source) -> ConnectorError {
    let failing = async {
        loop {
            if let Err(error) = source.next().await {
                return error;
            }
        }
    };
    tokio::time::timeout(LIMIT, failing).await.expect("fails in time")
}

#[tokio::test]
async fn levels_of_the_topic_and_facts_of_the_message_become_columns() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let more = "topics = [\"fleet/{truck}/{what}\", \"plant/{press}/#\"]\ncolumns = [\"topic\", \"qos\", \"retain\"]\n";
    let mut part = build(&broker, more, &context);
    open(part.source.as_mut()).await;
    let messages =
        [("fleet/7/temp", "{\"n\":1}"), ("plant/p-1/a/b", "{\"n\":2}"), ("fleet/8/door/x", "{\"n\":3}")];
    publish(broker.port, messages.map(|(topic, text)| (topic.to_owned(), text.as_bytes().to_vec()))).await;
    let all = read(part.source.as_mut(), 2).await;
    assert_eq!(all.numbers("n"), [1, 2]);
    assert_eq!(all.texts("topic"), ["fleet/7/temp", "plant/p-1/a/b"]);
    assert_eq!(all.texts("truck"), ["7", "NULL"]);
    assert_eq!(all.texts("what"), ["temp", "NULL"]);
    assert_eq!(all.texts("press"), ["NULL", "p-1"]);
    let qos = all.items[0].batch.column_by_name("qos").expect("is there").clone();
    assert_eq!(qos.as_primitive::<arrow::datatypes::UInt8Type>().value(0), 1);
    let names = |schema: &arrow::datatypes::Schema| {
        schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&all.items[0].batch.schema()), names(&part.stream.columns));
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn reads_with_both_versions_and_every_qos() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    for version in ["5", "3.1.1"] {
        for (number, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
            let more = format!(
                "topics = [\"t\"]\nqos = {number}\nversion = \"{version}\"\nclient_id = \"v{version}-{number}\"\n"
            );
            let mut part = build(&broker, &more, &context);
            open(part.source.as_mut()).await;
            publish_with(broker.port, qos, numbered("t", 0..200)).await;
            let all = read_committing(part.source.as_mut(), 200).await;
            assert_eq!(all, (0..200).collect::<Vec<_>>(), "version {version}, QoS {number}");
            part.source.close().await.expect("closes");
            // All acknowledged: nothing comes again, and an open QoS 2 exchange ends in the new session.
            open(part.source.as_mut()).await;
            if qos == QoS::AtMostOnce {
                let told = read(part.source.as_mut(), 1).await.rejected("reason");
                assert!(told[0].starts_with("gap: we were away"), "{told:?}");
            }
            assert!(is_silent(part.source.as_mut(), SILENCE).await, "version {version}, QoS {number}");
            part.source.close().await.expect("closes");
        }
    }
}

#[tokio::test]
async fn members_of_a_shared_subscription_divide_the_messages() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let member = |id: &str| {
        build(&broker, &format!("topics = [\"$share/g/t/{{x}}\"]\nclient_id = \"{id}\"\n"), &context)
    };
    let (mut one, mut two) = (member("one"), member("two"));
    open(one.source.as_mut()).await;
    open(two.source.as_mut()).await;
    publish(broker.port, numbered("t/a", 0..100)).await;
    let (mut seen, mut shares) = (Vec::new(), [0, 0]);
    while seen.len() < 100 {
        for (part, share) in [&mut one, &mut two].into_iter().zip(&mut shares) {
            if let Ok(next) = tokio::time::timeout(Duration::from_millis(200), part.source.next()).await {
                let tidegate_engine::source::Polled::Rows(rows) = next.expect("reads") else {
                    panic!("ended")
                };
                let item = Read { items: vec![rows], ..Read::default() };
                *share += item.rows();
                seen.extend(item.numbers("n"));
            }
        }
    }
    assert_each_once(seen, 0..100);
    assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
}

#[tokio::test]
async fn m1_a_broker_killed_with_persistence_gives_everything() {
    let mut broker = Mosquitto::start(PERSISTENT);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t", 0..100)).await;
    let first = read(part.source.as_mut(), 100).await;
    commit(part.source.as_ref(), &first).await;
    part.source.close().await.expect("closes");
    // These wait at the broker, which the clients believe has them for good.
    publish(broker.port, numbered("t", 100..600)).await;
    support::until("the broker has them on disk", || disk_has(&broker, "{\"n\":599}")).await;
    broker.kill();
    let opened = tokio::time::timeout(LIMIT, part.source.open(None)).await.expect("in time");
    assert!(matches!(opened, Err(ConnectorError::Lost(_))), "{opened:?}");
    broker.restart();
    open(part.source.as_mut()).await;
    let second = read(part.source.as_mut(), 500).await;
    assert_each_once(first.numbers("n").into_iter().chain(second.numbers("n")), 0..600);
    part.source.close().await.expect("closes");
}

fn disk_has(broker: &Mosquitto, text: &str) -> bool {
    let bytes = std::fs::read(broker.database()).unwrap_or_default();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn m2_a_broker_that_lost_the_session_is_subscribed_again() {
    let counters = Counters::default();
    let _listening = counters.listen();
    let mut broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t/{x}\"]\n", &context);
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t/a", 0..10)).await;
    assert_eq!(read(part.source.as_mut(), 10).await.rows(), 10);
    broker.kill();
    assert!(matches!(fails(part.source.as_mut()).await, ConnectorError::Lost(_)));
    broker.restart();
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t/a", 10..20)).await;
    // A mark where messages may be missing, then the rows.
    let after = read(part.source.as_mut(), 11).await;
    assert_eq!(after.items[0].batch.num_rows(), 0);
    let reasons = after.rejected("reason");
    assert!(reasons.len() == 1 && reasons[0].starts_with("gap"), "{reasons:?}");
    assert_each_once(after.numbers("n"), 10..20);
    assert_eq!(counters.get("tidegate_mqtt_sessions_lost_total"), 1);
    commit(part.source.as_ref(), &after).await;
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m3_a_half_open_connection_is_noticed_within_twice_the_keep_alive() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    broker.signal("STOP");
    let stopped = Instant::now();
    let error = fails(part.source.as_mut()).await;
    assert!(matches!(error, ConnectorError::Lost(_)), "{error:?}");
    assert!(stopped.elapsed() < Duration::from_secs(12), "noticed after {:?}", stopped.elapsed());
    broker.signal("CONT");
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t", 0..3)).await;
    assert_eq!(read(part.source.as_mut(), 3).await.numbers("n"), [0, 1, 2]);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m4_what_was_received_and_not_acknowledged_comes_again() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t", 0..5)).await;
    let durable = read(part.source.as_mut(), 5).await;
    commit(part.source.as_ref(), &durable).await;
    publish(broker.port, numbered("t", 5..15)).await;
    assert_eq!(read(part.source.as_mut(), 10).await.rows(), 10);
    // The process dies here: no commit, no good-bye.
    let committer = part.source.committer();
    drop(part);
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    let again = read(part.source.as_mut(), 10).await;
    assert_eq!(again.numbers("n"), (5..15).collect::<Vec<_>>());
    // A commit that belongs to the connection before acknowledges nothing here.
    committer.expect("had one").commit(&again.position()).await.ok();
    drop(part);
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    let third = read(part.source.as_mut(), 10).await;
    assert_eq!(third.numbers("n"), (5..15).collect::<Vec<_>>());
    commit(part.source.as_ref(), &third).await;
    part.source.close().await.expect("closes");
    open(part.source.as_mut()).await;
    assert!(is_silent(part.source.as_mut(), SILENCE).await, "acknowledged messages came again");
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m6_a_stalled_sink_leaves_exactly_the_window_unacknowledged() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\nreceive_maximum = 10\n", &context);
    open(part.source.as_mut()).await;
    publish(broker.port, numbered("t", 0..100)).await;
    let window = read(part.source.as_mut(), 10).await;
    assert!(is_silent(part.source.as_mut(), SILENCE).await, "more than the window came");
    assert_eq!(window.numbers("n"), (0..10).collect::<Vec<_>>());
    commit(part.source.as_ref(), &window).await;
    // From here on Mosquitto 2.0.11 sends a whole window for each acknowledgement; nothing may be lost.
    let rest = read_committing(part.source.as_mut(), 90).await;
    assert_eq!(rest, (10..100).collect::<Vec<_>>());
    part.source.close().await.expect("closes");
}

/// M6 for QoS 0: a reader that stalls costs messages, counted, and not memory.
#[tokio::test]
async fn m6_without_acknowledgements_the_buffer_is_the_limit() {
    let counters = Counters::default();
    let _listening = counters.listen();
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\nqos = 0\nbuffer = \"64KiB\"\n", &context);
    open(part.source.as_mut()).await;
    let wide = format!("{{\"n\":0,\"pad\":\"{}\"}}", "x".repeat(744));
    let messages = (0..5_000).map(|_| ("t".to_owned(), wide.clone().into_bytes()));
    publish_with(broker.port, QoS::AtMostOnce, messages).await;
    publish(broker.port, numbered("t", 7..8)).await;
    // 1,000 bytes each, with what a message costs beside its payload: 64 or 65 fit.
    let mut kept = 0;
    while let Ok(next) = tokio::time::timeout(SILENCE, part.source.next()).await {
        let tidegate_engine::source::Polled::Rows(rows) = next.expect("reads") else { panic!("ended") };
        kept += rows.batch.num_rows();
    }
    assert!((60..=130).contains(&kept), "{kept} of 5001 kept");
    assert_eq!(counters.get("tidegate_mqtt_dropped_total"), 5_001 - kept as u64, "the others are counted");
    publish(broker.port, numbered("t", 8..9)).await;
    assert_eq!(read(part.source.as_mut(), 1).await.numbers("n"), [8]);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m9_payloads_that_are_no_rows_are_acknowledged_too() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\n", &context);
    open(part.source.as_mut()).await;
    let payloads = ["{\"n\":1}", "{\"n\":", "", "\u{0}\u{1}", "{\"n\":2}"];
    publish(broker.port, payloads.map(|text| ("t".to_owned(), text.as_bytes().to_vec()))).await;
    let mut all = Read::default();
    while all.rows() < 2 {
        all.items.extend(read(part.source.as_mut(), 1).await.items);
    }
    assert_eq!(all.numbers("n"), [1, 2]);
    let positions = all.rejected("position");
    assert!(positions.contains(&"t@2".to_owned()) && positions.contains(&"t@4".to_owned()), "{positions:?}");
    commit(part.source.as_ref(), &all).await;
    part.source.close().await.expect("closes");
    open(part.source.as_mut()).await;
    assert!(is_silent(part.source.as_mut(), SILENCE).await, "a bad payload came again");
    part.source.close().await.expect("closes");
}

/// Large, deep and broken payloads are rejects with place and reason; they are
/// acknowledged, and what comes after them is read.
#[tokio::test]
async fn payloads_that_mean_harm_are_rejects() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let limits = "packet_max = \"120MiB\"\npayload_max = \"1MiB\"\n";
    let mut part = build(&broker, &format!("topics = [\"t\"]\n{limits}"), &context);
    open(part.source.as_mut()).await;
    let payloads = [
        vec![b' '; 100 << 20],
        b"[".repeat(1 << 20),
        format!("{{\"n\":{}1", "[".repeat(100_000)).into_bytes(),
        b"{\"n\":1,\"x\":\"\xff\xfe\"}".to_vec(),
        b"{\"n\":1e999}".to_vec(),
        b"{\"n\":7}".to_vec(),
    ];
    publish(broker.port, payloads.map(|payload| ("t".to_owned(), payload))).await;
    let mut all = Read::default();
    while all.rows() == 0 {
        all.items.extend(read(part.source.as_mut(), 1).await.items);
    }
    assert_eq!(all.numbers("n"), [7]);
    assert_eq!(all.rejected("position"), ["t@1", "t@2", "t@3", "t@4", "t@5"]);
    let reasons = all.rejected("reason");
    for (reason, expected) in
        reasons.iter().zip(["payload_max", "expected an object", "nested", "unicode", "n"])
    {
        assert!(reason.contains(expected) && reason.len() < 300, "{reasons:?}");
    }
    commit(part.source.as_ref(), &all).await;
    part.source.close().await.expect("closes");
    open(part.source.as_mut()).await;
    assert!(is_silent(part.source.as_mut(), SILENCE).await, "a bad payload came again");
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m10_topics_that_changed_across_a_restart_are_the_new_ones() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let one = |topic: &str, n: i64| numbered(topic, n..n + 1);
    let mut part = build(&broker, "topics = [\"a/+\", \"b/+\"]\n", &context);
    open(part.source.as_mut()).await;
    part.source.close().await.expect("closes");
    publish(broker.port, [one("a/x", 1), one("b/x", 2), one("c/x", 3)].concat()).await;
    let mut part = build(&broker, "topics = [\"b/+\", \"c/+\"]\n", &context);
    open(part.source.as_mut()).await;
    publish(broker.port, [one("a/x", 4), one("b/x", 5), one("c/x", 6)].concat()).await;
    // What waited for the topic taken out (1) and came after (4) is no row; c had no subscription at 3.
    let mut numbers = read(part.source.as_mut(), 3).await.numbers("n");
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 5, 6]);
    assert!(is_silent(part.source.as_mut(), SILENCE).await);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn m11_two_clients_with_one_id_end_in_a_clear_error() {
    let broker = Mosquitto::start(FORGETFUL);
    let (context, _folder) = context();
    let mut part = build(&broker, "topics = [\"t\"]\nclient_id = \"twin\"\n", &context);
    let mut errors = Vec::new();
    let fatal = loop {
        open(part.source.as_mut()).await;
        let mut twin = Outside::new(broker.port, "twin");
        twin.subscribe("other").await;
        match fails(part.source.as_mut()).await {
            ConnectorError::Fatal(message) => break message,
            error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_)) => errors.push(error),
        }
        assert!(errors.len() < 10, "never gives up: {errors:?}");
    };
    assert!(fatal.contains("`twin`") && fatal.contains("client_id"), "{fatal}");
    // Mosquitto 2.0 closes without MQTT 5's reason 0x8E, so it takes six short lives.
    assert!(errors.len() <= 5, "{errors:?}");
}

#[tokio::test]
async fn a_wrong_password_is_named_and_the_right_one_is_read_at_each_connect() {
    let broker = Mosquitto::start("allow_anonymous false\npassword_file FOLDER/users\n");
    let (context, folder) = context();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "wrong\n").expect("is written");
    let more = format!("topics = [\"t\"]\nuser = \"u\"\npassword = \"secret://file{}\"\n", secret.display());
    let mut part = build(&broker, &more, &context);
    let refused = part.source.open(None).await.expect_err("is refused");
    assert!(matches!(&refused, ConnectorError::Lost(reason) if reason.contains("refuses")), "{refused:?}");
    std::fs::write(&secret, "right\n").expect("is written");
    open(part.source.as_mut()).await;
    part.source.close().await.expect("closes");
    std::fs::remove_file(&secret).expect("is there");
    let missing = part.source.open(None).await.expect_err("has no password");
    assert!(
        matches!(&missing, ConnectorError::Fatal(reason) if reason.contains("secret://file")),
        "{missing:?}"
    );
}
