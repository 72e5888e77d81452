//! Dead letters: rows that were refused for good, each with its reason, kept
//! for a person who looks at them and has them delivered after all. One log of
//! epochs for each node, so that a row that comes again after a crash is not
//! there twice.

pub(crate) mod letter;
mod read;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;

pub use self::letter::{Fate, Letter, LetterId};
pub use self::read::{DeadLetter, Shelf, request, shelves};
pub(crate) use self::sink::UnreadRejects;
use crate::storage::blocking::blocking;
use crate::storage::epoch_log::EpochLog;
use crate::storage::log::LogError;
use crate::storage::vfs::Vfs;
use crate::time::Clock;

/// Below a topology's state.
pub(crate) const FOLDER: &str = "dead";
/// Below a node's folder: what a person wants to have delivered.
const REQUESTS: &str = "replay";
/// Segments are removed as a whole.
const SEGMENT_BYTES: u64 = 4 << 20;
/// The letters of one node; the oldest make room.
const BYTES_MAX: u64 = 1 << 30;
/// Rows of a batch that are kept when an operator panics on it.
const QUARANTINE_ROWS_MAX: usize = 1_000;
/// When a full disk is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// The dead letters of a node that runs. Its folder is made with the first one.
#[derive(Clone)]
pub struct DeadLetters {
    node: Arc<str>,
    folder: PathBuf,
    vfs: Arc<dyn Vfs>,
    clock: Arc<dyn Clock>,
    log: Arc<Mutex<Option<EpochLog>>>,
    /// Epochs after it come again; set once, before the first letter.
    resumed: Arc<Mutex<Option<u64>>>,
    bytes_max: u64,
}

/// Rows that a person wants to have delivered.
#[derive(Debug)]
pub struct Replay {
    /// The request's file; removed when the epoch is durable.
    pub request: PathBuf,
    /// The letters.
    pub ids: Vec<LetterId>,
    /// Their rows.
    pub rows: Vec<RecordBatch>,
}

impl DeadLetters {
    /// Those of a node, below the state of its topology.
    #[must_use]
    pub fn new(vfs: Arc<dyn Vfs>, clock: Arc<dyn Clock>, data_dir: &Path, node: &str) -> DeadLetters {
        DeadLetters {
            node: node.into(),
            folder: data_dir.join(FOLDER).join(node),
            vfs,
            clock,
            log: Arc::default(),
            resumed: Arc::default(),
            bytes_max: BYTES_MAX,
        }
    }

    /// The topology goes on from this epoch: letters of later ones come again.
    ///
    /// # Errors
    /// The log cannot be opened or written.
    pub async fn resume(&self, epoch: u64) -> Result<(), LogError> {
        *self.resumed.lock().unwrap_or_else(PoisonError::into_inner) = Some(epoch);
        // Where nothing was refused there is nothing to forget.
        let there = matches!(self.vfs.list(&self.folder), Ok(files) if !files.is_empty());
        if there { self.with_room(|_| Ok(())).await } else { Ok(()) }
    }

    /// Takes refused rows, each with its letter; they are durable when it
    /// returns. Letters belong to an epoch as rows of a sink do.
    ///
    /// # Errors
    /// The log cannot be opened or written. A full disk is waited for.
    pub async fn add(
        &self,
        epoch: u64,
        fate: Fate,
        letters: &[Letter],
        rows: &RecordBatch,
    ) -> Result<(), LogError> {
        if letters.is_empty() {
            return Ok(());
        }
        metrics::counter!("tidegate_dead_letters_total", "node" => self.node.to_string())
            .increment(letters.len() as u64);
        let batch = letter::letters(fate, letters, rows)
            .map_err(|error| LogError::Unreadable(format!("of dead letters: {error}")))?;
        self.append(epoch, batch).await
    }

    /// Refused rows with the reason of each, as of now.
    ///
    /// # Errors
    /// As `add`.
    pub async fn refuse(&self, epoch: u64, reasons: &[String], rows: &RecordBatch) -> Result<(), LogError> {
        let at_us = self.clock.now().0;
        let letter = |reason: &String| Letter { at_us, reason: reason.clone(), position: String::new() };
        self.add(epoch, Fate::Refused, &reasons.iter().map(letter).collect::<Vec<_>>(), rows).await
    }

    /// Keeps rows of a batch on which an operator has panicked, for a person to
    /// look at: they come again from the checkpoint, whatever becomes of this.
    pub(crate) async fn quarantine(&self, reason: &str, batch: &RecordBatch) {
        let rows = batch.slice(0, batch.num_rows().min(QUARANTINE_ROWS_MAX));
        let at_us = self.clock.now().0;
        let letter = Letter { at_us, reason: reason.to_owned(), position: String::new() };
        let letters = vec![letter; rows.num_rows()];
        let known = {
            let (reason, rows) = (reason.to_owned(), rows.clone());
            self.with_log(move |log| read::is_newest(log, &reason, &rows)).await
        };
        let kept = match known {
            // A start after it has met the same batch.
            Ok(true) => Ok(()),
            Ok(false) => self.add(0, Fate::Quarantined, &letters, &rows).await,
            Err(error) => Err(error),
        };
        let (node, rows, of) = (&self.node, rows.num_rows(), batch.num_rows());
        match kept {
            Ok(()) => {
                tracing::error!(%node, "{reason}; {rows} of {of} rows of its batch are kept: `tidegate dead list`")
            }
            Err(error) => tracing::error!(%node, "{reason}; the rows of its batch cannot be kept: {error}"),
        }
    }

