//! A remote side that follows a script, a disk that forgets, and a topology
//! that crashes between any two steps: every row is there exactly once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::sink::Sink;
use tidegate_engine::storage::vfs::Vfs;
use tidegate_engine::testing::disk::{Fault, SimDisk};
use tidegate_engine::testing::seed::Seed;

use super::{Remote, RemoteError, over};

mod accepted;

const LIMIT: Duration = Duration::from_secs(60);
const FOLDER: &str = "/egress/out";

/// What is outside.
#[derive(Default)]
struct World {
    rows: Vec<i64>,
    marker: u64,
    /// What the next transaction has to end with.
    announced: Option<u64>,
    under_way: Option<Vec<i64>>,
    /// Rows that are refused.
    bad: BTreeSet<i64>,
    is_away: bool,
    steps: u64,
    inserts: u64,
    /// The process dies at this step: before it has an effect, or behind it.
    crash: Option<(u64, bool)>,
    has_crashed: bool,
    /// Counts them; what belongs to an earlier one does nothing more.
    process: u64,
    connections: u64,
}

#[derive(Clone, Default)]
struct Script {
    world: Arc<Mutex<World>>,
    process: u64,
    connection: u64,
}

impl Script {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics in it")
    }

    fn step<T>(&self, effect: impl FnOnce(&mut World) -> Result<T, RemoteError>) -> Result<T, RemoteError> {
        let mut world = self.world();
        let lost = || Err(RemoteError::Lost("away".into()));
        if world.is_away || world.has_crashed || world.connections != self.connection {
            return lost();
        }
        world.steps += 1;
        match world.crash {
            Some((step, false)) if step == world.steps => {
                world.has_crashed = true;
                lost()
            }
            Some((step, true)) if step == world.steps => {
                drop(effect(&mut world));
                world.has_crashed = true;
                lost()
            }
            _ => effect(&mut world),
        }
    }
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[async_trait]
impl Remote for Script {
    async fn look(&mut self) -> Result<Option<u64>, RemoteError> {
        let world = self.world();
        if world.has_crashed || world.is_away || world.process != self.process {
            return Err(RemoteError::Lost("away".into()));
        }
        Ok(Some(world.marker))
    }

    fn marker_place(&self) -> String {
        "the script".into()
    }

    async fn connect(&mut self) -> Result<u64, RemoteError> {
        {
            let mut world = self.world.lock().expect("no test panics in it");
            if !world.has_crashed && !world.is_away && world.process == self.process {
                // Whatever was under way is rolled back.
                world.under_way = None;
                world.connections += 1;
                self.connection = world.connections;
            }
        }
        self.step(|world| Ok(world.marker))
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        self.step(|world| {
            world.under_way = Some(Vec::new());
            Ok(world.marker)
        })
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let ids = ids(rows);
        self.step(|world| {
            world.inserts += 1;
            if ids.iter().any(|id| world.bad.contains(id)) {
                return Err(RemoteError::Refused("bad".into()));
            }
            world.under_way.as_mut().expect("a transaction").extend(ids);
            Ok(())
        })
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        self.step(|world| {
            let rows = world.under_way.take().expect("a transaction");
            world.rows.extend(rows);
            assert!(world.announced.is_none_or(|announced| announced == epoch), "{epoch}");
            (world.marker, world.announced) = (epoch, None);
            Ok(())
        })
    }

    fn announced(&self) -> Option<u64> {
        self.world().announced
    }
}

fn batch(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", column)]).expect("a batch")
}

fn sink(script: &Script, disk: &Arc<dyn Vfs>, bytes_max: u64) -> impl Sink + use<> {
    let (world, process) = (Arc::clone(&script.world), script.world().process);
    over(Path::new(FOLDER), Arc::clone(disk), bytes_max, Script { world, process, connection: 0 })
}

async fn opened(script: &Script, disk: &SimDisk, epoch: u64) -> impl Sink + use<> {
    let disk: Arc<dyn Vfs> = Arc::new(disk.plugged());
    let mut sink = sink(script, &disk, 1 << 30);
    sink.open().await.expect("opens");
    sink.commit(epoch).await.expect("goes on");
    sink
}

async fn put(sink: &mut impl Sink, epoch: u64, ids: impl IntoIterator<Item = i64>) {
    sink.write(&batch(ids)).await.expect("taken");
    sink.flush(epoch).await.expect("durable");
}

