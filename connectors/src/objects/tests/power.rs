//! A directory whose disk forgets: the power goes at any operation.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_engine::storage::vfs::Vfs;
use tidegate_engine::testing::disk::{Fault, SimDisk};
use tidegate_engine::testing::seed::Seed;

use super::{
    Checkpoint, LOG, MARKER, OUT, ROWS, all_ids, folder, live, look, objects, seen_in_folder, some_roll,
    until,
};
use crate::sink_log::over;

#[tokio::test]
async fn a_folder_holds_whole_files_and_each_row_once_whenever_the_power_goes() {
    let (mut crashes, mut files) = (0, 0);
    for number in 0..200 {
        let mut seed = Seed::new(number);
        let disk = SimDisk::default();
        let (mut at, mut history) = (Checkpoint::default(), BTreeMap::new());
        for life in 0.. {
            if life < 6 {
                let operation = disk.operations() + u64::try_from(seed.below(60)).expect("small");
                disk.plan(operation, if seed.chance(80) { Fault::Crash } else { Fault::SyncError });
            }
            let plugged = disk.plugged();
            let remote = objects(&plugged, &format!("s{life}"), some_roll(&mut seed), folder(&plugged));
            let bytes_max = if seed.chance(30) { 2_000 } else { 1 << 30 };
            let sink = over(Path::new(LOG), Arc::new(plugged.clone()), bytes_max, remote);
            let ended = tokio::select! {
                ended = live(sink, &mut at, &mut seed) => ended,
                () = until(|| disk.is_down()) => false,
            };
            look(&mut history, seen_in_folder(&disk), number);
            // What was called delivered is there when the power has gone after it.
            disk.restart(&mut seed);
            look(&mut history, seen_in_folder(&disk), number);
            if ended {
                break;
            }
            assert!(life < 40, "seed {number}: no end");
            crashes += 1;
        }
        let seen = seen_in_folder(&disk);
        assert_eq!(all_ids(seen.values()), (0..ROWS).collect::<Vec<_>>(), "seed {number}");
        let kept = disk.list(Path::new(OUT).join(MARKER).parent().expect("a folder")).expect("is there");
        assert_eq!(kept, [Path::new(OUT).join(MARKER)], "seed {number}");
        files += seen.len();
    }
    assert!(crashes > 400, "only {crashes} crashes");
    assert!(files > 600 && files < 200 * 40 / 2, "{files} files");
}
