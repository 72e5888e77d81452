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
        let (rows, at) = if is_taken { (vec![1], epoch) } else { (vec![], marker) };
        let world = script.world();
        assert_eq!((&world.rows, world.marker), (&rows, at), "{marker}");
    }
}
