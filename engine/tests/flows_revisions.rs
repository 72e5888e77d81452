//! A run belongs to the file revision that started it: killed while it waits,
//! it goes on with the flow it began with, whatever the file says then.
//!
//! The test starts itself again as the program that is killed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod parts;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parts::{CATALOG, Line, Plant, context, firing_batch, flows_of, in_time, plant, plant_of, read_ledger};
use tidegate_engine::flow::journal::JournalReader;
use tidegate_engine::flow::spec::Workshop;
use tidegate_engine::flow::state::RunState;

/// The folder of the program to be killed; set only in that program.
const FOLDER: &str = "TIDEGATE_TEST_REVISION_FOLDER";

/// Waits for a second and a half, then writes a line.
const FIRST: &str = r#"
[trigger.hot]
start = "cool"
give  = { machine = "device" }

[flow.cool]
params = { machine = "string" }
[[flow.cool.task]]
id = "a"
type = "ledger"
waits = "1500ms"
[[flow.cool.task]]
id = "b"
type = "ledger"
reads = "machine"
"#;

/// Another flow under the same name: other parameters, other tasks.
const SECOND: &str = r#"
[trigger.hot]
start = "cool"
give  = { v = "value" }

[flow.cool]
params = { v = "float64" }
[[flow.cool.task]]
id = "a"
type = "ledger"
[[flow.cool.task]]
id = "new"
type = "ledger"
reads = "v"
"#;

async fn fire(plant: &mut Plant, at: i64) {
    let mut batch = firing_batch(&[(at, "pump", 7.0)]);
    // The columns that both revisions give, as the operator would.
    let unwanted = if plant.launchers.is_empty() { None } else { batch.schema().index_of("give.v").ok() };
    if let Some(index) = unwanted.filter(|_| plant.folder.join("first").exists()) {
        batch.remove_column(index);
    } else if let Ok(index) = batch.schema().index_of("give.machine") {
        batch.remove_column(index);
    }
    plant.fire(&batch).await;
}

/// Runs the first revision until it is killed in its wait, in a process of its
/// own, and answers when that is dead.
#[allow(clippy::disallowed_methods, reason = "another process is watched in real time")]
fn killed_while_it_waits(test: &str, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let waits = || {
        let reader = JournalReader::open(&folder.join("journal.db")).ok()?;
        reader.runs(1).ok()?.first().map(|run| run.state == RunState::Waiting)
    };
    while waits() != Some(true) {
        assert!(begun.elapsed() < Duration::from_secs(60), "never waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "was killed");
}

/// The program that is killed; `false` in the test itself.
fn is_the_victim(toml: &str) -> bool {
    let Ok(folder) = std::env::var(FOLDER) else { return false };
    let folder = Path::new(&folder);
    std::fs::write(folder.join("first"), "").unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut plant = plant(toml, folder, 8);
        fire(&mut plant, 5).await;
        std::future::pending::<()>().await;
    });
    true
}

fn words(lines: &[Line]) -> Vec<String> {
    lines.iter().map(|line| format!("{} {} {}", line.task, line.word, line.value)).collect()
}

#[test]
fn a_run_goes_on_with_the_flow_it_began_with() {
    if is_the_victim(FIRST) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    killed_while_it_waits("a_run_goes_on_with_the_flow_it_began_with", folder.path());
    std::fs::remove_file(folder.path().join("first")).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut plant = plant(SECOND, folder.path(), 8);
        fire(&mut plant, 6).await;
        assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
        let runs = plant.scheduler.journal().runs(9).unwrap();
        assert!(runs.iter().all(|run| run.state == RunState::Succeeded), "{runs:?}");
        let of = |at: i64| runs.iter().find(|run| run.fired_at.0 == at).unwrap().id;
        let tasks = |run| {
            let lines = plant.scheduler.journal().tasks(run).unwrap();
            let mut ids: Vec<String> = lines.into_iter().map(|line| line.task).collect();
            ids.sort();
            ids
        };
        assert_eq!(
            (tasks(of(5)), tasks(of(6))),
            (vec!["a".into(), "b".into()], vec!["a".into(), "new".into()])
        );
    });
    let mut lines = words(&read_ledger(folder.path()));
    lines.sort();
    assert_eq!(lines, ["a resume ", "a start ", "a start ", "b start pump", "new start 7.0"]);
}

#[test]
fn a_flow_that_is_gone_from_the_file_ends_its_runs_and_writes_no_device() {
    let toml = FIRST.replace("[flow.cool]\n", "[flow.cool]\nmode = \"armed\"\n");
    if is_the_victim(&toml) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "a_flow_that_is_gone_from_the_file_ends_its_runs_and_writes_no_device";
    killed_while_it_waits(name, folder.path());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let plant = plant("", folder.path(), 8);
        assert!(in_time(plant.scheduler.wait_idle()).await.waiting.is_empty());
        assert_eq!(plant.scheduler.journal().runs(1).unwrap()[0].state, RunState::Succeeded);
    });
    // The ledger's lines say in which mode a task ran.
    let modes: Vec<String> = read_ledger(folder.path()).into_iter().map(|line| line.mode).collect();
    assert_eq!(modes, ["Armed", "DryRun", "DryRun"]);
}

#[tokio::test]
async fn a_flow_that_cannot_be_built_as_it_was_pauses_its_runs() {
    let folder = tempfile::tempdir().unwrap();
    let toml = FIRST.replace("1500ms", "${HOW_LONG}").replace("[flow.cool]", "# a former file\n[flow.cool]");
    let with = |toml: &str, value: &'static str| {
        let variable = Arc::new(move |_: &str| Some(value.to_owned()));
        let workshop = Workshop {
            catalog: CATALOG,
            context: context(folder.path()),
            tables: Vec::new(),
            text: toml.into(),
            variable,
        };
        plant_of(flows_of(toml, workshop).unwrap(), folder.path(), 8)
    };
    std::fs::write(folder.path().join("first"), "").unwrap();
    let mut first = with(&toml, "1h");
    fire(&mut first, 5).await;
    in_time(first.scheduler.wait_idle()).await;
    in_time(first.scheduler.stop()).await;
    drop(first);
    let reason = async |plant: &Plant| {
        let waiting = in_time(plant.scheduler.wait_idle()).await.waiting;
        assert_eq!((waiting.len(), waiting[0].state), (1, RunState::Paused));
        waiting[0].reason.clone()
    };
    // The same text means another flow now: it is not taken for the old one.
    let second = with(&toml, "2h");
    let expected = "flow cool has changed since the run began and cannot be built as it was: \
                    the values of its ${NAME} are not what they were";
    assert_eq!(reason(&second).await, expected);
    in_time(second.scheduler.stop()).await;
    drop(second);
    // Back to what it was: the run goes on.
    let third = with(&toml, "1h");
    let run = third.scheduler.journal().runs(1).unwrap()[0].id;
    in_time(third.scheduler.cancel(run, "enough")).await.unwrap();
    assert!(in_time(third.scheduler.wait_idle()).await.waiting.is_empty());
}
