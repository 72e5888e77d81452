//! A peer that comes and goes, a disk that forgets, and a process that crashes
//! between any two steps: no row is lost, order is kept, and what is dropped is
//! what the file says, and counted.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use super::*;
use crate::error::RejectedRow;
use crate::testing::disk::{Fault, SimDisk};
use crate::testing::seed::Seed;
use crate::time::{SystemClock, Time};

const LIMIT: Duration = Duration::from_secs(600);
const DATA: &str = "/data";

#[derive(Default)]
struct World {
    rows: Vec<i64>,
    is_away: bool,
    flushes: usize,
    /// Rows that are refused: multiples of it.
    bad: Option<i64>,
    /// The peer hangs: nothing comes back.
    hangs: bool,
}

#[derive(Clone, Default)]
struct Peer {
    world: Arc<Mutex<World>>,
    pending: Vec<i64>,
}

impl Peer {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics in it")
    }
}

#[async_trait]
impl Sink for Peer {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.pending.clear();
        if self.world().is_away { Err(ConnectorError::Lost("away".into())) } else { Ok(()) }
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.pending.extend(numbers(batch));
        Ok(())
    }

    async fn flush(&mut self, _: u64) -> Result<(), ConnectorError> {
        if self.world().hangs {
            std::future::pending::<()>().await;
        }
        let pending = std::mem::take(&mut self.pending);
        let mut world = self.world();
        if world.is_away {
            return Err(ConnectorError::Lost("away".into()));
        }
        world.flushes += 1;
        let is_bad = |n: &i64| world.bad.is_some_and(|bad| n % bad == 0);
        let refused: Vec<RejectedRow> = (pending.iter().enumerate())
            .filter(|(_, n)| is_bad(n))
            .map(|(row, n)| RejectedRow { row, reason: format!("{n} is bad") })
            .collect();
        let taken: Vec<i64> = pending.into_iter().filter(|n| !is_bad(n)).collect();
        world.rows.extend(taken);
        if refused.is_empty() { Ok(()) } else { Err(ConnectorError::Rejected(refused)) }
    }
}

fn numbers(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

fn batch(from: i64, count: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + count));
    RecordBatch::try_from_iter([("n", column)]).expect("one column")
}

#[derive(Debug)]
struct TestClock(Mutex<i64>);

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(*self.0.lock().expect("not poisoned"))
    }
}

fn queue(peer: &Peer, disk: &SimDisk, clock: Arc<dyn Clock>, queue: Queue) -> QueuedSink {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
    let dead = DeadLetters::new(Arc::clone(&vfs), Arc::clone(&clock), Path::new(DATA), "out");
    let settings = Settings {
        node: "out".into(),
        folder: "/data/egress/out".into(),
        vfs,
        clock,
        queue,
        retry: RetryPolicy::default(),
        stats: NodeStats::new("test", "out", "sink", &[""]),
        dead,
    };
    QueuedSink::new(Box::new(Peer { world: Arc::clone(&peer.world), pending: Vec::new() }), settings)
}

fn blocks() -> Queue {
    Queue { bytes_max: 1 << 30, age: None, when_full: WhenFull::Block, drains: true }
}

async fn settled(sink: &mut QueuedSink, epoch: u64) -> Result<(), ConnectorError> {
    sink.open().await?;
    sink.commit(epoch).await
}

