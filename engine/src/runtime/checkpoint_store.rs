//! Checkpoints on disk: one file an epoch, three generations, each whole and
//! checked or not used. A file of an operator with a large state holds what has
//! changed, and names the files that hold the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::chain::Chains;
use super::checkpoint::Checkpoint;
use super::job::JobError;
use crate::operator::Compaction;
use crate::planted;
use crate::storage::vfs::{Vfs, write_atomically};

/// Names the checkpoint after which peers have been told that rows are safe
/// which no checkpoint holds yet.
const ACKNOWLEDGED: &str = "acknowledged-after";
/// What could not be read and was given up.
const LOST: &str = "lost-";
/// How a reason says that a file is whole, and of a version to come.
pub(super) const NEWER: &str = "newer version";
/// Checkpoints that a start may go on from.
pub(super) const GENERATIONS: usize = 3;

/// Why a checkpoint was not written; a sentence naming the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// The disk does not take it.
    #[error("{0}")]
    Disk(String),
    /// It cannot be put into bytes: no disk would help.
    #[error("{0}")]
    Encode(String),
}

impl From<WriteError> for JobError {
    fn from(error: WriteError) -> JobError {
        match error {
            WriteError::Disk(message) => JobError::Storage(message),
            WriteError::Encode(message) => JobError::Failed { node: "a checkpoint".into(), message },
        }
    }
}

/// The checkpoints of a topology.
#[derive(Clone)]
pub(super) struct CheckpointStore {
    vfs: Arc<dyn Vfs>,
    folder: PathBuf,
    chains: Arc<Mutex<Chains>>,
}

impl CheckpointStore {
    /// In this folder, which need not be there yet.
    pub(super) fn new(vfs: Arc<dyn Vfs>, folder: PathBuf) -> CheckpointStore {
        CheckpointStore { vfs, folder, chains: Arc::default() }
    }

