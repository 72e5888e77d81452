//! Rows of a recorded table through many checkpoints, compactions, crashes and
//! its limits.

use std::path::Path;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::storage::vfs::RealDisk;
use tidegate_engine::time::{Clock, SystemClock, Time, time_type};
use tokio::time::timeout;

use super::*;
use crate::sink_log::{Remote, RemoteError};

fn files(folder: &Path, keep_us: Option<i64>, bytes_max: Option<u64>) -> Arc<Files> {
    let fields = vec![Field::new("ts", time_type(), true), Field::new("n", DataType::Int64, true)];
    files_of(folder, fields, keep_us, bytes_max)
}

fn files_of(folder: &Path, fields: Vec<Field>, keep_us: Option<i64>, bytes_max: Option<u64>) -> Arc<Files> {
    let (stream, folder) = (StreamSchema::new(fields, Some("ts")), folder.join("history"));
    let (vfs, clock) = (Arc::new(RealDisk), Arc::new(SystemClock));
    Arc::new(Files { vfs, folder, stream, keep_us, bytes_max, clock })
}

fn batch(files: &Files, times_us: &[i64]) -> RecordBatch {
    let ts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times_us.to_vec()).with_timezone("UTC"));
    let n: ArrayRef = Arc::new(Int64Array::from(times_us.to_vec()));
    RecordBatch::try_new(Arc::clone(&files.stream.columns), vec![ts, n]).expect("fits")
}

/// Delivers these epochs, the row of an epoch being its number.
async fn deliver(files: &Arc<Files>, epochs: std::ops::RangeInclusive<u64>) {
    let mut recorder = Recorder::new(Arc::clone(files));
    let work = async {
        let marker = recorder.connect().await.expect("opens");
        // As after a start: what the log has is there already.
        recorder.begin().await.expect("begins");
        recorder.commit(marker).await.expect("commits nothing");
        for epoch in epochs.filter(|epoch| *epoch > marker) {
            assert_eq!(recorder.begin().await, Ok(epoch - 1));
            let rows = batch(files, &[i64::try_from(epoch).expect("small")]);
            recorder.insert(&rows).await.expect("takes rows");
            recorder.commit(epoch).await.expect("commits");
        }
    };
    timeout(Duration::from_secs(60), work).await.expect("in time");
}

fn rows(files: &Arc<Files>) -> Vec<i64> {
    let rows = Recorded(Arc::clone(files)).rows().expect("can be read");
    rows.iter().flat_map(|batch| batch.column(1).as_primitive::<Int64Type>().values().to_vec()).collect()
}

fn count(files: &Files) -> usize {
    std::fs::read_dir(&files.folder).expect("is there").count()
}

#[tokio::test]
async fn many_checkpoints_become_few_files_and_no_row_is_there_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path(), None, None);
    assert_eq!(rows(&files), [] as [i64; 0], "before the first checkpoint");
    deliver(&files, 1..=15).await;
    let before: Vec<_> =
        std::fs::read_dir(&files.folder).expect("is there").map(|entry| entry.expect("one").path()).collect();
    let kept: Vec<_> =
        before.iter().map(|path| (path.clone(), std::fs::read(path).expect("reads"))).collect();
    // A second process begins behind what is there.
    deliver(&files, 10..=40).await;
    let all: Vec<i64> = (1..=40).collect();
    assert_eq!(rows(&files), all);
    assert!(count(&files) <= 16, "{} files", count(&files));
    // A crash after the whole, before its parts were removed.
    for (path, bytes) in kept {
        std::fs::write(path, bytes).expect("writes");
    }
    assert_eq!(rows(&files), all, "nobody sees rows twice");
    let crowded = count(&files);
    deliver(&files, 41..=41).await;
    assert!(count(&files) < crowded, "they are removed");
    assert_eq!(rows(&files), (1..=41).collect::<Vec<i64>>());
}

#[tokio::test]
async fn what_is_too_old_or_too_much_is_forgotten_but_not_how_far_it_reaches() {
    let folder = tempfile::tempdir().expect("a folder");
    let by_time = files(folder.path(), Some(5), None);
    deliver(&by_time, 1..=60).await;
    assert_eq!(rows(&by_time), (55..=60).collect::<Vec<i64>>());
    let folder = tempfile::tempdir().expect("a folder");
    let by_size = files(folder.path(), None, Some(1));
    deliver(&by_size, 1..=5).await;
    assert_eq!(rows(&by_size), [5], "the newest one stays");
    let mut recorder = Recorder::new(Arc::clone(&by_size));
    assert_eq!(recorder.connect().await, Ok(5));
}

