//! Modbus devices that are off, late, short, busy, silent or slow: B1 to B7 and
//! B11 of the fault list, with a scripted device on a real socket.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "support/plc.rs"]
mod plc;
#[path = "support/topology.rs"]
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use plc::{Answer, Frames, Plc};
use tidegate_connectors::SOURCES;
use tidegate_engine::source::{Polled, Source};
use tokio::time::{Instant, timeout};

/// Nothing here takes longer.
const LIMIT: Duration = Duration::from_secs(20);

async fn open(port: u16, unit: &str, every: &str, points: &str) -> Box<dyn Source> {
    let text = format!(
        "[source.plc]\ntype = \"modbus\"\ndevice = \"tcp://127.0.0.1:{port}\"\nunit_id = {unit}\nevery = \"{every}\"\ntimeout = \"300ms\"\npoints = [{points}]\n"
    );
    let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
    let part = (row.build)(&topology::node(&text), &topology::build_context());
    let mut source = part.unwrap_or_else(|error| panic!("{error}")).source;
    source.open(None).await.expect("opens even without a device");
    source
}

async fn rows(source: &mut Box<dyn Source>) -> RecordBatch {
    match timeout(LIMIT, source.next()).await.expect("rows in time").expect("no error") {
        Polled::Rows(rows) => rows.batch,
        Polled::End | Polled::Partitions(_) => panic!("no rows"),
    }
}

/// Quality and values of the points of each row.
fn read(batch: &RecordBatch) -> Vec<(String, Vec<Option<i64>>)> {
    let quality = batch.column_by_name("quality").expect("a column").as_string::<i32>().clone();
    let first = batch.schema().index_of("quality").expect("a column") + 1;
    (0..batch.num_rows())
        .map(|row| {
            let values = (first..batch.num_columns()).map(|column| {
                let column = batch.column(column).as_primitive::<Int64Type>();
                (!column.is_null(row)).then(|| column.value(row))
            });
            (quality.value(row).to_owned(), values.collect())
        })
        .collect()
}

/// Rows until one of them satisfies the condition, each of them checked.
async fn until(source: &mut Box<dyn Source>, check: impl Fn(&str, &[Option<i64>]), wanted: &str) -> Duration {
    let started = Instant::now();
    loop {
        for (quality, values) in read(&rows(source).await) {
            check(&quality, &values);
            if quality == wanted {
                return started.elapsed();
            }
        }
        assert!(started.elapsed() < LIMIT, "no row of quality {wanted}");
    }
}

fn right(start: i64) -> impl Fn(&str, &[Option<i64>]) {
    move |quality, values| {
        for (index, value) in (start..).zip(values) {
            assert!(value.is_none_or(|value| value == index), "{quality}: {values:?}");
        }
    }
}

