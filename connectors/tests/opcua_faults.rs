//! OPC UA servers that are cut off, restarted or hung: U1 to U3 and U18 of the
//! fault list, against asyncua and async-opcua's server.

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
use opcua::types::DataValue;
use proxy::Proxy;
use tokio::time::{Instant, timeout};
use uaserver::UaServer;

/// One counting node, every value wanted.
const COUNTER: &str = r#"nodes = [{ node = "nsu=urn:t;s=v1", name = "counter" }]
sampling = "0s"
publishing = "50ms"
keep_alive = "1s"
request_timeout = "2s""#;

/// Messages that asyncua keeps until they are acknowledged.
const UNACKNOWLEDGED: &str = "sum(len(s._not_acknowledged_results) for s in server.iserver.subscription_service.subscriptions.values())";

/// Counts on the node `v1`, so that a missing value is a gap in the numbers.
fn count(server: &UaServer, every: Duration) -> impl Future<Output = ()> + use<> {
    let (node, set) = (server.node("v1"), server.setter());
    async move {
        let mut ticks = tokio::time::interval(every);
        for number in 1_u32.. {
            ticks.tick().await;
            set(&[(node.clone(), DataValue::new_now(f64::from(number)))]);
        }
    }
}

/// Cuts all connections again and again, each time at another moment; every
/// number must come, once and in order.
async fn drops(feed: &mut Feed, proxy: &Proxy, drops: u32) {
    let mut last = feed.good().await;
    let mut next = async |feed: &mut Feed| {
        let row = feed.row().await;
        let value = row.value.unwrap_or_else(|| panic!("{row:?} after {last}"));
        assert_eq!((value, row.quality.as_str()), (last + 1.0, "good"), "{row:?}");
        last = value;
    };
    for drop in 0..drops {
        for _ in 0..=drop % 3 {
            next(feed).await;
        }
        // Not always right after a message.
        tokio::time::sleep(Duration::from_millis(u64::from(drop * 7 % 40))).await;
        proxy.orders().drop_all();
    }
    for _ in 0..20 {
        next(feed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn u1_a_hundred_lost_connections_lose_no_value() {
    let pki = tempfile::tempdir().expect("a folder");
    let server = UaServer::start(2, pki.path()).await;
    let proxy = Proxy::start(server.port).await;
    let counting = tokio::spawn(count(&server, Duration::from_millis(20)));
    let mut feed = Feed::open(&format!("opc.tcp://127.0.0.1:{}/", proxy.port), COUNTER).await;
    drops(&mut feed, &proxy, 100).await;
    assert_eq!((server.sessions(), server.sessions_ever()), (1, 1), "one session outlives them all");
    assert_eq!(server.subscriptions(), 1);
    feed.close().await;
    counting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn u1_lost_connections_to_asyncua_lose_no_value() {
    let server = Asyncua::start(Options::default()).await;
    let proxy = Proxy::start(server.process.port).await;
    server.order("start_counting('v1', 0.02)").await;
    let mut feed = Feed::open(&format!("opc.tcp://127.0.0.1:{}/t/", proxy.port), COUNTER).await;
    drops(&mut feed, &proxy, 40).await;
    server.until("(sessions(), subscriptions())", "[1, 1]").await;
    feed.close().await;
    server.until("sessions()", "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u1_a_connection_lost_before_the_first_message_loses_nothing() {
    let server = Asyncua::start(Options::default()).await;
    let proxy = Proxy::start(server.process.port).await;
    server.order("await put('v1', 1)").await;
    // Slow enough to stop the first message on its way.
    let keys = COUNTER.replace("\"50ms\"", "\"1s\"");
    let mut feed = Feed::open(&format!("opc.tcp://127.0.0.1:{}/t/", proxy.port), &keys).await;
    proxy.orders().hold_answers(true);
    server.until(UNACKNOWLEDGED, "1").await;
    server.order("await put('v1', 2)").await;
    server.until(UNACKNOWLEDGED, "2").await;
    proxy.orders().drop_all();
    proxy.orders().hold_answers(false);
    let (first, second) = (feed.row().await, feed.row().await);
    assert_eq!((first.value, second.value), (Some(1.0), Some(2.0)), "{first:?} {second:?}");
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_acknowledged_when_its_rows_are_durable_and_not_before() {
    let server = Asyncua::start(Options::default()).await;
    let mut feed = Feed::open(&server.endpoint(), COUNTER).await;
    feed.commits = false;
    for value in [1.0, 2.0, 3.0] {
        server.order(&format!("await put('v1', {value})")).await;
        feed.until("the value", |row| row.value == Some(value)).await;
    }
    // The keep-alives that follow carry acknowledgements, if there are any.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.until(&format!("{UNACKNOWLEDGED} >= 3"), "true").await;
    feed.commits = true;
    server.order("await put('v1', 4)").await;
    feed.until("the value", |row| row.value == Some(4.0)).await;
    server.until(UNACKNOWLEDGED, "0").await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u2_a_restarted_server_is_read_on_with_its_new_numbers_after_a_gap() {
    let server = Asyncua::start(Options { namespaces: "urn:other,urn:t", ..Options::default() }).await;
    let (port, endpoint) = (server.process.port, server.endpoint());
    server.order("await put('v1', 7)").await;
    let mut feed = Feed::open(&endpoint, COUNTER).await;
    assert_eq!(feed.until("the first value", |row| row.value == Some(7.0)).await.node, "counter");
    drop(server);
    feed.until_connected(false).await;
    // Now `urn:t` comes first: the same node has another number.
    let server = Asyncua::start(Options { port, namespaces: "urn:t,urn:other", ..Options::default() }).await;
    let gap = feed.until("the gap", |row| row.status.starts_with("Gap")).await;
    assert_eq!((gap.node.as_str(), gap.value, gap.quality.as_str()), ("counter", None, "bad"));
    assert!(gap.status.contains("the server was restarted"), "{gap:?}");
    server.order("await put('v1', 8)").await;
    feed.until("a value of the new server", |row| row.value == Some(8.0)).await;
    assert!(feed.is_connected());
    server.until("(sessions(), subscriptions())", "[1, 1]").await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u3_a_server_that_hangs_is_noticed_and_nothing_is_lost_when_it_goes_on() {
    let server = Asyncua::start(Options::default()).await;
    server.order("start_counting('v1', 0.05)").await;
    let mut feed = Feed::open(&server.endpoint(), COUNTER).await;
    let before = feed.good().await;
    server.process.freeze();
    let frozen = Instant::now();
    feed.until_connected(false).await;
    // A keep-alive every second, two unanswered for two seconds each, and some slack.
    assert!(frozen.elapsed() < Duration::from_secs(12), "noticed after {:?}", frozen.elapsed());
    server.process.thaw();
    let mut last = before;
    while last < before + 200.0 {
        let row = feed.row().await;
        assert_eq!(row.value, Some(last + 1.0), "{row:?} after {last}");
        last += 1.0;
    }
    assert!(feed.is_connected());
    server.until("(sessions(), subscriptions())", "[1, 1]").await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn u3_a_session_that_the_server_has_dropped_is_a_gap_and_not_the_end() {
    let server = Asyncua::start(Options::default()).await;
    let proxy = Proxy::start(server.process.port).await;
    server.order("await put('v1', 1)").await;
    let mut feed = Feed::open(&format!("opc.tcp://127.0.0.1:{}/t/", proxy.port), COUNTER).await;
    feed.until("the first value", |row| row.value == Some(1.0)).await;
    // As after a time-out: the server forgets sessions and subscriptions.
    server
        .order("[await s.close_session(True) for s in list(server.iserver._external_sessions.values())]")
        .await;
    proxy.orders().drop_all();
    let gap = feed.until("the gap", |row| row.status.starts_with("Gap")).await;
    assert!(gap.status.contains("forgotten"), "{gap:?}");
    server.order("await put('v1', 2)").await;
    feed.until("values go on", |row| row.value == Some(2.0)).await;
    server.until("(sessions(), subscriptions())", "[1, 1]").await;
    feed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_connection_the_source_says_so_and_an_absent_server_is_an_error() {
    let port = python::free_port();
    let endpoint = format!("opc.tcp://127.0.0.1:{port}/t/");
    let absent = Feed::try_open(&endpoint, COUNTER).await.err().expect("nobody is there");
    assert!(absent.to_string().contains(&endpoint), "{absent}");
    let server = Asyncua::start(Options { port, ..Options::default() }).await;
    let mut feed = Feed::open(&endpoint, COUNTER).await;
    assert!(feed.is_connected());
    feed.good().await;
    drop(server);
    feed.until_connected(false).await;
    // Going away while nobody is there takes no longer than a goodbye may.
    timeout(Duration::from_secs(6), feed.close()).await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_while_a_hung_server_is_asked_for_its_endpoints_ends_at_once() {
    let server = Asyncua::start(Options::default()).await;
    server.process.freeze();
    let keys = format!("endpoint = \"{}\"\n{COUNTER}\nrequest_timeout = \"60s\"", server.endpoint());
    let keys = keys.replace("request_timeout = \"2s\"\n", "");
    let part = feed::build("opcua", &keys, &topology::build_context()).unwrap_or_else(|e| panic!("{e}"));
    let mut source = part.source;
    // The driver gives up opening when it is told to stop, and closes.
    assert!(timeout(Duration::from_millis(300), source.open(None)).await.is_err());
    timeout(Duration::from_secs(6), source.close()).await.expect("in time").expect("closes");
    server.process.thaw();
}

#[tokio::test(flavor = "multi_thread")]
async fn u18_a_graceful_stop_leaves_neither_session_nor_subscription() {
    let server = Asyncua::start(Options::default()).await;
    for keys in [format!("{COUNTER}\ndurable = false"), format!("{COUNTER}\npoll = \"50ms\"")] {
        let mut feed = Feed::open(&server.endpoint(), &keys).await;
        let _: Row = feed.row().await;
        server.until("sessions()", "1").await;
        feed.close().await;
        server.until("(sessions(), subscriptions())", "[0, 0]").await;
    }
}
