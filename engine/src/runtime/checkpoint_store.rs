//! Checkpoints on disk: one file an epoch, three generations, each whole and
//! checked or not used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use crate::planted;
use crate::storage::vfs::{Vfs, write_atomically};

/// Names the checkpoint after which peers have been told that rows are safe
/// which no checkpoint holds yet.
const ACKNOWLEDGED: &str = "acknowledged-after";
/// Files kept.
pub(super) const GENERATIONS: usize = 3;

/// The checkpoints of a topology.
#[derive(Clone)]
pub(super) struct CheckpointStore {
    vfs: Arc<dyn Vfs>,
    folder: PathBuf,
}

impl CheckpointStore {
    /// In this folder, which need not be there yet.
    pub(super) fn new(vfs: Arc<dyn Vfs>, folder: PathBuf) -> CheckpointStore {
        CheckpointStore { vfs, folder }
    }

    /// Writes a checkpoint, durable when it returns, and removes what is older
    /// than three generations.
    ///
    /// # Errors
    /// A sentence naming the file.
    pub(super) fn write(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        let path = self.folder.join(file_name(checkpoint.epoch));
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let bytes = checkpoint.encode().map_err(|error| failed(&error))?;
        self.vfs.create_folder(&self.folder).map_err(|error| failed(&error))?;
        write_atomically(self.vfs.as_ref(), &path, &[&bytes]).map_err(|error| failed(&error))?;
        if planted!(FolderNotSynced) {
            return Ok(());
        }
        let all = self.generations().map_err(|error| failed(&error))?;
        for (_, old) in all.iter().rev().skip(GENERATIONS) {
            self.vfs.remove(old).map_err(|error| format!("cannot remove {}: {error}", old.display()))?;
        }
        self.vfs.sync_folder(&self.folder).map_err(|error| failed(&error))
    }

    /// The newest whole checkpoint, with a word about each newer one that is
    /// damaged; `None` if there never was one.
    ///
    /// # Errors
    /// There are checkpoints but none is whole, or one is of a newer version.
    pub(super) fn read_newest(&self) -> Result<Option<(Checkpoint, Vec<String>)>, String> {
        let all = self.generations();
        let all = all.map_err(|error| format!("cannot read {}: {error}", self.folder.display()))?;
        let mut damaged = Vec::new();
        for (_, path) in all.into_iter().rev() {
            let read = self.vfs.read(&path).map_err(|error| error.to_string());
            match read.and_then(|bytes| Checkpoint::decode(&bytes)) {
                Ok(checkpoint) => return Ok(Some((checkpoint, damaged))),
                Err(reason) if reason.contains("newer version") => {
                    return Err(format!("{}: {reason}", path.display()));
                }
                Err(_) if planted!(FallbackIgnored) => return Ok(None),
                Err(reason) => damaged.push(format!("{}: {reason}", path.display())),
            }
        }
        if damaged.is_empty() {
            Ok(None)
        } else {
            Err(format!("no checkpoint is whole: {}", damaged.join("; ")))
        }
    }

    /// Remembers, durable when it returns, that rows after the barrier of this
    /// epoch are about to be acknowledged, so that no start may forget them.
    ///
    /// # Errors
    /// A sentence naming the file.
    pub(super) fn mark_acknowledged(&self, epoch: u64) -> Result<(), String> {
        if planted!(MarkNotWritten) {
            return Ok(());
        }
        let path = self.folder.join(ACKNOWLEDGED);
        let written = self
            .vfs
            .create_folder(&self.folder)
            .and_then(|()| write_atomically(self.vfs.as_ref(), &path, &[epoch.to_string().as_bytes()]));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// The last checkpoint after which rows have been acknowledged, if any were.
    ///
    /// # Errors
    /// A sentence naming the file.
    pub(super) fn acknowledged_after(&self) -> Result<Option<u64>, String> {
        let path = self.folder.join(ACKNOWLEDGED);
        match self.vfs.read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let epoch = text
                    .parse()
                    .map_err(|_| format!("{} is damaged: {text:?} is no epoch", path.display()))?;
                Ok(Some(epoch))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Checkpoint files by epoch, oldest first.
    fn generations(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let files = match self.vfs.list(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files?,
        };
        let mut found: Vec<_> = files.into_iter().filter_map(|path| Some((epoch_of(&path)?, path))).collect();
        found.sort();
        Ok(found)
    }
}

fn file_name(epoch: u64) -> String {
    format!("checkpoint-{epoch:020}")
}

fn epoch_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
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
            store.write(&checkpoint(epoch)).expect("written");
        }
        assert_eq!(store.read_newest(), Ok(Some((checkpoint(5), vec![]))));
        assert_eq!(epochs(&store), [3, 4, 5]);
    }

    #[test]
    fn a_damaged_newest_falls_back_to_the_one_before() {
        let disk = SimDisk::default();
        let store = store(&disk);
        store.write(&checkpoint(1)).expect("written");
        store.write(&checkpoint(2)).expect("written");
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
                    if store.write(&checkpoint(tried)).is_ok() {
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
}
