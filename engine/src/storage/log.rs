//! An append-only log of numbered records in segment files: what arrived and
//! is not forgotten. Records are durable from `sync` on; whole segments are
//! removed by `trim`. Synchronous; `group` makes many wait for one `sync`.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log_reader::LogReader;
use super::record::{self, Found, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use super::vfs::{self, Vfs, VfsFile};
use crate::planted;

/// How a log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// A new segment begins behind this many bytes.
    pub segment_bytes: u64,
    /// All segments together.
    pub bytes_max: u64,
    /// So many bytes stay though nobody needs them any more.
    pub bytes_kept: u64,
}

impl Default for LogLimits {
    /// Segments of 16 MiB, 10 GiB in all, none kept longer than needed.
    fn default() -> LogLimits {
        LogLimits { segment_bytes: 16 << 20, bytes_max: 10 << 30, bytes_kept: 0 }
    }
}

/// Why a log does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// No room now; nothing is lost, and it may be tried again.
    #[error("no room for the log {0}")]
    Full(String),
    /// What was written last may be lost, and nothing more is taken.
    #[error("the log {0} is broken until it is opened again")]
    Broken(String),
    /// It cannot be understood, or is not ours.
    #[error("cannot read the log {0}")]
    Unreadable(String),
}

/// A segment file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// A log that is open for writing.
pub struct Log {
    vfs: Arc<dyn Vfs>,
    folder: PathBuf,
    limits: LogLimits,
    /// Oldest first.
    segments: VecDeque<Segment>,
    /// The last segment, once this process has made one.
    file: Option<Box<dyn VfsFile>>,
    /// Records not yet written.
    buffer: Vec<u8>,
    /// Number of the first record in `buffer`.
    buffered_from: u64,
    next: u64,
    durable: u64,
    broken: Option<String>,
}

const SUFFIX: &str = "seg";
/// Nobody counts so far: a file of a higher number is not ours.
const NUMBER_MAX: u64 = u64::MAX / 2;

impl Log {
    /// Opens the log of a folder, which may be empty. Records up to `after`
    /// have been used already. A torn end is cut off: nobody was told that it
    /// was durable.
    ///
    /// # Errors
    /// `Unreadable`: a newer version or a foreign file; `Full` and `Broken`
    /// when the torn end cannot be cut off.
    pub fn open(vfs: Arc<dyn Vfs>, folder: &Path, limits: LogLimits, after: u64) -> Result<Log, LogError> {
        let unreadable = |error: io::Error| LogError::Unreadable(format!("{}: {error}", folder.display()));
        vfs.create_folder(folder).map_err(unreadable)?;
        for path in vfs.list(folder).map_err(unreadable)? {
            if path.extension().is_some_and(|suffix| suffix == "part") {
                vfs.remove(&path).map_err(unreadable)?;
            }
        }
        Log::find(vfs, folder, limits, after, true)
    }

    /// Opens a log for reading, which may belong to another process. Nothing is
    /// changed, and nothing can be written.
    ///
    /// # Errors
    /// As `open`.
    pub fn look(vfs: Arc<dyn Vfs>, folder: &Path) -> Result<Log, LogError> {
        let mut log = Log::find(vfs, folder, LogLimits::default(), 0, false)?;
        log.broken = Some(format!("{}: it is open for reading only", folder.display()));
        Ok(log)
    }

    fn find(
        vfs: Arc<dyn Vfs>,
        folder: &Path,
        limits: LogLimits,
        after: u64,
        cuts: bool,
    ) -> Result<Log, LogError> {
        let unreadable = |error: io::Error| LogError::Unreadable(format!("{}: {error}", folder.display()));
        let files = vfs.list(folder).map_err(unreadable)?;
        let segment = |path: PathBuf| Some(Segment { first: number_of(&path)?, path, bytes: 0 });
        let mut segments: Vec<Segment> = files.into_iter().filter_map(segment).collect();
        segments.sort_by_key(|segment| segment.first);
        let mut log = Log {
            vfs,
            folder: folder.to_owned(),
            limits,
            segments: segments.into(),
            file: None,
            buffer: Vec::new(),
            buffered_from: 0,
            next: after + 1,
            durable: after,
            broken: None,
        };
        for index in 0..log.segments.len() {
            log.recover(index, after, cuts)?;
        }
        log.durable = log.next - 1;
        log.buffered_from = log.next;
        Ok(log)
    }

