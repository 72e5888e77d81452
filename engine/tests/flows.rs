//! Flows from firing to end: order, conditions, retries, waits, overlap, what
//! becomes of every firing, and what a restart finds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod parts;

use std::collections::HashMap;

use parts::{firing_batch, flows, in_time, now, plant};
use tidegate_engine::flow::state::{Outcome, RunState, TaskState};

const TRIGGER: &str = r#"
[trigger.hot]
from  = "rows"
start = "cool"
give  = { machine = "device", v = "value" }

[flow.cool]
params = { machine = "string", v = "float64" }
"#;

fn with(flow: &str) -> String {
    format!("{TRIGGER}{flow}")
}

fn outcomes(plant: &parts::Plant) -> HashMap<Outcome, u64> {
    let counts = plant.scheduler.journal().counts().expect("reads");
    counts.firings.into_iter().map(|(_, outcome, count)| (outcome, count)).collect()
}

fn states(plant: &parts::Plant) -> HashMap<RunState, u64> {
    let counts = plant.scheduler.journal().counts().expect("reads");
    counts.runs.into_iter().map(|(_, state, count)| (state, count)).collect()
}

#[tokio::test]
async fn tasks_see_parameters_and_earlier_results_and_a_replay_starts_nothing() {
    let toml = with(
        r#"
[[flow.cool.task]]
id = "a"
type = "ledger"
reads = "machine"
fails = 1
retry = { wait = "10ms" }
[[flow.cool.task]]
id = "b"
type = "ledger"
if = "a.attempt > 1"
reads = "a.attempt"
[[flow.cool.task]]
id = "c"
type = "ledger"
if = "v > 100"
[[flow.cool.task]]
id = "d"
type = "ledger"
[[flow.cool.task]]
id = "e"
type = "ledger"
after = ["a", "c"]
[[flow.cool.finally]]
id = "last"
type = "ledger"
reads = "c.attempt"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 8);
    let batch = firing_batch(&[(5, "pump", 50.0)]);
    plant.fire(&batch).await;
    assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
    let lines: Vec<(String, u32, String)> =
        plant.ledger().into_iter().map(|line| (line.task, line.attempt, line.value)).collect();
    let expected = [("a", 1, "pump"), ("a", 2, "pump"), ("b", 1, "2.0"), ("e", 1, ""), ("last", 1, "")];
    let expected = expected.map(|(task, attempt, value)| (task.to_owned(), attempt, value.to_owned()));
    assert_eq!(lines, expected, "c is skipped, d follows it, e names others");
    plant.fire(&batch).await;
    in_time(plant.scheduler.wait_idle()).await;
    assert_eq!(plant.ledger().len(), expected.len());
    assert_eq!(outcomes(&plant), HashMap::from([(Outcome::Started, 1)]));
    assert_eq!(states(&plant), HashMap::from([(RunState::Succeeded, 1)]));
}

#[tokio::test]
async fn attempts_run_out_a_person_decides_and_a_slow_attempt_is_ended() {
    let toml = with(
        r#"
timeout = "1h"
[[flow.cool.task]]
id = "a"
type = "ledger"
fails = 2
retry = { times = 1, wait = "5ms" }
[[flow.cool.task]]
id = "slow"
type = "ledger"
takes = "1h"
timeout = "50ms"
retry = { times = 1, wait = "5ms", on = ["timeout"] }
on_fail = "continue"
[[flow.cool.task]]
id = "b"
type = "ledger"
fails = 9
class = "fatal"
on_fail = "fail"
[[flow.cool.finally]]
id = "last"
type = "ledger"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 8);
    plant.fire(&firing_batch(&[(5, "pump", 1.0)])).await;
    let idle = in_time(plant.scheduler.wait_idle()).await;
    assert_eq!(idle.waiting.len(), 1);
    assert_eq!(idle.waiting[0].state, RunState::Paused);
    assert_eq!(idle.waiting[0].reason, "task a: told to fail");
    let run = idle.waiting[0].id;
    in_time(plant.scheduler.retry(run)).await;
    assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
    let lines: Vec<(String, u32)> =
        plant.ledger().into_iter().map(|line| (line.task, line.attempt)).collect();
    let expected = [("a", 1), ("a", 2), ("a", 3), ("slow", 1), ("slow", 2), ("b", 1), ("last", 1)];
    assert_eq!(lines, expected.map(|(task, attempt)| (task.to_owned(), attempt)));
    let line = &plant.scheduler.journal().runs(1).expect("reads")[0];
    assert_eq!((line.state, line.reason.as_str()), (RunState::Failed, "task b failed: told to fail"));
    let tasks = plant.scheduler.journal().tasks(run).expect("reads");
    let slow = tasks.iter().find(|task| task.task == "slow").expect("has a line");
    assert_eq!(slow.state, TaskState::TimedOut);
}

