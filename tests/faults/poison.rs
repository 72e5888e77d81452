//! Rows that cannot be used: only they are kept aside, with payload, place,
//! reason and node; whatever stands beside them goes on. For JSON, CSV, an
//! expression that fails, and a sink's peer that refuses.

use serde_json::Value;

use crate::plant::Plant;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.json]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64", by = "int64" }

[source.csv]
type   = "file"
path   = "rows.csv"
format = "csv"
schema = { n = "int64", by = "int64" }

[operator.shares]
type   = "project"
from   = "json"
select = ["n", "100 / by AS share"]

[operator.high]
type  = "filter"
from  = "csv"
where = "100 / by > 1"

[sink.shares_out]
type = "file"
from = "shares"
path = "shares/"

[sink.high_out]
type = "file"
from = "high"
path = "high/"

[sink.table]
type   = "sqlite"
from   = "csv"
path   = "out.db"
table  = "numbers"
create = false
"#;

struct Expected {
    node: &'static str,
    position: &'static str,
    content: &'static str,
    reason: &'static str,
}

const fn letter(
    node: &'static str,
    position: &'static str,
    content: &'static str,
    reason: &'static str,
) -> Expected {
    Expected { node, position, content, reason }
}

const EXPECTED: [Expected; 8] = [
    letter("json", "rows.jsonl:2", "{\"n\":\"two\",\"by\":1}", "column `n`"),
    letter("json", "rows.jsonl:4", "{\"n\":4,\"by\":", ""),
    letter("csv", "rows.csv:3", "two,1", "column `n`"),
    letter("csv", "rows.csv:9", "4,\"1", ""),
    letter("shares", "", "\"n\": \"5\", \"by\": \"0\"", "zero"),
    letter("high", "", "\"n\": \"6\", \"by\": \"0\"", "zero"),
    letter("table", "", "\"n\":7", "CHECK"),
    letter("table", "", "\"n\":8", "CHECK"),
];

#[test]
fn only_the_bad_row_is_kept_aside_and_everything_about_it() {
    let plant = Plant::new(TOPOLOGY);
    let table = rusqlite::Connection::open(plant.file("out.db")).expect("a database");
    table
        .execute_batch("CREATE TABLE numbers (n INTEGER CHECK (n NOT IN (7, 8)), by INTEGER, received_at)")
        .expect("a table");
    let json = "{\"n\":1,\"by\":1}\n{\"n\":\"two\",\"by\":1}\n{\"n\":3,\"by\":1}\n{\"n\":4,\"by\":\n{\"n\":5,\"by\":0}\n{\"n\":9,\"by\":2}\n";
    plant.write("rows.jsonl", json);
    // Quotes that nothing closes can only stand at the end.
    let csv = "n,by\n1,1\ntwo,1\n3,1\n6,0\n7,1\n8,1\n9,2\n4,\"1\n";
    plant.write("rows.csv", csv);
    plant.run_once();
    plant.must_not_have_panicked();
    assert_eq!(plant.numbers("shares/", "n"), [1, 3, 9]);
    assert_eq!(plant.numbers("high/", "n"), [1, 3, 7, 8, 9]);
    let mut query = table.prepare("SELECT n FROM numbers ORDER BY n").expect("a query");
    let rows = query.query_map([], |row| row.get(0)).expect("rows");
    assert_eq!(rows.collect::<Result<Vec<i64>, _>>().expect("rows"), [1, 3, 6, 9]);
    let mut letters = plant.letters();
    let text = |letter: &Value, key: &str| letter[key].as_str().expect("text").to_owned();
    for Expected { node, position, content, reason } in EXPECTED {
        let found = letters.iter().position(|letter| {
            text(letter, "node") == node
                && text(letter, "position").ends_with(position)
                && text(letter, "content").contains(content)
                && text(letter, "reason").contains(reason)
                && !text(letter, "reason").is_empty()
        });
        let found = found.unwrap_or_else(|| panic!("no letter for {node} {content}: {letters:#?}"));
        letters.remove(found);
    }
    assert!(letters.is_empty(), "{letters:#?}");
    // A second run makes none of them again.
    plant.run_once();
    assert_eq!(plant.letters().len(), EXPECTED.len());
}
