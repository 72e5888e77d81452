//! The log on a disk that loses what was not synced: thousands of histories
//! with crashes, full disks and failing syncs, and damage by hand.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::group::GroupLog;
use super::log::{Log, LogError, LogLimits};
use super::log_reader::{Entry, Lost};
use super::record::{HEADER_BYTES, RECORD_BYTES};
use super::vfs::{RealDisk, Vfs};
use crate::testing::disk::{Fault, SimDisk};
use crate::testing::seed::Seed;

const FOLDER: &str = "/log";
const LIMITS: LogLimits = LogLimits { segment_bytes: 400, bytes_max: 1 << 30, bytes_kept: 0 };

fn open(disk: &SimDisk, after: u64) -> Result<Log, LogError> {
    Log::open(Arc::new(disk.plugged()), Path::new(FOLDER), LIMITS, after)
}

/// Every entry after `number`.
fn entries(log: &Log, number: u64) -> Vec<Entry> {
    let mut reader = log.records_after(number);
    std::iter::from_fn(|| reader.next_entry().expect("is readable")).collect()
}

fn numbers(log: &Log, after: u64) -> Vec<u64> {
    entries(log, after)
        .into_iter()
        .map(|entry| match entry {
            Entry::Record(record) => record.number,
            Entry::Lost(lost) => panic!("{lost:?}"),
        })
        .collect()
}

/// What a caller of the log knows.
#[derive(Default)]
struct Truth {
    /// Payloads by number, as last appended.
    appended: BTreeMap<u64, Vec<u8>>,
    /// What `sync` has promised.
    durable: u64,
    trimmed: u64,
}

impl Truth {
    /// Everything promised is there, nothing else than what was appended.
    fn check(&self, log: &Log, history: u64) {
        let entries = entries(log, self.trimmed);
        let mut expected = self.trimmed + 1;
        for entry in entries {
            let Entry::Record(record) = entry else { panic!("history {history}: {entry:?}") };
            assert_eq!(record.number, expected, "history {history}");
            assert_eq!(Some(&record.payload), self.appended.get(&record.number), "history {history}");
            expected += 1;
        }
        assert!(expected > self.durable, "history {history}: {expected} of {}", self.durable);
    }
}

