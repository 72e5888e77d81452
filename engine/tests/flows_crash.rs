//! Flows killed with SIGKILL at random moments, many times: every firing that
//! was acknowledged has exactly one run, every run one final state, and every
//! repeated effect carries the key it had before.
//!
//! The test starts itself again as the program that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parts::{firing_batch, in_time, plant, read_ledger};
use tidegate_engine::flow::key::RunKey;
use tidegate_engine::time::Time;

/// The folder of the program to be killed; set only in that program.
const FOLDER: &str = "TIDEGATE_TEST_CRASH_FOLDER";
/// Kills.
const KILLS: u64 = 40;
/// Firings in all.
const FIRINGS: i64 = 2_000;

const TOML: &str = r#"
[trigger.hot]
start = "cool"
give  = { machine = "device", v = "value" }

[flow.cool]
params  = { machine = "string", v = "float64" }
one_per = "machine"
overlap = "queue"

[[flow.cool.task]]
id = "a"
type = "ledger"
takes = "1ms"
[[flow.cool.task]]
id = "b"
type = "ledger"
fails = 1
retry = { times = 5, wait = "3ms" }
[[flow.cool.task]]
id = "c"
type = "ledger"
after = ["a"]
waits = "20ms"
[[flow.cool.task]]
id = "d"
type = "ledger"
after = ["b", "c"]
reads = "a.attempt"
[[flow.cool.finally]]
id = "last"
type = "ledger"
"#;

/// Fires everything that is not yet acknowledged, one by one, then waits until
/// all runs have ended.
async fn work(folder: &Path) {
    let mut plant = plant(TOML, folder, 16);
    let done = acknowledged(folder);
    let mut acks = OpenOptions::new().create(true).append(true).open(folder.join("acks")).unwrap();
    for at in 0..FIRINGS {
        // As a source that rewinds: a few that were acknowledged come again.
        if done.contains(&at) && at % 7 != 0 {
            continue;
        }
        let machine = format!("m{}", at % 20);
        plant.fire(&firing_batch(&[(at, &machine, 1.0)])).await;
        acks.write_all(format!("{at}\n").as_bytes()).unwrap();
    }
    let idle = in_time(plant.scheduler.wait_idle()).await;
    assert!(idle.waiting.is_empty(), "{:?}", idle.waiting);
    std::fs::write(folder.join("finished"), "").unwrap();
}

fn acknowledged(folder: &Path) -> BTreeSet<i64> {
    let text = std::fs::read_to_string(folder.join("acks")).unwrap_or_default();
    // A torn last line was not acknowledged.
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap());
    whole.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the kills come at moments of real time")]
fn every_run_survives_kills_at_random_moments() {
    if let Ok(folder) = std::env::var(FOLDER) {
        tokio::runtime::Runtime::new().unwrap().block_on(work(Path::new(&folder)));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "every_run_survives_kills_at_random_moments", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let (mut kills, mut progress) = (0, BTreeSet::new());
    for round in 0..KILLS {
        let mut child = start();
        // From before the journal is open to well into the work.
        let millis = 3 + (round * 2_654_435_761 % 97);
        std::thread::sleep(Duration::from_millis(millis));
        child.kill().unwrap();
        kills += u64::from(child.wait().unwrap().code().is_none());
        progress.insert(acknowledged(folder.path()).len());
    }
    assert!(kills >= 30, "{kills} of {KILLS} were killed while they worked");
    assert!(progress.len() > 5, "the kills came at different moments: {progress:?}");
    let mut last = start();
    let begun = Instant::now();
    while last.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "the last start does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(folder.path().join("finished").exists());
    judge(folder.path());
}

/// The effects, as the outside has seen them, against what must be.
fn judge(folder: &Path) {
    let key = |at: i64| RunKey::of("plant", "hot", &format!("m{}", at % 20), Time(at), 0).to_string();
    let expected: BTreeSet<String> = (0..FIRINGS).map(key).collect();
    let mut effects: BTreeMap<(String, String), Vec<(u32, String)>> = BTreeMap::new();
    for line in read_ledger(folder) {
        assert!(expected.contains(&line.run), "an effect of an unknown run");
        effects.entry((line.run, line.task)).or_default().push((line.attempt, line.word));
    }
    let mut repeated = 0;
    for run in &expected {
        for task in ["a", "b", "c", "d", "last"] {
            let seen =
                effects.get(&(run.clone(), task.to_owned())).expect("every task of every run was done");
            // `c` begins and goes on; the first attempt of `b` may have been killed before its effect.
            let planned = if task == "c" { 2 } else { 1 };
            assert!(seen.len() >= planned, "{task} of {run}: {seen:?}");
            assert_eq!(
                seen.iter().any(|(_, word)| word == "resume"),
                task == "c",
                "{task} of {run}: {seen:?}"
            );
            repeated += if task == "b" { seen.len().saturating_sub(2) } else { seen.len() - planned };
        }
    }
    let reader = tidegate_engine::flow::journal::JournalReader::open(&folder.join("journal.db")).unwrap();
    let runs = reader.runs(usize::MAX).unwrap();
    let firings: BTreeSet<i64> = runs.iter().map(|run| run.fired_at.0).collect();
    let all = usize::try_from(FIRINGS).unwrap();
    assert_eq!((runs.len(), firings.len()), (all, all), "one run for each firing");
    assert!(runs.iter().all(|run| run.state.is_final() && run.ended_at.is_some()));
    println!("{} effects, {repeated} of them repeats with the same key", effects.len());
    // A repeat needs a kill between an effect and its result: few of them all.
    assert!(repeated < all, "{repeated}");
}
