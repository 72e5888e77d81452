//! Sources that run ahead wait, and never for nothing; and the port `received`,
//! whose time is the clock's. The clock is the test's: it goes on when
//! everybody waits.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, TimestampMicrosecondType};
use async_trait::async_trait;
use tidegate_engine::error::{ConnectorError, OperatorError};
use tidegate_engine::operator::{Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::runtime::job::{Allowed, Job, JobConfig};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Rows, Silence, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::storage::log::LogLimits;
use tidegate_engine::storage::vfs::RealDisk;
use tidegate_engine::time::{Clock, Time, time_type};
use tidegate_engine::topology::delivery::RetryPolicy;
use tidegate_engine::topology::fingerprint::Fingerprint;
use tidegate_engine::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

const SECOND_US: i64 = 1_000_000;
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
const LIMIT: Duration = Duration::from_secs(86_400);

/// Gives a batch for each permit, and waits for ever behind the last one unless
/// it ends.
struct Gated {
    batches: Vec<Vec<i64>>,
    next: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    ends: bool,
    is_away: bool,
    /// It is open, and its peer is away.
    is_lost_inside: bool,
    /// The peer is away behind the last row.
    then_lost: bool,
    delay: Duration,
    logged: bool,
}

/// A source of a test and what is known of it.
struct Given {
    source: Gated,
    read: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

fn gated(batches: Vec<Vec<i64>>, permits: usize, ends: bool) -> Given {
    let (read, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(permits)));
    let source = Gated {
        batches,
        next: Arc::clone(&read),
        gate: Arc::clone(&gate),
        ends,
        is_away: false,
        is_lost_inside: false,
        then_lost: false,
        delay: Duration::ZERO,
        logged: false,
    };
    Given { source, read, gate }
}

/// One row a second, from second `from`.
fn seconds(from: i64, rows: i64) -> Vec<Vec<i64>> {
    (from..from + rows).map(|second| vec![second * SECOND_US]).collect()
}

#[async_trait]
impl Source for Gated {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        if self.is_away { Err(ConnectorError::Lost("nobody answers".into())) } else { Ok(()) }
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let at = self.next.load(Ordering::Relaxed);
        let Some(times) = self.batches.get(at) else {
            if self.ends {
                return Ok(Polled::End);
            }
            if self.then_lost {
                self.is_away = true;
                return Err(ConnectorError::Lost("nobody answers any more".into()));
            }
            return std::future::pending().await;
        };
        self.gate.acquire().await.expect("is open").forget();
        self.next.fetch_add(1, Ordering::Relaxed);
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.clone()).with_timezone("UTC"));
        let batch = RecordBatch::try_new(stream().columns, vec![times]).expect("its schema");
        let position = Position::of(&at);
        Ok(Polled::Rows(Rows { partition: 0, batch, rejects: None, position, received: None }))
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        self.is_lost_inside.then(|| Arc::new(AtomicBool::new(false)) as Arc<dyn Silence>)
    }
}

fn stream() -> StreamSchema {
    StreamSchema::new(vec![Field::new("ts", time_type(), false)], Some("ts"))
}

/// What has come to an operator.
#[derive(Default)]
struct Seen {
    rows: AtomicUsize,
    late: AtomicUsize,
    watermark_us: AtomicI64,
    /// Times by the port's own column.
    times: Mutex<Vec<i64>>,
}

struct Looks(Arc<Seen>);

impl Operator for Looks {
    fn on_batch(
        &mut self,
        _: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let last = batch.columns().last().expect("a column").as_primitive::<TimestampMicrosecondType>();
        let watermark_us = self.0.watermark_us.load(Ordering::Relaxed);
        let late = last.values().iter().filter(|time_us| **time_us < watermark_us).count();
        self.0.late.fetch_add(late, Ordering::Relaxed);
        self.0.rows.fetch_add(batch.num_rows(), Ordering::Relaxed);
        self.0.times.lock().expect("no panic").extend(last.values());
        out.emit(batch.clone());
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, _: &mut Output) -> Result<Progress, OperatorError> {
        self.0.watermark_us.store(time.0, Ordering::Relaxed);
        Ok(Progress::Done)
    }
}

