//! The real binary with operators as several copies: the same results as with
//! one, also where it is killed and goes on with another number of them.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that fails says where"
)]

#[path = "crash/process.rs"]
#[allow(dead_code, reason = "not every test uses all of it")]
mod process;

use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use process::{Daemon, end_of_log, pause, published};

const PLANT: &str = r#"[topology]
name = "plant"
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { device = "string", ts = "timestamp", value = "float64", old = "bool" }
time   = { column = "ts", unit = "ms" }
watermark = { delay = "2s" }

[operator.load]
type        = "window"
from        = "rows"
key         = ["device"]
window      = { kind = "hopping", size = "10s", slide = "4s" }
select      = ["count(*) AS n", "sum(value) AS total", "median(value) AS middle", "last_value(value ORDER BY ts) AS last"]
parallelism = COPIES

# What is late may be so at one speed of the copies and not at another.
[operator.fresh]
type  = "filter"
from  = "rows"
where = "NOT old"

[operator.calm]
type        = "deadband"
from        = "fresh"
key         = "device"
column      = "value"
absolute    = 40
parallelism = COPIES

[operator.near]
type        = "join"
from        = ["calm", "load"]
on          = "calm.device = load.device AND calm.value > load.middle"
kind        = "left"
match       = { within = "3s" }
parallelism = COPIES

[operator.visits]
type        = "window"
from        = "calm"
key         = ["device"]
window      = { kind = "session", gap = "700ms" }
select      = ["count(*) AS n", "sum(value) AS total"]
parallelism = COPIES

[sink.load_rows]
type = "file"
from = "load"
path = "load/"

[sink.late_rows]
type = "file"
from = "load.late"
path = "late/"

[sink.near_rows]
type = "file"
from = "near"
path = "near/"

[sink.visits_rows]
type = "file"
from = "visits"
path = "visits/"
"#;

const SINKS: [&str; 4] = ["load", "late", "near", "visits"];
const ROWS: u64 = 24_000;

/// Devices of unequal weight, times within the delay of each other but for one
/// in a thousand, 250 rows a second.
fn rows(range: Range<u64>) -> String {
    let mut text = String::new();
    for row in range {
        let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let device = (mixed % 30) * (mixed / 30 % 30) / 9;
        let old = row % 1_000 == 999;
        let behind = if old { 20_000 } else { mixed % 1_500 };
        let ts = (60_000 + row * 4) - behind;
        writeln!(text, "{{\"device\":\"d{device}\",\"ts\":{ts},\"value\":{},\"old\":{old}}}", mixed % 101)
            .expect("text");
    }
    text
}

fn write_plant(folder: &Path, copies: usize) {
    let plant = PLANT.replace("COPIES", &copies.to_string());
    std::fs::write(folder.join("plant.toml"), plant).expect("writes");
}

fn append(folder: &Path, range: Range<u64>) {
    let file = std::fs::File::options().create(true).append(true).open(folder.join("rows.jsonl"));
    file.expect("opens").write_all(rows(range).as_bytes()).expect("writes");
}

/// Reads to the end; answers what every sink has, in any order.
fn finish(folder: &Path) -> Vec<Vec<String>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["run", "plant.toml", "--once"]);
    Daemon::of(command, folder).wait(folder);
    let all = SINKS.iter().map(|sink| {
        let mut lines: Vec<String> =
            published(&folder.join(sink)).iter().map(|row| row.to_string()).collect();
        lines.sort();
        lines
    });
    all.collect()
}

fn same(found: &[Vec<String>], expected: &[Vec<String>], what: &str) {
    for ((sink, found), expected) in SINKS.iter().zip(found).zip(expected) {
        let only =
            |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).take(3).cloned().collect();
        let (more, less): (Vec<_>, Vec<_>) = (only(found, expected), only(expected, found));
        assert!(more.is_empty() && less.is_empty(), "{sink}, {what}: {more:?} and not {less:?}");
        assert_eq!(found.len(), expected.len(), "{sink}, {what}");
    }
}

#[test]
fn copies_give_what_one_gives_whatever_happens_to_their_number() {
    let alone = tempfile::tempdir().expect("a folder");
    write_plant(alone.path(), 1);
    append(alone.path(), 0..ROWS);
    let expected = finish(alone.path());
    let counts: Vec<usize> = expected.iter().map(Vec::len).collect();
    assert!(counts[0] > 900 && counts[1] == 24 && counts[2] > 5_000 && counts[3] > 500, "{counts:?}");

    for copies in [2, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        write_plant(folder.path(), copies);
        append(folder.path(), 0..ROWS);
        same(&finish(folder.path()), &expected, &format!("{copies} copies"));
    }

    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let lives = [3, 1, 2, 2, 4, 1];
    let share = ROWS / 8;
    for (life, copies) in (0..).zip(lives) {
        write_plant(folder, copies);
        append(folder, life * share..(life + 1) * share);
        let daemon = Daemon::start(folder, "plant.toml", &[]);
        pause(1_500);
        daemon.kill();
    }
    append(folder, 6 * share..ROWS);
    write_plant(folder, 3);
    same(&finish(folder), &expected, &end_of_log(folder));
    let log = std::fs::read_to_string(folder.join("log")).expect("a log");
    for told in ["the state of 3 copies is shared among 1", "the state of 1 copies is shared among 2"] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

/// One node is seen, however many copies it has.
#[test]
fn a_person_sees_one_node() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    write_plant(folder, 3);
    append(folder, 0..2_000);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["run", "plant.toml", "--once"]).current_dir(folder).output();
    let output = output.expect("tidegate starts");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains('#'), "{said}");
    let load = said.lines().find(|line| line.contains("load") && line.contains("2000"));
    assert!(load.is_some(), "{said}");
}
