//! A bucket as a store of objects. An object that fits into one part is put at
//! once; a larger one is uploaded in parts, which nobody sees before the upload
//! is completed. The upload's id is on our disk before its first part is sent,
//! so that one that a killed process left is aborted; one that was begun and not
//! noted has no part.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use object_store::aws::AmazonS3;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use serde::{Deserialize, Serialize};
use tidegate_engine::storage::blocking::blocking;
use tidegate_engine::storage::files::write_atomically;

use super::bucket::Bucket;
use crate::objects::Store;
use crate::sink_log::RemoteError;

/// Bytes of a part: the least that S3 takes. Some stores want all parts alike.
const PART_BYTES: usize = 5 << 20;

/// A bucket.
pub(super) struct S3 {
    bucket: Bucket,
    /// Path of the marker.
    marker: String,
    /// The file that names an upload under way.
    note: PathBuf,
    client: Option<AmazonS3>,
    /// The version of the marker that was read or written last.
    seen: Option<UpdateVersion>,
    /// Bytes of the object that were not sent.
    pending: Vec<u8>,
    upload: Option<Upload>,
}

/// An upload under way.
struct Upload {
    path: Path,
    id: String,
    parts: Vec<PartId>,
}

/// An upload as a file names it.
#[derive(Serialize, Deserialize)]
struct Note {
    path: String,
    id: String,
}

impl S3 {
    pub(super) fn new(bucket: Bucket, marker: String, note: PathBuf) -> S3 {
        S3 { bucket, marker, note, client: None, seen: None, pending: Vec::new(), upload: None }
    }

    fn client(&self) -> Result<&AmazonS3, RemoteError> {
        self.client.as_ref().ok_or_else(|| RemoteError::Lost("the store is not connected".into()))
    }

    fn lost(&self, error: &Error) -> RemoteError {
        self.bucket.lost(error)
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.bucket.prefix))
    }

    /// Aborts the upload that an earlier attempt left, if there is one.
    async fn abort_left(&mut self) -> Result<(), RemoteError> {
        let note = self.note.clone();
        let read = blocking(move || match std::fs::read(&note) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        let Some(bytes) = read.await.map_err(|error| self.disk(&error))? else { return Ok(()) };
        if let Ok(left) = serde_json::from_slice::<Note>(&bytes) {
            match self.client()?.abort_multipart(&Path::from(left.path.as_str()), &left.id).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error @ (Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                    tracing::warn!("an upload that was left at {} cannot be aborted: {error}", left.path);
                }
                Err(error) => return Err(self.lost(&error)),
            }
        }
        self.forget_note().await
    }

    async fn forget_note(&self) -> Result<(), RemoteError> {
        let note = self.note.clone();
        let removed = blocking(move || match std::fs::remove_file(note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        });
        removed.await.map_err(|error| self.disk(&error))
    }

    fn disk(&self, error: &io::Error) -> RemoteError {
        RemoteError::Lost(format!("cannot use {}: {error}", self.note.display()))
    }

    /// Begins an upload and notes its id, durably.
    async fn begin_upload(&mut self, path: Path) -> Result<Upload, RemoteError> {
        let id = self.client()?.create_multipart(&path).await.map_err(|error| self.lost(&error))?;
        let note = Note { path: path.to_string(), id: id.clone() };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        let file = self.note.clone();
        let written = blocking(move || write_atomically(&file, &[&text])).await;
        written.map_err(|error| self.disk(&error))?;
        Ok(Upload { path, id, parts: Vec::new() })
    }

    /// Sends one part.
    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let Some(mut upload) = self.upload.take() else {
            return Err(RemoteError::Lost("no upload is under way".into()));
        };
        let (index, payload) = (upload.parts.len(), PutPayload::from(bytes));
        let sent = self.client()?.put_part(&upload.path, &upload.id, index, payload).await;
        upload.parts.push(sent.map_err(|error| self.lost(&error))?);
        self.upload = Some(upload);
        Ok(())
    }
}

#[async_trait]
impl Store for S3 {
    async fn connect(&mut self) -> Result<(), RemoteError> {
        self.pending.clear();
        self.upload = None;
        self.client = Some(self.bucket.client()?);
        self.abort_left().await
    }

    async fn read_marker(&mut self) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = Path::from(self.marker.as_str());
        let result = match self.client()?.get(&path).await {
            Ok(result) => result,
            // A bucket that is not there says the same, and names itself.
            Err(Error::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => {
                self.seen = None;
                return Ok(None);
            }
            Err(error) => return Err(self.lost(&error)),
        };
        let version =
            UpdateVersion { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() };
        let bytes = result.bytes().await.map_err(|error| self.lost(&error))?;
        self.seen = Some(version);
        Ok(Some(bytes.to_vec()))
    }

    async fn write_marker(&mut self, marker: &[u8]) -> Result<bool, RemoteError> {
        let path = Path::from(self.marker.as_str());
        let mode = match &self.seen {
            _ if !self.bucket.conditional_put => PutMode::Overwrite,
            Some(version) => PutMode::Update(version.clone()),
            None => PutMode::Create,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.client()?.put_opts(&path, PutPayload::from(marker.to_vec()), options).await {
            Ok(put) => {
                self.seen = Some(UpdateVersion { e_tag: put.e_tag, version: put.version });
                Ok(true)
            }
            Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.lost(&error)),
        }
    }

    async fn add(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), RemoteError> {
        self.pending.extend(bytes);
        while self.pending.len() > PART_BYTES {
            if self.upload.is_none() {
                self.upload = Some(self.begin_upload(self.path(name)).await?);
            }
            let rest = self.pending.split_off(PART_BYTES);
            let part = std::mem::replace(&mut self.pending, rest);
            self.send(part).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, name: &str) -> Result<(), RemoteError> {
        let rest = std::mem::take(&mut self.pending);
        if self.upload.is_none() {
            let put = self.client()?.put(&self.path(name), PutPayload::from(rest)).await;
            return put.map(drop).map_err(|error| self.lost(&error));
        }
        self.send(rest).await?;
        if let Some(Upload { path, id, parts }) = self.upload.take() {
            let completed = self.client()?.complete_multipart(&path, &id, parts).await;
            completed.map_err(|error| self.lost(&error))?;
        }
        self.forget_note().await
    }

    fn marker_place(&self) -> String {
        format!("s3://{}/{}", self.bucket.name, self.marker)
    }
}