/// Stands still for so long before its first rows.
struct Slow(Option<Duration>);

#[async_trait]
impl Sink for Slow {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
        if let Some(time) = self.0.take() {
            sleep(time).await;
        }
        Ok(())
    }

    async fn flush(&mut self, _: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// A wall clock that goes with the test's.
#[derive(Debug)]
struct TestClock(Instant);

const EPOCH_US: i64 = 1_700_000_000 * SECOND_US;

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(EPOCH_US + i64::try_from(self.0.elapsed().as_micros()).expect("fits"))
    }
}

struct Wished {
    idle: Duration,
    drift: Option<Duration>,
    max_future: Option<Duration>,
    /// Port of the sources that is read.
    port: usize,
    blocked: Option<Duration>,
}

fn started(folder: &Path, sources: Vec<(&str, Gated)>, wished: &Wished) -> (Job, Arc<Seen>) {
    let seen = Arc::new(Seen { watermark_us: AtomicI64::new(i64::MIN), ..Seen::default() });
    let inputs = sources.iter().map(|(name, _)| PortRef { node: (*name).to_owned(), port: wished.port });
    let inputs: Vec<PortRef> = inputs.collect();
    let source = |(name, source): (&str, Gated)| SourceNode {
        name: name.into(),
        part: SourcePart {
            stream: stream(),
            watermark: WatermarkPolicy {
                delay: source.delay,
                idle: wished.idle,
                max_future: wished.max_future,
                drift: wished.drift,
            },
            replayable: !source.logged,
            commit_quickly: false,
            logged: source.logged,
            source: Box::new(source),
        },
        unique: Vec::new(),
        fingerprint: Fingerprint::default(),
    };
    let ports = vec![Port { name: String::new(), stream: stream() }];
    let plan = Plan {
        name: "test".into(),
        checkpoint_interval: Duration::from_secs(7),
        sources: sources.into_iter().map(source).collect(),
        operators: vec![OperatorNode {
            name: "looks".into(),
            part: OperatorPart { operator: Box::new(Looks(Arc::clone(&seen))), ports },
            copies: Vec::new(),
            state_max: None,
            inputs,
            fingerprint: Fingerprint::default(),
        }],
        sinks: vec![SinkNode {
            name: "out".into(),
            part: SinkPart { sink: Box::new(Slow(wished.blocked)) },
            queue: None,
            retry: RetryPolicy::default(),
            input: PortRef { node: "looks".into(), port: 0 },
            fingerprint: Fingerprint::default(),
        }],
    };
    let config = JobConfig {
        vfs: Arc::new(RealDisk),
        data_dir: folder.to_owned(),
        clock: Arc::new(TestClock(Instant::now())),
        compute: tokio::runtime::Handle::current(),
        allowed: Allowed::default(),
        log_limits: LogLimits::default(),
    };
    (Job::start(plan, &config).expect("starts"), seen)
}

/// So long that everybody waits for something.
async fn settled() {
    sleep(Duration::from_secs(60)).await;
}

