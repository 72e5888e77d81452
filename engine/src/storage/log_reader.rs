//! Reads a log's records in order, through segments that may be damaged or gone.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::log::{LogError, Segment, check_header};
use super::record::{self, Found, HEADER_BYTES, Record};
use super::vfs::Vfs;

/// Records that were durable and are damaged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The first one.
    pub from: u64,
    /// The last one.
    pub to: u64,
}

/// What a reader comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record.
    Record(Record),
    /// A gap.
    Lost(Lost),
}

/// Reads records in order; damage is a gap with its numbers.
pub struct LogReader {
    vfs: Arc<dyn Vfs>,
    segments: VecDeque<Segment>,
    bytes: Vec<u8>,
    at: usize,
    /// Number of the first record in `bytes`.
    first: u64,
    expected: u64,
    last: u64,
    ahead: Option<Record>,
}

impl LogReader {
    pub(super) fn new(vfs: Arc<dyn Vfs>, segments: VecDeque<Segment>, after: u64, last: u64) -> LogReader {
        LogReader {
            vfs,
            segments,
            bytes: Vec::new(),
            at: 0,
            first: 0,
            expected: after + 1,
            last,
            ahead: None,
        }
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// `Unreadable`: a segment of a newer version, or the disk does not answer.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LogError> {
        loop {
            if self.expected > self.last {
                return Ok(None);
            }
            let Some(record) = self.next_record()? else {
                return Ok(Some(self.gap_until(self.last)));
            };
            if record.number < self.expected {
                continue;
            }
            if record.number > self.expected {
                let gap = self.gap_until(record.number - 1);
                self.ahead = Some(record);
                return Ok(Some(gap));
            }
            self.expected += 1;
            return Ok(Some(Entry::Record(record)));
        }
    }

    fn gap_until(&mut self, to: u64) -> Entry {
        let from = std::mem::replace(&mut self.expected, to + 1);
        Entry::Lost(Lost { from, to })
    }

    /// The next whole record of all segments.
    fn next_record(&mut self) -> Result<Option<Record>, LogError> {
        if let Some(record) = self.ahead.take() {
            return Ok(Some(record));
        }
        loop {
            match record::read_from(self.first, &self.bytes, self.at) {
                Found::Record(record, next) => {
                    self.at = next;
                    return Ok(Some(record));
                }
                Found::Damage => {
                    self.at = record::next_whole(&self.bytes, self.at, self.expected)
                        .map_or(self.bytes.len(), |(place, _)| place);
                }
                Found::End => {
                    let Some(segment) = self.segments.pop_front() else { return Ok(None) };
                    self.load(&segment)?;
                }
            }
        }
    }

    fn load(&mut self, segment: &Segment) -> Result<(), LogError> {
        let failed = |reason: String| LogError::Unreadable(format!("{}: {reason}", segment.path.display()));
        self.bytes = match self.vfs.read(&segment.path) {
            Ok(bytes) => bytes,
            // Somebody has removed it: a gap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(error.to_string())),
        };
        self.at = HEADER_BYTES.min(self.bytes.len());
        self.first = segment.first;
        check_header(&self.bytes, &segment.path.display().to_string())
    }
}
