//! When a file is complete.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use tidegate_engine::sink::Sink;
use tidegate_engine::testing::disk::SimDisk;

use super::{all_ids, batch, ids, opened, put, seen_in_folder, until};
use crate::sink_log::Roll;

#[tokio::test]
async fn many_epochs_are_in_one_file_until_it_is_large_or_old_or_the_topology_stops() {
    let disk = SimDisk::default();
    let mut sink = opened(&disk, "a", Roll { bytes: 100, age: Duration::from_secs(3600) }, 0).await;
    for epoch in 1..=30 {
        put(&mut sink, epoch, [i64::try_from(epoch).expect("small")]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // `{"id":1}` and its line feed are 9 or 10 bytes.
    until(|| seen_in_folder(&disk).len() >= 2).await;
    assert!(seen_in_folder(&disk).values().all(|object| object.len() >= 100));
    sink.close().await.expect("everything is delivered");
    let seen = seen_in_folder(&disk);
    assert!(seen.len() <= 4, "{} files", seen.len());
    assert_eq!(all_ids(seen.values()), (1..=30).collect::<Vec<_>>());
    let names: Vec<_> = seen.keys().cloned().collect();
    assert_eq!(names[0], "out-a-0000000001.jsonl");

    let mut sink = opened(&disk, "b", Roll { bytes: 1 << 20, age: Duration::from_millis(300) }, 30).await;
    put(&mut sink, 31, [31]).await;
    put(&mut sink, 32, [32]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(seen_in_folder(&disk).len(), names.len(), "too early");
    until(|| seen_in_folder(&disk).len() > names.len()).await;
    let seen = seen_in_folder(&disk);
    let (name, last) = seen.last_key_value().expect("files");
    assert_eq!((name.as_str(), ids(last)), ("out-a-0000000031.jsonl", vec![31, 32]));
}

/// A row with another column.
fn wider(id: i64) -> RecordBatch {
    let column = Arc::clone(batch([id]).column(0));
    RecordBatch::try_from_iter([("id", Arc::clone(&column)), ("more", column)]).expect("equal lengths")
}

#[tokio::test]
async fn rows_of_another_shape_begin_another_file() {
    let disk = SimDisk::default();
    let large = Roll { bytes: 1 << 20, age: Duration::from_secs(3600) };
    let mut first = opened(&disk, "a", large, 0).await;
    put(&mut first, 1, [1]).await;
    put(&mut first, 2, [2]).await;
    drop(first);
    // The file has changed, and with it the columns; what waits has the former ones.
    let mut second = opened(&disk, "b", large, 2).await;
    let wider = wider(3);
    second.write(&wider).await.expect("taken");
    second.flush(3).await.expect("durable");
    second.commit(3).await.expect("ordered");
    second.close().await.expect("everything is delivered");
    let texts: Vec<_> = seen_in_folder(&disk).into_values().map(String::from_utf8).collect();
    let texts: Vec<_> = texts.into_iter().map(|text| text.expect("text")).collect();
    assert_eq!(texts, ["{\"id\":1}\n{\"id\":2}\n", "{\"id\":3,\"more\":3}\n"]);
}