fn wished(idle: Duration) -> Wished {
    Wished { idle, drift: Some(Duration::from_secs(5)), max_future: None, port: 0, blocked: None }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_runs_ahead_waits_for_the_slowest() {
    let folder = tempfile::tempdir().expect("a folder");
    let fast = gated(seconds(0, 100), 100, true);
    let slow = gated(vec![vec![0], vec![50 * SECOND_US], vec![51 * SECOND_US]], 1, true);
    let sources = vec![("fast", fast.source), ("slow", slow.source)];
    let (mut job, seen) = started(folder.path(), sources, &wished(FOR_EVER));
    settled().await;
    let rows = || seen.rows.load(Ordering::Relaxed);
    // Seconds 0 to 6: the one that is more than five ahead is the last. One row of the slow one.
    assert_eq!(rows(), 7 + 1);
    let read = fast.read.load(Ordering::Relaxed);
    assert!((7..=9).contains(&read), "it is not read on: {read}");
    slow.gate.add_permits(1);
    settled().await;
    assert_eq!(rows(), 57 + 2);
    // Whoever has ended is not waited for.
    slow.gate.add_permits(1);
    tokio::time::timeout(LIMIT, job.wait()).await.expect("in time").expect("ends");
    assert_eq!((rows(), seen.late.load(Ordering::Relaxed)), (100 + 3, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_source_that_gives_nothing() {
    for is_away in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let fast = gated(seconds(0, 100), 100, true);
        let mut silent = gated(vec![vec![0]], usize::from(!is_away), false);
        silent.source.is_away = is_away;
        let sources = vec![("fast", fast.source), ("silent", silent.source)];
        let (job, seen) = started(folder.path(), sources, &wished(Duration::from_secs(30)));
        sleep(Duration::from_secs(20)).await;
        assert!(fast.read.load(Ordering::Relaxed) < 10, "it may still come on");
        settled().await;
        let rows = seen.rows.load(Ordering::Relaxed);
        assert_eq!(rows, 100 + usize::from(!is_away), "away: {is_away}");
        drop(job);
    }
}

/// Trap 3, across two sources: B is a minute behind, both have all their rows
/// waiting, and the sink stands still for longer than `idle`.
#[tokio::test(start_paused = true)]
async fn no_false_idleness_and_no_late_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let rows = |from_s: i64| -> Vec<Vec<i64>> {
        let times: Vec<i64> = (0..10_000).map(|row| from_s * SECOND_US + row * 6_000).collect();
        times.chunks(16).map(<[i64]>::to_vec).collect()
    };
    let (a, b) = (gated(rows(60), 10_000, true), gated(rows(0), 10_000, true));
    let wished = Wished { blocked: Some(Duration::from_secs(10)), ..wished(Duration::from_secs(1)) };
    let (mut job, seen) = started(folder.path(), vec![("a", a.source), ("b", b.source)], &wished);
    tokio::time::timeout(LIMIT, job.wait()).await.expect("in time").expect("ends");
    assert_eq!((seen.rows.load(Ordering::Relaxed), seen.late.load(Ordering::Relaxed)), (20_000, 0));
    // A was held back: its rows behind the first few came when B was near.
    let times = seen.times.lock().expect("no panic").clone();
    let ahead = |(index, time_us): (usize, &i64)| {
        let of_b = times[..index].iter().filter(|time_us| **time_us < 60 * SECOND_US).count();
        *time_us > 61 * SECOND_US && of_b < 9_000
    };
    assert_eq!(times.iter().enumerate().step_by(100).filter(|row| ahead(*row)).count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_receipt_goes_on_with_the_clock() {
    let folder = tempfile::tempdir().expect("a folder");
    // What rows say of their time does not matter: a year ago, and in disorder.
    let given = gated(vec![vec![5], vec![3], vec![900 * SECOND_US]], 1, false);
    let wished = Wished { drift: None, port: 2, ..wished(FOR_EVER) };
    let (job, seen) = started(folder.path(), vec![("rows", given.source)], &wished);
    let watermark_us = || seen.watermark_us.load(Ordering::Relaxed);
    sleep(Duration::from_secs(25)).await;
    let passed = watermark_us() - EPOCH_US;
    assert!((24 * SECOND_US..=25 * SECOND_US).contains(&passed), "no row comes, and time goes on: {passed}");
    given.gate.add_permits(2);
    sleep(Duration::from_secs(1)).await;
    let times = seen.times.lock().expect("no panic").clone();
    assert_eq!(times.len(), 3);
    assert!(times[0] - EPOCH_US < SECOND_US && times[1] - EPOCH_US >= 25 * SECOND_US, "{times:?}");
    assert_eq!(seen.late.load(Ordering::Relaxed), 0);
    drop(job);
}

/// A source that is open and whose peer is away, or whose rows can all not be
/// used, gives nothing that is worth waiting for.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_peer_that_is_away_behind_an_open_source() {
    for (gives, rejects) in [(0, false), (1, false), (1, true)] {
        let folder = tempfile::tempdir().expect("a folder");
        let fast = gated(seconds(0, 100), 100, true);
        let mut rows = vec![vec![0]];
        let far = EPOCH_US * 2;
        rows.extend(if rejects { vec![vec![far]; 10_000] } else { Vec::new() });
        let permits = if rejects { rows.len() } else { gives };
        let mut silent = gated(rows, permits, false);
        silent.source.is_lost_inside = true;
        let sources = vec![("fast", fast.source), ("silent", silent.source)];
        let wished = Wished { max_future: Some(FOR_EVER), ..wished(Duration::from_secs(30)) };
        let (job, seen) = started(folder.path(), sources, &wished);
        sleep(Duration::from_secs(20)).await;
        assert!(fast.read.load(Ordering::Relaxed) < 10, "it may still come on");
        settled().await;
        assert_eq!(seen.rows.load(Ordering::Relaxed), 100 + gives, "rejects: {rejects}");
        drop(job);
    }
}

/// What is compared is the time of rows: one that may come later than others is
/// no reason to hold others up.
#[tokio::test(start_paused = true)]
async fn a_longer_delay_is_no_lag() {
    let folder = tempfile::tempdir().expect("a folder");
    let (fast, mut slow) = (gated(seconds(0, 60), 60, false), gated(seconds(0, 60), 30, false));
    slow.source.delay = Duration::from_secs(20);
    let sources = vec![("fast", fast.source), ("slow", slow.source)];
    let (job, seen) = started(folder.path(), sources, &wished(FOR_EVER));
    settled().await;
    // The slow one has come to second 29, so the fast one goes on to 35.
    assert_eq!(seen.rows.load(Ordering::Relaxed), 30 + 36);
    drop(job);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_receipt_waits_for_the_log_and_for_no_peer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut given = gated(vec![vec![5], vec![6]], 2, false);
    (given.source.logged, given.source.then_lost) = (true, true);
    let wished = Wished { drift: None, port: 2, ..wished(FOR_EVER) };
    let (job, seen) = started(folder.path(), vec![("rows", given.source)], &wished);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(seen.rows.load(Ordering::Relaxed), 2);
    let passed = seen.watermark_us.load(Ordering::Relaxed) - EPOCH_US;
    assert!((38 * SECOND_US..=40 * SECOND_US).contains(&passed), "{passed}");
    drop(job);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_receipt_does_not_go_back_with_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let wished = Wished { drift: None, port: 2, ..wished(FOR_EVER) };
    let first = gated(vec![vec![5]], 1, false);
    let (mut job, seen) = started(folder.path(), vec![("rows", first.source)], &wished);
    sleep(Duration::from_secs(25)).await;
    job.stop().await;
    tokio::time::timeout(LIMIT, job.wait()).await.expect("in time").expect("stops");
    let told = seen.watermark_us.load(Ordering::Relaxed);
    assert!(told >= EPOCH_US + 24 * SECOND_US, "{told}");
    // The clock of the next process starts where that of the first one did.
    let second = gated(vec![vec![6]], 1, false);
    let (job, seen) = started(folder.path(), vec![("rows", second.source)], &wished);
    sleep(Duration::from_secs(5)).await;
    let times = seen.times.lock().expect("no panic").clone();
    assert_eq!(times.len(), 1);
    assert!(times[0] >= told, "the row would be late: {times:?} {told}");
    assert_eq!(seen.watermark_us.load(Ordering::Relaxed), told, "told again");
    drop(job);
}
