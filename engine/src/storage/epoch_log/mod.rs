//! A log of rows by epoch: what a sink holds until it is delivered, or what it
//! keeps for a person. Rows of epochs that no checkpoint came to are forgotten
//! after a restart, because they come again. Synchronous. Nothing is removed
//! that was not called delivered. Each segment begins with a summary of those
//! before it, so that opening reads no more than the last one.

mod record;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use self::record::{Head, Summary};
use super::log::{Log, LogError, LogLimits};
use super::log_reader::{Entry, LogReader, Lost};
use super::vfs::Vfs;
use arrow::array::RecordBatch;

/// Rows of one record, estimated; a longer record takes longer to come by.
const RECORD_BYTES: usize = 4 << 20;
/// Largest record that is written.
const RECORD_BYTES_MAX: usize = 64 << 20;

/// The log and what is known of it.
pub struct EpochLog {
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
pub struct Item {
    /// The record's number.
    pub number: u64,
    /// When it was appended, microseconds; 0 if nobody said.
    pub received_us: i64,
    /// Its epoch and rows; `None` if it holds nothing to deliver.
    pub rows: Option<(u64, Vec<RecordBatch>)>,
}

impl EpochLog {
    /// Opens the log of a folder.
    ///
    /// # Errors
    /// As `Log::open`; `Unreadable` for a record of a newer version.
    pub fn open(vfs: Arc<dyn Vfs>, folder: &Path, segment_bytes: u64) -> Result<EpochLog, LogError> {
        // Whoever appends knows when to wait for room.
        let limits = LogLimits { segment_bytes, bytes_max: u64::MAX, bytes_kept: 0 };
        EpochLog::of(Log::open(vfs, folder, limits, 0)?)
    }

    /// The rows of a log that may belong to another process: nothing is changed.
    ///
    /// # Errors
    /// As `open`.
    pub fn look(vfs: Arc<dyn Vfs>, folder: &Path) -> Result<Items, LogError> {
        Ok(EpochLog::of(Log::look(vfs, folder)?)?.items())
    }

    fn of(log: Log) -> Result<EpochLog, LogError> {
        let mut opened = EpochLog {
            log,
            forgets: Vec::new(),
            newest: 0,
            born: None,
            hinges: Vec::new(),
            is_trim_broken: false,
        };
        opened.learn_after(opened.last_summary()?)?;
        Ok(opened)
    }

    fn learn_after(&mut self, number: u64) -> Result<(), LogError> {
        let mut reader = self.records_after(number);
        while let Some(entry) = reader.next_entry()? {
            // What is damaged is told where its rows are read.
            if let Entry::Record(record) = entry {
                self.learn(record.number, &record.payload)?;
            }
        }
        Ok(())
    }

    fn learn(&mut self, number: u64, payload: &[u8]) -> Result<(), LogError> {
        match head(number, payload)? {
            (Head::Rows(epoch), _) => self.newest = self.newest.max(epoch),
            (Head::Forget(epoch), _) => {
                self.forgets.push((number, epoch));
                self.hinges.push(number);
                self.newest = epoch.min(self.newest);
            }
            (Head::Born(epoch), _) => {
                self.born.get_or_insert(epoch);
            }
            (Head::Met, _) => {
                self.born = None;
                self.hinges.push(number);
            }
            (Head::Summary(newest), rest) => {
                let summary = Summary::read(newest, rest).map_err(|reason| unreadable(number, &reason))?;
                (self.newest, self.born) = (summary.newest, summary.born);
                (self.forgets, self.hinges) = (summary.forgets, summary.hinges);
            }
        }
        Ok(())
    }

    /// The record before the last summary that stands at the beginning of a
    /// segment: nothing before it needs to be looked at.
    fn last_summary(&self) -> Result<u64, LogError> {
        for first in self.log.segments().rev() {
            let entry = self.records_after(first - 1).next_entry()?;
            if let Some(Entry::Record(record)) = entry
                && matches!(head(record.number, &record.payload)?, (Head::Summary(_), _))
            {
                return Ok(record.number - 1);
            }
        }
        Ok(0)
    }

    /// Appends a record, behind a summary where a segment begins.
    fn write(&mut self, payload: &[u8], received_us: i64) -> Result<u64, LogError> {
        if self.log.begins_segment() && self.log.durable() > 0 {
            let summary = Summary {
                newest: self.newest,
                born: self.born,
                forgets: self.forgets.clone(),
                hinges: self.hinges.clone(),
            };
            self.log.append(received_us, &summary.write())?;
        }
        self.log.append(received_us, payload)
    }

    /// Forgets rows of epochs after this one, durably. Each life notes where it
    /// began: nothing is delivered before the remote side is seen, so its marker
    /// is no later, however many checkpoints come before that.
    ///
    /// # Errors
    /// As `Log::sync`; call it again after `Full`.
    pub fn forget_after(&mut self, epoch: u64) -> Result<(), LogError> {
        if self.born.is_none() {
            self.write(&record::born(epoch), 0)?;
            self.born = Some(epoch);
        }
        if self.newest > epoch {
            let number = self.write(&record::forget(epoch), 0)?;
            self.forgets.push((number, epoch));
            self.hinges.push(number);
            self.newest = epoch;
        }
        self.log.sync().map(drop)
    }

    /// The highest marker that the remote side may have, until it is seen: epochs
    /// of another log, or of a state that is lost, must not pass for ours.
    pub fn born(&self) -> Option<u64> {
        self.born
    }

