//! Rows to SQLite are there exactly once, however often the process is killed.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test that fails says where")]

#[path = "exactly_once/process.rs"]
mod process;

use std::path::Path;

use process::{Feed, kill, last_ids, pause, run_once, start};
use rusqlite::Connection;

const TOPOLOGY: &str = r#"
[topology]
name = "kills"
checkpoint_interval = "50ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { id = "int64", device = "string" }

[sink.all]
type  = "sqlite"
from  = "rows"
path  = "out/out.db"
table = "every row"

[sink.last]
type  = "sqlite"
from  = "rows"
path  = "out/out.db"
table = "last"
mode  = "upsert"
key   = ["device"]

[operator.count]
type   = "aggregate"
from   = "rows"
key    = ["device"]
select = ["count(*) AS n", "max(id) AS newest"]

[sink.counts]
type  = "sqlite"
from  = "count"
path  = "out/out.db"
table = "counts"
mode  = "upsert"
key   = ["device"]

# A device goes and comes again with each of its rows.
[operator.evens]
type  = "filter"
from  = "count"
where = "n % 2 = 0"

[sink.even]
type  = "sqlite"
from  = "evens"
path  = "out/out.db"
table = "even"
mode  = "upsert"
key   = ["device"]
"#;

/// Kills; each comes at another moment of a life.
const KILLS: u64 = 20;

fn count(folder: &Path) -> (i64, i64, i64) {
    let database = Connection::open(folder.join("out/out.db")).expect("a database");
    let query = "SELECT count(*), count(DISTINCT id), coalesce(max(id), 0) FROM \"every row\"";
    database.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("counts")
}

#[test]
fn every_row_is_there_once_after_many_kills() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY).expect("written");
    let feed = Feed::start(&folder.path().join("rows.jsonl"));
    let mut delivered = Vec::new();
    for round in 0..KILLS {
        let child = start(folder.path());
        pause(150 + (round * 7_919) % 701);
        kill(child);
        if folder.path().join("out/out.db").exists() && round > 2 {
            let (rows, distinct, _) = count(folder.path());
            assert_eq!(rows, distinct, "after kill {round}");
            delivered.push(rows);
        }
    }
    let rows = feed.stop();
    run_once(folder.path());
    let rows_i64 = i64::try_from(rows).expect("small");
    assert_eq!(count(folder.path()), (rows_i64, rows_i64, rows_i64));
    let database = Connection::open(folder.path().join("out/out.db")).expect("a database");
    let mut query = database.prepare("SELECT device, id FROM last ORDER BY device").expect("a query");
    let last = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    assert_eq!(last.collect::<Result<Vec<(String, i64)>, _>>().expect("rows"), last_ids(rows));
    for (table, having) in [("counts", ""), ("even", "HAVING count(*) % 2 = 0")] {
        let same = format!(
            "SELECT (SELECT count(*) FROM {table}), (SELECT count(*) FROM {table} JOIN \
             (SELECT device, count(*) AS n, max(id) AS newest FROM \"every row\" GROUP BY device {having}) AS expected \
             USING (device, n, newest)), (SELECT count(*) FROM (SELECT 1 FROM \"every row\" GROUP BY device {having}))"
        );
        let counts = database.query_row(&same, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let (there, equal, expected): (i64, i64, i64) = counts.expect("counts");
        assert_eq!((there, equal), (expected, expected), "{table}");
    }
    // The kills came while rows were on their way.
    delivered.dedup();
    assert!(delivered.len() > 5, "{delivered:?}");
}

#[test]
fn refused_rows_are_told_and_the_others_are_there() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("topology.toml"), TOPOLOGY).expect("written");
    std::fs::create_dir(folder.path().join("out")).expect("a folder");
    let database = Connection::open(folder.path().join("out/out.db")).expect("a database");
    let make = "CREATE TABLE \"every row\" (id INTEGER PRIMARY KEY, device TEXT CHECK (device <> 'bad'), received_at)";
    database.execute_batch(make).expect("a table");
    let line = |id: u64, device: &str| format!("{{\"id\":{id},\"device\":\"{device}\"}}\n");
    let mut text: String = (1..=500).map(|id| line(id, if id % 100 == 0 { "bad" } else { "good" })).collect();
    text += &line(7, "again");
    std::fs::write(folder.path().join("rows.jsonl"), text).expect("written");
    let said = run_once(folder.path());
    assert_eq!(count(folder.path()), (495, 495, 499));
    assert!(said.contains("CHECK constraint failed") && said.contains("UNIQUE constraint failed"), "{said}");
    assert!(said.contains("rows=6"), "{said}");
    let listed = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["dead", "list", "topology.toml", "--json"])
        .current_dir(folder.path())
        .output()
        .expect("starts");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let mut ids: Vec<u64> = (listed.lines())
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|letter| {
            serde_json::from_str::<serde_json::Value>(letter["content"].as_str().expect("text"))
                .expect("a row")
        })
        .map(|row| row["id"].as_u64().expect("a number"))
        .collect();
    ids.sort_unstable();
    assert_eq!(ids, [7, 100, 200, 300, 400, 500], "{listed}");
}
