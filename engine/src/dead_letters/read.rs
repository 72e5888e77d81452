//! Dead letters as a person sees them: every node's, with what became of each.
//! Reading changes nothing, so that it may be done while the daemon runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;

use super::letter::{self, Content, Fate, Letter, LetterId};
use super::{FOLDER, REQUESTS, Replay};
use crate::storage::epoch_log::{EpochLog, Item};
use crate::storage::log::LogError;
use crate::storage::vfs::{Vfs, write_atomically};

/// The dead letters of one node.
pub struct Shelf {
    /// The node.
    pub node: String,
    folder: PathBuf,
    vfs: Arc<dyn Vfs>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its number.
    pub id: LetterId,
    /// When, why and where from.
    pub letter: Letter,
    /// The row, alone in a batch.
    pub row: RecordBatch,
    /// What became of the row.
    pub fate: Fate,
    /// Whether somebody wants it to be delivered.
    pub is_requested: bool,
    /// Whether it has been delivered after all.
    pub is_replayed: bool,
}

/// Every node of a topology that has dead letters.
///
/// # Errors
/// The state cannot be read.
pub fn shelves(vfs: &Arc<dyn Vfs>, data_dir: &Path) -> io::Result<Vec<Shelf>> {
    let folders = match vfs.list(&data_dir.join(FOLDER)) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let shelf = |folder: PathBuf| {
        let node = folder.file_name()?.to_str()?.to_owned();
        Some(Shelf { node, folder, vfs: Arc::clone(vfs) })
    };
    Ok(folders.into_iter().filter_map(shelf).collect())
}

impl Shelf {
    #[cfg(test)]
    pub(crate) fn new(node: &str, data_dir: &Path, vfs: Arc<dyn Vfs>) -> Shelf {
        Shelf { node: node.to_owned(), folder: data_dir.join(FOLDER).join(node), vfs }
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn letters(&self) -> Result<Vec<DeadLetter>, LogError> {
        let mut letters = Vec::new();
        let mut replayed = BTreeSet::new();
        for item in EpochLog::look(Arc::clone(&self.vfs), &self.folder)? {
            let Item { number, rows, .. } = item?;
            for content in contents(number, rows)? {
                match content {
                    Content::Replayed(ids) => replayed.extend(ids),
                    Content::Letters(fate, of, rows) => {
                        letters.extend(of.into_iter().enumerate().map(|(row, letter)| DeadLetter {
                            id: LetterId { record: number, row },
                            letter,
                            row: rows.slice(row, 1),
                            fate,
                            is_requested: false,
                            is_replayed: false,
                        }))
                    }
                }
            }
        }
        let files = self.vfs.list(&self.folder.join(REQUESTS)).unwrap_or_default();
        let requested = ids_of(self.vfs.as_ref(), &files)?;
        for letter in &mut letters {
            letter.is_replayed = replayed.contains(&letter.id);
            letter.is_requested =
                !letter.is_replayed && requested.values().any(|ids| ids.contains(&letter.id));
        }
        Ok(letters)
    }
}

/// Asks for these letters of a node to be delivered: with the next checkpoint,
/// or when the topology starts.
///
/// # Errors
/// The request cannot be made durable.
pub fn request(shelf: &Shelf, ids: &[LetterId], name: &str) -> io::Result<()> {
    let folder = shelf.folder.join(REQUESTS);
    shelf.vfs.create_folder(&folder)?;
    let text: String = ids.iter().map(|id| format!("{id}\n")).collect();
    write_atomically(shelf.vfs.as_ref(), &folder.join(format!("{name}.ids")), &[text.as_bytes()])
}

/// The rows that requests name, without those that were replayed already.
pub(super) fn requested(vfs: &dyn Vfs, log: &EpochLog, files: &[PathBuf]) -> Result<Vec<Replay>, LogError> {
    let mut done = BTreeSet::new();
    let mut rows = BTreeMap::new();
    let requests = ids_of(vfs, files)?;
    for item in log.items() {
        let Item { number, rows: batches, .. } = item?;
        for content in contents(number, batches)? {
            match content {
                Content::Replayed(ids) => done.extend(ids),
                Content::Letters(_, letters, batch) => {
                    let ids = (0..letters.len()).map(|row| LetterId { record: number, row });
                    let wanted = ids.filter(|id| requests.values().any(|ids| ids.contains(id)));
                    rows.extend(wanted.map(|id| (id, batch.slice(id.row, 1))));
                }
            }
        }
    }
    let replay = |(request, ids): (PathBuf, BTreeSet<LetterId>)| {
        let ids: Vec<LetterId> =
            ids.into_iter().filter(|id| rows.contains_key(id) && done.insert(*id)).collect();
        let rows = ids.iter().filter_map(|id| rows.get(id).cloned()).collect();
        Replay { request, ids, rows }
    };
    Ok(requests.into_iter().map(replay).collect())
}

/// Whether the newest letters are these rows with this reason.
pub(super) fn is_newest(log: &EpochLog, reason: &str, rows: &RecordBatch) -> Result<bool, LogError> {
    let Some(newest) = log.items().last() else { return Ok(false) };
    let Item { number, rows: batches, .. } = newest?;
    let is_it = |content: &Content| match content {
        Content::Letters(_, letters, batch) => {
            batch.columns() == rows.columns() && letters.iter().all(|letter| letter.reason == reason)
        }
        Content::Replayed(_) => false,
    };
    Ok(contents(number, batches)?.iter().any(is_it))
}

fn ids_of(vfs: &dyn Vfs, files: &[PathBuf]) -> Result<BTreeMap<PathBuf, BTreeSet<LetterId>>, LogError> {
    let mut requests = BTreeMap::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "ids")) {
        let bytes = match vfs.read(file) {
            Ok(bytes) => bytes,
            // It was done meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(LogError::Unreadable(format!("{}: {error}", file.display()))),
        };
        let text = String::from_utf8_lossy(&bytes);
        requests.insert(file.clone(), text.lines().filter_map(|line| line.parse().ok()).collect());
    }
    Ok(requests)
}

fn contents(number: u64, rows: Option<(u64, Vec<RecordBatch>)>) -> Result<Vec<Content>, LogError> {
    let batches = rows.map(|(_, batches)| batches).unwrap_or_default();
    let read = |batch: &RecordBatch| {
        letter::read(batch)
            .map_err(|reason| LogError::Unreadable(format!("of dead letters, record {number}: {reason}")))
    };
    batches.iter().map(read).collect()
}