#[tokio::test(start_paused = true)]
async fn an_outage_holds_nobody_up_and_everything_goes_out_in_order_afterwards() {
    let test = async {
        let (peer, disk) = (Peer::default(), SimDisk::default());
        let mut sink = queue(&peer, &disk, Arc::new(SystemClock), blocks());
        settled(&mut sink, 0).await.expect("opens");
        peer.world().is_away = true;
        let started = Instant::now();
        for epoch in 1..=600_u64 {
            sink.write(&batch(epoch.cast_signed() * 10, 10)).await.expect("taken");
            sink.flush(epoch).await.expect("durable");
            sink.commit(epoch).await.expect("noted");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Ten minutes went by; the queue took none of them.
        assert!(started.elapsed() < Duration::from_secs(601), "{:?}", started.elapsed());
        assert!(peer.world().rows.is_empty());
        peer.world().is_away = false;
        sink.close().await.expect("delivered");
        assert!(peer.world().rows.iter().copied().eq(10..6_010));
    };
    tokio::time::timeout(Duration::from_secs(3_600), test).await.expect("in time");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_does_not_hold_the_stop_up_and_the_next_start_goes_on() {
    let test = async {
        let (peer, disk) = (Peer::default(), SimDisk::default());
        let mut sink = queue(&peer, &disk, Arc::new(SystemClock), blocks());
        settled(&mut sink, 0).await.expect("opens");
        sink.write(&batch(0, 5)).await.expect("taken");
        sink.flush(1).await.expect("durable");
        tokio::time::sleep(Duration::from_secs(5)).await;
        peer.world().hangs = true;
        sink.write(&batch(5, 5)).await.expect("taken");
        sink.flush(2).await.expect("durable");
        let closed = sink.close().await;
        assert!(
            matches!(&closed, Err(ConnectorError::Lost(why)) if why.contains("next start")),
            "{closed:?}"
        );
        peer.world().hangs = false;
        let mut sink = queue(&peer, &disk, Arc::new(SystemClock), blocks());
        settled(&mut sink, 2).await.expect("opens");
        sink.close().await.expect("delivered");
        assert!(peer.world().rows.iter().copied().eq(0..10), "{:?}", peer.world().rows);
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_waits_or_drops_as_the_file_says() {
    let test = async {
        for when_full in [WhenFull::Block, WhenFull::DropOldest, WhenFull::DropNewest] {
            let (peer, disk) = (Peer::default(), SimDisk::default());
            let limited = Queue { bytes_max: 12 << 20, when_full, ..blocks() };
            let mut sink = queue(&peer, &disk, Arc::new(SystemClock), limited);
            settled(&mut sink, 0).await.expect("opens");
            peer.world().is_away = true;
            let mut written = 0;
            for _ in 0..45 {
                sink.write(&batch(written, 50_000)).await.expect("taken");
                let flushed = tokio::time::timeout(Duration::from_secs(60), sink.flush(1)).await;
                if flushed.is_err() {
                    break;
                }
                written += 50_000;
            }
            let is_blocked = written < 2_250_000;
            assert_eq!(is_blocked, when_full == WhenFull::Block, "{when_full:?}: {written}");
            peer.world().is_away = false;
            if is_blocked {
                sink.flush(1).await.expect("room again");
                written += 50_000;
            }
            sink.close().await.expect("delivered");
            let rows = std::mem::take(&mut peer.world().rows);
            assert!(rows.is_sorted(), "{when_full:?}");
            let bytes = disk.plugged();
            assert!(bytes.list(Path::new("/data/egress/out")).expect("there").len() < 8);
            match when_full {
                WhenFull::Block => assert!(rows.into_iter().eq(0..written)),
                WhenFull::DropOldest => assert_eq!(rows.last(), Some(&(written - 1))),
                WhenFull::DropNewest => assert_eq!(rows.first(), Some(&0)),
            }
        }
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}

#[tokio::test(start_paused = true)]
async fn rows_that_have_waited_too_long_are_dropped_and_refused_ones_are_kept() {
    let test = async {
        let (peer, disk) = (Peer::default(), SimDisk::default());
        let clock = Arc::new(TestClock(Mutex::new(0)));
        let aged = Queue { age: Some(Duration::from_secs(60)), ..blocks() };
        let mut sink = queue(&peer, &disk, Arc::clone(&clock) as Arc<dyn Clock>, aged);
        settled(&mut sink, 0).await.expect("opens");
        peer.world().is_away = true;
        for (epoch, at_s) in [(1, 0), (2, 50), (3, 70)] {
            *clock.0.lock().expect("not poisoned") = at_s * 1_000_000;
            sink.write(&batch(epoch * 10, 10)).await.expect("taken");
            sink.flush(epoch.cast_unsigned()).await.expect("durable");
        }
        // The first chunk is under way already; what waits behind it is 61 s old.
        *clock.0.lock().expect("not poisoned") = 111_000_000;
        peer.world().bad = Some(7);
        peer.world().is_away = false;
        sink.close().await.expect("delivered");
        let rows = std::mem::take(&mut peer.world().rows);
        assert!(rows.contains(&30) && !rows.contains(&20) && !rows.contains(&35), "{rows:?}");
        let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
        let letters =
            crate::dead_letters::Shelf::new("out", Path::new(DATA), vfs).letters().expect("readable");
        assert!(letters.iter().any(|letter| letter.letter.reason == "35 is bad"), "{letters:?}");
    };
    tokio::time::timeout(LIMIT, test).await.expect("in time");
}

async fn power_gone(disk: &SimDisk) {
    while !disk.is_down() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lives that end at any step of the disk; the topology sends rows of epochs
/// that were not durable again. Every row arrives, in the order of its epochs.
async fn history(number: u64) {
    let mut seed = Seed::new(number);
    let (peer, disk) = (Peer::default(), SimDisk::default());
    // Rows 10 e … 10 e + 9 belong to the epoch e.
    let mut durable = 0;
    for _ in 0..4 {
        let mut sink = queue(&peer, &disk, Arc::new(SystemClock), blocks());
        if seed.chance(70) {
            disk.plan(disk.operations() + seed.below(60) as u64, Fault::Crash);
        }
        peer.world().is_away = seed.chance(30);
        let lived = async {
            settled(&mut sink, durable).await?;
            for _ in 0..seed.below(6) {
                let epoch = durable + 1;
                sink.write(&batch(epoch as i64 * 10, 10)).await?;
                sink.flush(epoch).await?;
                if seed.chance(80) {
                    durable = epoch;
                    sink.commit(epoch).await?;
                }
                tokio::time::sleep(Duration::from_millis(seed.below(2_000) as u64)).await;
                peer.world().is_away = seed.chance(30);
                if durable < epoch {
                    break;
                }
            }
            Ok::<(), ConnectorError>(())
        };
        tokio::select! {
            ended = lived => drop(ended),
            () = power_gone(&disk) => {}
        }
        drop(sink);
        tokio::task::yield_now().await;
        disk.restart(&mut seed);
    }
    peer.world().is_away = false;
    let mut sink = queue(&peer, &disk, Arc::new(SystemClock), blocks());
    settled(&mut sink, durable).await.expect("opens");
    let last = durable + 1;
    sink.write(&batch(last as i64 * 10, 10)).await.expect("taken");
    sink.flush(last).await.expect("durable");
    sink.close().await.expect("delivered");
    let rows = std::mem::take(&mut peer.world().rows);
    let missing: Vec<i64> = (10..last as i64 * 10 + 10).filter(|n| !rows.contains(n)).collect();
    assert!(missing.is_empty(), "seed {number}: {missing:?} are lost");
}

#[tokio::test(start_paused = true)]
async fn no_crash_loses_a_row() {
    let test = async {
        for number in 0..400 {
            history(number).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1_000_000), test).await.expect("in time");
}
