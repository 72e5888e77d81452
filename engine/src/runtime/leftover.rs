//! Logs below a topology's state that a node once had: what waits in them. They
//! are looked at and never changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::egress::cursor;
use super::ingress::record_of;
use crate::source::Position;
use crate::storage::epoch_log::EpochLog;
use crate::storage::log::Log;
use crate::storage::vfs::Vfs;

/// What nobody has worked on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    /// Records, or rows.
    pub(super) count: u64,
    /// Bytes of the whole log.
    pub(super) bytes: u64,
}

/// The folders in a folder, by name. A folder that is not there has none.
pub(super) fn folders(vfs: &dyn Vfs, folder: &Path) -> Vec<(String, PathBuf)> {
    let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path));
    let mut found: Vec<_> = vfs.list(folder).unwrap_or_default().into_iter().filter_map(named).collect();
    found.sort();
    found
}

/// Records of an ingress log behind a position.
///
/// # Errors
/// A sentence: it cannot be read.
pub(super) fn unread_records(
    vfs: &Arc<dyn Vfs>,
    folder: &Path,
    position: Option<&Position>,
) -> Result<Option<Leftover>, String> {
    let log = Log::look(Arc::clone(vfs), folder).map_err(|error| error.to_string())?;
    let read = position.and_then(record_of).unwrap_or(log.oldest().saturating_sub(1));
    let count = log.durable().saturating_sub(read);
    Ok((count > 0).then(|| Leftover { count, bytes: log.bytes() }))
}

/// Rows of a sink's log or queue that were not delivered, as far as this
/// machine knows: what a remote side has of a sink's log only its marker tells.
///
/// # Errors
/// A sentence: it cannot be read.
pub(super) fn waiting_rows(vfs: &Arc<dyn Vfs>, folder: &Path) -> Result<Option<Leftover>, String> {
    let delivered = cursor::read(vfs.as_ref(), folder)?;
    let bytes = Log::look(Arc::clone(vfs), folder).map_err(|error| error.to_string())?.bytes();
    let mut count = 0;
    for item in EpochLog::look(Arc::clone(vfs), folder).map_err(|error| error.to_string())? {
        let item = item.map_err(|error| error.to_string())?;
        if let Some((_, batches)) = item.rows.filter(|_| item.number > delivered) {
            count += batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
        }
    }
    Ok((count > 0).then_some(Leftover { count, bytes }))
}