async fn until(script: &Script, is_so: impl Fn(&World) -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is_so(&script.world()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("comes true in time");
}

#[tokio::test]
async fn only_what_is_committed_is_delivered_and_in_order() {
    let (script, disk) = (Script::default(), SimDisk::default());
    let mut sink = opened(&script, &disk, 0).await;
    put(&mut sink, 1, 0..3).await;
    put(&mut sink, 1, 3..5).await;
    put(&mut sink, 2, 5..7).await;
    sink.commit(1).await.expect("ordered");
    until(&script, |world| world.marker == 1).await;
    assert_eq!(script.world().rows, [0, 1, 2, 3, 4]);
    assert_eq!(sink.trouble(), None);
    put(&mut sink, 3, 7..8).await;
    sink.commit(3).await.expect("ordered");
    sink.close().await.expect("everything is delivered");
    assert_eq!(script.world().rows, (0..8).collect::<Vec<_>>());
    assert_eq!(script.world().marker, 3);
}

#[tokio::test]
async fn what_comes_again_is_forgotten_and_stays_so() {
    let (script, disk) = (Script::default(), SimDisk::default());
    let mut first = opened(&script, &disk, 0).await;
    script.world().is_away = true;
    put(&mut first, 1, [1]).await;
    put(&mut first, 2, [2, 3]).await;
    drop(first);
    // Epoch 2 came to no checkpoint: its rows come again, in other epochs.
    let mut second = opened(&script, &disk, 1).await;
    put(&mut second, 2, [2]).await;
    put(&mut second, 3, [3]).await;
    second.commit(3).await.expect("ordered");
    drop(second);
    script.world().is_away = false;
    let mut third = opened(&script, &disk, 3).await;
    third.close().await.expect("everything is delivered");
    assert_eq!(script.world().rows, [1, 2, 3]);
}

#[tokio::test]
async fn a_marker_that_is_ahead_stops_the_topology() {
    let (script, disk) = (Script::default(), SimDisk::default());
    script.world().marker = 7;
    let mut sink = opened(&script, &disk, 3).await;
    let failed = tokio::time::timeout(LIMIT, async {
        loop {
            sink.write(&batch([1])).await.expect("taken");
            match sink.flush(4).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return error,
            }
        }
    });
    let failed = failed.await.expect("in time");
    let told = |message: &str| message.contains("epoch 7") && message.ends_with("remove the script");
    assert!(matches!(&failed, ConnectorError::Fatal(message) if told(message)), "{failed}");
    assert!(script.world().rows.is_empty());
    assert_eq!(script.world().connections, 0, "whoever writes there now was disturbed");
}

#[tokio::test]
async fn a_marker_of_another_log_stops_the_topology_even_when_it_is_seen_late() {
    let (script, disk) = (Script::default(), SimDisk::default());
    script.world().marker = 2;
    script.world().is_away = true;
    // The state of the marker's topology has been removed; this one begins anew.
    let mut first = opened(&script, &disk, 0).await;
    for epoch in 1..=5 {
        put(&mut first, epoch, [1]).await;
        first.commit(epoch).await.expect("ordered");
    }
    drop(first);
    let mut second = opened(&script, &disk, 5).await;
    script.world().is_away = false;
    let closed = tokio::time::timeout(LIMIT, second.close()).await.expect("is bounded");
    assert!(
        matches!(&closed, Err(ConnectorError::Fatal(message)) if message.contains("epoch 2")),
        "{closed:?}"
    );
    assert!(script.world().rows.is_empty());
}

#[tokio::test]
async fn a_state_that_is_too_old_stays_refused_though_checkpoints_come_before_the_marker_is_seen() {
    let (script, disk) = (Script::default(), SimDisk::default());
    let mut first = opened(&script, &disk, 0).await;
    for epoch in 1..=5 {
        put(&mut first, epoch, [i64::try_from(epoch).expect("small")]).await;
        first.commit(epoch).await.expect("ordered");
    }
    first.close().await.expect("everything is delivered");
    // The checkpoints of epochs 4 and 5 are gone; each life comes past them before it is told.
    for life in 0..3 {
        script.world().is_away = true;
        let mut again = opened(&script, &disk, 3 + life * 4).await;
        for epoch in 4 + life * 4..8 + life * 4 {
            put(&mut again, epoch, [100]).await;
            again.commit(epoch).await.expect("ordered");
        }
        script.world().is_away = false;
        let closed = tokio::time::timeout(LIMIT, again.close()).await.expect("is bounded");
        let told = |message: &str| message.contains("epoch 5, later than epoch 3");
        assert!(matches!(&closed, Err(ConnectorError::Fatal(message)) if told(message)), "{closed:?}");
    }
    assert_eq!(script.world().rows, (1..=5).collect::<Vec<_>>());
}

#[tokio::test]
async fn only_bad_rows_are_left_out() {
    let (script, disk) = (Script::default(), SimDisk::default());
    script.world().bad = BTreeSet::from([3, 500, 999]);
    let mut sink = opened(&script, &disk, 0).await;
    put(&mut sink, 1, 0..1000).await;
    sink.commit(1).await.expect("ordered");
    sink.close().await.expect("everything else is delivered");
    let world = script.world();
    assert_eq!(world.rows, (0..1000).filter(|id| ![3, 500, 999].contains(id)).collect::<Vec<_>>());
    assert_eq!(world.marker, 1);
    // Three bad rows of a thousand: ten halvings each.
    assert!(world.inserts <= 1 + 3 * 2 * 10, "{} inserts", world.inserts);
}

