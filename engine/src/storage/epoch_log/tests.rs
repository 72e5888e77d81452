//! Summaries say the same as the records before them, whatever was appended,
//! forgotten, trimmed and lost with the power.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};

use super::*;
use crate::testing::disk::{Fault, SimDisk};
use crate::testing::seed::Seed;

const FOLDER: &str = "/log";

fn rows(seed: &mut Seed) -> RecordBatch {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1 + seed.below(20) as i64));
    RecordBatch::try_from_iter([("n", numbers)]).expect("one column")
}

/// What the log knows, and what reading all of its records comes to.
fn assert_summaries_hold(log: &EpochLog, what: &str) {
    let mut scanned = EpochLog {
        log: Log::open(
            Arc::new(SimDisk::default()),
            Path::new(FOLDER),
            LogLimits { segment_bytes: 1, bytes_max: 1, bytes_kept: 0 },
            0,
        )
        .expect("opens"),
        forgets: Vec::new(),
        newest: 0,
        born: None,
        hinges: Vec::new(),
        is_trim_broken: false,
    };
    let mut reader = log.records_after(0);
    while let Some(entry) = reader.next_entry().expect("readable") {
        let Entry::Record(record) = entry else { panic!("{what}: nothing was damaged") };
        if !matches!(read(&record.payload), Head::Summary(_)) {
            scanned.learn(record.number, &record.payload).expect("ours");
        }
    }
    let kept = |log: &EpochLog, oldest| {
        log.forgets.iter().copied().filter(|(number, _)| *number >= oldest).collect::<Vec<_>>()
    };
    assert_eq!(kept(log, log.log.oldest()), kept(&scanned, 0), "{what}");
    // What was trimmed may have said so.
    if log.log.oldest() == 1 {
        assert_eq!((log.newest, log.born), (scanned.newest, scanned.born), "{what}");
    }
}

fn read(payload: &[u8]) -> Head {
    record::read_head(payload).expect("ours").0
}

#[test]
fn a_summary_says_what_the_records_before_it_say() {
    let mut summarised = 0;
    for number in 0..400 {
        let mut seed = Seed::new(number);
        let disk = SimDisk::default();
        let (mut epoch, mut delivered) = (0_u64, 0);
        for life in 0..4 {
            let vfs = Arc::new(disk.plugged());
            let Ok(mut log) = EpochLog::open(vfs, Path::new(FOLDER), 300) else { panic!("seed {number}") };
            assert_summaries_hold(&log, &format!("seed {number}, life {life}"));
            summarised += usize::from(log.last_summary().expect("readable") > 0);
            if seed.chance(60) {
                disk.plan(disk.operations() + seed.below(40) as u64, Fault::Crash);
            }
            let resumed = epoch.saturating_sub(seed.below(3) as u64);
            let mut live = || -> Result<(), LogError> {
                log.forget_after(resumed)?;
                epoch = resumed;
                for _ in 0..seed.below(25) {
                    epoch += seed.below(2) as u64;
                    log.append(epoch + 1, &[rows(&mut seed)], 7)?;
                    log.sync()?;
                    if seed.chance(20) {
                        log.meet()?;
                    }
                    if seed.chance(20) {
                        delivered += seed.below(5) as u64;
                        delivered = delivered.min(log.log.durable());
                        log.trim(delivered);
                    }
                }
                Ok(())
            };
            drop(live());
            disk.restart(&mut seed);
        }
    }
    assert!(summarised > 300, "only {summarised} logs had a summary");
}

#[test]
fn opening_reads_the_last_segment_only_and_falls_back_when_its_summary_is_damaged() {
    let disk = SimDisk::default();
    let mut seed = Seed::new(1);
    let open = || EpochLog::open(Arc::new(disk.plugged()), Path::new(FOLDER), 2_000).expect("opens");
    let mut log = open();
    let mut newest = 0;
    // Something durable stands behind the summary that will be damaged.
    while newest < 40 || log.log.segments().next_back().is_some_and(|first| first + 3 > log.log.durable()) {
        newest += 1;
        log.append(newest, &[rows(&mut seed)], 0).expect("takes it");
        log.sync().expect("durable");
    }
    let firsts: Vec<u64> = log.log.segments().collect();
    assert!(firsts.len() > 4, "{firsts:?}");
    drop(log);
    let log = open();
    assert_eq!(
        (log.newest, log.last_summary().expect("readable") + 1),
        (newest, *firsts.last().expect("some"))
    );
    let last = format!("{FOLDER}/{:020}.seg", firsts.last().expect("some"));
    drop(log);
    disk.damage(Path::new(&last), 60);
    let log = open();
    assert_eq!((log.newest, log.last_summary().expect("readable") + 1), (newest, firsts[firsts.len() - 2]));
}
