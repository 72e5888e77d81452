//! Rows of a recorded table through many checkpoints, compactions, crashes and
//! its limits.

use std::path::Path;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::storage::vfs::RealDisk;
use tidegate_engine::time::time_type;
use tokio::time::timeout;

use super::*;
use crate::sink_log::Remote;

fn files(folder: &Path, keep_us: Option<i64>, bytes_max: Option<u64>) -> Arc<Files> {
    let fields = vec![Field::new("ts", time_type(), false), Field::new("n", DataType::Int64, false)];
    let stream = StreamSchema::new(fields, Some("ts"));
    Arc::new(Files { vfs: Arc::new(RealDisk), folder: folder.join("history"), stream, keep_us, bytes_max })
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
