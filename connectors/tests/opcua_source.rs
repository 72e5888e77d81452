//! What comes out of `source.opcua`: U4 U6 U9 U10 of the fault list, polling,
//! browse patterns, deadbands, full queues, and mistakes in the file.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::float_cmp,
    reason = "a test that fails says where; the values are whole numbers"
)]

#[path = "support/asyncua.rs"]
mod asyncua;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/python.rs"]
mod python;
#[path = "support/topology.rs"]
mod topology;
#[path = "support/uaserver.rs"]
mod uaserver;

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::array::AsArray;
use asyncua::{Asyncua, Options};
use feed::{Feed, Row, build};
use opcua::types::{DataValue, StatusCode, Variant};
use tidegate_engine::source::Polled;
use tidegate_engine::time::{Clock, SystemClock};
use uaserver::UaServer;

const FAST: &str = "sampling = \"0s\"\npublishing = \"50ms\"\n";

async fn server(nodes: usize) -> (UaServer, tempfile::TempDir) {
    let pki = tempfile::tempdir().expect("a folder");
    (UaServer::start(nodes, pki.path()).await, pki)
}

fn nodes(range: std::ops::Range<usize>) -> String {
    let list: Vec<String> =
        range.map(|node| format!("{{ node = \"nsu=urn:t;s=v{node}\", name = \"v{node}\" }}")).collect();
    format!("{FAST}nodes = [{}]", list.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn u4_more_than_a_thousand_values_in_one_message_are_read() {
    let (server, _pki) = server(3_000).await;
    let keys = format!("{FAST}nodes = [{{ browse = \"Objects/device/v*\" }}]");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    for round in [1.0, 2.0] {
        let values: Vec<_> =
            (0..3_000).map(|node| (server.node(&format!("v{node}")), DataValue::new_now(round))).collect();
        server.set(&values);
        let mut seen = BTreeSet::new();
        while seen.len() < 3_000 {
            let row = feed.row().await;
            if row.value == Some(round) {
                assert!(seen.insert(row.node.clone()), "{row:?} came twice");
            }
        }
    }
    assert_eq!(server.sessions_ever(), 1, "no connection was closed over it");
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u6_one_node_that_does_not_exist_is_reported_and_the_others_flow() {
    // One of them refuses the node, the other takes it and sends a bad value.
    let (ours, _pki) = server(1_000).await;
    let asyncua = Asyncua::start(Options { nodes: 1_000, ..Options::default() }).await;
    for endpoint in [ours.endpoint(), asyncua.endpoint()] {
        let keys = nodes(0..1_000).replace("s=v500\"", "s=nobody\"");
        let mut feed = Feed::open(&endpoint, &keys).await;
        let (mut good, mut bad) = (BTreeSet::new(), Vec::new());
        while good.len() < 999 || bad.is_empty() {
            let row = feed.row().await;
            if row.quality == "good" {
                good.insert(row.node);
            } else {
                bad.push(row);
            }
        }
        let told: Vec<_> =
            bad.iter().map(|row| (row.node.as_str(), row.status.as_str(), row.value)).collect();
        assert_eq!(told, [("v500", "BadNodeIdUnknown", None)], "{endpoint}");
        feed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_the_server_does_not_have_is_reported_too() {
    let (server, _pki) = server(1).await;
    for poll in ["", "poll = \"50ms\"\n"] {
        let keys = format!(
            "{FAST}{poll}nodes = [{{ node = \"nsu=urn:nobody;s=x\" }}, {{ node = \"nsu=urn:t;s=v0\" }}]"
        );
        let mut feed = Feed::open(&server.endpoint(), &keys).await;
        let bad = feed.until("the bad one", |row| row.quality == "bad").await;
        assert_eq!((bad.node.as_str(), bad.status.as_str()), ("nsu=urn:nobody;s=x", "BadNodeIdUnknown"));
        feed.until("the good one", |row| row.node == "nsu=urn:t;s=v0" && row.quality == "good").await;
        feed.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u9_bad_is_no_value_and_uncertain_is_one_and_both_keep_their_words() {
    let (server, _pki) = server(1).await;
    let mut feed = Feed::open(&server.endpoint(), &nodes(0..1)).await;
    feed.good().await;
    let with = |value: f64, status| DataValue { status: Some(status), ..DataValue::new_now(value) };
    server.set(&[(server.node("v0"), with(3.0, StatusCode::UncertainLastUsableValue))]);
    let uncertain = feed.until("the uncertain one", |row| row.quality == "uncertain").await;
    assert_eq!((uncertain.value, uncertain.status.as_str()), (Some(3.0), "UncertainLastUsableValue"));
    server.set(&[(server.node("v0"), with(4.0, StatusCode::BadSensorFailure))]);
    let bad = feed.until("the bad one", |row| row.quality == "bad").await;
    assert_eq!((bad.value, bad.status.as_str()), (None, "BadSensorFailure"));
    server.set(&[(server.node("v0"), with(5.0, StatusCode::Good))]);
    assert_eq!(feed.good().await, 5.0);
    feed.close().await;
}

/// 2023-11-14 22:13:20 UTC.
const START: i64 = 1_700_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn u10_a_time_that_is_missing_or_goes_back_or_lies_ahead_is_kept_apart() {
    let server = Asyncua::start(Options::default()).await;
    let mut feed = Feed::open(&server.endpoint(), &nodes(1..2)).await;
    feed.good().await;
    let mut value = 0.0;
    // Source and server time (`None` left out, 0 the year 1601 as "not set"), and the row's.
    for (source, received, expected) in [
        (format!("{}", START + 10), format!("{}", START + 100), Some(START + 10)),
        // Backwards: as it is, the driver's watermark judges it.
        (format!("{}", START + 5), format!("{}", START + 100), Some(START + 5)),
        // No source time: the server's.
        ("None".to_owned(), format!("{}", START + 20), Some(START + 20)),
        ("0".to_owned(), format!("{}", START + 30), Some(START + 30)),
        // Neither: when it came.
        ("None".to_owned(), "None".to_owned(), None),
        ("0".to_owned(), "0".to_owned(), None),
        // Ahead: the row says so, and the driver's guard keeps the watermark from it.
        ("4000000000".to_owned(), format!("{START}"), Some(4_000_000_000)),
    ] {
        value += 1.0;
        let before = SystemClock.now().0;
        server.order(&format!("await put_at('v1', {value}, {source}, {received})")).await;
        let row = feed.until("the value", |row| row.value == Some(value)).await;
        match expected {
            Some(seconds) => assert_eq!(row.ts_us, seconds * 1_000_000, "{row:?}"),
            None => assert!((before..=SystemClock.now().0).contains(&row.ts_us), "{row:?}"),
        }
    }
    assert_eq!(feed.part.watermark.max_future, Some(Duration::from_secs(300)));
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_reads_values_that_do_not_change_and_says_when_it_cannot() {
    let server = Asyncua::start(Options::default()).await;
    server.order("await put('v1', 5)").await;
    let keys = "poll = \"50ms\"\nrequest_timeout = \"1s\"\nkeep_alive = \"1s\"\nnodes = [\"x\"]".replace(
        "[\"x\"]",
        "[{ node = \"nsu=urn:t;s=v1\", name = \"a\" }, { node = \"nsu=urn:t;s=nobody\", name = \"b\" }]",
    );
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    for _ in 0..5 {
        let (a, b) = (feed.row().await, feed.row().await);
        assert_eq!((a.node.as_str(), a.value, a.quality.as_str()), ("a", Some(5.0), "good"));
        assert_eq!((b.node.as_str(), b.value, b.status.as_str()), ("b", None, "BadNodeIdUnknown"));
    }
    server.process.freeze();
    let gap = feed.until("a poll in vain", |row| row.node == "a" && row.quality == "bad").await;
    assert_eq!(gap.value, None);
    feed.until_connected(false).await;
    server.process.thaw();
    feed.until("polls go on", |row| row.value == Some(5.0)).await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_to_the_end_polls_once() {
    let server = Asyncua::start(Options::default()).await;
    let mut context = topology::build_context();
    context.once = true;
    let keys = "nodes = [{ browse = \"Objects/device/*\" }]";
    let mut feed = Feed::try_open_in(&server.endpoint(), keys, &context).await.expect("opens");
    let mut seen = Vec::new();
    while let Polled::Rows(rows) = feed.batch().await.expect("no error") {
        seen.extend(feed::rows_of(&rows.batch).into_iter().map(|row| row.node));
    }
    seen.sort();
    assert_eq!(seen, ["Objects/device/v0", "Objects/device/v1", "Objects/device/v2"]);
    feed.close().await;
    server.until("sessions()", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browse_patterns_find_nodes_and_fill_tags() {
    let server = Asyncua::start(Options { nodes: 12, ..Options::default() }).await;
    let keys = format!(
        "{FAST}nodes = [{{ browse = \"Objects/dev*/v1*\", name = \"{{path[2]}}\", tags = {{ machine = \"{{path[1]}}\" }} }}, {{ node = \"nsu=urn:t;s=v2\", tags = {{ line = \"3\" }} }}]"
    );
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    let mut seen = BTreeSet::new();
    while seen.len() < 4 {
        let Polled::Rows(rows) = feed.batch().await.expect("no error") else { panic!("it does not end") };
        for row in 0..rows.batch.num_rows() {
            let text = |name: &str| {
                rows.batch.column_by_name(name).expect("a column").as_string::<i32>().value(row).to_owned()
            };
            seen.insert((text("node"), text("machine"), text("line")));
        }
    }
    let of = |node: &str, machine: &str, line: &str| (node.to_owned(), machine.to_owned(), line.to_owned());
    let expected = [
        of("v1", "device", ""),
        of("v10", "device", ""),
        of("v11", "device", ""),
        of("nsu=urn:t;s=v2", "", "3"),
    ];
    assert_eq!(seen, BTreeSet::from(expected));
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_within_the_deadband_do_not_come() {
    let server = Asyncua::start(Options::default()).await;
    let keys = format!("{FAST}nodes = [{{ node = \"nsu=urn:t;s=v1\" }}]\ndeadband = {{ absolute = 2 }}");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    assert_eq!(feed.good().await, 0.0);
    for value in ["1", "1.5", "5", "6", "3.5", "10"] {
        server.order(&format!("await put('v1', {value})")).await;
    }
    // asyncua compares with the value before, not with the last one sent.
    assert_eq!((feed.good().await, feed.good().await, feed.good().await), (5.0, 3.5, 10.0));
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_did_not_fit_into_the_servers_queue_show_as_quality() {
    let (server, _pki) = server(1).await;
    let keys = nodes(0..1).replace("publishing = \"50ms\"", "publishing = \"1s\"\nqueue = 5");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    feed.good().await;
    for value in 1..=50 {
        server.set(&[(server.node("v0"), DataValue::new_now(f64::from(value)))]);
    }
    let row = feed.until("a hint at what is missing", |row| row.quality == "uncertain").await;
    // A good value, marked: the server has thrown older ones away.
    assert!(row.value.is_some(), "{row:?}");
    feed.until("the last value", |row| row.value == Some(50.0)).await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_another_type_is_told_and_not_silent() {
    let (server, _pki) = server(1).await;
    server.add_writable("text", Variant::from("on"), |_| StatusCode::Good);
    let keys = format!("{FAST}nodes = [{{ node = \"nsu=urn:t;s=text\" }}]");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    let row: Row = feed.row().await;
    assert_eq!((row.value, row.quality.as_str()), (None, "bad"), "{row:?}");
    assert!(row.status.contains("String") && row.status.contains("float64"), "{row:?}");
    feed.close().await;
}

#[test]
fn mistakes_in_the_file_are_named() {
    let whole = "endpoint = \"opc.tcp://x:4840\"\nnodes = [{ node = \"ns=2;s=a\" }]\n";
    let wrong = |change: (&str, &str), added: &str| {
        let keys = format!("{}{added}", whole.replace(change.0, change.1));
        let refused = build("opcua", &keys, &topology::build_context()).err().expect("is refused");
        let codes: Vec<&str> = refused.0.iter().map(|diagnostic| diagnostic.code).collect();
        codes.join(" ")
    };
    assert!(build("opcua", whole, &topology::build_context()).is_ok());
    assert_eq!(wrong(("opc.tcp", "http"), ""), "TG-O001");
    assert_eq!(wrong(("", ""), "policy = \"Basic256Sha256\"\nmode = \"None\""), "TG-O002");
    assert_eq!(wrong(("", ""), "mode = \"Sign\""), "TG-O002");
    assert_eq!(wrong(("ns=2;s=a", "speed"), ""), "TG-O003");
    assert_eq!(wrong(("{ node = \"ns=2;s=a\" }", "{ name = \"a\" }"), ""), "TG-O003");
    assert_eq!(wrong(("", ""), "deadband = { absolute = 1, percent = 1 }"), "TG-C006");
    assert_eq!(wrong(("", ""), "deadband = { percent = 101 }"), "TG-C006");
    assert_eq!(wrong(("", ""), "certificate = \"a.der\""), "TG-C004");
    assert_eq!(wrong(("", ""), "password = \"secret://env/X\""), "TG-C004");
    assert_eq!(wrong(("s=a\"", "s=a\", tags = { value = \"x\" }"), ""), "TG-T009");
}
