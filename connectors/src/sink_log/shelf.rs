//! The log of one sink: rows of epochs, and which of them are forgotten
//! because they come again. Synchronous. Nothing is removed that was not
//! called delivered.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::storage::log::{Log, LogError, LogLimits};
use tidegate_engine::storage::log_reader::{Entry, LogReader};
use tidegate_engine::storage::vfs::Vfs;

use super::record::{self, Head};

/// Rows of one record, estimated; a longer record takes longer to come by.
const RECORD_BYTES: usize = 4 << 20;
/// Largest record that is written.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// The log and what is known of it.
pub(super) struct Shelf {
    log: Log,
    /// Numbers of records that forget, with the last epoch that they keep.
    forgets: Vec<(u64, u64)>,
    /// The latest epoch of rows that are not forgotten.
    newest: u64,
    /// The epoch that the log, or the first life since the remote side was seen,
    /// began at.
    born: Option<u64>,
    /// Records that say something about those before them, oldest first: a
    /// crash must not bring those back without them.
    hinges: Vec<u64>,
    is_trim_broken: bool,
}

/// What comes next out of the log.
#[derive(Debug)]
pub(super) struct Item {
    /// The record's number.
    pub(super) number: u64,
    /// Its epoch and rows; `None` if it holds nothing to deliver.
    pub(super) rows: Option<(u64, Vec<RecordBatch>)>,
}

impl Shelf {
    /// Opens the log of a folder and looks through it once.
    ///
    /// # Errors
    /// As `Log::open`; `Unreadable` for a record of a newer version.
    pub(super) fn open(vfs: Arc<dyn Vfs>, folder: &Path, segment_bytes: u64) -> Result<Shelf, LogError> {
        // Whoever appends knows when to wait for room.
        let limits = LogLimits { segment_bytes, bytes_max: u64::MAX };
        let log = Log::open(vfs, folder, limits, 0)?;
        let mut shelf = Shelf {
            log,
            forgets: Vec::new(),
            newest: 0,
            born: None,
            hinges: Vec::new(),
            is_trim_broken: false,
        };
        let mut reader = shelf.records_after(0);
        while let Some(entry) = reader.next_entry()? {
            match entry {
                Entry::Lost(lost) => {
                    tracing::error!(
                        folder = %folder.display(),
                        "records {} to {} of the sink's log are damaged, and their rows lost", lost.from, lost.to
                    );
                    metrics::counter!("tidegate_log_records_lost_total").increment(lost.to - lost.from + 1);
                }
                Entry::Record(record) => match head(record.number, &record.payload)? {
                    (Head::Rows(epoch), _) => shelf.newest = shelf.newest.max(epoch),
                    (Head::Forget(epoch), _) => {
                        shelf.forgets.push((record.number, epoch));
                        shelf.hinges.push(record.number);
                        shelf.newest = epoch.min(shelf.newest);
                    }
                    (Head::Born(epoch), _) => {
                        shelf.born.get_or_insert(epoch);
                    }
                    (Head::Met, _) => {
                        shelf.born = None;
                        shelf.hinges.push(record.number);
                    }
                },
            }
        }
        Ok(shelf)
    }

    /// Forgets rows of epochs after this one, durably. Each life notes where it
    /// began: nothing is delivered before the remote side is seen, so its marker
    /// is no later, however many checkpoints come before that.
    ///
    /// # Errors
    /// As `Log::sync`; call it again after `Full`.
    pub(super) fn forget_after(&mut self, epoch: u64) -> Result<(), LogError> {
        if self.born.is_none() {
            self.log.append(0, &record::born(epoch))?;
            self.born = Some(epoch);
        }
        if self.newest > epoch {
            let number = self.log.append(0, &record::forget(epoch))?;
            self.forgets.push((number, epoch));
            self.hinges.push(number);
            self.newest = epoch;
        }
        self.log.sync().map(drop)
    }

    /// The highest marker that the remote side may have, until it is seen: epochs
    /// of another log, or of a state that is lost, must not pass for ours.
    pub(super) fn born(&self) -> Option<u64> {
        self.born
    }

    /// The remote side has been seen; durable with what follows.
    ///
    /// # Errors
    /// `Broken`.
    pub(super) fn meet(&mut self) -> Result<(), LogError> {
        if self.born.take().is_some() {
            let number = self.log.append(0, &record::met())?;
            self.hinges.push(number);
        }
        Ok(())
    }

