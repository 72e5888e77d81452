//! What delivers the rows of a sink's log into the files of a table: a file is
//! the rows and the marker of their epochs at once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::storage::blocking::blocking;

use super::files::Files;
use super::shape;
use crate::sink_log::{Remote, RemoteError};

pub(super) struct Recorder {
    files: Arc<Files>,
    /// The last epoch that is there.
    marker: u64,
    rows: Vec<RecordBatch>,
}

impl Recorder {
    pub(super) fn new(files: Arc<Files>) -> Recorder {
        Recorder { files, marker: 0, rows: Vec::new() }
    }
}

#[async_trait]
impl Remote for Recorder {
    fn marker_place(&self) -> String {
        format!("the files of {}", self.files.folder.display())
    }

    async fn connect(&mut self) -> Result<u64, RemoteError> {
        self.rows.clear();
        let files = Arc::clone(&self.files);
        let opened = blocking(move || files.open().and_then(|()| files.live())).await;
        let live = opened.map_err(|error| {
            RemoteError::Lost(format!("cannot open {}: {error}", self.files.folder.display()))
        })?;
        self.marker = live.iter().map(|name| name.to).max().unwrap_or(0);
        Ok(self.marker)
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        self.rows.clear();
        Ok(self.marker)
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        // The log may have rows from before an edit of the topology.
        self.rows.push(shape::fit(rows, &self.files.stream.columns).map_err(RemoteError::Refused)?);
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        if epoch <= self.marker {
            // A transaction of what is there already has no rows.
            return Ok(());
        }
        let (files, rows, from) = (Arc::clone(&self.files), std::mem::take(&mut self.rows), self.marker + 1);
        let added = blocking(move || {
            files.add(from, epoch, &rows)?;
            // The rows are there; whether all is tidy is another matter.
            if let Err(reason) = files.tidy() {
                tracing::warn!("a recorded table cannot be put in order: {reason}");
            }
            Ok(())
        });
        added.await.map_err(RemoteError::Lost)?;
        self.marker = epoch;
        Ok(())
    }
}