    /// Reads the size of a segment; in the last one, finds the end of what is whole
    /// and makes it durable.
    fn recover(&mut self, index: usize, after: u64, cuts: bool) -> Result<(), LogError> {
        let is_last = index + 1 == self.segments.len();
        let Some(segment) = self.segments.get_mut(index) else { return Ok(()) };
        let path = segment.path.display().to_string();
        let unreadable = |reason: String| LogError::Unreadable(format!("{path}: {reason}"));
        if !is_last {
            // Sealed: its records are read when they are needed.
            segment.bytes = self.vfs.size(&segment.path).map_err(|error| unreadable(error.to_string()))?;
            return Ok(());
        }
        let bytes = self.vfs.read(&segment.path).map_err(|error| unreadable(error.to_string()))?;
        check_header(&bytes, &path)?;
        let (end, last) = whole_end(&bytes, segment.first, after);
        let last = last + u64::from(planted!(TornEndKept) && end < bytes.len());
        segment.bytes = end as u64;
        if cuts {
            if end < bytes.len() {
                tracing::warn!(file = %segment.path.display(), cut = bytes.len() - end, "a torn end is cut off");
            }
            // From here on what is whole counts as durable: so it must be. A process
            // that was killed may have written what it did not sync; and after a sync
            // that failed the system shows what the disk does not have, and syncs it
            // no more. So it is written anew, beside what is there.
            let whole = bytes.get(..end).unwrap_or_default();
            vfs::write_atomically(self.vfs.as_ref(), &segment.path, &[whole]).map_err(|error| {
                let reason = format!("{}: {error}", segment.path.display());
                let is_full = error.kind() == io::ErrorKind::StorageFull;
                if is_full { LogError::Full(reason) } else { LogError::Broken(reason) }
            })?;
        }
        self.next = self.next.max(last + 1);
        Ok(())
    }

    /// Takes a record and answers its number; durable after `sync`.
    ///
    /// # Errors
    /// `Full` when all segments together have reached their limit; `Broken`.
    pub fn append(&mut self, received_us: i64, payload: &[u8]) -> Result<u64, LogError> {
        self.check()?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            let reason =
                format!("{}: a record of {} bytes is too large", self.folder.display(), payload.len());
            return Err(LogError::Unreadable(reason));
        }
        if self.bytes() >= self.limits.bytes_max {
            let reason = format!("{}: {} bytes are in use", self.folder.display(), self.bytes());
            return Err(LogError::Full(reason));
        }
        let number = self.next;
        record::write(number, self.durable, received_us, payload, &mut self.buffer);
        self.next += 1;
        Ok(number)
    }

    /// Makes all records durable; answers the number of the last one.
    ///
    /// # Errors
    /// `Full`: nothing is lost, try again; `Broken`.
    pub fn sync(&mut self) -> Result<u64, LogError> {
        self.check()?;
        if self.buffer.is_empty() {
            return Ok(self.durable);
        }
        let is_full = self.segments.back().is_none_or(|last| last.bytes >= self.limits.segment_bytes);
        if is_full || self.file.is_none() {
            self.begin_segment()?;
        }
        let (Some(file), Some(segment)) = (self.file.as_mut(), self.segments.back_mut()) else {
            return Err(LogError::Broken(self.folder.display().to_string()));
        };
        if let Err(error) = file.write(&self.buffer) {
            // What was half written must not be read as the beginning of the next attempt.
            let reason = format!("{}: {error}", segment.path.display());
            return Err(match file.truncate(segment.bytes) {
                Ok(()) => LogError::Full(reason),
                Err(_) => self.break_with(reason),
            });
        }
        if !planted!(LogNotSynced)
            && let Err(error) = file.sync()
        {
            let reason = format!("{}: {error}", segment.path.display());
            return Err(self.break_with(reason));
        }
        segment.bytes += self.buffer.len() as u64;
        self.buffer.clear();
        self.durable = self.next - 1;
        self.buffered_from = self.next;
        Ok(self.durable)
    }

    /// A new last segment: whole under its name, or not there.
    fn begin_segment(&mut self) -> Result<(), LogError> {
        let first = self.buffered_from;
        let path = self.folder.join(format!("{first:020}.{SUFFIX}"));
        let part = path.with_extension("part");
        let made = self.vfs.create(&part).and_then(|mut file| {
            file.write(&record::header(first))?;
            Ok(file)
        });
        let mut file = made.map_err(|error| LogError::Full(format!("{}: {error}", part.display())))?;
        let durable = file
            .sync()
            .and_then(|()| if planted!(SegmentNotRenamed) { Ok(()) } else { self.vfs.rename(&part, &path) })
            .and_then(
                |()| if planted!(SegmentNotSynced) { Ok(()) } else { self.vfs.sync_folder(&self.folder) },
            );
        if let Err(error) = durable {
            return Err(self.break_with(format!("{}: {error}", path.display())));
        }
        // An empty one of this name may have been left by an earlier process.
        if self.segments.back().is_some_and(|last| last.first == first) {
            self.segments.pop_back();
        }
        self.segments.push_back(Segment { first, path, bytes: HEADER_BYTES as u64 });
        self.file = Some(file);
        Ok(())
    }

    /// Removes segments whose records are all numbered up to `number`.
    ///
    /// # Errors
    /// `Broken`: a file cannot be removed; the log itself goes on.
    pub fn trim(&mut self, number: u64) -> Result<(), LogError> {
        let mut trimmed = false;
        while let Some(segment) = self.segments.front() {
            if self.bytes() - segment.bytes < self.limits.bytes_kept {
                break;
            }
            let is_used = match self.segments.get(1) {
                Some(second) => second.first <= number.saturating_add(1),
                // The last one, if nothing more will be written to it.
                None => {
                    segment.bytes >= self.limits.segment_bytes
                        && self.durable <= number
                        && segment.first <= self.durable
                }
            };
            if !is_used {
                break;
            }
            let removed = self.vfs.remove(&segment.path);
            removed.map_err(|error| LogError::Broken(format!("{}: {error}", segment.path.display())))?;
            self.segments.pop_front();
            trimmed = true;
        }
        if trimmed {
            let synced = self.vfs.sync_folder(&self.folder);
            synced.map_err(|error| LogError::Broken(format!("{}: {error}", self.folder.display())))?;
        }
        Ok(())
    }

    /// Reads the durable records after `number`, as they are now.
    #[must_use]
    pub fn records_after(&self, number: u64) -> LogReader {
        let number = if planted!(LogReplaySkips) { number + 1 } else { number };
        let number = if planted!(LogReplayRepeats) { number.saturating_sub(1) } else { number };
        let skipped = self.segments.iter().skip(1).take_while(|next| next.first <= number.saturating_add(1));
        let segments = self.segments.iter().skip(skipped.count()).cloned().collect();
        LogReader::new(Arc::clone(&self.vfs), segments, number, self.durable)
    }

    /// The segments that hold records after `number`.
    #[must_use]
    pub fn files_after(&self, number: u64) -> Vec<PathBuf> {
        let ends = self.segments.iter().skip(1).map(|next| next.first - 1).chain([self.durable]);
        let used = self.segments.iter().zip(ends).filter(|(_, end)| *end > number);
        used.map(|(segment, _)| segment.path.clone()).collect()
    }

    /// Number of the oldest record that is kept; the next one if there is none.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.segments.front().map_or(self.next, |segment| segment.first)
    }

    /// The first record of the segments that hold the last so many bytes.
    #[must_use]
    pub fn tail(&self, bytes: u64) -> u64 {
        let mut sum = 0;
        let segments = self.segments.iter().rev().take_while(|segment| {
            let is_wanted = sum < bytes;
            sum += segment.bytes;
            is_wanted
        });
        segments.last().map_or(self.next, |segment| segment.first)
    }

    /// The first number of each segment, oldest first.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = u64> {
        self.segments.iter().map(|segment| segment.first)
    }

    /// Whether the next record will be the first one of a segment.
    #[must_use]
    pub fn begins_segment(&self) -> bool {
        let is_full = self.segments.back().is_none_or(|last| last.bytes >= self.limits.segment_bytes);
        self.buffer.is_empty() && (is_full || self.file.is_none())
    }

    /// Number of the last durable record; 0 if there never was one.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes on disk and in the buffer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum::<u64>() + self.buffer.len() as u64
    }

    fn check(&self) -> Result<(), LogError> {
        self.broken.clone().map_or(Ok(()), |reason| Err(LogError::Broken(reason)))
    }

    fn break_with(&mut self, reason: String) -> LogError {
        self.broken = Some(reason.clone());
        LogError::Broken(reason)
    }
}