#[tokio::test]
async fn a_wait_survives_a_restart_and_a_cancel_runs_finally() {
    let toml = with(
        r#"
[[flow.cool.task]]
id = "a"
type = "ledger"
waits = "300ms"
[[flow.cool.task]]
id = "long"
type = "ledger"
waits = "30d"
[[flow.cool.finally]]
id = "last"
type = "ledger"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = plant(&toml, folder.path(), 8);
    first.fire(&firing_batch(&[(5, "pump", 1.0)])).await;
    let mut heard = first.events.listen();
    // Stopped while `a` waits.
    while first.ledger().is_empty() {
        tokio::task::yield_now().await;
    }
    in_time(first.scheduler.stop()).await;
    drop(first);
    while heard.try_recv().is_ok() {}
    let second = plant(&toml, folder.path(), 8);
    let idle = in_time(second.scheduler.wait_idle()).await;
    assert_eq!(idle.waiting.len(), 1);
    assert_eq!(idle.waiting[0].state, RunState::Waiting);
    assert!(idle.waiting[0].reason.starts_with("task long: waits until"), "{}", idle.waiting[0].reason);
    in_time(second.scheduler.cancel(idle.waiting[0].id, "no longer needed")).await.expect("durable");
    assert!(in_time(second.scheduler.wait_idle()).await.waiting.is_empty());
    let words: Vec<(String, String)> =
        second.ledger().into_iter().map(|line| (line.task, line.word)).collect();
    let begun: Vec<_> = words.iter().filter(|(task, word)| task == "a" && word == "resume").collect();
    assert_eq!(begun.len(), 1, "{words:?}");
    assert_eq!(words.last(), Some(&("last".to_owned(), "start".to_owned())));
    let line = &second.scheduler.journal().runs(1).expect("reads")[0];
    assert_eq!((line.state, line.reason.as_str()), (RunState::Cancelled, "no longer needed"));
}

#[tokio::test]
async fn runs_of_one_group_wait_for_each_other_others_do_not() {
    let toml = with(
        r#"
one_per = "machine"
overlap = "queue"
[[flow.cool.task]]
id = "a"
type = "ledger"
takes = "20ms"
reads = "machine"
[[flow.cool.task]]
id = "b"
type = "ledger"
reads = "machine"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 8);
    let rows = [(1, "x", 1.0), (2, "x", 1.0), (3, "x", 1.0), (4, "y", 1.0)];
    plant.fire(&firing_batch(&rows)).await;
    assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
    let of_x: Vec<String> =
        plant.ledger().into_iter().filter(|line| line.value == "x").map(|line| line.task).collect();
    assert_eq!(of_x, ["a", "b", "a", "b", "a", "b"], "one after the other");
    assert_eq!(outcomes(&plant), HashMap::from([(Outcome::Started, 2), (Outcome::Queued, 2)]));
    assert_eq!(states(&plant), HashMap::from([(RunState::Succeeded, 4)]));
}

#[tokio::test]
async fn replace_stops_the_open_run_and_takes_its_place() {
    let toml = with(
        r#"
one_per = "machine"
overlap = "replace"
[[flow.cool.task]]
id = "a"
type = "ledger"
waits = "1h"
reads = "v"
if = "v > 0"
[[flow.cool.finally]]
id = "last"
type = "ledger"
reads = "v"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 8);
    for (at, value) in [(1, 1.0), (2, 2.0), (3, -3.0)] {
        plant.fire(&firing_batch(&[(at, "x", value)])).await;
        in_time(plant.scheduler.wait_idle()).await;
    }
    let lines: Vec<(String, String)> =
        plant.ledger().into_iter().map(|line| (line.task, line.value)).collect();
    let expected = [("a", "1.0"), ("last", "1.0"), ("a", "2.0"), ("last", "2.0"), ("last", "-3.0")];
    assert_eq!(lines, expected.map(|(task, value)| (task.to_owned(), value.to_owned())));
    assert_eq!(states(&plant), HashMap::from([(RunState::Cancelled, 2), (RunState::Succeeded, 1)]));
}

#[tokio::test]
async fn a_burst_larger_than_memory_runs_once_each() {
    let toml = with(
        "[[flow.cool.task]]\nid = \"a\"\ntype = \"ledger\"\n[[flow.cool.task]]\nid = \"b\"\ntype = \"ledger\"\n",
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 4);
    let names: Vec<String> = (0..3_000).map(|n| format!("m{n}")).collect();
    let rows: Vec<(i64, &str, f64)> = names.iter().map(|name| (7, name.as_str(), 1.0)).collect();
    plant.fire(&firing_batch(&rows)).await;
    assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
    let mut effects: HashMap<(String, String), u32> = HashMap::new();
    for line in plant.ledger() {
        *effects.entry((line.run, line.task)).or_default() += 1;
    }
    assert_eq!(effects.len(), 6_000);
    assert!(effects.values().all(|count| *count == 1));
    assert_eq!(states(&plant), HashMap::from([(RunState::Succeeded, 3_000)]));
}

#[tokio::test]
async fn firings_that_start_nothing_are_kept_and_counted() {
    let device = "mode = \"armed\"\n[[flow.cool.task]]\nid = \"a\"\ntype = \"ledger\"\ndevice = true\n";
    let folder = tempfile::tempdir().expect("a folder");
    let mut armed = plant(&with(device), folder.path(), 8);
    let present = now().0;
    let rows = [(present - 120_000_000, "late", 1.0), (present, "fresh", 1.0)];
    armed.fire(&firing_batch(&rows)).await;
    in_time(armed.scheduler.wait_idle()).await;
    assert_eq!(outcomes(&armed), HashMap::from([(Outcome::Started, 1), (Outcome::Expired, 1)]));
    assert_eq!(armed.ledger().len(), 1);

    let folder = tempfile::tempdir().expect("a folder");
    let shadow = with("[[flow.cool.task]]\nid = \"a\"\ntype = \"ledger\"\n")
        .replace("start = \"cool\"", "start = \"cool\"\nmode = \"shadow\"");
    let mut shadow = plant(&shadow, folder.path(), 8);
    shadow.fire(&firing_batch(&[(1, "x", 1.0)])).await;
    assert_eq!(outcomes(&shadow), HashMap::from([(Outcome::Shadow, 1)]));

    let folder = tempfile::tempdir().expect("a folder");
    let narrow = with("[[flow.cool.task]]\nid = \"a\"\ntype = \"ledger\"\n").replace("float64", "int8");
    let mut narrow = plant(&narrow, folder.path(), 8);
    let rows = [(1, "x", 1_000.0), (2, "x", 100.0)];
    narrow.fire(&firing_batch(&rows)).await;
    in_time(narrow.scheduler.wait_idle()).await;
    assert_eq!(outcomes(&narrow), HashMap::from([(Outcome::Started, 1), (Outcome::Rejected, 1)]));
}

#[tokio::test]
async fn a_queued_run_that_has_become_too_old_expires_and_lets_the_next_go() {
    let toml = with(
        r#"
mode = "armed"
max_age = "200ms"
one_per = "topology"
overlap = "queue"
[[flow.cool.task]]
id = "a"
type = "ledger"
device = true
takes = "400ms"
"#,
    );
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = plant(&toml, folder.path(), 8);
    let present = now().0;
    let rows = [(present, "x", 1.0), (present + 1, "y", 1.0), (present + 60_000_000, "z", 1.0)];
    plant.fire(&firing_batch(&rows)).await;
    in_time(plant.scheduler.wait_idle()).await;
    assert_eq!(plant.ledger().len(), 2, "the second one was too old when its turn came");
    let expired = outcomes(&plant).get(&Outcome::Expired).copied();
    assert_eq!(expired, Some(1));
    assert_eq!(states(&plant), HashMap::from([(RunState::Succeeded, 2), (RunState::Cancelled, 1)]));
}

#[test]
fn mistakes_are_found_at_load_all_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let task =
        |id: &str, more: &str| format!("[[flow.cool.task]]\nid = \"{id}\"\ntype = \"ledger\"\n{more}\n");
    let cases: Vec<(String, Vec<&str>)> = vec![
        (with(&task("a", "")), vec![]),
        (with(""), vec!["TG-C004"]),
        (with(&(task("a", "") + &task("a", ""))), vec!["TG-F002"]),
        (with(&(task("run", "") + &task("machine", "") + &task("1x", ""))), vec!["TG-F002"; 3]),
        (with(&(task("a", "after = [\"bb\"]") + &task("b", ""))), vec!["TG-F003"]),
        (with(&(task("a", "after = [\"b\"]") + &task("b", "after = [\"a\"]"))), vec!["TG-F004"]),
        (with(&task("a", "after = [\"a\"]")), vec!["TG-F004"]),
        (with(&task("a", "").replace("ledger", "leger")), vec!["TG-C007"]),
        (with(&task("a", "colour = 1\ntimeout = 5")), vec!["TG-C003", "TG-C010"]),
        (
            with(&task("a", "if = \"vv > 1\"\nretry = { jitter = 2.0, factor = 0.5 }\ntimeout = \"0s\"")),
            vec!["TG-X002", "TG-F011", "TG-F011", "TG-F012"],
        ),
        (with(&task("a", "if = \"machine\"")), vec!["TG-X003"]),
        (with(&(task("a", "reads = \"nothing\"") + &task("b", "if = \"a.attempt > 1\""))), vec!["TG-X002"]),
        (with(&(task("a", "") + &task("b", "after = []\nif = \"a.attempt > 1\""))), vec!["TG-X002"]),
        (with(&task("a", "")).replace("start = \"cool\"", "start = \"cold\""), vec!["TG-F007"]),
        (with(&task("a", "")).replace("v = \"value\" }", "w = \"value\" }"), vec!["TG-F008", "TG-F009"]),
        (with(&task("a", "")).replace("machine = \"string\"", "machine = \"float64\""), vec!["TG-F010"]),
        (with(&task("a", "")).replace("machine = \"string\"", "machine = \"text\""), vec!["TG-F006"]),
        (
            with(&task("a", "")).replace("start = \"cool\"", "start = \"cool\"\nmax_starts = \"many\""),
            vec!["TG-F013"],
        ),
        (with(&format!("one_per = \"speed\"\n{}", task("a", ""))), vec!["TG-X002"]),
    ];
    for (toml, expected) in cases {
        let found = match flows(&toml, folder.path()) {
            Ok(_) => Vec::new(),
            Err(error) => error.0,
        };
        let codes: Vec<&str> = found.iter().map(|diagnostic| diagnostic.code).collect();
        assert_eq!(codes, expected, "{toml}\n{found:?}");
        for diagnostic in &found {
            let span = diagnostic.span.clone().expect("has a place");
            assert!(span.end <= toml.len() && span.start < span.end, "{diagnostic:?}");
        }
    }
}
