//! What a source of OPC UA does when an earlier process read before it: it takes
//! the subscription over, or tells a gap.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/asyncua.rs"]
mod asyncua;
#[path = "support/feed.rs"]
mod feed;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/python.rs"]
mod python;
#[path = "support/topology.rs"]
mod topology;
#[path = "support/uaserver.rs"]
mod uaserver;

use std::time::Duration;

use asyncua::{Asyncua, Options};
use feed::{Feed, Row};
use opcua::types::{DataValue, DateTime, DateTimeUtc};
use proxy::Proxy;
use tidegate_engine::source::Position;
use uaserver::UaServer;

const COUNTER: &str = r#"nodes = [{ node = "nsu=urn:t;s=v1", name = "counter" }]
sampling = "0s"
publishing = "50ms"
queue = 1000
keep_alive = "1s"
request_timeout = "2s""#;

const USER: &str = "user = \"operator\"\npassword = \"right\"";

/// The next number, and no other.
fn follows(row: &Row, last: &mut f64) {
    assert_eq!((row.value, row.quality.as_str()), (Some(*last + 1.0), "good"), "{row:?} after {last}");
    *last += 1.0;
}

/// Reads some numbers, one after the other.
async fn count(feed: &mut Feed, last: &mut f64, rows: usize) {
    for _ in 0..rows {
        follows(&feed.row().await, last);
    }
}

/// Ends the feed; what came and is in no batch yet is lost, as in a kill.
async fn ended(mut feed: Feed, last: &mut f64) -> Option<Position> {
    feed.rest().iter().for_each(|row| follows(row, last));
    feed.close().await;
    feed.position
}

/// The position with another value at a place.
fn with(position: Option<Position>, place: &str, value: i64) -> Option<Position> {
    let mut read: serde_json::Value = position.expect("there is one").read().expect("is JSON");
    *read.pointer_mut(place).expect("is there") = value.into();
    Some(Position::of(&read))
}

