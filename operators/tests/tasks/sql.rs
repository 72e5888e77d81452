//! `sql` over the rows that fired, earlier results, values and tables.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use tidegate_engine::flow::state::RunState;
use tidegate_engine::table::{NamedTable, ReferenceTable};

use super::parts::plant_of;
use super::{fire, flows, paused_by, topology};

/// A table that gives what it is told.
#[derive(Debug)]
struct Told(Mutex<Result<Vec<RecordBatch>, String>>);

impl ReferenceTable for Told {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        self.0.lock().expect("no panic").clone()
    }
}

fn limits(rows: &[(&str, f64)]) -> RecordBatch {
    let devices: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
    let limits: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1)));
    RecordBatch::try_from_iter([("device", devices), ("max", limits)]).expect("two columns")
}

const TASKS: &str = r#"
[[flow.warn.task]]
id = "worst"
type = "sql"
query = "SELECT max(value) AS value FROM trigger"
[[flow.warn.task]]
id = "over"
type = "sql"
query = "SELECT w.value - l.max AS by FROM worst AS w, limits AS l WHERE l.device = $machine AND $v > l.max"
[[flow.warn.task]]
id = "tell"
type = "ticket"
if = "over.by > 0"
title = "{machine} by {over.by}"
"#;

#[tokio::test]
async fn a_query_reads_trigger_results_values_and_tables_as_they_are_when_it_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = Arc::new(Told(Mutex::new(Ok(vec![limits(&[("pump 1", 1_000.0)])]))));
    let named = NamedTable {
        name: "limits".into(),
        columns: limits(&[]).schema(),
        table: Arc::clone(&table) as Arc<dyn ReferenceTable>,
    };
    let flows = flows(&topology(TASKS), folder.path(), vec![named]).expect("a right file");
    *table.0.lock().expect("no panic") = Ok(vec![limits(&[("pump 2", 7.0), ("pump 1", 90.0)])]);
    let mut plant = plant_of(flows, folder.path(), 8);
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    let tickets = plant.scheduler.journal().tickets(9).expect("reads");
    assert_eq!(tickets[0].title, "pump 1 by 9.5");
}

#[tokio::test]
async fn a_table_that_cannot_be_read_fails_the_task_that_reads_it_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let table = Arc::new(Told(Mutex::new(Err("limits.csv:3: \"much\" is no float64".into()))));
    let named = NamedTable { name: "limits".into(), columns: limits(&[]).schema(), table };
    let flows = flows(&topology(TASKS), folder.path(), vec![named]).expect("a right file");
    let mut plant = plant_of(flows, folder.path(), 8);
    let run = fire(&mut plant).await;
    paused_by(&run, "task over: table `limits` cannot be read: limits.csv:3: \"much\" is no float64");
}

#[tokio::test]
async fn a_column_of_a_result_may_be_called_like_a_parameter() {
    let tasks = r#"
[[flow.warn.task]]
id = "evidence"
type = "sql"
query = "SELECT 'of ' || device AS machine, value + $v AS v FROM trigger WHERE device = $machine"
[[flow.warn.task]]
id = "again"
type = "sql"
query = "SELECT $evidence.machine || ' and ' || $machine AS both"
[[flow.warn.task]]
id = "tell"
type = "ticket"
if = "evidence.v > v"
title = "{evidence.machine}, {machine}, {evidence.v + v}, {again.both}"
"#;
    let folder = tempfile::tempdir().expect("a folder");
    let mut plant = super::start(tasks, folder.path());
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    let tickets = plant.scheduler.journal().tickets(9).expect("reads");
    assert_eq!(tickets[0].title, "of pump 1, pump 1, 298.5, of pump 1 and pump 1");
}
