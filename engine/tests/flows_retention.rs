//! Old runs are forgotten with all that belongs to them; the names of their
//! firings stay as long as the stream could give them again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod parts;

use std::time::Duration;

use parts::{firing_batch, flows, in_time, plant_with};
use tidegate_engine::flow::state::{Outcome, RunState};
use tidegate_engine::sink::Sink;
use tidegate_engine::topology::load::Retention;

const TOML: &str = r#"
[trigger.hot]
start = "cool"
give  = { machine = "device", v = "value" }

[flow.cool]
params = { machine = "string", v = "float64" }
[[flow.cool.task]]
id = "a"
type = "ledger"
fails = 1
retry = { wait = "1ms" }
[[flow.cool.task]]
id = "b"
type = "ledger"
waits = "1h"
if = "v > 5"
"#;

const LONG: Duration = Duration::from_secs(3_600);

fn count(folder: &std::path::Path, table: &str) -> i64 {
    let sql = rusqlite::Connection::open(folder.join("journal.db")).unwrap();
    sql.query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn the_oldest_ended_runs_go_and_no_replay_starts_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Retention { age: LONG, runs_max: 2 };
    let start = || plant_with(flows(TOML, folder.path()).unwrap(), folder.path(), 8, retention);
    let mut plant = start();
    // The run of 2 waits for an hour: it is open and stays.
    let rows = [(1, "x", 1.0), (2, "x", 9.0), (3, "x", 1.0), (4, "x", 1.0), (5, "x", 1.0), (6, "x", 1.0)];
    let batch = firing_batch(&rows);
    plant.fire(&batch).await;
    in_time(plant.scheduler.wait_idle()).await;
    assert_eq!(in_time(plant.scheduler.forget_old()).await, Ok(4));
    let runs = plant.scheduler.journal().runs(9).unwrap();
    let kept: Vec<i64> = runs.iter().map(|run| run.fired_at.0).collect();
    assert_eq!(kept, [6, 2], "the newest, and the open one");
    assert_eq!((count(folder.path(), "tasks"), count(folder.path(), "attempts")), (4, 5));
    // All belong to epoch 1. While a checkpoint from before it could be gone back
    // to, the rows may come again, and start nothing.
    for epoch in [1, 2] {
        in_time(plant.launchers[0].commit(epoch)).await.unwrap();
        plant.fire(&batch).await;
        in_time(plant.scheduler.wait_idle()).await;
        assert_eq!(in_time(plant.scheduler.forget_old()).await, Ok(0), "epoch {epoch}");
        assert_eq!((count(folder.path(), "firings"), count(folder.path(), "runs")), (6, 2));
    }
    in_time(plant.launchers[0].commit(3)).await.unwrap();
    in_time(plant.scheduler.stop()).await;
    drop(plant);
    // Four firings have no run any more; there may be as many as runs.
    let plant = start();
    assert_eq!(in_time(plant.scheduler.forget_old()).await, Ok(2));
    assert_eq!((count(folder.path(), "firings"), count(folder.path(), "runs")), (4, 2));
}

#[tokio::test]
async fn what_ended_long_ago_goes_with_its_firing_once_that_cannot_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let retention = Retention { age: Duration::ZERO, runs_max: 1_000 };
    let toml = TOML.replace("[flow.cool]\n", "[flow.cool]\none_per = \"machine\"\n");
    let mut plant = plant_with(flows(&toml, folder.path()).unwrap(), folder.path(), 8, retention);
    // The second one is skipped: the first run of its group is open.
    let rows = [(1, "x", 1.0), (2, "x", 1.0), (3, "y", 9.0)];
    plant.fire(&firing_batch(&rows)).await;
    in_time(plant.scheduler.wait_idle()).await;
    in_time(plant.launchers[0].commit(3)).await.unwrap();
    while in_time(plant.scheduler.forget_old()).await.unwrap() > 0 {}
    let counts = plant.scheduler.journal().counts().unwrap();
    assert_eq!(counts.firings, [("hot".into(), Outcome::Started, 1)]);
    assert_eq!(counts.runs, [("cool".into(), RunState::Waiting, 1)]);
    assert_eq!((count(folder.path(), "tasks"), count(folder.path(), "attempts")), (2, 3));
}
