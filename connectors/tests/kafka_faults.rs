//! The source `kafka` and brokers that go away, consumers that stall, messages
//! that are no rows: the scenarios K1, K2, K5, K6 and K13.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::time::{Duration, Instant};

use arrow::array::AsArray;
use support::kafka::{Given, Mock, committed, produce};
use support::topology::build_context;
use support::{LIMIT, assert_each_once, is_silent, read, source, until};

fn keys(mock: &Mock, more: &str) -> String {
    format!("{}topics = [\"t\"]\nformat = \"json\"\nschema = {{ n = \"int64\" }}\n{more}", mock.brokers())
}

fn numbered(range: std::ops::Range<i64>) -> Vec<Given> {
    let partition = |n: i64| i32::try_from(n % 4).expect("small");
    range.map(|n| Given::new(partition(n), format!("{{\"n\":{n}}}"))).collect()
}

#[tokio::test]
async fn k1_brokers_restart_while_reading_and_nothing_is_lost_or_doubled() {
    let mock = Mock::new(&[("t", 4)]);
    produce(&mock.servers, "t", numbered(0..2_000));
    let mut part = source("kafka", &keys(&mock, ""), &build_context());
    part.source.open(None).await.expect("opens");
    let mut seen = read(part.source.as_mut(), 2_000).await.numbers("n");
    mock.all_down();
    assert!(is_silent(part.source.as_mut(), Duration::from_secs(3)).await);
    let silence = part.source.silence().expect("tells");
    let believed = || (0..4).filter(|partition| silence.known_until(*partition).is_some()).count();
    until("the outage is noticed", || believed() == 0).await;
    mock.all_up();
    let up = Instant::now();
    produce(&mock.servers, "t", numbered(2_000..4_000));
    let after = read(part.source.as_mut(), 2_000).await;
    // Twice the longest back-off of 2 s, and as much again for a busy machine.
    assert!(up.elapsed() < Duration::from_secs(8), "resumed after {:?}", up.elapsed());
    // All but the partition whose rows came last: they may be on their way to the engine.
    let last = after.items.last().expect("rows came").partition;
    until("it is believed again", || believed() >= 3).await;
    assert_eq!(silence.known_until(last), None);
    seen.extend(after.numbers("n"));
    assert_each_once(seen, 0..4_000);
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn k2_all_brokers_down_at_the_start_is_waited_for() {
    let mock = Mock::new(&[("t", 4)]);
    produce(&mock.servers, "t", numbered(0..100));
    mock.all_down();
    let mut part = source("kafka", &keys(&mock, ""), &build_context());
    {
        let mut opening = std::pin::pin!(part.source.open(None));
        let early = tokio::time::timeout(Duration::from_secs(3), &mut opening).await;
        assert!(early.is_err(), "a broker that is away is no error: {early:?}");
        mock.all_up();
        tokio::time::timeout(LIMIT, opening).await.expect("in time").expect("opens");
    }
    assert_eq!(read(part.source.as_mut(), 100).await.rows(), 100);
    part.source.close().await.expect("closes");
}

/// Stalls for longer than `max.poll.interval.ms`: a consumer that had stopped
/// polling would be thrown out, and read everything again from the start.
#[tokio::test]
async fn k5_a_stalled_sink_costs_neither_the_membership_nor_memory() {
    let mock = Mock::new(&[("t", 4)]);
    let wide = format!("{{\"n\":0,\"pad\":\"{}\"}}", "x".repeat(900));
    // Partition 3 is empty.
    let messages = (0..15_000).map(|n| Given::new(n % 3, wide.replace("\"n\":0", &format!("\"n\":{n}"))));
    produce(&mock.servers, "t", messages);
    let limits = "librdkafka = { \"max.poll.interval.ms\" = 4000, \"session.timeout.ms\" = 4000, \"queued.max.messages.kbytes\" = 512 }\n";
    let mut part = source("kafka", &keys(&mock, limits), &build_context());
    part.source.open(None).await.expect("opens");
    let mut seen = read(part.source.as_mut(), 1).await.numbers("n");
    let stall = async || tokio::time::sleep(Duration::from_secs(5)).await;
    stall().await;
    let before = resident_bytes();
    let silence = part.source.silence().expect("tells");
    // Nobody fetches: not even the empty partition's silence is known.
    assert!((0..4).all(|partition| silence.known_until(partition).is_none()));
    stall().await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes more after five more seconds");
    let rest = 15_000 - seen.len();
    seen.extend(read(part.source.as_mut(), rest).await.numbers("n"));
    assert!(is_silent(part.source.as_mut(), Duration::from_secs(4)).await, "something came twice");
    assert_each_once(seen, 0..15_000);
    part.source.close().await.expect("closes");
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("the second figure");
    pages * 4_096
}

#[tokio::test]
async fn k6_a_poison_message_is_rejected_with_its_place_and_the_offset_moves_on() {
    let mock = Mock::new(&[("t", 1)]);
    let tombstone = Given { payload: None, key: Some(b"k".to_vec()), ..Given::default() };
    let messages = [
        Given::new(0, "{\"n\":1}"),
        Given::new(0, "{\"n\":"),
        Given::new(0, [0xff, 0xfe, 0x00]),
        tombstone,
        Given::new(0, vec![b' '; 100_000]),
        Given::new(0, format!("{{\"n\":{}", "[".repeat(9_000))),
        Given::new(0, "{\"n\":5}"),
    ];
    produce(&mock.servers, "t", messages);
    let mut part =
        source("kafka", &keys(&mock, "group = \"g\"\npayload_max = \"10KiB\"\n"), &build_context());
    part.source.open(None).await.expect("opens");
    let all = read(part.source.as_mut(), 6).await;
    assert_eq!(all.numbers("n"), [1, 5]);
    assert_eq!(all.rejected("position"), ["t/0@1", "t/0@2", "t/0@4", "t/0@5"]);
    let reasons = all.rejected("reason");
    for (reason, expected) in reasons.iter().zip(["brackets", "expected an object", "payload_max", "nested"])
    {
        assert!(reason.contains(expected), "{reasons:?}");
    }
    let rejects = all.items.iter().filter_map(|item| item.rejects.as_ref());
    let payloads: Vec<Vec<u8>> = rejects
        .map(|batch| batch.column_by_name("payload").expect("is there"))
        .flat_map(|column| column.as_binary::<i32>().iter().flatten().map(<[u8]>::to_vec).collect::<Vec<_>>())
        .collect();
    assert_eq!(payloads[..2], [b"{\"n\":".to_vec(), vec![0xff, 0xfe, 0x00]]);
    part.source.committer().expect("has one").commit(&all.position()).await.expect("is left");
    until("the bad rows are behind us", || committed(&mock.servers, "g", "t", 1) == [Some(7)]).await;
    part.source.close().await.expect("closes");
}

#[tokio::test]
async fn k13_a_stop_with_the_brokers_away_ends_within_the_grace() {
    let mock = Mock::new(&[("t", 4)]);
    produce(&mock.servers, "t", numbered(0..100));
    let mut part = source("kafka", &keys(&mock, ""), &build_context());
    part.source.open(None).await.expect("opens");
    let all = read(part.source.as_mut(), 100).await;
    mock.all_down();
    // A commit is on its way that can never be answered.
    part.source.committer().expect("has one").commit(&all.position()).await.expect("is left");
    let stop = Instant::now();
    part.source.close().await.expect("closes");
    assert!(stop.elapsed() < Duration::from_secs(7), "closed after {:?}", stop.elapsed());
    // The same for one that was never connected.
    let opened = tokio::time::timeout(Duration::from_millis(500), part.source.open(None)).await;
    assert!(opened.is_err(), "opened without a broker");
    let stop = Instant::now();
    part.source.close().await.expect("closes");
    assert!(stop.elapsed() < Duration::from_secs(7), "closed after {:?}", stop.elapsed());
}