fn is_gap(row: &Row) -> bool {
    row.status.starts_with("Gap") && row.quality == "bad" && row.value.is_none() && row.node == "counter"
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncua_gives_a_subscription_back_and_no_value_is_lost() {
    let server = Asyncua::start(Options::default()).await;
    server.order("start_counting('v1', 0.02)").await;
    let mut feed = Feed::open(&server.endpoint(), COUNTER).await;
    let mut last = feed.good().await;
    for away in [0, 200, 1_500] {
        count(&mut feed, &mut last, 30).await;
        let position = ended(feed, &mut last).await;
        server.until("(sessions(), subscriptions())", "[0, 1]").await;
        tokio::time::sleep(Duration::from_millis(away)).await;
        feed = Feed::open_at(&server.endpoint(), COUNTER, position).await;
        count(&mut feed, &mut last, 100).await;
        server.until("(sessions(), subscriptions())", "[1, 1]").await;
    }
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn async_opcua_gives_it_back_to_a_user_and_not_to_anybody() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = UaServer::start_with(2, folder.path(), true).await;
    let (node, set) = (server.node("v1"), server.setter());
    let counting = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for number in 1_u32.. {
            ticks.tick().await;
            set(&[(node.clone(), DataValue::new_now(f64::from(number)))]);
        }
    });
    let keys = format!("{COUNTER}\n{USER}");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    let mut last = feed.good().await;
    for away in [0, 200, 1_500] {
        count(&mut feed, &mut last, 30).await;
        let position = ended(feed, &mut last).await;
        tokio::time::sleep(Duration::from_millis(away)).await;
        feed = Feed::open_at(&server.endpoint(), &keys, position).await;
        count(&mut feed, &mut last, 100).await;
        assert_eq!((server.sessions(), server.subscriptions()), (1, 1));
    }
    feed.close().await;
    let mut feed = Feed::open(&server.endpoint(), COUNTER).await;
    feed.good().await;
    feed.close().await;
    let mut feed = Feed::open_at(&server.endpoint(), COUNTER, feed.position.take()).await;
    let gap = feed.row().await;
    assert!(is_gap(&gap) && gap.status.contains("does not give the subscription back"), "{gap:?}");
    feed.good().await;
    feed.close().await;
    counting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_message_that_nobody_read_is_asked_for_again() {
    let server = Asyncua::start(Options::default()).await;
    server.order("await put('v1', 1)").await;
    let keys = COUNTER.replace("\"50ms\"", "\"1s\"");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    feed.commits = false;
    feed.until("the value", |row| row.value == Some(1.0)).await;
    // As if the process had ended between the subscription and its first message.
    let position = with(feed.position.take(), "/held/last", 0);
    feed.close().await;
    server.order("await put('v1', 2)").await;
    let mut feed = Feed::open_at(&server.endpoint(), &keys, position).await;
    let (first, second) = (feed.row().await, feed.row().await);
    assert_eq!((first.value, second.value), (Some(1.0), Some(2.0)), "{first:?} {second:?}");
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_over_is_a_gap_and_leaves_nothing_behind() {
    let server = Asyncua::start(Options::default()).await;
    let two = COUNTER.replace("}]", "}, { node = \"nsu=urn:t;s=v2\" }]");
    let absent = COUNTER.replace("}]", "}, { node = \"nsu=urn:t;s=v99\" }]");
    let quiet = format!("{COUNTER}\ndurable = false");
    let cases = [
        (COUNTER, two.as_str(), "other nodes are read now"),
        (COUNTER, "", "the server was restarted"),
        (absent.as_str(), absent.as_str(), "nobody was reading after 20"),
        (quiet.as_str(), quiet.as_str(), "nobody was reading after 20"),
    ];
    for (keys, then, why) in cases {
        server.order("await put('v1', 1)").await;
        let mut feed = Feed::open(&server.endpoint(), keys).await;
        feed.until("the value", |row| row.value == Some(1.0)).await;
        feed.close().await;
        let is_held = keys == COUNTER;
        server.until("(sessions(), subscriptions())", if is_held { "[0, 1]" } else { "[0, 0]" }).await;
        server.order("await put('v1', 2)").await;
        let mut position = feed.position.take();
        if then.is_empty() {
            position = with(position, "/held/server_started", 5);
        }
        let then = if then.is_empty() { keys } else { then };
        let mut feed = Feed::open_at(&server.endpoint(), then, position).await;
        let gap = feed.until("the gap", is_gap).await;
        assert!(gap.status.contains(why), "{gap:?}");
        feed.until("the value of now", |row| row.value == Some(2.0)).await;
        // The server's subscription of a start that never was ends by itself.
        let left = if why.contains("restarted") { "[1, 2]" } else { "[1, 1]" };
        server.until("(sessions(), subscriptions())", left).await;
        feed.close().await;
        server.order("await server.iserver.subscription_service.delete_subscriptions(list(server.iserver.subscription_service.subscriptions))").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_that_was_away_too_long_tells_a_gap() {
    let server = Asyncua::start(Options::default()).await;
    let keys = format!("{COUNTER}\npoll = \"400ms\"");
    let mut feed = Feed::open(&server.endpoint(), &keys).await;
    assert!(!is_gap(&feed.row().await), "there is nothing before the first start");
    feed.close().await;
    let mut feed = Feed::open_at(&server.endpoint(), &keys, feed.position.take()).await;
    let row = feed.row().await;
    assert!(row.value.is_some(), "away for less than three periods: {row:?}");
    feed.close().await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let mut feed = Feed::open_at(&server.endpoint(), &keys, feed.position.take()).await;
    let (gap, next) = (feed.row().await, feed.row().await);
    assert!(is_gap(&gap) && gap.status.contains("nobody was reading after 20"), "{gap:?}");
    assert!(next.value.is_some(), "{next:?}");
    // The clock was set back meanwhile: nobody knows for how long it was.
    let future = now_us() + 3_600_000_000;
    let position = Some(Position::of(&serde_json::json!({ "ticket": 0, "at": future, "held": null })));
    let mut feed = Feed::open_at(&server.endpoint(), &keys, position).await;
    assert!(is_gap(&feed.row().await));
    feed.close().await;
    // A position of an earlier version says at least that there was one.
    let mut feed = Feed::open_at(&server.endpoint(), &keys, Some(Position::of(&7))).await;
    assert!(is_gap(&feed.row().await));
    feed.close().await;
}

/// Microseconds since 1970, by the clock of this machine.
fn now_us() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is later than 1970");
    i64::try_from(since.as_micros()).expect("fits")
}

/// The time of a value that has not changed for long.
const OLD_S: i64 = 1_600_000_000;

/// A start that tells a gap, of a node that has not changed for long (v1) and of one
/// that has (v2): each gap stands right before its value and is no younger.
async fn each_gap_is_before_its_value(endpoint: &str) {
    let keys =
        COUNTER.replace("}]", "}, { node = \"nsu=urn:t;s=v2\", name = \"fresh\" }]") + "\ndurable = false";
    let mut feed = Feed::open(endpoint, &keys).await;
    // In any order.
    let (one, other) = (feed.row().await, feed.row().await);
    assert!(one.node != other.node && one.value.is_some() && other.value.is_some(), "{one:?} {other:?}");
    feed.close().await;
    let mut feed = Feed::open_at(endpoint, &keys, feed.position.take()).await;
    let mut rows = Vec::new();
    while rows.len() < 4 {
        rows.push(feed.row().await);
    }
    for node in ["counter", "fresh"] {
        let at = rows.iter().position(|row| row.node == node).expect("there is one");
        let (gap, value) = (&rows[at], &rows[at + 1]);
        assert!(gap.status.starts_with("Gap") && gap.value.is_none(), "{rows:#?}");
        assert!(value.node == node && value.value.is_some(), "{rows:#?}");
        assert!(gap.ts_us <= value.ts_us, "the value is late after its gap: {rows:#?}");
        assert_eq!(gap.ts_us == OLD_S * 1_000_000, node == "counter", "{rows:#?}");
    }
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_asyncua_does_not_make_the_value_after_it_late() {
    let server = Asyncua::start(Options::default()).await;
    server.order(&format!("await put_at('v1', 1, {OLD_S}, {OLD_S})")).await;
    server.order("await put_at('v2', 2, 1700000000, 1700000000)").await;
    each_gap_is_before_its_value(&server.endpoint()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_async_opcua_does_not_make_the_value_after_it_late() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = UaServer::start(3, folder.path()).await;
    let old = DateTime::from(DateTimeUtc::from_timestamp(OLD_S, 0).expect("a time"));
    let unchanged = DataValue { source_timestamp: Some(old), ..DataValue::new_now(1.0) };
    server.set(&[(server.node("v1"), unchanged), (server.node("v2"), DataValue::new_now(2.0))]);
    each_gap_is_before_its_value(&server.endpoint()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gap_of_a_silent_server_is_told_all_the_same() {
    let server = Asyncua::start(Options::default()).await;
    let proxy = Proxy::start(server.process.port).await;
    let endpoint = format!("opc.tcp://127.0.0.1:{}/t/", proxy.port);
    server.order("await put('v1', 1)").await;
    let keys = COUNTER.replace("\"50ms\"", "\"1s\"").replace("\"2s\"", "\"30s\"") + "\ndurable = false";
    let mut feed = Feed::open(&endpoint, &keys).await;
    feed.until("the value", |row| row.value == Some(1.0)).await;
    feed.close().await;
    let mut feed = Feed::open_at(&endpoint, &keys, feed.position.take()).await;
    proxy.orders().hold_answers(true);
    let opened_us = now_us();
    let gap = feed.row().await;
    assert!(is_gap(&gap) && gap.ts_us > opened_us + 2_000_000, "opened at {opened_us}: {gap:?}");
    proxy.orders().hold_answers(false);
    let value = feed.row().await;
    assert_eq!(value.value, Some(1.0), "the gap is told once: {value:?}");
    feed.close().await;
}
