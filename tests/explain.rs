//! A query as an operator: what `check --explain` shows is what a file could say,
//! and gives the same rows.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const SOURCES: &str = r#"
[source.orders]
type   = "file"
path   = "orders.jsonl"
schema = { press = "string", at = "timestamp", amount = "int64" }
time   = { column = "at", unit = "s" }

[source.stops]
type   = "file"
path   = "stops.jsonl"
schema = { press = "string", since = "timestamp", reason = "string" }
time   = { column = "since", unit = "s" }
"#;

const QUERIES: &str = r#"
[operator.per_press]
type  = "sql"
query = """
  SELECT press, tumble(at, '1m') AS minute, sum(amount) AS total
  FROM orders GROUP BY press, tumble(at, '1m')
"""

[operator.stopped]
type  = "sql"
query = """
  WITH best AS (   -- the best minute of each quarter of an hour
    SELECT press, minute, total FROM (
      SELECT *, ROW_NUMBER() OVER (PARTITION BY press, tumble(minute, '15m') ORDER BY total DESC) AS n
      FROM per_press AS p WHERE p.total > 10) AS ranked WHERE n <= 1)
  SELECT s.press, best.total, s.reason || '!' AS reason
  FROM stops s JOIN best ON s.press = best.press AND s.since BETWEEN best.minute - INTERVAL '5 minutes' AND best.minute + INTERVAL '10 minutes'
"""
"#;

const SINKS: &str = r#"
[sink.totals]
type   = "file"
from   = "per_press"
path   = "totals.jsonl"
format = "json"

[sink.out]
type   = "file"
from   = "stopped"
path   = "out.jsonl"
format = "json"
"#;

const EXPLAINED: &str = r#"# source.orders (file)
# source.stops (file)
# operator.per_press (sql)
[operator.per_press_1]
type = "window"
from = "orders"
key = ["press"]
window = { kind = "tumbling", size = "1m" }
select = ["sum(amount) AS total"]

[operator.per_press]
type = "project"
from = "per_press_1"
select = ["press", "window_start AS minute", "total"]
time = { column = "minute", shift = "59999999us" }

# operator.stopped (sql)
[operator.stopped_1]
type = "filter"
from = "per_press"
where = "total > 10"

[operator.stopped_2]
type = "top"
from = "stopped_1"
key = ["press"]
by = "total"
rows = 1
order = "largest"
nulls = "first"
size = "15m"

[operator.stopped_3]
type = "project"
from = "stopped_2"
select = ["press", "\"minute\"", "total", "rank AS n"]

[operator.stopped_4]
type = "project"
from = "stopped_3"
select = ["press", "minute", "total"]

[operator.stopped_5]
type = "join"
from = ["stops", "stopped_4"]
on = "stops.press = stopped_4.press"
match = { within = { before = "540000001us", after = "359999999us" } }

[operator.stopped]
type = "project"
from = "stopped_5"
select = ["stops_press AS press", "total", "reason || '!' AS reason"]

# sink.totals (file) reads per_press
# sink.out (file) reads stopped
"#;

fn tidegate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["120", env!("CARGO_BIN_EXE_tidegate")]).args(arguments).current_dir(folder);
    command.output().expect("tidegate starts")
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn rows(folder: &Path) {
    let orders = (0..600)
        .map(|i| format!(r#"{{"press":"p{}","at":{},"amount":{}}}"#, i % 3, 1_700_000_000 + i * 7, i % 11));
    fs::write(folder.join("orders.jsonl"), orders.collect::<Vec<_>>().join("\n")).expect("written");
    let stops = (0..40)
        .map(|i| format!(r#"{{"press":"p{}","since":{},"reason":"r{i}"}}"#, i % 4, 1_700_000_000 + i * 101));
    fs::write(folder.join("stops.jsonl"), stops.collect::<Vec<_>>().join("\n")).expect("written");
}

/// Lines of both sinks, in no order.
fn answer(text: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    rows(folder.path());
    fs::write(folder.path().join("plant.toml"), text).expect("written");
    let output = tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = ["totals.jsonl", "out.jsonl"]
        .iter()
        .flat_map(|name| {
            let text = fs::read_to_string(folder.path().join(name)).expect("the sink's file");
            assert!(text.lines().count() > 5, "{name}: {text}");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn what_is_shown_can_be_said_by_a_file_and_means_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    rows(folder.path());
    fs::write(folder.path().join("plant.toml"), [SOURCES, QUERIES, SINKS].concat()).expect("written");
    let shown = stdout(tidegate(folder.path(), &["check", "--explain", "plant.toml"]));
    assert_eq!(shown, EXPLAINED, "\n{shown}");
    let pasted = [SOURCES, shown.as_str(), SINKS].concat();
    assert_eq!(answer(&[SOURCES, QUERIES, SINKS].concat()), answer(&pasted));
}

/// The same as JSON, one object for each node.
#[test]
fn programs_are_told_as_well() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("plant.toml"), [SOURCES, QUERIES, SINKS].concat()).expect("written");
    let shown = stdout(tidegate(folder.path(), &["check", "--explain", "--format", "json", "plant.toml"]));
    let nodes: Vec<serde_json::Value> =
        shown.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let told = |name: &str| nodes.iter().find(|node| node["node"] == name).expect("a node");
    assert_eq!(told("orders")["made_of"], serde_json::Value::Null);
    assert_eq!(told("stopped")["type"], "sql");
    assert!(told("stopped")["made_of"].as_array().is_some_and(|parts| parts.len() > 3), "{shown}");
}

/// A second run goes on with the state of the first: sums over both.
#[test]
fn state_of_a_query_outlives_a_restart_and_another_name_in_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = SOURCES.split("[source.stops]").next().expect("orders");
    let sink = SINKS.split("[sink.out]").next().expect("totals");
    let write = |query: &str, orders: &str| {
        let query = format!("[operator.per_press]\ntype = \"sql\"\nquery = '''{query}'''\n");
        fs::write(folder.path().join("plant.toml"), [source, &query, sink].concat()).expect("written");
        fs::write(folder.path().join("orders.jsonl"), orders).expect("written");
    };
    let row = |at: i64, amount: i64| format!("{{\"press\":\"p\",\"at\":{at},\"amount\":{amount}}}\n");
    let window = "tumble(at, '1h')";
    let first = row(3_600, 1) + &row(3_700, 2);
    write(
        &format!("SELECT press, sum(amount) AS total FROM orders WHERE amount > 0 GROUP BY press, {window}"),
        &first,
    );
    stdout(tidegate(folder.path(), &["run", "plant.toml", "--once"]));
    let second = first.clone() + &row(7_200, 4) + &row(7_300, 5);
    // Other words, the same window: its state is taken.
    let query = "SELECT o.press, sum(o.amount) AS total FROM orders AS o WHERE amount > -1 GROUP BY o.press, tumble(o.at, INTERVAL '60 minutes')";
    write(query, &second);
    let output = tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let totals = fs::read_to_string(folder.path().join("totals.jsonl")).expect("the sink's file");
    let totals: Vec<i64> = totals
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["total"]
                .as_i64()
                .expect("a number")
        })
        .collect();
    assert_eq!(totals, [3, 9], "the first window was closed once");
    // Another window is another state: refused with the node and what has changed.
    write(&query.replace("60 minutes", "30 minutes"), &second);
    let output = tidegate(folder.path(), &["run", "plant.toml", "--once"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("per_press") && said.contains("size"), "{said}");
}