#[tokio::test]
async fn a_dead_remote_side_stops_neither_flush_nor_commit_nor_close_and_loses_nothing() {
    let (script, disk) = (Script::default(), SimDisk::default());
    script.world().is_away = true;
    let mut sink = opened(&script, &disk, 0).await;
    for epoch in 1..50 {
        let step = async {
            put(&mut sink, epoch, [i64::try_from(epoch).expect("small")]).await;
            sink.commit(epoch).await.expect("ordered");
        };
        tokio::time::timeout(Duration::from_secs(1), step).await.expect("does not wait");
    }
    let told = tokio::time::timeout(LIMIT, async {
        while !sink.trouble().is_some_and(|trouble| trouble.contains("away")) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    told.await.expect("told in time");
    let closed = tokio::time::timeout(Duration::from_secs(8), sink.close()).await.expect("is bounded");
    assert!(matches!(&closed, Err(ConnectorError::Lost(message)) if message.contains("next start")));
    script.world().is_away = false;
    let mut next = opened(&script, &disk, 49).await;
    next.close().await.expect("everything is delivered");
    assert_eq!(script.world().rows, (1..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_full_log_makes_a_flush_wait_and_is_emptied_by_delivering() {
    let (script, disk) = (Script::default(), SimDisk::default());
    let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
    let mut sink = sink(&script, &vfs, 40_000);
    sink.open().await.expect("opens");
    sink.commit(0).await.expect("goes on");
    // More than there is room for, and nothing to deliver: no wait would end.
    put(&mut sink, 1, 0..10_000).await;
    put(&mut sink, 1, 10_000..10_001).await;
    script.world().is_away = true;
    sink.commit(1).await.expect("ordered");
    sink.write(&batch([10_001])).await.expect("taken");
    let waited = tokio::time::timeout(Duration::from_secs(2), sink.flush(2)).await;
    assert!(waited.is_err(), "there was room");
    script.world().is_away = false;
    let flushed = tokio::time::timeout(LIMIT, sink.flush(2)).await.expect("there is room again");
    flushed.expect("durable");
    sink.commit(2).await.expect("ordered");
    sink.close().await.expect("everything is delivered");
    assert_eq!(script.world().rows, (0..10_002).collect::<Vec<_>>());
}

/// What the topology knows after a crash.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoint {
    epoch: u64,
    rows: i64,
}

/// Rows of one simulated topology.
const ROWS: i64 = 40;

/// A life of the topology: from its checkpoint on, until a crash or the end.
/// Answers whether it came to its end.
async fn live(script: &Script, disk: &SimDisk, at: &mut Checkpoint, seed: &mut Seed) -> bool {
    let vfs: Arc<dyn Vfs> = Arc::new(disk.plugged());
    // With little room each record has a segment of its own, and trimming begins early.
    let mut sink = sink(script, &vfs, if seed.chance(50) { 2_000 } else { 1 << 30 });
    if sink.open().await.is_err() || sink.commit(at.epoch).await.is_err() {
        return false;
    }
    let Checkpoint { mut epoch, mut rows } = *at;
    while rows < ROWS {
        epoch += 1;
        // Another cut between epochs in each life.
        for _ in 0..=seed.below(3) {
            let next = (rows + i64::try_from(seed.below(4)).expect("small")).min(ROWS);
            sink.write(&batch(rows..next)).await.expect("taken");
            rows = next;
            if seed.chance(50) && sink.flush(epoch).await.is_err() {
                return false;
            }
        }
        if sink.flush(epoch).await.is_err() {
            return false;
        }
        if seed.chance(15) {
            // It dies between its sinks' flush and its checkpoint.
            return false;
        }
        *at = Checkpoint { epoch, rows };
        if seed.chance(10) || sink.commit(epoch).await.is_err() {
            return false;
        }
        for _ in 0..seed.below(3) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    sink.close().await.is_ok()
}

#[tokio::test]
async fn a_crash_between_any_two_steps_neither_loses_nor_repeats_a_row() {
    let mut crashes = 0;
    for number in 0..200 {
        let mut seed = Seed::new(number);
        let (script, disk) = (Script::default(), SimDisk::default());
        let mut at = Checkpoint::default();
        for life in 0.. {
            if life < 6 {
                let steps = script.world().steps;
                let step = steps + 1 + u64::try_from(seed.below(12)).expect("small");
                script.world().crash = seed.chance(70).then(|| (step, seed.chance(50)));
                if seed.chance(30) {
                    let operation = disk.operations() + u64::try_from(seed.below(40)).expect("small");
                    let fault = if seed.chance(50) { Fault::Crash } else { Fault::SyncError };
                    disk.plan(operation, fault);
                }
            }
            let ended = tokio::select! {
                ended = live(&script, &disk, &mut at, &mut seed) => ended,
                // A disk that is down looks like one that is full, which is waited for.
                () = until(&script, |world| world.has_crashed || disk.is_down()) => false,
            };
            if ended {
                break;
            }
            assert!(life < 30, "seed {number}: no end");
            crashes += 1;
            disk.restart(&mut seed);
            let mut world = script.world();
            (world.crash, world.has_crashed, world.under_way) = (None, false, None);
            // The task of the process that died may still be there.
            world.connections += 1;
            world.process += 1;
        }
        assert_eq!(script.world().rows, (0..ROWS).collect::<Vec<_>>(), "seed {number}");
    }
    assert!(crashes > 400, "only {crashes} crashes");
}