/// A damaged head costs nothing: the file's name says the same.
pub(super) fn check_header(bytes: &[u8], path: &str) -> Result<(), LogError> {
    match record::read_header(bytes) {
        Ok(_) => Ok(()),
        Err(reason) if reason.contains("newer version") => {
            Err(LogError::Unreadable(format!("{path}: {reason}")))
        }
        Err(reason) => {
            tracing::error!(file = path, "damaged segment: {reason}");
            Ok(())
        }
    }
}

fn number_of(path: &Path) -> Option<u64> {
    let is_segment = path.extension().is_some_and(|suffix| suffix == SUFFIX);
    let number = is_segment.then(|| path.file_stem()?.to_str()?.parse().ok()).flatten();
    number.filter(|number| (1..=NUMBER_MAX).contains(number))
}

/// Where the last segment ends and the number of its last record: behind the
/// last whole record, or at damage that was never called durable.
fn whole_end(bytes: &[u8], first: u64, after: u64) -> (usize, u64) {
    let (mut at, mut last) = (HEADER_BYTES, first.saturating_sub(1));
    loop {
        match record::read_from(first, bytes, at) {
            Found::Record(record, next) => (at, last) = (next, last.max(record.number)),
            Found::End => return (at, last),
            Found::Damage => match record::next_whole(bytes, at, last + 1) {
                // This one was durable: it is lost, those behind it are not.
                Some((place, _)) if last < after || last < most_durable(bytes, first, place) => at = place,
                Some(_) | None => return (at, last),
            },
        }
    }
}

/// What the whole records from `at` on know to have been durable.
fn most_durable(bytes: &[u8], first: u64, mut at: usize) -> u64 {
    let mut most = 0;
    loop {
        match record::read_from(first, bytes, at) {
            Found::Record(record, next) => (at, most) = (next, most.max(record.durable)),
            Found::End => return most,
            Found::Damage => match record::next_whole(bytes, at, most) {
                Some((place, _)) => at = place,
                None => return most,
            },
        }
    }
}
