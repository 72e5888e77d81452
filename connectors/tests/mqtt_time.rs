//! Event time of the source `mqtt` inside a running topology: silence is
//! believed as far as the broker's last sign of life.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::time::{Duration, Instant};

use support::job::Running;
use support::mosquitto::{FORGETFUL, Mosquitto, publish};
use support::topology::build_context;
use support::{source, until};
use tidegate_engine::topology::node::BuildContext;

const START: i64 = 1_700_000_000;

fn keys(broker: &Mosquitto) -> String {
    let rows =
        "format = \"json\"\nschema = { ts = \"timestamp\" }\ntime = { column = \"ts\", unit = \"s\" }\n";
    format!(
        "{}topics = [\"t\"]\nkeep_alive = \"5s\"\nwatermark = {{ idle = \"2s\" }}\n{rows}",
        broker.broker()
    )
}

async fn send(broker: &Mosquitto, seconds: i64) {
    publish(broker.port, [("t".to_owned(), format!("{{\"ts\":{seconds}}}").into_bytes())]).await;
}

/// Until event time stands for longer than a keep-alive, and then where.
async fn stands(running: &Running) -> i64 {
    loop {
        let before = running.seconds();
        tokio::time::sleep(Duration::from_secs(7)).await;
        if running.seconds() == before {
            return before.expect("rows have come");
        }
    }
}

/// M3 too: the broker hangs, which nobody notices for up to ten seconds; then
/// it goes on, and what waited at it is not late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_broker_is_not_taken_for_silence() {
    let broker = Mosquitto::start(FORGETFUL);
    let folder = tempfile::tempdir().expect("a folder is made");
    let context = BuildContext { data_dir: folder.path().to_owned(), ..build_context() };
    let running = Running::start(source("mqtt", &keys(&broker), &context));
    until("the session is there", || broker.log().contains("Sending SUBACK")).await;
    let sent = Instant::now();
    send(&broker, START).await;
    until("event time follows the clock", || running.seconds() > Some(START + 2)).await;
    broker.signal("STOP");
    let heard_at_most = START + i64::try_from(sent.elapsed().as_secs()).expect("short") + 1;
    let stood_at = tokio::time::timeout(support::LIMIT, stands(&running)).await.expect("it stands");
    assert!(stood_at <= heard_at_most, "{stood_at} is later than {heard_at_most}");
    broker.signal("CONT");
    send(&broker, stood_at + 1).await;
    until("the row came", || running.seen().rows == 2).await;
    assert_eq!(running.seen().late, 0);
    until("event time follows the clock again", || running.seconds() > Some(stood_at + 3)).await;
    running.stop().await;
}

/// The same with a broker that is killed, which is noticed at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_not_taken_for_silence() {
    let mut broker = Mosquitto::start(FORGETFUL);
    let folder = tempfile::tempdir().expect("a folder is made");
    let context = BuildContext { data_dir: folder.path().to_owned(), ..build_context() };
    let running = Running::start(source("mqtt", &keys(&broker), &context));
    until("the session is there", || broker.log().contains("Sending SUBACK")).await;
    send(&broker, START).await;
    until("event time follows the clock", || running.seconds() > Some(START + 2)).await;
    broker.kill();
    let stood_at = tokio::time::timeout(support::LIMIT, stands(&running)).await.expect("it stands");
    broker.restart();
    until("the session is there again", || broker.log().contains("Sending SUBACK")).await;
    send(&broker, stood_at + 1).await;
    until("the row came", || running.seen().rows == 2).await;
    assert_eq!(running.seen().late, 0);
    running.stop().await;
}
