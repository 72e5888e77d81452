//! Checkpoints on a disk that forgets, tears and damages.

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use super::*;
use crate::runtime::checkpoint::OperatorState;
use crate::source::Position;
use crate::testing::disk::{Fault, SimDisk};
use crate::testing::seed::Seed;

fn checkpoint(epoch: u64) -> Checkpoint {
    let position = Some(Position::of(&epoch));
    Checkpoint {
        epoch,
        sources: BTreeMap::from([("rows".into(), (position, None))]),
        ..Checkpoint::default()
    }
}

fn store(disk: &SimDisk) -> CheckpointStore {
    CheckpointStore::new(Arc::new(disk.plugged()), "/c".into())
}

fn epochs(store: &CheckpointStore) -> Vec<u64> {
    store.generations().expect("is readable").into_iter().map(|(epoch, _)| epoch).collect()
}

#[test]
fn three_generations_are_kept_and_the_newest_is_read() {
    let store = store(&SimDisk::default());
    assert_eq!(store.read_newest(), Ok(None));
    for epoch in 1..=5 {
        store.write(checkpoint(epoch)).expect("written");
    }
    assert_eq!(store.read_newest(), Ok(Some((checkpoint(5), vec![]))));
    assert_eq!(epochs(&store), [3, 4, 5]);
}

#[test]
fn a_damaged_newest_falls_back_to_the_one_before() {
    let disk = SimDisk::default();
    let store = store(&disk);
    store.write(checkpoint(1)).expect("written");
    store.write(checkpoint(2)).expect("written");
    disk.damage(&store.folder.join(file_name(2)), 30);
    let (found, damaged) = store.read_newest().expect("readable").expect("there is one");
    assert_eq!((found.epoch, damaged.len()), (1, 1));
    disk.damage(&store.folder.join(file_name(1)), 30);
    assert!(store.read_newest().is_err(), "none is whole: refuse");
}

/// What was written is there after any crash, and never half of something.
#[test]
fn a_written_checkpoint_survives_whatever_the_disk_does() {
    for history in 0..2_000 {
        let mut seed = Seed::new(history);
        let disk = SimDisk::default();
        let (mut written, mut tried, mut marked) = (0, 0, 0);
        for _ in 0..4 {
            disk.plan(u64::MAX, Fault::Crash);
            let store = store(&disk);
            let newest = store.read_newest().expect("one is whole, or there never was one");
            let newest = newest.map_or(0, |(checkpoint, _)| checkpoint.epoch);
            assert!((written..=tried).contains(&newest), "history {history}: {newest} of {written}");
            let found = store.acknowledged_after().expect("is readable").unwrap_or(0);
            assert!((marked..=tried).contains(&found), "history {history}: {found} of {marked}");
            let fault = [Fault::Crash, Fault::NoSpace, Fault::SyncError][seed.below(3)];
            disk.plan(disk.operations() + seed.below(60) as u64, fault);
            for _ in 0..seed.below(9) {
                tried += 1;
                if store.write(checkpoint(tried)).is_ok() {
                    written = tried;
                }
                if seed.chance(30) && store.mark_acknowledged(tried).is_ok() {
                    marked = tried;
                }
            }
            disk.restart(&mut seed);
        }
    }
}

fn numbers(from: i64, to: i64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    RecordBatch::try_from_iter([("n", column)]).expect("one column")
}

fn read(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

/// An operator that collects numbers and reports the new ones.
fn collected(epoch: u64, batches: Vec<RecordBatch>, is_change: bool) -> Checkpoint {
    let state = OperatorState { fingerprint: "f".into(), is_change, parts: Vec::new(), batches };
    Checkpoint { operators: BTreeMap::from([("set".into(), state)]), ..checkpoint(epoch) }
}

fn compactions() -> BTreeMap<String, Compaction> {
    let together: Compaction = Arc::new(|state: &[RecordBatch]| {
        let all = read(state);
        let column: ArrayRef = Arc::new(Int64Array::from(all));
        Ok(vec![RecordBatch::try_from_iter([("n", column)])?])
    });
    BTreeMap::from([("set".to_owned(), together)])
}

/// Changes and what they belong to are found together again, whatever was lost,
/// refused, put together or damaged.
#[test]
fn changes_stand_behind_what_they_belong_to() {
    let (mut put_together, mut fell_back, mut longest) = (0, 0, 0);
    for history in 0..400 {
        let mut seed = Seed::new(history);
        let disk = SimDisk::default();
        let mut durable = 0;
        for _ in 0..4 {
            disk.plan(u64::MAX, Fault::Crash);
            let store = store(&disk);
            store.chains.lock().expect("not poisoned").changes_bytes_min = 1_500;
            let found = store.read_newest().expect("one is whole, or there never was one");
            let (found, damaged) = found.unwrap_or_default();
            assert!(!damaged.is_empty() || found.epoch >= durable, "history {history}");
            fell_back += usize::from(!damaged.is_empty());
            // Numbers up to ten times its epoch are in a state.
            let mut last = found.epoch;
            let state = found.operators.get("set").map(|state| read(&state.batches)).unwrap_or_default();
            assert!(state.into_iter().eq(0..last.cast_signed() * 10), "history {history}, epoch {last}");
            longest = longest.max(found.operators.get("set").map_or(0, |state| state.parts.len()));
            let restored = if last > 0 { BTreeSet::from(["set".to_owned()]) } else { BTreeSet::new() };
            store.go_on(&restored, compactions());
            let fault = [Fault::Crash, Fault::NoSpace, Fault::SyncError][seed.below(3)];
            disk.plan(disk.operations() + seed.below(150) as u64, fault);
            durable = last;
            for _ in 0..seed.below(30) {
                let (from, to) = (last.cast_signed() * 10, last.cast_signed() * 10 + 10);
                last += 1;
                let is_change = seed.chance(90);
                let from = if is_change { from } else { 0 };
                if store.write(collected(last, vec![numbers(from, to)], is_change)).is_ok() {
                    durable = last;
                }
                let file = store.read(last);
                put_together += usize::from(
                    is_change && last > 1 && file.is_ok_and(|file| file.operators["set"].parts.is_empty()),
                );
            }
            disk.restart(&mut seed);
            let store = self::store(&disk);
            if epochs(&store).len() > 1 && seed.chance(20) {
                let newest = epochs(&store).pop().expect("some");
                disk.damage(&store.folder.join(file_name(newest)), 40);
                durable = 0;
            }
        }
    }
    assert!(put_together > 20 && fell_back > 20 && longest > 3, "{put_together}, {fell_back}, {longest}");
}
