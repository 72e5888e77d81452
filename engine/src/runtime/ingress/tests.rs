//! A logged source over a scripted one, on a simulated disk.

use std::path::Path;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field};

use super::*;
use crate::testing::disk::{Fault, SimDisk};
use crate::testing::seed::Seed;
use crate::time::SystemClock;

const LIMIT: Duration = Duration::from_secs(30);

/// What the peer sees: rows not acknowledged come again after `open`.
#[derive(Default)]
struct Peer {
    total: i64,
    acknowledged: i64,
    /// Numbers before which the connection breaks, once each.
    breaks: Vec<i64>,
    /// Whether it wants its position back, and what it was opened with.
    remembers: bool,
    opened_at: Vec<Option<i64>>,
}

struct Scripted {
    peer: Arc<Mutex<Peer>>,
    next: i64,
}

struct Told(Arc<Mutex<Peer>>);

#[async_trait]
impl Committer for Told {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        let mut peer = self.0.lock().expect("no panic");
        peer.acknowledged = peer.acknowledged.max(position.read()?);
        Ok(())
    }
}

fn stream() -> StreamSchema {
    StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None)
}

fn batch(number: i64) -> RecordBatch {
    RecordBatch::try_new(stream().columns, vec![Arc::new(Int64Array::from(vec![number]))]).expect("fits")
}

#[async_trait]
impl Source for Scripted {
    async fn open(&mut self, at: Option<&Position>) -> Result<(), ConnectorError> {
        let mut peer = self.peer.lock().expect("no panic");
        self.next = peer.acknowledged + 1;
        peer.opened_at.push(at.map(Position::read).transpose()?);
        Ok(())
    }
    fn remembers(&self) -> bool {
        self.peer.lock().expect("no panic").remembers
    }
    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let number = self.next;
        let is_over = {
            let mut peer = self.peer.lock().expect("no panic");
            if let Some(index) = peer.breaks.iter().position(|at| *at == number) {
                peer.breaks.remove(index);
                return Err(ConnectorError::Lost("the line broke".into()));
            }
            number > peer.total
        };
        if is_over {
            return std::future::pending().await;
        }
        self.next += 1;
        let position = Position::of(&number);
        Ok(Polled::Rows(Rows { partition: 0, batch: batch(number), rejects: None, position, received: None }))
    }
    fn committer(&self) -> Option<Box<dyn Committer>> {
        Some(Box::new(Told(Arc::clone(&self.peer))))
    }
}

fn logged(peer: &Arc<Mutex<Peer>>, disk: &SimDisk) -> LoggedSource {
    logged_with(peer, disk, Vec::new())
}

fn logged_with(peer: &Arc<Mutex<Peer>>, disk: &SimDisk, unique: Vec<usize>) -> LoggedSource {
    let shelf = Shelf {
        node: "in".into(),
        folder: "/in".into(),
        vfs: Arc::new(disk.plugged()),
        limits: LogLimits { segment_bytes: 4_000, bytes_max: 1 << 30, bytes_kept: 0 },
        clock: Arc::new(SystemClock),
        stream: stream(),
        unique,
    };
    LoggedSource::new(Box::new(Scripted { peer: Arc::clone(peer), next: 0 }), shelf)
}

fn peer(total: i64) -> Arc<Mutex<Peer>> {
    Arc::new(Mutex::new(Peer { total, ..Peer::default() }))
}

async fn opened(source: &mut LoggedSource, after: Option<u64>) -> Result<(), ConnectorError> {
    let position = after.map(|record| Place::position(record, None));
    tokio::time::timeout(LIMIT, source.open(position.as_ref())).await.expect("in time")
}

/// The next rows: their number and their place.
async fn one(source: &mut LoggedSource) -> Result<(i64, u64), ConnectorError> {
    let polled = tokio::time::timeout(LIMIT, source.next()).await.expect("in time")?;
    let Polled::Rows(rows) = polled else { panic!("{polled:?}") };
    let place: Place = rows.position.read()?;
    let numbers = rows.batch.column(0).as_any().downcast_ref::<Int64Array>().expect("numbers");
    Ok((numbers.iter().flatten().next().unwrap_or(-1), place.record))
}

#[tokio::test]
async fn the_peer_hears_of_rows_that_are_durable_and_of_no_others() {
    let (peer, disk) = (peer(5), SimDisk::default());
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    for number in 1..=3 {
        assert_eq!(one(&mut source).await, Ok((number, u64::try_from(number).expect("small"))));
        assert!(peer.lock().expect("no panic").acknowledged >= number);
    }
    drop(source);
    // Every sync fails: nothing is acknowledged, and nobody gets a row.
    let disk = SimDisk::default();
    let mut source = logged(&peer, &disk);
    peer.lock().expect("no panic").acknowledged = 0;
    opened(&mut source, None).await.expect("opens");
    disk.plan(0, Fault::SyncError);
    assert!(matches!(one(&mut source).await, Err(ConnectorError::Fatal(_))));
    assert_eq!(peer.lock().expect("no panic").acknowledged, 0);
}