const THREE: &str = r#"{ name = "a", register = "holding:10" }, { name = "b", register = "holding:11" }, { name = "c", register = "holding:12" }"#;

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_device_that_is_off_gives_bad_rows_and_comes_back_by_itself() {
    let port = {
        let device = Plc::start(Frames::Tcp, |_| Answer::Right).await;
        device.port
    };
    let mut source = open(port, "1", "50ms", THREE).await;
    for (quality, values) in read(&rows(&mut source).await) {
        assert_eq!((quality.as_str(), values), ("bad", vec![None, None, None]));
    }
    let device = Plc::start_on(port, Frames::Tcp, |_| Answer::Right).await;
    until(&mut source, right(10), "good").await;
    drop(device);
    until(&mut source, right(10), "bad").await;
    let _device = Plc::start_on(port, Frames::Tcp, |_| Answer::Right).await;
    until(&mut source, right(10), "good").await;
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_device_the_source_says_so_even_if_it_gives_no_rows() {
    let device = Plc::start(Frames::Tcp, |_| Answer::Right).await;
    let port = device.port;
    let mut source = open(port, "1", "50ms\"\non_failure = \"skip", THREE).await;
    until(&mut source, right(10), "good").await;
    assert!(topology::is_connected(source.as_ref()));
    // Without rows event time would go on; without a connection it stands.
    drop(device);
    while topology::is_connected(source.as_ref()) {
        for (quality, _) in read(&rows(&mut source).await) {
            assert_eq!(quality, "good", "no rows are given for failures");
        }
    }
    let _device = Plc::start_on(port, Frames::Tcp, |_| Answer::Exception(2)).await;
    while !topology::is_connected(source.as_ref()) {
        rows(&mut source).await;
    }
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_silent_unit_does_not_slow_the_others_down() {
    let device =
        Plc::start(Frames::Tcp, |read| if read.unit == 9 { Answer::Silence } else { Answer::Right }).await;
    let mut source = open(device.port, "[1, 9, 2]", "50ms", THREE).await;
    let started = Instant::now();
    let mut good = 0;
    while started.elapsed() < Duration::from_secs(3) {
        good += read(&rows(&mut source).await).iter().filter(|(quality, _)| quality == "good").count();
    }
    // Two units, twenty polls a second; unit 9 costs two or three time-outs of 300 ms.
    assert!(good >= 60, "{good} good rows in three seconds");
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b2_a_late_answer_is_never_taken_for_another_request() {
    let calls = AtomicU32::new(0);
    // Every third answer comes after the time-out, when the next request is on its way.
    let device = Plc::start(Frames::Tcp, move |_| {
        if calls.fetch_add(1, Relaxed).is_multiple_of(3) {
            Answer::Late(Duration::from_millis(350))
        } else {
            Answer::Right
        }
    })
    .await;
    // Two blocks, so that an answer could be taken for the other one's.
    let points = r#"{ name = "a", register = "holding:10" }, { name = "b", register = "holding:500" }"#;
    let mut source = open(device.port, "1", "20ms", points).await;
    let started = Instant::now();
    let mut seen = 0;
    while started.elapsed() < Duration::from_secs(4) {
        for (quality, values) in read(&rows(&mut source).await) {
            assert!(values[0].is_none_or(|value| value == 10), "{quality} {values:?}");
            assert!(values[1].is_none_or(|value| value == 500), "{quality} {values:?}");
            seen += values.iter().flatten().count();
        }
    }
    assert!(seen > 0, "some polls succeed");
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b3_b11_a_missing_register_is_isolated_and_the_others_are_read() {
    let reads = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&reads);
    let device = Plc::start(Frames::Tcp, move |read| {
        counter.fetch_add(1, Relaxed);
        if (read.start..read.start + read.count).contains(&11) { Answer::Exception(2) } else { Answer::Right }
    })
    .await;
    let mut source = open(device.port, "1", "30ms", THREE).await;
    for _ in 0..10 {
        for (quality, values) in read(&rows(&mut source).await) {
            assert_eq!((quality.as_str(), values), ("uncertain", vec![Some(10), None, Some(12)]));
        }
    }
    // Learnt: after the first poll two requests each, not a search every time.
    let before = reads.load(Relaxed);
    let batch = rows(&mut source).await;
    let requests = reads.load(Relaxed) - before;
    assert!(requests <= 2 * (u32::try_from(batch.num_rows()).expect("few") + 1), "{requests}");
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b4_a_busy_unit_is_asked_again_and_a_gateway_keeps_the_line() {
    let calls = AtomicU32::new(0);
    let device = Plc::start(Frames::Tcp, move |read| match (read.unit, calls.fetch_add(1, Relaxed)) {
        (1, 0) => Answer::Exception(6),
        (1, 1) => Answer::Exception(5),
        (2, _) => Answer::Exception(0x0B),
        (_, _) => Answer::Right,
    })
    .await;
    let mut source = open(device.port, "[1, 2]", "50ms", THREE).await;
    let first = loop {
        // Without rows: the line has begun to answer.
        if let Some(row) = read(&rows(&mut source).await).into_iter().next() {
            break row;
        }
    };
    assert_eq!(first.0, "good", "busy twice, then read within one poll");
    until(&mut source, |_, _| {}, "bad").await;
    until(&mut source, right(10), "good").await;
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b5_short_and_garbled_answers_are_bad_rows_and_pass_within_a_second() {
    for broken in [Answer::Short, Answer::Garbage] {
        let calls = AtomicU32::new(0);
        let wrong = broken.clone();
        let device = Plc::start(Frames::Tcp, move |_| {
            if calls.fetch_add(1, Relaxed) == 3 { wrong.clone() } else { Answer::Right }
        })
        .await;
        let mut source = open(device.port, "1", "50ms", THREE).await;
        until(&mut source, right(10), "bad").await;
        let back = until(&mut source, right(10), "good").await;
        assert!(back < Duration::from_secs(1), "{broken:?}: {back:?}");
        source.close().await.expect("closes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b6_a_device_that_takes_the_connection_and_never_answers_is_left_and_found_again() {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let switch = Arc::clone(&silent);
    let device =
        Plc::start(Frames::Tcp, move |_| if switch.load(Relaxed) { Answer::Silence } else { Answer::Right })
            .await;
    let mut source = open(device.port, "1", "50ms", THREE).await;
    until(&mut source, right(10), "bad").await;
    silent.store(false, Relaxed);
    until(&mut source, right(10), "good").await;
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn b7_a_device_slower_than_the_interval_is_polled_at_its_own_pace() {
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let device = Plc::start(Frames::Tcp, move |_| {
        counter.fetch_add(1, Relaxed);
        Answer::Late(Duration::from_millis(100))
    })
    .await;
    let mut source = open(device.port, "1", "10ms", THREE).await;
    let started = Instant::now();
    let mut good = 0;
    while started.elapsed() < Duration::from_secs(2) {
        good += read(&rows(&mut source).await).iter().filter(|(quality, _)| quality == "good").count();
    }
    let asked = calls.load(Relaxed);
    assert!((10..=25).contains(&asked), "{asked} polls of 100 ms in two seconds");
    assert!(u32::try_from(good).expect("few") + 2 >= asked, "{good} rows of {asked} polls");
    source.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_long_after_the_last_row_begins_with_a_row_of_quality_bad() {
    let plc = Plc::start(Frames::Tcp, |_| Answer::Right).await;
    let port: u16 = plc.device.rsplit(':').next().expect("a port").parse().expect("a number");
    let build = |more: &str| {
        let text = format!(
            "[source.plc]\ntype = \"modbus\"\ndevice = \"tcp://127.0.0.1:{port}\"\nunit_id = [1, 2]\nevery = \"200ms\"\npoints = [{{ name = \"a\", register = \"holding:0\" }}]\n{more}"
        );
        let row = SOURCES.iter().find(|row| row.name == "modbus").expect("a row");
        let part = (row.build)(&topology::node(&text), &topology::build_context());
        part.unwrap_or_else(|error| panic!("{error}")).source
    };
    let first_two = async |source: &mut Box<dyn Source>| {
        let (mut qualities, mut position) = (Vec::new(), None);
        while qualities.len() < 2 {
            let polled = timeout(LIMIT, source.next()).await.expect("rows in time").expect("no error");
            let Polled::Rows(rows) = polled else { panic!("no rows") };
            let quality = rows.batch.column_by_name("quality").expect("a column").as_string::<i32>().clone();
            qualities.extend(quality.iter().flatten().map(str::to_owned));
            position = Some(rows.position);
        }
        qualities.truncate(2);
        source.close().await.expect("closes");
        (qualities, position)
    };
    let mut source = build("");
    assert!(source.remembers());
    source.open(None).await.expect("opens");
    let (qualities, position) = first_two(&mut source).await;
    assert_eq!(qualities, ["good", "good"], "there is nothing before the first start");
    for (away_ms, more, expected) in [(0, "", "good"), (800, "", "bad"), (0, "on_failure = \"skip\"", "good")]
    {
        tokio::time::sleep(Duration::from_millis(away_ms)).await;
        let mut source = build(more);
        source.open(position.as_ref()).await.expect("opens");
        assert_eq!(first_two(&mut source).await.0, [expected, expected], "{away_ms} ms away, {more}");
    }
    // The clock was set back meanwhile: nobody knows for how long it was.
    let mut source = build("");
    let future = serde_json::json!({ "at": 4_000_000_000_000_000_i64 });
    source.open(Some(&tidegate_engine::source::Position::of(&future))).await.expect("opens");
    assert_eq!(first_two(&mut source).await.0, ["bad", "bad"]);
    // A position of an earlier version says at least that there was one.
    let mut source = build("");
    source.open(Some(&tidegate_engine::source::Position::of(&()))).await.expect("opens");
    assert_eq!(first_two(&mut source).await.0, ["bad", "bad"]);
}

/// The kernel would go on sending what nobody has acknowledged, long after we have
/// given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_given_up_is_reset() {
    use tokio::io::AsyncReadExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut source = open(port, "1", "100ms", "{ name = \"a\", register = \"holding:0\" }").await;
    let given_up = async {
        let (mut stream, _) = listener.accept().await.expect("somebody");
        let mut bytes = [0; 256];
        loop {
            match stream.read(&mut bytes).await {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(error.kind()),
            }
        }
    };
    let ended = timeout(LIMIT, given_up).await.expect("in time");
    assert_eq!(ended, Some(std::io::ErrorKind::ConnectionReset));
    source.close().await.expect("closes");
}
