//! Reads a sink's log ahead, a chunk at a time, on a thread that may block.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::storage::blocking::blocking;
use tidegate_engine::storage::epoch_log::{Item, next_item};
use tidegate_engine::storage::log::LogError;
use tidegate_engine::storage::log_reader::LogReader;

use super::RemoteError;

/// Rows that are read ahead.
const CHUNK_ROWS: usize = 10_000;

/// Items that were read ahead.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) items: Vec<Item>,
    /// Whether nothing more may be delivered now.
    pub(super) is_end: bool,
}

/// Reads on, up to an epoch.
pub(super) async fn read(
    mut reader: LogReader,
    forgets: Arc<Vec<(u64, u64)>>,
    committed: u64,
) -> Result<(LogReader, Chunk), RemoteError> {
    let read = blocking(move || {
        let (mut chunk, mut rows) = (Chunk::default(), 0);
        while rows < CHUNK_ROWS {
            let item = next_item(&mut reader, &forgets)?;
            // Those behind one that must wait are of no earlier epoch.
            let Some(item) =
                item.filter(|item| item.rows.as_ref().is_none_or(|(epoch, _)| *epoch <= committed))
            else {
                chunk.is_end = true;
                break;
            };
            let batches = item.rows.iter().flat_map(|(_, batches)| batches);
            rows += batches.map(RecordBatch::num_rows).sum::<usize>();
            chunk.items.push(item);
        }
        Ok((reader, chunk))
    });
    read.await.map_err(|error: LogError| RemoteError::Fatal(error.to_string()))
}