/// A while after the power has gone.
async fn power_gone(disk: &SimDisk) {
    while !disk.is_down() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// At any moment the power goes: after the restart every row comes, in order,
/// from the log or from the peer; one may come twice unless rows have names,
/// none is missing.
#[tokio::test]
async fn after_a_crash_the_log_comes_first_and_nothing_is_missing() {
    for history in 0..300 {
        let unique = if history % 2 == 0 { Vec::new() } else { vec![0] };
        let mut seed = Seed::new(history);
        let (peer, disk) = (peer(40), SimDisk::default());
        peer.lock().expect("no panic").breaks = (0..4).map(|_| seed.below(40) as i64).collect();
        // Rows that a checkpoint holds, and its position.
        let (mut safe, mut place) = (0, None);
        let mut restarts = 0;
        while safe < 40 {
            let mut source = logged_with(&peer, &disk, unique.clone());
            if restarts < 6 {
                disk.plan(disk.operations() + seed.below(60) as u64, Fault::Crash);
            }
            let mut seen = safe;
            let lived: Result<(), ConnectorError> = async {
                opened(&mut source, place).await?;
                let mut last = place;
                while seen < 40 {
                    let read = tokio::select! {
                        read = one(&mut source) => read,
                        // A log waits for room for ever; the power ends that.
                        () = power_gone(&disk) => Err(ConnectorError::Fatal("no power".into())),
                    };
                    let (number, record) = match read {
                        Err(ConnectorError::Lost(_)) => {
                            opened(&mut source, last).await?;
                            continue;
                        }
                        other => other?,
                    };
                    assert!(number <= seen + 1, "history {history}: {number} after {seen}");
                    // A record without rows stands for some that were left out.
                    let is_new = number == seen + 1 || number == -1;
                    assert!(is_new || unique.is_empty(), "history {history}: {number} after {seen}");
                    seen = seen.max(number);
                    last = Some(record);
                    if seed.chance(20) {
                        // A checkpoint.
                        (safe, place) = (seen, last);
                        let mut committer = source.committer().expect("has one");
                        committer.commit(&Place::position(record, None)).await?;
                    }
                }
                (safe, place) = (seen, last);
                Ok(())
            }
            .await;
            assert!(lived.is_ok() || restarts < 6, "history {history}: {lived:?}");
            drop(source);
            // What is left of the source that died finds its disk dead, too.
            disk.restart(&mut seed);
            restarts += 1;
        }
    }
}

#[tokio::test]
async fn damage_is_a_reject_that_names_what_is_lost() {
    let (peer, disk) = (peer(60), SimDisk::default());
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    for _ in 0..60 {
        one(&mut source).await.expect("reads");
    }
    drop(source);
    disk.damage(Path::new("/in/00000000000000000001.seg"), 200);
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    let polled = tokio::time::timeout(LIMIT, source.next()).await.expect("in time").expect("reads");
    let Polled::Rows(rows) = polled else { panic!("{polled:?}") };
    let rejects = rows.rejects.expect("a reject");
    assert_eq!((rows.batch.num_rows(), rejects.num_rows()), (0, 1));
    assert!(format!("{rejects:?}").contains("records 1 to 1 of the ingress log"), "{rejects:?}");
    assert_eq!(one(&mut source).await, Ok((2, 2)));
}

#[tokio::test]
async fn what_no_checkpoint_needs_is_removed() {
    let (peer, disk) = (peer(400), SimDisk::default());
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    let mut committer = source.committer().expect("has one");
    let kept = || disk.list(Path::new("/in")).expect("is there").into_iter().min().expect("a segment");
    for number in 1..=400 {
        let (_, record) = one(&mut source).await.expect("reads");
        if number % 50 == 0 {
            committer.commit(&Place::position(record, None)).await.expect("is taken");
        }
        if number == 149 {
            // Two checkpoints of this process; those of earlier ones may still be gone back to.
            assert!(kept().ends_with("00000000000000000001.seg"), "{:?}", kept());
        }
    }
    let trimmed = async {
        while kept() < *Path::new("/in/00000000000000000200.seg") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, trimmed).await.expect("segments are removed");
    // The oldest of three checkpoints may still be gone back to.
    assert!(kept() <= *Path::new("/in/00000000000000000301.seg"), "{:?}", kept());
}

/// A stop is no crash: what the log has is acknowledged, also what nobody has
/// read yet, and comes from the log at the next start and not from the peer.
#[tokio::test]
async fn after_a_stop_nothing_comes_twice() {
    let (peer, disk) = (peer(20), SimDisk::default());
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    for number in 1..=3 {
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(number));
    }
    // `next` is given up in the middle, as at every stop.
    tokio::time::timeout(Duration::ZERO, source.next()).await.ok();
    source.close().await.expect("closes");
    let acknowledged = peer.lock().expect("no panic").acknowledged;
    assert!(acknowledged > 4, "{acknowledged}");
    drop(source);
    let mut source = logged(&peer, &disk);
    opened(&mut source, Some(3)).await.expect("opens");
    for number in 4..=20 {
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(number));
    }
}

