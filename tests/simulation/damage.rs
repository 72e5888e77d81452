//! A bad disk: a byte of the newest checkpoint, or of a log, is another one
//! after the restart.

use std::path::{Path, PathBuf};

use tidegate_engine::storage::vfs::Vfs;
use tidegate_engine::testing::disk::SimDisk;
use tidegate_engine::testing::seed::Seed;

use crate::world::World;

/// Changes a byte anywhere in the newest checkpoint, or in a segment of the
/// first source's log.
pub(crate) fn damage(disk: &SimDisk, world: &World, seed: &mut Seed) {
    let checkpoints = newest(disk, Path::new("/data/checkpoints"), "checkpoint-");
    let segments = newest(disk, Path::new("/data/ingress/in0"), "0");
    let is_checkpoint = seed.chance(60);
    let Some(path) = (if is_checkpoint { checkpoints } else { segments }) else { return };
    let at = seed.below(usize::try_from(disk.size(&path).expect("is there")).expect("fits"));
    disk.damage(&path, at);
    let mut state = world.lock();
    if is_checkpoint {
        state.damaged_checkpoints.push(path.clone());
    } else {
        state.damaged += 1;
    }
    state.note(format!("byte {at} of {} changes", path.display()));
}

/// Remembers which checkpoint a life that begins now has to go on from.
pub(crate) fn look(disk: &SimDisk, world: &World) {
    let mut files = disk.list(Path::new("/data/checkpoints")).expect("no fault is planned");
    let mut state = world.lock();
    files.retain(|path| !state.damaged_checkpoints.contains(path));
    let epoch = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    state.whole = files.iter().filter_map(epoch).max().unwrap_or(0);
}

fn newest(disk: &SimDisk, folder: &Path, begins: &str) -> Option<PathBuf> {
    let mut files = disk.list(folder).expect("no fault is planned");
    let begins =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins));
    files.retain(|path| begins(path) && path.extension().is_none_or(|suffix| suffix == "seg"));
    files.sort();
    files.pop()
}
