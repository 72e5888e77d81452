//! A remote side that is ahead of the state, and a person who accepts that rows
//! come twice: some do, and none is lost.

use tidegate_engine::sink::EPOCHS_IN_DOUBT;

use super::*;

#[tokio::test]
async fn with_duplicates_accepted_it_goes_on_behind_every_epoch_in_doubt() {
    for (marker, is_taken) in [(7, true), (EPOCHS_IN_DOUBT / 2, true), (EPOCHS_IN_DOUBT, false)] {
        let (script, disk) = (Script::default(), SimDisk::default());
        script.world().marker = marker;
        let disk: Arc<dyn Vfs> = Arc::new(disk.plugged());
        let mut sink = sink(&script, &disk, 1 << 30);
        sink.accept_duplicates();
        sink.open().await.expect("opens");
        sink.commit(3).await.expect("goes on");
        let epoch = 4 + EPOCHS_IN_DOUBT;
        put(&mut sink, epoch, [1]).await;
        sink.commit(epoch).await.expect("ordered");
        let closed = tokio::time::timeout(LIMIT, sink.close()).await.expect("is bounded");
        assert_eq!(closed.is_ok(), is_taken, "{marker}: {closed:?}");
        if let Err(error) = closed {
            // The flag is there already: it is no way out.
            let told = error.to_string();
            assert!(told.contains("--accept-duplicates does not reach so far"), "{told}");
            assert!(told.ends_with("accept rows twice: remove the script"), "{told}");
        }
        let (rows, at) = if is_taken { (vec![1], epoch) } else { (vec![], marker) };
        let world = script.world();
        assert_eq!((&world.rows, world.marker), (&rows, at), "{marker}");
    }
}

/// A life with the flag, from this epoch on, which delivers one more row.
async fn accepted(script: &Script, disk: &SimDisk, epoch: u64, row: i64) -> bool {
    let disk: Arc<dyn Vfs> = Arc::new(disk.plugged());
    let mut sink = sink(script, &disk, 1 << 30);
    sink.accept_duplicates();
    sink.open().await.expect("opens");
    sink.commit(epoch).await.expect("goes on");
    put(&mut sink, epoch + 1 + EPOCHS_IN_DOUBT, [row]).await;
    sink.commit(epoch + 1 + EPOCHS_IN_DOUBT).await.expect("ordered");
    until(script, |world| world.has_crashed || world.rows.contains(&row)).await;
    let is_there = !script.world().has_crashed;
    if is_there {
        sink.close().await.expect("everything is delivered");
    }
    is_there
}

/// A start that was refused has left rows under numbers that the marker counts.
#[tokio::test]
async fn what_a_refused_start_has_left_is_delivered_though_it_crashes_at_any_step() {
    let mut crashes = 0;
    for (step, is_behind) in (1..12).flat_map(|step| [(step, false), (step, true)]) {
        let (script, disk) = (Script::default(), SimDisk::default());
        script.world().marker = 7;
        script.world().is_away = true;
        let mut refused = opened(&script, &disk, 3).await;
        put(&mut refused, 4, [10]).await;
        refused.commit(4).await.expect("ordered");
        drop(refused);
        script.world().is_away = false;
        script.world().crash = Some((step, is_behind));
        if !accepted(&script, &disk, 4, 11).await {
            crashes += 1;
            {
                let mut world = script.world();
                (world.crash, world.has_crashed) = (None, false);
                world.process += 1;
            }
            // Its checkpoint had been made: what it had to deliver is in the log.
            assert!(accepted(&script, &disk, 5 + EPOCHS_IN_DOUBT, 12).await, "{step} {is_behind}");
        }
        let world = script.world();
        assert!(world.rows.contains(&10) && world.rows.contains(&11), "{step} {is_behind}: {:?}", world.rows);
        assert!(world.marker > 4 + EPOCHS_IN_DOUBT, "{}", world.marker);
    }
    assert!(crashes >= 6, "{crashes}");
}

/// An object that was announced need not be there: the marker alone says what is.
#[tokio::test]
async fn with_duplicates_accepted_what_is_only_announced_is_delivered() {
    let (script, disk) = (Script::default(), SimDisk::default());
    let mut first = opened(&script, &disk, 0).await;
    for epoch in 1..=20 {
        if epoch == 11 {
            until(&script, |world| world.marker == 10).await;
            script.world().is_away = true;
        }
        put(&mut first, epoch, [i64::try_from(epoch).expect("small")]).await;
        first.commit(epoch).await.expect("ordered");
    }
    drop(first);
    {
        let mut world = script.world();
        // It died while it wrote the rest, and its last checkpoint is gone.
        (world.is_away, world.announced, world.under_way) = (false, Some(20), None);
        world.process += 1;
    }
    let disk: Arc<dyn Vfs> = Arc::new(disk.plugged());
    let mut sink = sink(&script, &disk, 1 << 30);
    sink.accept_duplicates();
    sink.open().await.expect("opens");
    sink.commit(19).await.expect("goes on");
    let epoch = 20 + EPOCHS_IN_DOUBT;
    put(&mut sink, epoch, [20]).await;
    sink.commit(epoch).await.expect("ordered");
    let closed = tokio::time::timeout(LIMIT, sink.close()).await.expect("is bounded");
    closed.expect("everything is delivered");
    let world = script.world();
    assert_eq!(world.rows, (1..=20).collect::<Vec<_>>());
    assert_eq!((world.marker, world.announced), (epoch, None));
}
