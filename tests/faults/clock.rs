//! The wall clock is set while the binary runs: an hour ahead and back, a year
//! ahead. No window comes twice, no schedule storms, nothing hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::parts::free_port;
use crate::plant::{Plant, TIDEGATE, part, post};
use crate::process::{Daemon, pause};

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.orders]
type   = "http"
listen = "127.0.0.1:PORT"
schema = { n = "int64" }

[operator.counts]
type   = "window"
from   = "orders"
window = { kind = "tumbling", size = "1s" }
select = ["count(*) AS n"]

[sink.all]
type = "file"
from = "orders"
path = "all/"

[sink.counted]
type = "file"
from = "counts"
path = "counted/"

[sink.late]
type = "file"
from = "counts.late"
path = "late/"

[source.interval]
type  = "schedule"
every = "200ms"

[sink.interval_rows]
type = "file"
from = "interval"
path = "interval/"

[source.cron]
type   = "schedule"
cron   = "* * * * * *"
missed = "run_latest"

[sink.cron_rows]
type = "file"
from = "cron"
path = "cron/"

[source.numbers]
type = "generate"
rate = "100/s"

[sink.numbers_rows]
type = "file"
from = "numbers"
path = "numbers/"

[sink.numbers_rejects]
type = "file"
from = "numbers.rejects"
path = "rejects/"
"#;

/// Orders after each time that the clock is set.
const ORDERS: u64 = 8;

fn start(plant: &Plant) -> Daemon {
    let mut command = Command::new(TIDEGATE);
    command.args(["run", "plant.toml"]);
    command.env("LD_PRELOAD", part("faketime.sh")).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_TIMESTAMP_FILE", plant.file("clock"));
    // A clock that is set moves the wall clock only.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Daemon::of(command, plant.path())
}

fn text<'r>(row: &'r Value, column: &str) -> &'r str {
    row[column].as_str().expect("text")
}

#[test]
fn a_clock_that_is_set_makes_no_window_twice_and_no_storm() {
    let port = free_port();
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &port.to_string()));
    plant.write("clock", "+0\n");
    let daemon = start(&plant);
    plant.until("it listens", || post(port, b"").is_ok());
    let (started, mut order, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    for offset in ["+0", "+1h", "+0", "-1h", "+0", "+1y", "+0"] {
        // Renamed into place: it is read at every look at the clock.
        plant.write("clock.new", &format!("{offset}\n"));
        std::fs::rename(plant.file("clock.new"), plant.file("clock")).expect("renames");
        for _ in 0..ORDERS {
            let asked = Instant::now();
            assert_eq!(post(port, format!("{{\"n\":{order}}}").as_bytes()).expect("answers"), 200);
            slowest = slowest.max(asked.elapsed());
            order += 1;
            pause(120);
        }
    }
    let took = started.elapsed();
    plant.until_rows("all/", order);
    plant.stop(daemon);
    println!("clock: set six times in {took:?}; the slowest answer took {slowest:?}");
    assert!(slowest < Duration::from_secs(20), "a time-out follows the wall clock: {slowest:?}");
    assert_eq!(plant.sorted("all/", "n"), (0..order).collect::<Vec<_>>());
    check_windows(&plant);
    // What was due before the clock leapt, after it, and once for what was missed.
    let due = took.as_millis() / 200 + 10;
    for (name, most) in [("interval/", due), ("cron/", took.as_millis() / 1_000 + 10)] {
        let rows = plant.rows(name);
        let times: BTreeSet<&str> = rows.iter().map(|row| text(row, "scheduled_for")).collect();
        assert_eq!(times.len(), rows.len(), "{name}: a time came twice");
        assert!((2..most).contains(&(rows.len() as u128)), "{name}: {} rows in {took:?}", rows.len());
    }
    assert!(plant.log().contains("the clock was set back"), "{}", plant.log());
    // While the clock stands an hour back, rows of now are rows of the future.
    let rejected = plant.rows("rejects/");
    assert!(rejected.iter().all(|row| text(row, "reason").contains("too far in the future")));
    let kept = plant.numbers("numbers/", "n");
    assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), kept.len());
    let given = kept.last().expect("rows") + 1;
    assert!(given >= kept.len() as u64 && given <= (kept.len() + rejected.len()) as u64, "{given}");
}

/// No window twice, and each has its rows but for the late ones.
fn check_windows(plant: &Plant) {
    let second = |row: &Value| text(row, "received_at").get(..19).expect("a time").to_owned();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for row in plant.rows("all/") {
        *expected.entry(second(&row)).or_default() += 1;
    }
    let late = plant.rows("late/");
    for row in &late {
        *expected.get_mut(&second(row)).expect("its order came") -= 1;
    }
    let mut windows = BTreeSet::new();
    for row in plant.rows("counted/") {
        let start = text(&row, "window_start").get(..19).expect("a time").to_owned();
        assert_eq!(row["n"].as_u64(), expected.get(&start).copied(), "window {start}");
        assert!(windows.insert(start), "a window came twice: {row}");
    }
    assert!(windows.len() >= 4 && !late.is_empty(), "{windows:?}, {} late", late.len());
}