    /// The operators that go on from the state that was read, and how their
    /// changes are put together; all others begin anew.
    pub(super) fn go_on(&self, restored: &BTreeSet<String>, compactions: BTreeMap<String, Compaction>) {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).go_on(restored, compactions);
    }

    /// Writes a checkpoint, durable when it returns, and removes what none of
    /// the last three needs.
    ///
    /// # Errors
    /// The disk does not take it, or it cannot be encoded.
    pub(super) fn write(&self, mut checkpoint: Checkpoint) -> Result<(), WriteError> {
        let path = self.folder.join(file_name(checkpoint.epoch));
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        chains.prepare(&mut checkpoint, |epoch| self.read(epoch));
        let encoded = checkpoint.encode().map_err(|error| WriteError::Encode(failed(&error)));
        let written = encoded.and_then(|(bytes, sizes)| {
            let written = self
                .vfs
                .create_folder(&self.folder)
                .and_then(|()| write_atomically(self.vfs.as_ref(), &path, &[&bytes]));
            written.map(|()| sizes).map_err(|error| WriteError::Disk(failed(&error)))
        });
        match written {
            Ok(sizes) => chains.written(&checkpoint, &sizes),
            Err(error) => {
                chains.failed(checkpoint);
                return Err(error);
            }
        }
        if planted!(FolderNotSynced) {
            return Ok(());
        }
        let Some(needed) = chains.needed() else { return Ok(()) };
        for (epoch, old) in self.generations().map_err(|error| WriteError::Disk(failed(&error)))? {
            if !needed.contains(&epoch) {
                let removed = self.vfs.remove(&old);
                removed
                    .map_err(|error| WriteError::Disk(format!("cannot remove {}: {error}", old.display())))?;
            }
        }
        self.vfs.sync_folder(&self.folder).map_err(|error| WriteError::Disk(failed(&error)))
    }

    /// Whether its files can be listed.
    ///
    /// # Errors
    /// A sentence naming the folder: the disk does not answer now.
    pub(super) fn look(&self) -> Result<(), String> {
        let all = self.generations();
        all.map(drop).map_err(|error| format!("cannot read {}: {error}", self.folder.display()))
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
        // Older files are there for those that name them: logs have moved on.
        for (epoch, path) in all.into_iter().rev().take(GENERATIONS) {
            match self.read(epoch).and_then(|checkpoint| self.whole(checkpoint)) {
                Ok(checkpoint) => {
                    self.chains.lock().unwrap_or_else(PoisonError::into_inner).begin(&checkpoint);
                    return Ok(Some((checkpoint, damaged)));
                }
                Err(reason) if reason.contains(NEWER) => {
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

    /// Begins without any state although there was one, durably: epochs go on
    /// behind every one that a sink may have seen. What cannot be read is put
    /// aside for a person.
    ///
    /// # Errors
    /// A sentence naming the file.
    pub(super) fn give_up(&self) -> Result<Checkpoint, String> {
        let all = self.generations();
        let all = all.map_err(|error| format!("cannot read {}: {error}", self.folder.display()))?;
        let epoch = all.last().map_or(0, |(epoch, _)| *epoch) + 1;
        let empty = Checkpoint { epoch, ..Checkpoint::default() };
        self.write(empty.clone()).map_err(|error| error.to_string())?;
        for (_, path) in all {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let aside = path.with_file_name(format!("{LOST}{name}"));
            let renamed = self.vfs.rename(&path, &aside);
            renamed.map_err(|error| format!("cannot rename {}: {error}", path.display()))?;
        }
        let synced = self.vfs.sync_folder(&self.folder);
        synced.map_err(|error| format!("cannot write {}: {error}", self.folder.display()))?;
        Ok(empty)
    }

    /// Changes the file of an epoch, durably: whole as it was, or as it is to be.
    /// Without a file there is nothing to change.
    ///
    /// # Errors
    /// The disk does not give or take it, or it cannot be encoded.
    pub(super) fn amend(&self, epoch: u64, change: impl FnOnce(&mut Checkpoint)) -> Result<(), WriteError> {
        if epoch == 0 {
            return Ok(());
        }
        let path = self.folder.join(file_name(epoch));
        let failed = |error: &dyn std::fmt::Display| format!("cannot write {}: {error}", path.display());
        let mut checkpoint = self.read(epoch).map_err(|error| WriteError::Disk(failed(&error)))?;
        change(&mut checkpoint);
        let (bytes, _) = checkpoint.encode().map_err(|error| WriteError::Encode(failed(&error)))?;
        let written = write_atomically(self.vfs.as_ref(), &path, &[&bytes]);
        written.map_err(|error| WriteError::Disk(failed(&error)))
    }

    /// The checkpoint that the topology goes on from has been changed, in its file too.
    pub(super) fn begin_with(&self, checkpoint: &Checkpoint) {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner).begin(checkpoint);
    }

    /// One file, without those that it names.
    fn read(&self, epoch: u64) -> Result<Checkpoint, String> {
        let bytes = self.vfs.read(&self.folder.join(file_name(epoch))).map_err(|error| error.to_string())?;
        Checkpoint::decode(&bytes)
    }

    /// The same with the batches of all files that it names.
    fn whole(&self, mut checkpoint: Checkpoint) -> Result<Checkpoint, String> {
        let mut files = BTreeMap::new();
        for (name, state) in &mut checkpoint.operators {
            let mut batches = Vec::new();
            for part in &state.parts {
                if !files.contains_key(part) {
                    let file =
                        self.read(*part).map_err(|reason| format!("it needs epoch {part}: {reason}"))?;
                    files.insert(*part, file);
                }
                let found = files.get(part).and_then(|file| file.operators.get(name));
                let found = found.filter(|found| found.fingerprint == state.fingerprint);
                let found =
                    found.ok_or_else(|| format!("epoch {part} does not hold the state of `{name}`"))?;
                batches.extend(found.batches.iter().cloned());
            }
            batches.append(&mut state.batches);
            state.batches = batches;
        }
        Ok(checkpoint)
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
mod tests;