    /// What a person wants to have delivered and was not yet.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn requested(&self) -> Result<Vec<Replay>, LogError> {
        let files = match self.vfs.list(&self.folder.join(REQUESTS)) {
            Ok(files) if !files.is_empty() => files,
            Ok(_) | Err(_) => return Ok(Vec::new()),
        };
        let vfs = Arc::clone(&self.vfs);
        self.with_log(move |log| read::requested(vfs.as_ref(), log, &files)).await
    }

    /// These letters have been delivered with the rows of this epoch.
    ///
    /// # Errors
    /// As `add`.
    pub async fn replayed(&self, epoch: u64, ids: &[LetterId]) -> Result<(), LogError> {
        let batch = letter::replayed(ids)
            .map_err(|error| LogError::Unreadable(format!("of dead letters: {error}")))?;
        self.append(epoch, batch).await
    }

    /// A request is done, its epoch durable.
    ///
    /// # Errors
    /// The file cannot be removed: it is found to be done at the next start.
    pub fn forget_request(&self, request: &Path) -> io::Result<()> {
        self.vfs.remove(request)?;
        self.vfs.sync_folder(&self.folder.join(REQUESTS))
    }

    async fn append(&self, epoch: u64, batch: RecordBatch) -> Result<(), LogError> {
        let (now, bytes_max) = (self.clock.now().0, self.bytes_max);
        self.with_room(|_| Ok(())).await?;
        let appended = self.with_log(move |log| {
            log.append(epoch, &[batch], now)?;
            Ok(log.make_room(bytes_max))
        });
        let dropped = appended.await?;
        if dropped > 0 {
            metrics::counter!("tidegate_dead_letters_dropped_total", "node" => self.node.to_string())
                .increment(dropped);
            tracing::error!(node = %self.node, records = dropped, "too many dead letters; the oldest were removed");
        }
        self.with_room(EpochLog::sync).await
    }

    /// The same, as soon as the disk has room.
    async fn with_room(&self, work: fn(&mut EpochLog) -> Result<(), LogError>) -> Result<(), LogError> {
        loop {
            match self.with_log(work).await {
                Err(LogError::Full(reason)) => {
                    metrics::counter!("tidegate_log_stalls_total").increment(1);
                    tracing::error!(node = %self.node, "no room for dead letters {reason}; the node waits");
                    tokio::time::sleep(RETRY).await;
                }
                done => return done,
            }
        }
    }

    /// Works with the log, opened if need be, on a thread that may block.
    async fn with_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut EpochLog) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let this = self.clone();
        blocking(move || {
            let mut slot = this.log.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                let mut log = EpochLog::open(Arc::clone(&this.vfs), &this.folder, SEGMENT_BYTES)?;
                let resumed = *this.resumed.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(epoch) = resumed {
                    log.forget_after(epoch)?;
                }
                *slot = Some(log);
            }
            match slot.as_mut() {
                Some(log) => work(log),
                None => Err(LogError::Broken("of dead letters is not open".into())),
            }
        })
        .await
    }
}

/// Letters of one flush, gathered until their rows are durable elsewhere.
#[derive(Debug, Default)]
pub struct Refusals {
    groups: Vec<(Vec<String>, RecordBatch)>,
}

impl Refusals {
    /// These rows of a batch were refused.
    fn add(&mut self, batch: &RecordBatch, refused: &BTreeMap<usize, String>) {
        for (row, reason) in refused.range(..batch.num_rows()) {
            self.groups.push((vec![reason.clone()], batch.slice(*row, 1)));
        }
    }

    /// This row was refused.
    pub fn add_row(&mut self, row: RecordBatch, reason: String) {
        self.groups.push((vec![reason], row));
    }

    /// Rows of these batches, counted over all of them, were refused.
    pub fn add_all(&mut self, batches: &[RecordBatch], mut refused: BTreeMap<usize, String>) {
        for batch in batches {
            let later = refused.split_off(&batch.num_rows());
            self.add(batch, &refused);
            refused = later.into_iter().map(|(row, reason)| (row - batch.num_rows(), reason)).collect();
        }
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.iter().map(|(reasons, _)| reasons.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What was gathered is void: it is written again.
    pub fn clear(&mut self) {
        self.groups.clear();
    }

    /// Puts them into the dead letters.
    ///
    /// # Errors
    /// As `DeadLetters::add`; nothing is forgotten then.
    pub async fn keep(&mut self, epoch: u64, dead: &DeadLetters) -> Result<(), LogError> {
        let groups = std::mem::take(&mut self.groups);
        let mut rest = groups.as_slice();
        // Neighbours of one shape become one record.
        while let Some((_, first)) = rest.first() {
            let same = rest.iter().take_while(|(_, rows)| rows.schema_ref() == first.schema_ref()).count();
            let (now, later) = rest.split_at(same);
            let reasons: Vec<String> = now.iter().flat_map(|(reasons, _)| reasons.iter().cloned()).collect();
            let rows = arrow::compute::concat_batches(first.schema_ref(), now.iter().map(|(_, rows)| rows))
                .map_err(|error| LogError::Unreadable(format!("of dead letters: {error}")))?;
            dead.refuse(epoch, &reasons, &rows).await?;
            rest = later;
        }
        Ok(())
    }
}