/// One process: appends, syncs and trims until something breaks or it ends.
fn live(log: &mut Log, truth: &mut Truth, seed: &mut Seed) -> Result<(), LogError> {
    for _ in 0..seed.below(60) {
        match seed.below(10) {
            0..6 => {
                let payload: Vec<u8> = seed.number().to_le_bytes().repeat(seed.below(12));
                let number = log.append(1, &payload)?;
                assert!(number > truth.durable);
                truth.appended.insert(number, payload);
            }
            6..9 => match log.sync() {
                Ok(durable) => truth.durable = durable,
                // The caller tries again; nothing is lost.
                Err(LogError::Full(_)) => truth.durable = log.sync()?,
                Err(error) => return Err(error),
            },
            _ => {
                let number = truth.trimmed + seed.below(10) as u64;
                if number <= truth.durable {
                    truth.trimmed = number;
                    log.trim(number)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn nothing_promised_is_lost_whatever_the_disk_does() {
    for history in 0..3_000 {
        let mut seed = Seed::new(history);
        let disk = SimDisk::default();
        let mut truth = Truth::default();
        for _ in 0..4 {
            let Ok(mut log) = open(&disk, truth.trimmed) else {
                // Down in the middle of opening.
                disk.restart(&mut seed);
                continue;
            };
            disk.plan(u64::MAX, Fault::Crash);
            truth.check(&log, history);
            // What a killed process has left is promised by the next one.
            truth.durable = log.durable();
            let fault = [Fault::Crash, Fault::NoSpace, Fault::SyncError][seed.below(3)];
            disk.plan(disk.operations() + seed.below(80) as u64, fault);
            let lived = live(&mut log, &mut truth, &mut seed);
            drop(log);
            if seed.chance(40) {
                disk.kill();
            } else if lived.is_err() || seed.chance(50) {
                disk.restart(&mut seed);
            }
        }
        disk.restart(&mut seed);
        let log = open(&disk, truth.trimmed).expect("opens");
        truth.check(&log, history);
    }
}

/// Ten records of 100 bytes, each synced by itself, in several segments.
fn ten() -> SimDisk {
    let disk = SimDisk::default();
    let mut log = open(&disk, 0).expect("opens");
    for _ in 0..10 {
        log.append(7, &[9; 68]).expect("has room");
        log.sync().expect("is durable");
    }
    disk
}

#[test]
fn damage_is_a_gap_with_its_numbers_and_no_more_than_that() {
    // Four records fit a segment: 1-4, 5-8, 9-10.
    let disk = ten();
    let path = Path::new("/log/00000000000000000005.seg");
    disk.damage(path, HEADER_BYTES + 100 + RECORD_BYTES + 3);
    let log = open(&disk, 0).expect("opens");
    let found = entries(&log, 0);
    assert_eq!(found.len(), 10);
    assert_eq!(found[5], Entry::Lost(Lost { from: 6, to: 6 }));
    // Also where the length is what is damaged, and in the last segment.
    let disk = ten();
    disk.damage(Path::new("/log/00000000000000000009.seg"), HEADER_BYTES);
    let log = open(&disk, 0).expect("opens");
    assert_eq!(entries(&log, 7)[1], Entry::Lost(Lost { from: 9, to: 9 }));
    assert_eq!(log.durable(), 10);
}

#[test]
fn a_segment_that_is_gone_is_a_gap() {
    let disk = ten();
    disk.remove(Path::new("/log/00000000000000000005.seg")).expect("is there");
    let log = open(&disk, 0).expect("opens");
    assert_eq!(entries(&log, 0)[4], Entry::Lost(Lost { from: 5, to: 8 }));
}

#[test]
fn a_torn_end_is_cut_off_at_every_byte() {
    let disk = ten();
    let path = Path::new("/log/00000000000000000009.seg");
    let whole = disk.read(path).expect("is there");
    for length in HEADER_BYTES..whole.len() {
        let disk = ten();
        disk.append(path).and_then(|mut file| file.truncate(length as u64)).expect("is cut");
        let mut log = open(&disk, 0).expect("opens");
        let kept = 8 + (length - HEADER_BYTES) as u64 / 100;
        assert_eq!(numbers(&log, 0), (1..=kept).collect::<Vec<_>>(), "{length} bytes");
        assert_eq!(log.append(7, b"on"), Ok(kept + 1));
        assert_eq!(log.sync(), Ok(kept + 1));
        assert_eq!(numbers(&log, 0), (1..=kept + 1).collect::<Vec<_>>(), "{length} bytes");
    }
}

#[test]
fn a_newer_version_is_refused_and_a_log_that_is_gone_goes_on_behind_its_position() {
    let disk = ten();
    let path = Path::new("/log/00000000000000000009.seg");
    let mut file = disk.create(path).expect("is made");
    let mut head = super::record::header(9).to_vec();
    head[4] = 99;
    file.write(&head).expect("is written");
    assert!(open(&disk, 0).is_ok(), "a version that is damaged is no newer one");
    let (body, checksum) = head.split_at_mut(HEADER_BYTES - 4);
    checksum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let mut file = disk.create(path).expect("is made");
    file.write(&head).expect("is written");
    let Err(LogError::Unreadable(reason)) = open(&disk, 0) else { panic!("was read") };
    assert!(reason.contains("newer version (99)") && reason.contains("09.seg"), "{reason}");
    let mut log = open(&SimDisk::default(), 500).expect("opens");
    assert_eq!(log.append(7, b"on"), Ok(501));
}

#[test]
fn a_failed_sync_is_never_believed_later() {
    let disk = SimDisk::default();
    let mut log = open(&disk, 0).expect("opens");
    log.append(1, b"one").expect("has room");
    log.sync().expect("is durable");
    log.append(1, b"two").expect("has room");
    disk.plan(disk.operations(), Fault::SyncError);
    assert!(matches!(log.sync(), Err(LogError::Broken(_))));
    assert!(matches!(log.sync(), Err(LogError::Broken(_))));
    assert!(matches!(log.append(1, b"three"), Err(LogError::Broken(_))));
}

/// A log written by the first version of the layout stays readable for ever.
#[test]
fn the_first_layout_is_still_read() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-v1");
    let folder = tempfile::tempdir().expect("a folder is made");
    for file in std::fs::read_dir(fixture).expect("is there") {
        let from = file.expect("is a file").path();
        std::fs::copy(&from, folder.path().join(from.file_name().expect("has a name"))).expect("is copied");
    }
    let log = Log::open(Arc::new(RealDisk), folder.path(), LIMITS, 0).expect("opens");
    let payloads: Vec<_> = entries(&log, 0)
        .into_iter()
        .map(|entry| match entry {
            Entry::Record(record) => (record.number, record.received_us, record.payload),
            Entry::Lost(lost) => panic!("{lost:?}"),
        })
        .collect();
    let expected = |number: u64| (number, 1_700_000_000_000_000, format!("record {number}").into_bytes());
    assert_eq!(payloads, (1..=20).map(expected).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_group_is_durable_together_and_a_full_log_waits_for_a_trim() {
    let folder = tempfile::tempdir().expect("a folder is made");
    let limits = LogLimits { segment_bytes: 2_000, bytes_max: 10_000, bytes_kept: 0 };
    let log = Log::open(Arc::new(RealDisk), folder.path(), limits, 0).expect("opens");
    let group = GroupLog::start(log);
    let mut tickets = Vec::new();
    for _ in 0..120 {
        tickets.push(group.append(1, vec![1; 68]).await.expect("is taken"));
    }
    let mut done: u64 = 0;
    let all = async {
        for (index, mut ticket) in tickets.into_iter().enumerate() {
            let waiting = tokio::time::timeout(std::time::Duration::from_millis(200), ticket.durable());
            // The limit holds: without a trim nothing more is taken.
            match waiting.await {
                Ok(number) => assert_eq!(number, Ok(index as u64 + 1)),
                Err(_) => return,
            }
            done += 1;
        }
    };
    all.await;
    assert!((90..=110).contains(&done), "{done} of about 100 fit");
    group.trim(done);
    let mut ticket = group.append(1, vec![1; 68]).await.expect("is taken");
    let number = tokio::time::timeout(std::time::Duration::from_secs(30), ticket.durable()).await;
    // The ticket given up above was taken all the same.
    assert_eq!(number.expect("in time"), Ok(121));
}

/// The layout stays what it is: the same records make the same bytes.
#[test]
fn the_layout_has_not_changed_without_a_new_version() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log-v1");
    let folder = tempfile::tempdir().expect("a folder is made");
    let mut log = Log::open(Arc::new(RealDisk), folder.path(), LIMITS, 0).expect("opens");
    for number in 1..=20 {
        log.append(1_700_000_000_000_000, format!("record {number}").as_bytes()).expect("has room");
        log.sync().expect("is durable");
    }
    let files = |folder: &Path| -> BTreeMap<_, _> {
        let entries = std::fs::read_dir(folder).expect("is there").map(|file| file.expect("is a file"));
        entries.map(|file| (file.file_name(), std::fs::read(file.path()).expect("is readable"))).collect()
    };
    assert_eq!(files(folder.path()), files(&fixture));
}