    /// The remote side has been seen; durable with what follows.
    ///
    /// # Errors
    /// `Broken`.
    pub fn meet(&mut self) -> Result<(), LogError> {
        if self.born.take().is_some() {
            let number = self.write(&record::met(), 0)?;
            self.hinges.push(number);
        }
        Ok(())
    }

    /// Takes rows; they are durable after `sync`. Answers how many were too
    /// large for any record.
    ///
    /// # Errors
    /// `Broken`.
    pub fn append(
        &mut self,
        epoch: u64,
        batches: &[RecordBatch],
        received_us: i64,
    ) -> Result<usize, LogError> {
        let mut too_large = 0;
        let (mut group, mut bytes) = (Vec::new(), 0);
        for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
            bytes += batch.get_array_memory_size();
            group.push(batch.clone());
            if bytes >= RECORD_BYTES {
                too_large += self.append_group(epoch, &std::mem::take(&mut group), received_us)?;
                bytes = 0;
            }
        }
        Ok(too_large + self.append_group(epoch, &group, received_us)?)
    }

    fn append_group(
        &mut self,
        epoch: u64,
        group: &[RecordBatch],
        received_us: i64,
    ) -> Result<usize, LogError> {
        if group.is_empty() {
            return Ok(0);
        }
        let payload = record::rows(epoch, group);
        match (payload, group) {
            (Ok(payload), _) if payload.len() <= RECORD_BYTES_MAX => {
                self.write(&payload, received_us)?;
                self.newest = self.newest.max(epoch);
                Ok(0)
            }
            (_, [batch]) if batch.num_rows() > 1 => {
                let middle = batch.num_rows() / 2;
                let before = self.append_group(epoch, &[batch.slice(0, middle)], received_us)?;
                let behind = batch.slice(middle, batch.num_rows() - middle);
                Ok(before + self.append_group(epoch, &[behind], received_us)?)
            }
            (_, [_]) => Ok(1),
            (_, several) => {
                let mut too_large = 0;
                for batch in several {
                    too_large += self.append_group(epoch, std::slice::from_ref(batch), received_us)?;
                }
                Ok(too_large)
            }
        }
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// `Full`: nothing is lost, try again; `Broken`.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync().map(drop)
    }

    /// Records up to this one have been delivered.
    pub fn trim(&mut self, number: u64) {
        let hinges =
            self.hinges.iter().filter(|hinge| **hinge <= number).map(|hinge| hinge.saturating_sub(1));
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
    pub fn bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// The durable records after this one; of what was removed nothing is said.
    pub fn records_after(&self, number: u64) -> LogReader {
        self.log.records_after(number.max(self.log.oldest().saturating_sub(1)))
    }

    /// Everything durable that is kept, in order.
    #[must_use]
    pub fn items(&self) -> Items {
        Items { reader: self.records_after(0), forgets: self.forgets() }
    }

    /// Removes the oldest segments until the log has at most so many bytes;
    /// answers how many records went. The last segment stays.
    pub fn make_room(&mut self, bytes_max: u64) -> u64 {
        let oldest = self.log.oldest();
        while self.bytes() > bytes_max && !self.is_trim_broken {
            let Some(end) = self.oldest_segment_end() else { break };
            self.trim(end);
        }
        self.log.oldest() - oldest
    }

    /// The last record of the oldest segment, if it is not the only one.
    #[must_use]
    pub fn oldest_segment_end(&self) -> Option<u64> {
        self.log.segments().nth(1).map(|second| second - 1)
    }

    /// What forgets what, as it is now.
    pub fn forgets(&self) -> Vec<(u64, u64)> {
        self.forgets.clone()
    }
}

/// Reads a log to its end.
pub struct Items {
    reader: LogReader,
    forgets: Vec<(u64, u64)>,
}

impl Iterator for Items {
    type Item = Result<Item, LogError>;

    fn next(&mut self) -> Option<Result<Item, LogError>> {
        next_item(&mut self.reader, &self.forgets).transpose()
    }
}

/// The next record of a reader, decoded; `None` at the end.
///
/// # Errors
/// `Unreadable`.
pub fn next_item(reader: &mut LogReader, forgets: &[(u64, u64)]) -> Result<Option<Item>, LogError> {
    let Some(entry) = reader.next_entry()? else { return Ok(None) };
    let record = match entry {
        Entry::Lost(Lost { from, to }) => {
            tracing::error!("records {from} to {to} of a log are damaged, and their rows lost");
            metrics::counter!("tidegate_log_records_lost_total").increment(to - from + 1);
            return Ok(Some(Item { number: to, received_us: 0, rows: None }));
        }
        Entry::Record(record) => record,
    };
    let (number, received_us) = (record.number, record.received_us);
    let rows = match head(number, &record.payload)? {
        (Head::Rows(epoch), rest) if !is_forgotten(forgets, number, epoch) => {
            Some((epoch, record::read_rows(rest).map_err(|reason| unreadable(number, &reason))?))
        }
        (Head::Rows(_) | Head::Forget(_) | Head::Born(_) | Head::Met | Head::Summary(_), _) => None,
    };
    Ok(Some(Item { number, received_us, rows }))
}

fn is_forgotten(forgets: &[(u64, u64)], number: u64, epoch: u64) -> bool {
    forgets.iter().any(|(forget, kept)| number < *forget && epoch > *kept)
}

fn head(number: u64, payload: &[u8]) -> Result<(Head, &[u8]), LogError> {
    record::read_head(payload).map_err(|reason| unreadable(number, &reason))
}

fn unreadable(number: u64, reason: &str) -> LogError {
    LogError::Unreadable(format!("record {number}: {reason}"))
}
