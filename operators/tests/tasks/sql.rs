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

#[tokio::test]
async fn an_expression_in_a_query_is_a_value_and_in_quotes_a_mistake() {
    let task = |query: &str| {
        format!(
            "[[flow.warn.task]]\nid = \"q\"\ntype = \"sql\"\nquery = \"{query}\"\n\
             [[flow.warn.task]]\nid = \"tell\"\ntype = \"ticket\"\ntitle = \"{{q.said}}\"\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    let query =
        "SELECT {upper(machine)} || ' ' || (value - {v / 2}) AS said FROM trigger WHERE device = {machine}";
    let mut plant = super::start(&task(query), folder.path());
    assert_eq!(fire(&mut plant).await.state, RunState::Succeeded);
    assert_eq!(plant.scheduler.journal().tickets(9).expect("reads")[0].title, "PUMP 1 49.75");

    let long = format!("SELECT {} AS said", vec!["1"; 501].join(" + "));
    let wrong = [
        ("SELECT '{machine}' AS said", "`{machine}` inside quotes would be text as it stands"),
        ("SELECT {machin} AS said", "there is no column `machin`"),
        (long.as_str(), "the query is too long"),
    ];
    for (query, words) in wrong {
        let error = flows(&topology(&task(query)), folder.path(), Vec::new()).err().expect("is refused");
        assert!(error.to_string().contains(words), "{error}");
    }
}

fn query_of(query: &str, keys: &str) -> String {
    format!(
        "[[flow.warn.task]]\nid = \"q\"\ntype = \"sql\"\nquery = \"{query}\"\nretry = {{ times = 0 }}\n{keys}\n"
    )
}

#[tokio::test]
async fn a_query_stays_within_its_memory() {
    let cases = [
        ("SELECT value FROM generate_series(1, 1000000000)", "larger than 67108864 bytes"),
        (
            "SELECT repeat('x', 1000) AS x FROM generate_series(1, 1000000000) ORDER BY value % 7",
            "Resources exhausted",
        ),
    ];
    for (query, words) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        let mut plant = super::start(&query_of(query, ""), folder.path());
        paused_by(&fire(&mut plant).await, words);
    }
}

/// Whether a thread of this process runs a query.
fn a_query_runs() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux");
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
    threads.flatten().any(|thread| name(thread).is_ok_and(|name| name.trim() == "sql"))
}

#[tokio::test]
async fn a_query_ends_when_its_time_is_over() {
    let endless = [
        "SELECT count(*) AS n FROM generate_series(1, 9000000000000)",
        "SELECT max(a.value) AS n FROM generate_series(1, 9000000000000) AS a WHERE a.value % 7 < $v",
    ];
    for query in endless {
        let folder = tempfile::tempdir().expect("a folder");
        let mut plant = super::start(&query_of(query, "timeout = \"300ms\""), folder.path());
        paused_by(&fire(&mut plant).await, "took longer than 300ms");
        let over = async {
            while a_query_runs() {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        super::parts::in_time(over).await;
    }
}
