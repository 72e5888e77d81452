//! A disk that is full or read-only in the middle of a run: a small file system
//! of its own, which ends with the process that has mounted it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::parts::free_port;
use crate::plant::{Plant, post, run};
use crate::process::{Daemon, pause};

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.orders]
type   = "http"
listen = "127.0.0.1:PORT"
schema = { n = "int64" }

[sink.away]
type  = "http"
from  = "orders"
url   = "http://127.0.0.1:1/"
queue = { disk = "64MiB" }

[sink.out]
type = "file"
from = "orders"
path = "small/out/"
"#;

/// A file or disk that cannot be used (`EX_IOERR`).
const IO: i32 = 74;

/// Runs the binary with 4 MiB at `small`; state and results are there.
fn start(plant: &Plant) -> Daemon {
    fs::create_dir_all(plant.file("small")).expect("a mount point");
    let script = "mount -t tmpfs -o size=4m none small && exec \"$@\" --data-dir small/state";
    plant.start_under("unshare", &["--mount", "--map-root-user", "sh", "-c", script, "sh"])
}

/// Where the small file system is seen from outside.
fn small(plant: &Plant, daemon: &Daemon) -> PathBuf {
    let inside = plant.file("small");
    let below_root = inside.strip_prefix("/").expect("absolute");
    PathBuf::from(format!("/proc/{}/root", daemon.id())).join(below_root)
}

/// Runs a command where the process has its mounts.
fn inside(plant: &Plant, daemon: &Daemon, script: &str) {
    let (target, script) = (daemon.id().to_string(), format!("cd {} && {script}", plant.path().display()));
    run(
        "nsenter",
        &["--target", &target, "--user", "--mount", "--preserve-credentials", "sh", "-c", &script],
    );
}

/// The numbers that it has published, as long as it runs.
fn published(plant: &Plant, daemon: &Daemon) -> Vec<u64> {
    let mut found: Vec<u64> = crate::process::published(&small(plant, daemon).join("out"))
        .iter()
        .map(|row| row["n"].as_u64().expect("a number"))
        .collect();
    found.sort_unstable();
    found
}

fn prepare() -> (Plant, Daemon, u16) {
    let port = free_port();
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &port.to_string()));
    let daemon = start(&plant);
    plant.until("it listens", || post(port, b"").is_ok());
    for n in 0..5 {
        assert_eq!(post(port, format!("{{\"n\":{n}}}").as_bytes()).expect("answers"), 200);
    }
    (plant, daemon, port)
}

/// Posts rows until one has to wait, and the others behind it.
fn post_until_they_wait(plant: &Plant, port: u16, from: u64) -> (u64, Vec<std::thread::JoinHandle<u16>>) {
    let (mut n, mut waiting) = (from, Vec::new());
    while waiting.len() < 3 {
        assert!(n < from + 20_000, "every row is taken; {}", plant.log());
        let body = format!("{{\"n\":{n}}}");
        let thread = std::thread::spawn(move || post(port, body.as_bytes()).expect("answers"));
        let started = Instant::now();
        while !thread.is_finished() && started.elapsed() < Duration::from_millis(700) {
            pause(1);
        }
        n += 1;
        if !thread.is_finished() {
            waiting.push(thread);
        }
    }
    (n, waiting)
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_run_is_waited_for() {
    let (plant, daemon, port) = prepare();
    let filler = small(&plant, &daemon).join("filler");
    let full = fs::write(&filler, vec![0; 8 << 20]).expect_err("4 MiB are too few");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let (posted, waiting) = post_until_they_wait(&plant, port, 5);
    plant.until_said("No space left on device");
    pause(1_500);
    assert!(waiting.iter().all(|thread| !thread.is_finished()), "a row is acknowledged that is not durable");
    fs::remove_file(&filler).expect("removes");
    let freed = Instant::now();
    for thread in waiting {
        assert_eq!(thread.join().expect("no panic"), 200);
    }
    let answered = freed.elapsed();
    plant.until("results", || published(&plant, &daemon).len() as u64 == posted);
    println!("disk: space came back; answers after {answered:?}, results after {:?}", freed.elapsed());
    assert!(freed.elapsed() < Duration::from_secs(20), "{:?}", freed.elapsed());
    assert_eq!(published(&plant, &daemon), (0..posted).collect::<Vec<_>>());
    plant.stop(daemon);
}

#[test]
fn a_disk_that_becomes_read_only_is_told_and_waited_for() {
    let (plant, daemon, port) = prepare();
    plant.until("results", || published(&plant, &daemon).len() == 5);
    // Laid over the mount: what is open stays writable, nothing can be made or renamed.
    inside(&plant, &daemon, "mount --bind small small && mount -o remount,bind,ro small");
    let (epoch, state) =
        (plant.epoch(&small(&plant, &daemon).join("state")), small(&plant, &daemon).join("state"));
    plant.until_said("Read-only file system");
    let late = std::thread::spawn(move || post(port, b"{\"n\":5}").expect("answers"));
    pause(1_000);
    assert_eq!(plant.epoch(&state), epoch, "a checkpoint on a disk that takes none");
    inside(&plant, &daemon, "umount small");
    let writable = Instant::now();
    assert_eq!(late.join().expect("no panic"), 200);
    plant.until("results", || published(&plant, &daemon).len() == 6);
    println!("disk: writable again; results after {:?}", writable.elapsed());
    assert!(writable.elapsed() < Duration::from_secs(20), "{:?}", writable.elapsed());
    assert_eq!(published(&plant, &daemon), (0..6).collect::<Vec<_>>());
    plant.stop(daemon);
}

#[test]
fn a_disk_that_is_read_only_at_the_start_is_said() {
    let plant = Plant::new(&TOPOLOGY.replace("PORT", &free_port().to_string()));
    fs::create_dir_all(plant.file("small")).expect("a mount point");
    let script = "mount -t tmpfs -o ro none small && exec \"$@\" --data-dir small/state";
    let daemon = plant.start_under("unshare", &["--mount", "--map-root-user", "sh", "-c", script, "sh"]);
    assert_eq!(daemon.exit_code(), Some(IO), "{}", plant.log());
    assert!(plant.log().contains("small/state") && plant.log().contains("Read-only"), "{}", plant.log());
    plant.must_not_have_panicked();
}