#[tokio::test]
async fn a_damaged_file_is_named_and_never_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = files(folder.path(), None, None);
    deliver(&files, 1..=3).await;
    let path = std::fs::read_dir(&files.folder).expect("is there").next().expect("one").expect("one").path();
    std::fs::write(&path, b"PAR1").expect("writes");
    let reason = Recorded(files).rows().expect_err("is damaged");
    assert!(reason.contains(&path.display().to_string()), "{reason}");
}

#[tokio::test]
async fn a_column_is_known_by_its_name_and_type_whatever_became_of_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = files(folder.path(), None, None);
    deliver(&before, 1..=20).await;
    // `n` has moved, `ts` too, and `m` has come.
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let fields = vec![int("m"), int("n"), Field::new("ts", time_type(), true)];
    let today = files_of(folder.path(), fields, None, None);
    let mut recorder = Recorder::new(Arc::clone(&today));
    let work = async {
        let marker = recorder.connect().await.expect("opens");
        for epoch in marker + 1..=marker + 20 {
            recorder.begin().await.expect("begins");
            // Rows of the log from before the edit.
            recorder.insert(&batch(&before, &[i64::try_from(epoch).expect("small")])).await.expect("fits");
            recorder.commit(epoch).await.expect("commits");
        }
    };
    timeout(Duration::from_secs(60), work).await.expect("in time");
    let column = |index: usize| {
        let rows = Recorded(Arc::clone(&today)).rows().expect("can be read");
        let column = |batch: &RecordBatch| batch.column(index).as_primitive::<Int64Type>().clone();
        rows.iter().flat_map(|batch| column(batch).iter().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(column(1), (1..=40).map(Some).collect::<Vec<_>>());
    assert_eq!(column(0), [None; 40]);
    assert_eq!(rows(&before), (1..=40).collect::<Vec<_>>(), "no file has lost a column");
    assert!(count(&today) < 20, "{} files", count(&today));
}

#[tokio::test]
async fn a_column_of_another_type_is_refused_with_its_file_and_rows_of_the_log_one_by_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let before = files(folder.path(), None, None);
    deliver(&before, 1..=1).await;
    let fields = vec![Field::new("ts", time_type(), true), Field::new("n", DataType::Utf8, true)];
    let today = files_of(folder.path(), fields, None, None);
    let reason = Recorded(Arc::clone(&today)).rows().expect_err("another type");
    assert!(reason.contains("_1.parquet") && reason.contains("`n` is of the type int64"), "{reason}");
    let mut recorder = Recorder::new(today);
    let refused = timeout(Duration::from_secs(60), recorder.insert(&batch(&before, &[2]))).await;
    assert!(matches!(refused, Ok(Err(RemoteError::Refused(_)))), "{refused:?}");
}

#[derive(Debug)]
struct At(i64);

impl Clock for At {
    fn now(&self) -> Time {
        Time(self.0)
    }
}

#[tokio::test]
async fn one_wrong_clock_makes_nothing_old_and_old_files_are_not_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |now_us| {
        let Ok(files) = Arc::try_unwrap(files(folder.path(), Some(5), None)) else { panic!("one owner") };
        Arc::new(Files { clock: Arc::new(At(now_us)), ..files })
    };
    deliver(&open(1), 1..=3).await;
    let mut recorder = Recorder::new(open(3));
    let work = async {
        recorder.connect().await.expect("opens");
        recorder.begin().await.expect("begins");
        recorder.insert(&batch(&open(3), &[i64::MAX / 2])).await.expect("takes rows");
        recorder.commit(4).await.expect("commits");
    };
    timeout(Duration::from_secs(60), work).await.expect("in time");
    assert_eq!(rows(&open(3)), [1, 2, 3, i64::MAX / 2]);
    // By now the first ones are old: a damaged one is of no matter.
    let files = open(8);
    let oldest = std::fs::read_dir(&files.folder).expect("is there").map(|entry| entry.expect("one").path());
    std::fs::write(oldest.min().expect("one"), b"PAR1").expect("writes");
    assert_eq!(rows(&files), [3, i64::MAX / 2]);
    let reason = files.read_all(1).expect_err("too much");
    assert!(reason.contains("more rows than a query can be given"), "{reason}");
}
