//! Logs whose files hold any bytes, on a simulated disk.

use std::path::Path;
use std::sync::Arc;

use crate::storage::epoch_log::EpochLog;
use crate::storage::log::{Log, LogError, LogLimits};
use crate::storage::log_reader::Entry;
use crate::storage::record::{self, HEADER_BYTES, RECORD_BYTES};
use crate::storage::vfs::Vfs;
use crate::testing::disk::SimDisk;

const FOLDER: &str = "/log";
/// So small that a few records fill a segment.
const LIMITS: LogLimits = LogLimits { segment_bytes: 400, bytes_max: u64::MAX, bytes_kept: 0 };

/// A segment of a log, as it is and behind its checksums. Its records are read
/// in order or told as lost, no byte of them is changed, and the log goes on.
pub fn segment(bytes: &[u8]) {
    read_segment(bytes);
    read_segment(&with_checksums(bytes));
}

fn read_segment(bytes: &[u8]) {
    // The name says the first number, as the head does where it is whole.
    let first = record::read_header(bytes).unwrap_or(1);
    let disk = SimDisk::default();
    let path = Path::new(FOLDER).join(format!("{first:020}.seg"));
    disk.create(&path).and_then(|mut file| file.write(bytes)).expect("the disk has room");
    let Some(mut log) = open(&disk) else { return };
    let after = log.oldest().saturating_sub(1);
    let end = check_entries(&log, after, Some(bytes));
    let Ok(number) = log.append(7, b"more") else { return };
    log.sync().expect("the disk has room");
    assert_eq!(number, end + 1, "the log does not go on behind its end");
    drop(log);
    let log = open(&disk).expect("what was opened once is opened again");
    assert_eq!(check_entries(&log, after, None), number, "what was appended is not read");
}

fn open(disk: &SimDisk) -> Option<Log> {
    match Log::open(Arc::new(disk.clone()), Path::new(FOLDER), LIMITS, 0) {
        Ok(log) => Some(log),
        Err(LogError::Unreadable(_)) => None,
        Err(error) => panic!("a log that can be cut is not opened: {error}"),
    }
}

/// Every number after `after` is read or told as lost; answers the last one.
fn check_entries(log: &Log, after: u64, bytes: Option<&[u8]>) -> u64 {
    let mut reader = log.records_after(after);
    let mut last = after;
    while let Some(entry) = reader.next_entry().expect("what was opened is read") {
        match entry {
            Entry::Record(record) => {
                assert_eq!(record.number, last + 1, "a record out of its turn");
                last = record.number;
                let mut written = Vec::new();
                record::write(
                    record.number,
                    record.durable,
                    record.received_us,
                    &record.payload,
                    &mut written,
                );
                let is_there = |bytes: &[u8]| bytes.windows(written.len()).any(|place| place == written);
                assert!(bytes.is_none_or(is_there), "record {last} is none of the file");
            }
            Entry::Lost(lost) => {
                assert!(lost.from == last + 1 && lost.to >= lost.from, "{lost:?} after {last}");
                last = lost.to;
            }
        }
    }
    assert_eq!(last, log.durable().max(after), "the reader does not come to the end");
    last
}

/// The same segment with every checksum as it must be, as far as lengths lead.
fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some((body, sum)) = bytes.get_mut(..HEADER_BYTES).and_then(|head| head.split_last_chunk_mut::<4>())
    {
        *sum = crc32c::crc32c(body).to_le_bytes();
    }
    let mut rest = bytes.get_mut(HEADER_BYTES..).unwrap_or_default();
    while let Some((length, behind)) = rest.split_first_chunk_mut::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((sum, behind)) = behind.split_first_chunk_mut::<4>() else { break };
        let Some((body, next)) = behind.split_at_mut_checked(length.saturating_add(RECORD_BYTES - 8)) else {
            break;
        };
        *sum = crc32c::crc32c(body).to_le_bytes();
        rest = next;
    }
    bytes
}

/// A log of epochs whose records hold any bytes: for each its length (u16,
/// little-endian) and the record. It is opened or refused, and then written to,
/// trimmed and read.
pub fn epoch_log(bytes: &[u8]) {
    let disk = SimDisk::default();
    let log = Log::open(Arc::new(disk.clone()), Path::new(FOLDER), LIMITS, 0);
    let mut log = log.expect("an empty log is opened");
    for record in records(bytes) {
        log.append(7, record).expect("the disk has room");
        log.sync().expect("the disk has room");
    }
    let end = log.durable();
    drop(log);
    let open = || EpochLog::open(Arc::new(disk.clone()), Path::new(FOLDER), LIMITS.segment_bytes);
    let Ok(mut log) = open() else { return };
    let mut last = 0;
    for item in log.items() {
        let Ok(item) = item else { break };
        assert!(item.number > last && item.number <= end, "{} after {last} of {end}", item.number);
        last = item.number;
    }
    let epoch = bytes.first().copied().unwrap_or_default().into();
    log.forget_after(epoch).expect("the disk has room");
    log.meet().expect("the disk has room");
    log.sync().expect("the disk has room");
    let items = log.items().take_while(Result::is_ok).filter_map(Result::ok);
    // A summary may say that there are no such rows.
    let has_summary = records(bytes).any(|record| record.get(1) == Some(&5));
    let is_kept = |(of, _): (u64, _)| of <= epoch || has_summary;
    assert!(items.filter_map(|item| item.rows).all(is_kept), "rows of a forgotten epoch come back");
    log.trim(end / 2);
    let oldest = log.records_after(0).next_entry().expect("what was opened is read");
    drop(log);
    let log = open().expect("what was opened once is opened again");
    assert_eq!(log.records_after(0).next_entry(), Ok(oldest), "trimming is not the same after a restart");
    assert_eq!(log.born(), None, "the remote side was seen");
}

fn records(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (record, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        Some(record)
    })
}
