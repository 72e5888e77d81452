//! A topology that crashes between any two steps, over a disk that forgets and
//! over a store whose answers are lost and whose requests land late: objects
//! hold every row exactly once, and one that was seen never changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::sink::Sink;
use tidegate_engine::storage::vfs::Vfs;
use tidegate_engine::testing::disk::SimDisk;
use tidegate_engine::testing::seed::Seed;

mod bucket;
mod fenced;
mod power;
mod rolled;

use super::{Folder, ObjectFormat, Objects, Settings, Store};
use crate::format::encode::EncodeFormat;
use crate::sink_log::{Roll, over};

const LIMIT: Duration = Duration::from_secs(60);
const LOG: &str = "/state/egress/out";
const OUT: &str = "/out";
const MARKER: &str = "_tidegate/t.out.json";

fn batch(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
    RecordBatch::try_from_iter([("id", column)]).expect("a batch")
}

fn objects<S: Store>(disk: &SimDisk, session: &str, roll: Roll, store: S) -> Objects<S> {
    let settings = Settings {
        sink: "out".into(),
        folder: LOG.into(),
        vfs: Arc::new(disk.clone()),
        session: session.into(),
        format: ObjectFormat::Rows(EncodeFormat::Json),
        roll,
    };
    Objects::new(settings, store)
}

fn folder(disk: &SimDisk) -> Folder {
    Folder::new(Arc::new(disk.clone()), OUT.into(), MARKER)
}

const AT_ONCE: Roll = Roll { bytes: 1, age: Duration::from_secs(3600) };

/// The ids of an object; a panic if it is not whole.
fn ids(object: &[u8]) -> Vec<i64> {
    let text = std::str::from_utf8(object).expect("text");
    assert!(!text.is_empty() && text.ends_with('\n'), "half an object: {text:?}");
    let id = |line: &str| -> i64 {
        let number = line.strip_prefix("{\"id\":").and_then(|rest| rest.strip_suffix('}'));
        number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?} in {text:?}"))
    };
    text.lines().map(id).collect()
}

/// Everything that a reader of the folder sees.
fn seen_in_folder(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let paths = disk.list(Path::new(OUT)).unwrap_or_default();
    let objects = paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let read = |path: PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // The power may go while a reader reads.
        Some((name, disk.read(&path).ok()?))
    };
    objects.filter_map(read).collect()
}

/// What was seen stays as it was: a reader may have taken it away. Only whole
/// objects are seen.
fn look(history: &mut BTreeMap<String, Vec<u8>>, now: BTreeMap<String, Vec<u8>>, seed: u64) {
    for (name, object) in now {
        ids(&object);
        let before = history.entry(name.clone()).or_insert_with(|| object.clone());
        assert!(*before == object, "seed {seed}: {name} has changed: {:?}, {:?}", ids(before), ids(&object));
    }
}

/// What the topology knows after a crash.
#[derive(Clone, Copy, Debug, Default)]
struct Checkpoint {
    epoch: u64,
    rows: i64,
}

const ROWS: i64 = 40;

/// A life of the topology: from its checkpoint on, until a crash or the end.
async fn live(mut sink: impl Sink, at: &mut Checkpoint, seed: &mut Seed) -> bool {
    if sink.open().await.is_err() || sink.commit(at.epoch).await.is_err() {
        return false;
    }
    let Checkpoint { mut epoch, mut rows } = *at;
    while rows < ROWS {
        epoch += 1;
        for _ in 0..=seed.below(3) {
            let next = (rows + i64::try_from(seed.below(4)).expect("small")).min(ROWS);
            sink.write(&batch(rows..next)).await.expect("taken");
            rows = next;
            if seed.chance(50) && sink.flush(epoch).await.is_err() {
                return false;
            }
        }
        if sink.flush(epoch).await.is_err() || seed.chance(15) {
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
    // A disk that fails may fail here as anywhere else; what fails for ever is
    // told by a history that does not end.
    sink.close().await.is_ok()
}

fn some_roll(seed: &mut Seed) -> Roll {
    let bytes = [1, 60, 200, 1 << 20][seed.below(4)];
    let age = if seed.chance(50) { Duration::from_millis(2) } else { Duration::from_secs(3600) };
    Roll { bytes, age }
}

fn all_ids<'a>(objects: impl Iterator<Item = &'a Vec<u8>>) -> Vec<i64> {
    let mut all: Vec<i64> = objects.flat_map(|object| ids(object)).collect();
    all.sort_unstable();
    all
}

async fn until(is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("comes true in time");
}

async fn opened(disk: &SimDisk, session: &str, roll: Roll, epoch: u64) -> impl Sink + use<> {
    let plugged = disk.plugged();
    let remote = objects(&plugged, session, roll, folder(&plugged));
    let mut sink = over(Path::new(LOG), Arc::new(plugged), 1 << 30, remote);
    sink.open().await.expect("opens");
    sink.commit(epoch).await.expect("goes on");
    sink
}

async fn put(sink: &mut impl Sink, epoch: u64, ids: impl IntoIterator<Item = i64>) {
    sink.write(&batch(ids)).await.expect("taken");
    sink.flush(epoch).await.expect("durable");
    sink.commit(epoch).await.expect("ordered");
}

async fn failed(sink: &mut impl Sink, mut epoch: u64) -> String {
    let failed = tokio::time::timeout(LIMIT, async {
        loop {
            epoch += 1;
            sink.write(&batch([1])).await.expect("taken");
            match sink.flush(epoch).await {
                Ok(()) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return error,
            }
            sink.commit(epoch).await.expect("ordered");
        }
    });
    match failed.await.expect("in time") {
        ConnectorError::Fatal(message) => message,
        other @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_)) => panic!("not fatal: {other}"),
    }
}
