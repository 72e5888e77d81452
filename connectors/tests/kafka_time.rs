//! Event time of the source `kafka` inside a running topology: one watermark
//! per partition, silence and outages.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::time::Duration;

use support::job::Running;
use support::kafka::{Given, Mock, produce};
use support::topology::build_context;
use support::{source, until};

/// A row of a partition with this event time in seconds.
fn at(partition: i32, seconds: i64) -> Given {
    Given::new(partition, format!("{{\"ts\":{seconds}}}"))
}

fn keys(mock: &Mock, more: &str) -> String {
    let rows =
        "format = \"json\"\nschema = { ts = \"timestamp\" }\ntime = { column = \"ts\", unit = \"s\" }\n";
    format!("{}topics = [\"t\"]\n{rows}{more}", mock.brokers())
}

fn start(mock: &Mock, idle: &str) -> Running {
    let more = format!("watermark = {{ idle = \"{idle}\" }}\n");
    Running::start(source("kafka", &keys(mock, &more), &build_context()))
}

/// Partition 1 lies an hour behind partition 0, partition 2 has no row: none
/// of them may make rows of another one late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_partition_has_a_watermark_of_its_own() {
    let mock = Mock::new(&[("t", 3)]);
    produce(&mock.servers, "t", (0..5_000).map(|n| at(0, 1_700_003_600 + n)));
    let running = start(&mock, "4s");
    until("partition 0 is read", || running.seen().rows == 5_000).await;
    assert_eq!(running.seconds(), None, "partitions 1 and 2 have said nothing");
    produce(&mock.servers, "t", (0..5_000).map(|n| at(1, 1_700_000_000 + n)));
    produce(&mock.servers, "t", (0..10).map(|n| at(2, 1_700_000_000 + n)));
    until("all is read", || running.seen().rows == 10_010).await;
    until("event time is the slowest partition's", || running.seconds() == Some(1_700_000_009)).await;
    produce(&mock.servers, "t", [at(2, 1_700_009_000)]);
    until("event time is the next one's", || running.seconds() == Some(1_700_004_999)).await;
    assert_eq!(running.seen().late, 0);
    running.stop().await;
}

/// A partition that never has a row holds nobody back for longer than `idle`,
/// however busy its neighbour is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_partition_is_idle_while_another_one_is_busy() {
    let mock = Mock::new(&[("t", 2)]);
    let running = start(&mock, "2s");
    let busy = async {
        let mut now = 1_700_000_000;
        while running.seconds().is_none() {
            produce(&mock.servers, "t", (0..100).map(|n| at(0, now + n)));
            now += 100;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::LIMIT, busy).await.expect("partition 1 is found idle");
    running.stop().await;
}

/// In silence event time follows the clock; with the brokers away it stands,
/// and what comes after the outage is not late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_not_taken_for_silence() {
    let mock = Mock::new(&[("t", 2)]);
    produce(&mock.servers, "t", [at(0, 1_700_000_000), at(1, 1_700_000_000)]);
    let running = start(&mock, "3s");
    until("event time follows the clock", || running.seconds() > Some(1_700_000_003)).await;
    mock.all_down();
    // The figures of librdkafka are a second old at most.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stands = running.seen().watermark;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.seen().watermark, stands);
    mock.all_up();
    let after = stands.expect("has come that far").div_euclid(1_000_000) + 1;
    produce(&mock.servers, "t", [at(0, after), at(1, after)]);
    until("the rows came", || running.seen().rows == 4).await;
    assert_eq!(running.seen().late, 0);
    until("event time follows the clock again", || running.seconds() > Some(after + 3)).await;
    running.stop().await;
}

/// K2: the topology is up, its source says that it is not connected, and event
/// time stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_brokers_that_are_away_at_the_start_are_waited_for() {
    let mock = Mock::new(&[("t", 1)]);
    produce(&mock.servers, "t", [at(0, 1_700_000_000)]);
    mock.all_down();
    let running = start(&mock, "1s");
    until("the source tries", || running.state() == "connecting").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((running.state().as_str(), running.seconds()), ("connecting", None));
    mock.all_up();
    until("the row came", || running.seen().rows == 1).await;
    assert_eq!(running.state(), "connected");
    running.stop().await;
}

/// A partition that goes to another member of the group takes its watermark
/// along.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_partition_holds_nobody_back() {
    let mock = Mock::new(&[("t", 2)]);
    let more = "group = \"g\"\nwatermark = { idle = \"10m\" }\nlibrdkafka = { \"session.timeout.ms\" = 3000, \"heartbeat.interval.ms\" = 300 }\n";
    let context = build_context();
    let one = Running::start(source("kafka", &keys(&mock, more), &context));
    produce(&mock.servers, "t", [at(0, 1_700_000_000), at(1, 1_700_000_000)]);
    until("the first member has both partitions", || one.seconds() == Some(1_700_000_000)).await;
    let two = Running::start(source("kafka", &keys(&mock, more), &context));
    // Neither is ever idle: event time goes on in both when each has its own partition only.
    let mut now = 1_700_000_000;
    let both_at = |time: i64| one.seconds() >= Some(time) && two.seconds() >= Some(time);
    let mut goal = None;
    let shared = async {
        while !goal.is_some_and(both_at) {
            now += 10;
            produce(&mock.servers, "t", [at(0, now), at(1, now)]);
            tokio::time::sleep(Duration::from_millis(50)).await;
            if goal.is_none() && two.seconds().is_some() {
                goal = Some(now + 100);
            }
        }
    };
    tokio::time::timeout(support::LIMIT, shared).await.expect("event time goes on in both members");
    one.stop().await;
    two.stop().await;
}
