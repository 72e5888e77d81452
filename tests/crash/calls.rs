//! Kills at the N-th call instead of at an instant: between a write and its
//! fsync, between a rename and the fsync of its folder, while a file is removed.
//! Now and then an fsync fails instead: what it was for is written anew into
//! another file, and the process goes on. strace does both.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::file::{TOPOLOGY, check, line};
use crate::process::{Daemon, end_of_log, pause};
use crate::random::Random;

/// Calls, and about how many of them a thread of a life makes: strace counts
/// them for each thread.
const CALLS: [(&str, u64); 6] =
    [("fdatasync", 5), ("rename", 5), ("fsync", 6), ("write", 12), ("fdatasync", 5), ("unlink", 4)];
/// Exit code after an error of the disk.
const EXIT_IO: i32 = 74;
/// Rows of each life.
const ROWS: u64 = 400;
pub(crate) fn run(cycles: usize, random: &mut Random) {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    std::fs::write(folder.join("plant.toml"), TOPOLOGY).expect("writes");
    let mut rows = std::fs::File::create(folder.join("rows.jsonl")).expect("a file");
    let strace = strace();
    let (mut count, mut killed) = (0, 0);
    for cycle in 0..cycles {
        let (call, most) = CALLS[cycle % CALLS.len()];
        let number = 1 + random.below(most);
        let fails = call == "fdatasync" && random.below(2) == 0;
        let effect = if fails { "error=EIO" } else { "signal=SIGKILL" };
        let mut daemon = Daemon::traced(folder, &strace, call, &format!("{call}:{effect}:when={number}"));
        for _ in 0..8 {
            let lines: String = (count..count + ROWS / 8).map(line).collect();
            count += ROWS / 8;
            rows.write_all(lines.as_bytes()).expect("writes");
            pause(30);
        }
        // Whoever makes fewer calls is killed at an instant.
        match daemon.ended_within(300) {
            Some(None) if !fails => killed += 1,
            // At the start the disk is tried, and the process gives up.
            Some(Some(EXIT_IO)) if fails => {}
            Some(code) => panic!("{call} {number}: exit {code:?}; {}", end_of_log(folder)),
            None => daemon.kill_traced(),
        }
    }
    Daemon::start(folder, "plant.toml", &["--once"]).wait(folder);
    check(folder, count);
    let log = std::fs::read_to_string(folder.join("log")).expect("a log");
    let failed = log.matches("Input/output error").count();
    assert!(killed * 4 > cycles && failed > 0, "{killed} of {cycles} died at a call, {failed} fsyncs failed");
    println!(
        "calls: {cycles} lives, {killed} killed at a call, {failed} fsyncs failed, {count} rows once, windows once"
    );
}

fn strace() -> String {
    let part = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parts/strace.sh");
    let found = Command::new("bash").arg(part).output().expect("bash runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).expect("a path").trim().to_owned()
}
