//! Flow tasks against real peers: an HTTP server, an SMTP server, tables;
//! driven by the flow engine with its journal, as in the daemon.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod http;
mod kept;
mod mail;
#[path = "../../../engine/tests/parts/mod.rs"]
mod parts;
#[path = "../../../connectors/tests/support/python.rs"]
mod python;
mod sql;

use std::path::Path;
use std::sync::Arc;

use parts::{Plant, firing_batch, flows_of, in_time, plant_of};
use tidegate_engine::catalog::Catalog;
use tidegate_engine::error::ConfigError;
use tidegate_engine::flow::journal::RunLine;
use tidegate_engine::flow::spec::{Flows, Workshop};
use tidegate_engine::flow::state::RunState;
use tidegate_engine::table::NamedTable;
use tidegate_engine::topology::node::BuildContext;
use tidegate_operators::expression::SqlExpressions;

/// A flow `warn` of these tasks, started with `device` and `v`.
fn topology(tasks: &str) -> String {
    format!(
        r#"
[trigger.hot]
from  = "rows"
start = "warn"
give  = {{ machine = "device", v = "value" }}
[flow.warn]
params = {{ machine = "string", v = "float64" }}
{tasks}"#
    )
}

fn flows(toml: &str, folder: &Path, tables: Vec<NamedTable>) -> Result<Flows, ConfigError> {
    // As the daemon does; an error means that another test was first.
    drop(rustls::crypto::ring::default_provider().install_default());
    let catalog = Catalog { tasks: &[tidegate_operators::TASKS], ..parts::CATALOG };
    let expressions = Arc::new(SqlExpressions::new());
    let context = BuildContext::new("plant", folder.to_owned(), folder.to_owned(), expressions);
    flows_of(toml, Workshop { catalog, context, tables, text: toml.into(), variable: Arc::new(|_| None) })
}

/// Starts the flow's engine.
fn start(tasks: &str, folder: &Path) -> Plant {
    plant_of(flows(&topology(tasks), folder, Vec::new()).expect("a right file"), folder, 8)
}

/// Fires once, and waits until the run has ended or waits for somebody.
async fn fire(plant: &mut Plant) -> RunLine {
    plant.fire(&firing_batch(&[(5, "pump 1", 99.5)])).await;
    end(plant).await
}

/// The newest run, once nothing moves any more.
async fn end(plant: &Plant) -> RunLine {
    in_time(plant.scheduler.wait_idle()).await;
    plant.scheduler.journal().runs(1).expect("reads").remove(0)
}

/// Attempts that a task has made.
fn attempts(plant: &Plant, run: &RunLine, task: &str) -> u32 {
    let tasks = plant.scheduler.journal().tasks(run.id).expect("reads");
    tasks.iter().find(|line| line.task == task).expect("has a line").attempt
}

/// The run waits for a person, because of these words.
fn paused_by(run: &RunLine, words: &str) {
    assert_eq!(run.state, RunState::Paused, "{run:?}");
    assert!(run.reason.contains(words), "{run:?}");
}
