//! A directory as a store of objects: written under a temporary name, synced,
//! then renamed. Nobody sees a file that is not whole, whatever the disk does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tidegate_engine::storage::blocking::blocking;
use tidegate_engine::storage::vfs::{Vfs, VfsFile, write_atomically};

use super::Store;
use crate::sink_log::RemoteError;

/// A directory.
pub(crate) struct Folder {
    vfs: Arc<dyn Vfs>,
    folder: PathBuf,
    marker: PathBuf,
    /// The file that is not published; readers pass over its name.
    part: PathBuf,
    /// The marker that was read or written last.
    seen: Option<Vec<u8>>,
    /// The file that is being written.
    file: Option<Box<dyn VfsFile>>,
}

impl Folder {
    /// A folder, with a marker at a path below it.
    pub(crate) fn new(vfs: Arc<dyn Vfs>, folder: PathBuf, marker: &str) -> Folder {
        let part = folder.join(format!("{}.part", marker.replace('/', ".")));
        let marker = folder.join(marker);
        Folder { vfs, folder, marker, part, seen: None, file: None }
    }
}

/// Does a step where blocking is allowed.
async fn step<T: Send + 'static>(
    vfs: &Arc<dyn Vfs>,
    path: &Path,
    work: impl FnOnce(&dyn Vfs, &Path) -> io::Result<T> + Send + 'static,
) -> Result<T, RemoteError> {
    let (vfs, owned) = (Arc::clone(vfs), path.to_owned());
    let done = blocking(move || work(vfs.as_ref(), &owned)).await;
    done.map_err(|error| RemoteError::Lost(format!("cannot write {}: {error}", path.display())))
}

#[async_trait]
impl Store for Folder {
    async fn connect(&mut self) -> Result<(), RemoteError> {
        self.file = None;
        let (marker, part) = (self.marker.clone(), self.part.clone());
        step(&self.vfs, &self.folder, move |vfs, folder| {
            let inner = marker.parent().unwrap_or(folder);
            vfs.create_folder(inner)?;
            // New folders are there after a crash as well.
            vfs.sync_folder(folder)?;
            vfs.sync_folder(folder.parent().unwrap_or(Path::new("")))?;
            match vfs.remove(&part) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
    }

    async fn read_marker(&mut self) -> Result<Option<Vec<u8>>, RemoteError> {
        let read = step(&self.vfs, &self.marker, |vfs, path| match vfs.read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        self.seen = read.await?;
        Ok(self.seen.clone())
    }

    async fn write_marker(&mut self, marker: &[u8]) -> Result<bool, RemoteError> {
        let (seen, bytes) = (self.seen.clone(), marker.to_vec());
        let wrote = step(&self.vfs, &self.marker, move |vfs, path| {
            let now = match vfs.read(path) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if now != seen {
                return Ok(false);
            }
            write_atomically(vfs, path, &[&bytes])?;
            Ok(true)
        });
        let wrote = wrote.await?;
        if wrote {
            self.seen = Some(marker.to_vec());
        }
        Ok(wrote)
    }

    async fn add(&mut self, _name: &str, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let open = self.file.take();
        let wrote = step(&self.vfs, &self.part, move |vfs, path| {
            let mut file = match open {
                Some(file) => file,
                None => vfs.create(path)?,
            };
            file.write(&bytes)?;
            Ok(file)
        });
        self.file = Some(wrote.await?);
        Ok(())
    }

    async fn publish(&mut self, name: &str) -> Result<(), RemoteError> {
        let Some(mut file) = self.file.take() else {
            return Err(RemoteError::Lost(format!("{name} was not written")));
        };
        let (path, folder) = (self.folder.join(name), self.folder.clone());
        step(&self.vfs, &self.part, move |vfs, part| {
            file.sync()?;
            drop(file);
            vfs.rename(part, &path)?;
            vfs.sync_folder(&folder)
        })
        .await
    }

    fn marker_place(&self) -> String {
        self.marker.display().to_string()
    }
}