#[tokio::test]
async fn records_of_other_columns_say_nothing_of_the_names_of_rows() {
    let (peer, disk) = (peer(2), SimDisk::default());
    let former: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let former = RecordBatch::try_from_iter([("former", former)]).expect("fits");
    let mut log =
        Log::open(Arc::new(disk.plugged()), Path::new("/in"), LogLimits::default(), 0).expect("opens");
    log.append(0, &payload::encode(0, &former, None, None).expect("encodes")).expect("room");
    log.sync().expect("durable");
    drop(log);
    let mut source = logged_with(&peer, &disk, vec![0]);
    opened(&mut source, Some(1)).await.expect("opens");
    for number in 1..=2 {
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(number));
    }
}

#[tokio::test]
async fn a_disk_that_is_full_at_a_start_is_waited_for() {
    let mut waited = 0;
    for operation in 0..12 {
        let (peer, disk) = (peer(5), SimDisk::default());
        let mut source = logged(&peer, &disk);
        opened(&mut source, None).await.expect("opens");
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(1));
        drop(source);
        disk.plan(disk.operations() + operation, Fault::NoSpace);
        let mut source = logged(&peer, &disk);
        match opened(&mut source, Some(0)).await {
            Ok(()) => {}
            Err(ConnectorError::Lost(_)) => {
                waited += 1;
                opened(&mut source, Some(0)).await.expect("opens");
            }
            Err(error) => panic!("operation {operation}: {error:?}"),
        }
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(1));
    }
    assert!(waited > 0);
}

/// Also what the log has behind the checkpoint, and when it is lost and opened again.
#[tokio::test]
async fn a_source_that_wants_it_hears_where_it_stood_when_its_last_durable_rows_came() {
    let (peer, disk) = (peer(20), SimDisk::default());
    peer.lock().expect("no panic").remembers = true;
    peer.lock().expect("no panic").breaks = vec![4];
    let mut source = logged(&peer, &disk);
    opened(&mut source, None).await.expect("opens");
    for number in 1..=3 {
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(number));
    }
    assert!(one(&mut source).await.is_err(), "the line breaks");
    opened(&mut source, None).await.expect("opens");
    let polled = tokio::time::timeout(LIMIT, source.next()).await.expect("in time").expect("reads");
    let Polled::Rows(Rows { position: at_four, .. }) = polled else { panic!("{polled:?}") };
    for number in 5..=9 {
        assert_eq!(one(&mut source).await.map(|(number, _)| number), Ok(number));
    }
    drop(source);
    disk.restart(&mut Seed::new(5));
    peer.lock().expect("no panic").total = 1_000;
    // After the rows of the log, where the last of them says; without rows, where the
    // checkpoint says.
    let opens_at = async |disk: &SimDisk, resume: Option<&Position>| {
        let mut source = logged(&peer, disk);
        source.open(resume).await.expect("opens");
        let opened = || peer.lock().expect("no panic").opened_at.clone();
        let (before, mut last) = (opened().len(), None);
        loop {
            let read = tokio::time::timeout(LIMIT, one(&mut source)).await.expect("in time");
            if opened().len() > before {
                return (opened().pop().flatten(), last);
            }
            last = Some(read.expect("a row of the log").0);
        }
    };
    for resume in [Some(&at_four), None] {
        let (opened, last) = opens_at(&disk, resume).await;
        assert!(opened.is_some() && opened == last, "{opened:?} after {last:?}");
    }
    let at_the_end = Place::position(20, Some(&Position::of(&77)));
    assert_eq!(opens_at(&SimDisk::default(), Some(&at_the_end)).await, (Some(77), None));
    assert_eq!(opens_at(&SimDisk::default(), Some(&behind(20))).await, (None, None), "it begins anew");
    let opened_at = peer.lock().expect("no panic").opened_at.clone();
    assert_eq!(opened_at[..2], [None, Some(3)]);
}
