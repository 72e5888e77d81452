//! The disk of this machine, watched: the first fsync that fails is remembered
//! with its file, because after it nobody knows what is on the disk, and it is
//! known whether anybody still uses the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::vfs::{RealDisk, Vfs, VfsFile};

/// A disk that tells of its first failed fsync.
struct WatchedDisk {
    inner: RealDisk,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    failed: OnceLock<String>,
}

/// What is known of a watched disk.
#[derive(Clone)]
pub struct DiskWatch {
    seen: Arc<Seen>,
}

/// The disk of this machine, and what is known of it.
#[must_use]
pub fn watched_disk() -> (Arc<dyn Vfs>, DiskWatch) {
    let seen = Arc::new(Seen::default());
    (Arc::new(WatchedDisk { inner: RealDisk, seen: Arc::clone(&seen) }), DiskWatch { seen })
}

impl WatchedDisk {
    fn file(&self, file: Box<dyn VfsFile>, path: &Path) -> Box<dyn VfsFile> {
        Box::new(WatchedFile { inner: file, path: path.to_owned(), seen: Arc::clone(&self.seen) })
    }
}

impl DiskWatch {
    /// Whether nobody uses the disk or a file of it any more; asked by the only
    /// holder of a watch.
    #[must_use]
    pub fn is_free(&self) -> bool {
        Arc::strong_count(&self.seen) == 1
    }
}

impl Seen {
    fn note<T>(&self, path: &Path, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.failed.get_or_init(|| format!("an fsync of {} has failed: {error}", path.display()));
        }
        result
    }
}

impl Vfs for WatchedDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        self.inner.create_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(folder)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.read(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.inner.size(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(self.file(self.inner.create(path)?, path))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn VfsFile>> {
        Ok(self.file(self.inner.append(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.seen.note(folder, self.inner.sync_folder(folder))
    }

    fn failed_sync(&self) -> Option<String> {
        self.seen.failed.get().cloned()
    }
}

struct WatchedFile {
    inner: Box<dyn VfsFile>,
    path: PathBuf,
    seen: Arc<Seen>,
}

impl VfsFile for WatchedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.seen.note(&self.path, self.inner.sync())
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.inner.truncate(bytes)
    }
}
