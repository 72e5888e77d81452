//! The newest checkpoint is damaged: the one before it is used with an alarm and
//! the results are the same, unless a sink that promised each row once has
//! delivered more than that one knows. Then the topology is refused, and ends
//! with a failure.

use std::fs;

use crate::plant::Plant;
use crate::process::Daemon;

const TOPOLOGY: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.rows]
type   = "file"
path   = "rows.jsonl"
schema = { n = "int64", ts = "timestamp" }
time   = { column = "ts", unit = "s" }

[operator.tens]
type   = "window"
from   = "rows"
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS rows", "sum(n) AS total"]
"#;

const FILES: &str = "[sink.out]\ntype = \"file\"\nfrom = \"tens\"\npath = \"out/\"\n";
const TABLE: &str = "[sink.table]\ntype = \"sqlite\"\nfrom = \"rows\"\npath = \"out.db\"\ntable = \"rows\"\n";

fn append(plant: &Plant, numbers: std::ops::Range<u64>) {
    plant.append("rows.jsonl", &numbers.map(|n| format!("{{\"n\":{n},\"ts\":{n}}}\n")).collect::<String>());
}

/// Runs until some checkpoints are there, and dies.
fn live(plant: &Plant) {
    let daemon = plant.start();
    let epoch = plant.epoch(&plant.state());
    plant.until("checkpoints", || plant.epoch(&plant.state()) > epoch + 3);
    daemon.kill();
}

fn damage(plant: &Plant, how: impl Fn(&mut Vec<u8>)) {
    let path = plant.state().join(format!("checkpoints/checkpoint-{:020}", plant.epoch(&plant.state())));
    let mut bytes = fs::read(&path).expect("is there");
    how(&mut bytes);
    fs::write(path, bytes).expect("writes");
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_gives_the_same_results() {
    let plant = Plant::new(&format!("{TOPOLOGY}{FILES}"));
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 3] =
        [|bytes| bytes.truncate(bytes.len() / 2), |bytes| bytes.clear(), |bytes| bytes[40] ^= 1];
    for (life, how) in (0..).zip(damages) {
        append(&plant, life * 7..life * 7 + 7);
        live(&plant);
        damage(&plant, how);
    }
    append(&plant, 21..25);
    plant.run_once();
    assert_eq!(plant.log().matches("damaged checkpoint, an older one is used").count(), 3, "{}", plant.log());
    let windows: Vec<_> =
        plant.rows("out/").iter().map(|row| (row["rows"].as_u64(), row["total"].as_u64())).collect();
    assert_eq!(windows, [(Some(10), Some(45)), (Some(10), Some(145)), (Some(5), Some(110))]);
}

/// Rows that the table has, as far as anybody may look at it now.
fn delivered(plant: &Plant) -> Option<i64> {
    let table = rusqlite::Connection::open(plant.file("out.db")).ok()?;
    table.query_row("SELECT count(*) FROM rows", [], |row| row.get(0)).ok()
}

#[test]
fn a_sink_that_has_delivered_more_than_the_older_checkpoint_knows_refuses() {
    // Long enough for a kill before the next checkpoint.
    let plant = Plant::new(&format!("{TOPOLOGY}{TABLE}").replace("100ms", "1500ms"));
    append(&plant, 0..1);
    let daemon = plant.start();
    plant.until("the first row", || delivered(&plant) == Some(1));
    append(&plant, 1..2);
    plant.until("the second row", || delivered(&plant) == Some(2));
    daemon.kill();
    damage(&plant, |bytes| bytes.truncate(30));
    let daemon = Daemon::start(plant.path(), "plant.toml", &["--once"]);
    assert_eq!(daemon.exit_code(), Some(1), "{}", plant.log());
    assert!(plant.log().contains("its state is older than what was delivered"), "{}", plant.log());
}