    /// Takes rows; they are durable after `sync`. Answers how many were too
    /// large for any record.
    ///
    /// # Errors
    /// `Broken`.
    pub(super) fn append(&mut self, epoch: u64, batches: &[RecordBatch]) -> Result<usize, LogError> {
        let mut too_large = 0;
        let (mut group, mut bytes) = (Vec::new(), 0);
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            bytes += batch.get_array_memory_size();
            group.push(batch.clone());
            if bytes >= RECORD_BYTES {
                too_large += self.append_group(epoch, &std::mem::take(&mut group))?;
                bytes = 0;
            }
        }
        Ok(too_large + self.append_group(epoch, &group)?)
    }

    fn append_group(&mut self, epoch: u64, group: &[RecordBatch]) -> Result<usize, LogError> {
        if group.is_empty() {
            return Ok(0);
        }
        let payload = record::rows(epoch, group);
        match (payload, group) {
            (Ok(payload), _) if payload.len() <= RECORD_BYTES_MAX => {
                self.log.append(0, &payload)?;
                self.newest = self.newest.max(epoch);
                Ok(0)
            }
            (_, [batch]) if batch.num_rows() > 1 => {
                let middle = batch.num_rows() / 2;
                let before = self.append_group(epoch, &[batch.slice(0, middle)])?;
                let behind = batch.slice(middle, batch.num_rows() - middle);
                Ok(before + self.append_group(epoch, &[behind])?)
            }
            (_, [_]) => Ok(1),
            (_, several) => {
                let mut too_large = 0;
                for batch in several {
                    too_large += self.append_group(epoch, std::slice::from_ref(batch))?;
                }
                Ok(too_large)
            }
        }
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// `Full`: nothing is lost, try again; `Broken`.
    pub(super) fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync().map(drop)
    }

    /// Records up to this one have been delivered.
    pub(super) fn trim(&mut self, number: u64) {
        let hinges = self.hinges.iter().filter(|hinge| **hinge <= number).map(|hinge| hinge - 1);
        // One step for each: removals of one step may come to the disk in any order.
        for step in hinges.chain([number]).collect::<Vec<_>>() {
            if self.is_trim_broken {
                return;
            }
            if let Err(error) = self.log.trim(step) {
                tracing::warn!("cannot trim the sink's log, and leaves it until the next start: {error}");
                self.is_trim_broken = true;
            }
        }
        let oldest = self.log.oldest();
        self.forgets.retain(|(forget, _)| *forget >= oldest);
        self.hinges.retain(|hinge| *hinge >= oldest);
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// The durable records after this one; of what was removed nothing is said.
    pub(super) fn records_after(&self, number: u64) -> LogReader {
        self.log.records_after(number.max(self.log.oldest().saturating_sub(1)))
    }

    /// What forgets what, as it is now.
    pub(super) fn forgets(&self) -> Vec<(u64, u64)> {
        self.forgets.clone()
    }
}

/// The next record of a reader, decoded; `None` at the end.
///
/// # Errors
/// `Unreadable`.
pub(super) fn next_item(reader: &mut LogReader, forgets: &[(u64, u64)]) -> Result<Option<Item>, LogError> {
    let Some(entry) = reader.next_entry()? else { return Ok(None) };
    let record = match entry {
        // Told when the log was opened.
        Entry::Lost(lost) => return Ok(Some(Item { number: lost.to, rows: None })),
        Entry::Record(record) => record,
    };
    let number = record.number;
    let rows = match head(number, &record.payload)? {
        (Head::Rows(epoch), rest) if !is_forgotten(forgets, number, epoch) => {
            Some((epoch, record::read_rows(rest).map_err(|reason| unreadable(number, &reason))?))
        }
        (Head::Rows(_) | Head::Forget(_) | Head::Born(_) | Head::Met, _) => None,
    };
    Ok(Some(Item { number, rows }))
}

fn is_forgotten(forgets: &[(u64, u64)], number: u64, epoch: u64) -> bool {
    forgets.iter().any(|(forget, kept)| number < *forget && epoch > *kept)
}

fn head(number: u64, payload: &[u8]) -> Result<(Head, &[u8]), LogError> {
    record::read_head(payload).map_err(|reason| unreadable(number, &reason))
}

fn unreadable(number: u64, reason: &str) -> LogError {
    LogError::Unreadable(format!("of the sink, record {number}: {reason}"))
}
