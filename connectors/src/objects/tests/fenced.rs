//! Who may not write: an older state, another log, a copy of the state.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tidegate_engine::sink::Sink;
use tidegate_engine::testing::disk::SimDisk;

use super::super::Store;
use super::bucket::{Script, World, lock};
use super::{AT_ONCE, LOG, all_ids, failed, folder, objects, opened, put, until};
use crate::sink_log::over;

#[tokio::test]
async fn a_state_older_than_what_was_delivered_is_refused() {
    let disk = SimDisk::default();
    let mut sink = opened(&disk, "a", AT_ONCE, 0).await;
    for epoch in 1..=5 {
        put(&mut sink, epoch, [1]).await;
    }
    sink.close().await.expect("everything is delivered");
    let mut older = opened(&disk, "b", AT_ONCE, 3).await;
    let message = failed(&mut older, 3).await;
    assert!(message.contains("epoch 5") && message.contains("t.out.json"), "{message}");
}

#[tokio::test]
async fn an_announced_object_counts_as_delivered_for_an_older_state() {
    let world = Arc::new(Mutex::new(World::default()));
    let disk = SimDisk::default();
    let start = |session: &str| {
        let remote = objects(&disk, session, AT_ONCE, Script::new(&world));
        over(Path::new(LOG), Arc::new(disk.clone()), 1 << 30, remote)
    };
    let mut sink = start("a");
    sink.open().await.expect("opens");
    sink.commit(0).await.expect("goes on");
    // Connect, two looks at the marker and a first one, the announcement; then it dies.
    until(|| lock(&world).steps >= 3).await;
    let steps = lock(&world).steps;
    lock(&world).crash = Some((steps + 4, 2));
    put(&mut sink, 1, [1]).await;
    until(|| lock(&world).has_crashed).await;
    drop(sink);
    let marker = lock(&world).marker.clone().expect("a marker").1;
    assert!(String::from_utf8_lossy(&marker).contains("\"announced\":{\"epoch\":1,"), "{marker:?}");
    {
        let mut world = lock(&world);
        (world.crash, world.has_crashed, world.process) = (None, false, 1);
    }
    let mut older = start("b");
    older.open().await.expect("opens");
    older.commit(0).await.expect("goes on");
    let message = failed(&mut older, 0).await;
    assert!(message.contains("up to epoch 1"), "{message}");
}

#[tokio::test]
async fn another_log_and_a_copy_of_the_state_are_kept_out() {
    let world = Arc::new(Mutex::new(World::default()));
    let (ours, others) = (SimDisk::default(), SimDisk::default());
    let start = |disk: &SimDisk, session: &str| {
        let remote = objects(disk, session, AT_ONCE, Script::new(&world));
        over(Path::new(LOG), Arc::new(disk.clone()), 1 << 30, remote)
    };
    let mut first = start(&ours, "a");
    first.open().await.expect("opens");
    first.commit(0).await.expect("goes on");
    put(&mut first, 1, [1]).await;
    until(|| lock(&world).objects.len() == 1).await;
    // A topology of this name with a state of its own.
    let mut other = start(&others, "x");
    other.open().await.expect("opens");
    other.commit(7).await.expect("goes on");
    let message = failed(&mut other, 7).await;
    assert!(message.contains("another log") && message.contains("the marker"), "{message}");
    // The same state twice: the later one goes on, the first one ends.
    let mut twin = {
        let remote = objects(&ours, "b", AT_ONCE, Script::new(&world));
        over(Path::new("/twin"), Arc::new(ours.clone()), 1 << 30, remote)
    };
    twin.open().await.expect("opens");
    twin.commit(1).await.expect("goes on");
    put(&mut twin, 2, [2]).await;
    until(|| lock(&world).objects.len() == 2).await;
    let message = failed(&mut first, 1).await;
    assert!(message.contains("copy of this topology's state"), "{message}");
    assert_eq!(all_ids(lock(&world).objects.values()), [1, 2]);
}

#[tokio::test]
async fn a_marker_in_a_folder_is_replaced_only_where_it_is_as_it_was_left() {
    let disk = SimDisk::default();
    let (mut first, mut second) = (folder(&disk), folder(&disk));
    for store in [&mut first, &mut second] {
        store.connect().await.expect("connects");
        assert_eq!(store.read_marker().await, Ok(None));
    }
    assert_eq!(first.write_marker(b"1").await, Ok(true));
    assert_eq!(second.write_marker(b"2").await, Ok(false), "it was not there when it looked");
    assert_eq!(second.read_marker().await, Ok(Some(b"1".to_vec())));
    assert_eq!(second.write_marker(b"2").await, Ok(true));
    assert_eq!(first.write_marker(b"3").await, Ok(false), "it is another's now");
    assert_eq!(first.read_marker().await, Ok(Some(b"2".to_vec())));
}
