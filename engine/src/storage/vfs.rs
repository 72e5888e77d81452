//! Files as the stores see them: on a real disk, or on a simulated one that
//! loses what was not synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::planted;

/// A file system.
pub trait Vfs: Send + Sync {
    /// Makes the folder and those above it.
    ///
    /// # Errors
    /// What the file system answers; so for all methods.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// The files of a folder, in no order.
    ///
    /// # Errors
    /// What the file system answers.
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>>;

    /// All bytes of a file.
    ///
    /// # Errors
    /// What the file system answers.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Length of a file in bytes.
    ///
    /// # Errors
    /// What the file system answers.
    fn size(&self, path: &Path) -> io::Result<u64>;

    /// A new file; an old one of this name is emptied.
    ///
    /// # Errors
    /// What the file system answers.
    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;

    /// A file that is there, to be written at its end.
    ///
    /// # Errors
    /// What the file system answers.
    fn append(&self, path: &Path) -> io::Result<Box<dyn VfsFile>>;

    /// Gives a file another name; durable after `sync_folder`.
    ///
    /// # Errors
    /// What the file system answers.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after `sync_folder`.
    ///
    /// # Errors
    /// What the file system answers.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder durable.
    ///
    /// # Errors
    /// What the file system answers.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// The first fsync that has failed, with its file, if the disk remembers.
    fn failed_sync(&self) -> Option<String> {
        None
    }
}

/// A file that is written at its end.
pub trait VfsFile: Send {
    /// Writes all bytes.
    ///
    /// # Errors
    /// What the file system answers; a part may have been written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written durable.
    ///
    /// # Errors
    /// What the file system answers; what was written may be lost, and a later
    /// success says nothing about it.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to this length.
    ///
    /// # Errors
    /// What the file system answers.
    fn truncate(&mut self, bytes: u64) -> io::Result<()>;
}

/// Writes a file so that after a crash either the old content or the new one
/// is there: temporary name, sync, rename, sync of the folder.
///
/// # Errors
/// What the file system answers; the old content is still there.
pub fn write_atomically(vfs: &dyn Vfs, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    let temporary = PathBuf::from(temporary);
    let mut file = vfs.create(&temporary)?;
    for part in parts {
        file.write(part)?;
    }
    if !planted!(FileNotSynced) {
        file.sync()?;
    }
    drop(file);
    if !planted!(FileNotRenamed) {
        vfs.rename(&temporary, path)?;
    }
    if planted!(FolderNotSynced) {
        return Ok(());
    }
    vfs.sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Vfs for RealDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder)?.sync_all()
    }
}

impl VfsFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}
