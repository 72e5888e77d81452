//! A file that grows → rows and windows → published files. The source goes
//! back to any position: every row once, every window once and right.

use std::collections::BTreeMap;
use std::io::Write;

use crate::process::{Daemon, end_of_log, pause, published};
use crate::random::Random;

pub(crate) const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "40ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64", device = "string", ts = "timestamp" }
time   = { column = "ts", unit = "ms" }

[operator.sums]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "1s" }
select = ["count(*) AS rows", "sum(n) AS total"]

[sink.all]
type = "file"
from = "rows"
path = "all/"

[sink.windows]
type = "file"
from = "sums"
path = "windows/"
"#;

/// Rows written before each kill.
const ROWS: u64 = 400;
const DEVICES: u64 = 7;
/// Event time between two rows, in milliseconds.
const STEP_MS: u64 = 10;

pub(crate) fn run(cycles: usize, random: &mut Random) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("plant.toml"), TOPOLOGY).expect("writes");
    let mut file = std::fs::File::create(folder.path().join("rows.jsonl")).expect("a file");
    let mut count = 0;
    for _ in 0..cycles {
        let daemon = Daemon::start(folder.path(), "plant.toml", &[]);
        // It may die while it starts, too.
        let kill_after = random.below(350);
        for part in 0..4 {
            let lines: String = (count..count + ROWS / 4).map(line).collect();
            count += ROWS / 4;
            file.write_all(lines.as_bytes()).expect("writes");
            if part < 3 {
                pause(kill_after / 4);
            }
        }
        pause(kill_after / 4);
        daemon.kill();
    }
    Daemon::start(folder.path(), "plant.toml", &["--once"]).wait(folder.path());
    check(folder.path(), count);
    println!("file: {cycles} kills, {count} rows, every row once, every window once");
}

pub(crate) fn line(n: u64) -> String {
    format!("{{\"n\":{n},\"device\":\"d{}\",\"ts\":{}}}\n", n % DEVICES, n * STEP_MS)
}

pub(crate) fn check(folder: &std::path::Path, count: u64) {
    let mut numbers: Vec<u64> =
        published(&folder.join("all")).iter().map(|row| row["n"].as_u64().expect("a number")).collect();
    numbers.sort_unstable();
    let wrong = numbers.iter().enumerate().find(|(index, n)| **n != *index as u64);
    assert!(wrong.is_none(), "row {wrong:?} of {count}; {}", end_of_log(folder));
    assert_eq!(numbers.len() as u64, count, "{}", end_of_log(folder));
    // The oracle: every window from the input.
    let mut expected: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
    for n in 0..count {
        let sums = expected.entry((n * STEP_MS / 1_000, format!("d{}", n % DEVICES))).or_default();
        *sums = (sums.0 + 1, sums.1 + n);
    }
    let mut found = BTreeMap::new();
    for row in published(&folder.join("windows")) {
        let start = row["window_start"].as_str().expect("a time");
        let key = (seconds(start), row["device"].as_str().expect("a device").to_owned());
        let sums = (row["rows"].as_u64().expect("a number"), row["total"].as_u64().expect("a number"));
        assert!(found.insert(key.clone(), sums).is_none(), "window {key:?} twice; {}", end_of_log(folder));
    }
    assert_eq!(found, expected, "{}", end_of_log(folder));
}

/// Seconds since 1970 of a time on its first day.
pub(crate) fn seconds(time: &str) -> u64 {
    let part = |from: usize| time.get(from..from + 2).and_then(|text| text.parse::<u64>().ok());
    let (Some(hours), Some(minutes), Some(seconds)) = (part(11), part(14), part(17)) else {
        panic!("{time} is no time");
    };
    let days: u64 = time.get(8..10).and_then(|text| text.parse().ok()).expect("a day");
    (days - 1) * 86_400 + hours * 3_600 + minutes * 60 + seconds
}
