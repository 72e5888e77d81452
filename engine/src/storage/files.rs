//! Files that are there whole or not at all, and a folder that one process
//! owns.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use super::vfs::{RealDisk, Vfs};

/// Writes a file so that after a crash either the old content or the new one
/// is there: temporary name, fsync, rename, fsync of the folder.
///
/// # Errors
/// What the file system answers; the old content is still there.
pub fn write_atomically(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    super::vfs::write_atomically(&RealDisk, path, parts)
}

/// Makes a rename, creation or deletion in the folder of `path` durable.
///
/// # Errors
/// What the file system answers.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    RealDisk.sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// A data directory that belongs to this process until the value is dropped.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Creates the folder if need be and takes it.
    ///
    /// # Errors
    /// A sentence naming the folder: it cannot be made or written, or another
    /// process has it.
    pub fn take(folder: &Path) -> Result<DirLock, String> {
        let failed =
            |error: io::Error| format!("cannot use the data directory {}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(failed)?;
        let path = folder.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(format!(
                    "the data directory {} belongs to another running tidegate",
                    folder.display()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let probe = folder.join("probe");
        // A full or read-only disk is found at start, not at the first checkpoint.
        write_atomically(&probe, &[&[0; 4096]]).map_err(failed)?;
        fs::remove_file(&probe).map_err(failed)?;
        Ok(DirLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one() {
        let folder = std::env::temp_dir().join(format!("tidegate-lock-{}", std::process::id()));
        let first = DirLock::take(&folder).expect("nobody has it");
        let error = DirLock::take(&folder).expect_err("somebody has it");
        assert!(error.contains("another running tidegate"), "{error}");
        drop(first);
        DirLock::take(&folder).expect("free again");
        fs::remove_dir_all(&folder).expect("is there");
    }
}
