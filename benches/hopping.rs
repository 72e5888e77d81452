//! Hopping windows of 20 ms, every 2 ms, over a million rows a second of a
//! thousand keys: how long after the moment at which a window can close its
//! results are there. Open loop: that moment is when the row that closes it is
//! due, not when it could be sent.
//!
//! `cargo bench --bench hopping`

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use support::due::{CATALOG, Times};
use support::{Engine, machine, percentiles};

const RUNS: usize = 5;

const TOPOLOGY: &str = r#"
[source.rows]
type  = "due"
rows  = 20000
every = "1ms"
burst = 1000

[operator.hops]
type   = "window"
from   = "rows"
key    = ["key"]
window = { kind = "hopping", size = "20ms", slide = "2ms" }
select = ["count(*) AS n", "avg(value) AS mean", "max(value) AS peak"]

[sink.results]
type = "arrived"
from = "hops"
"#;

fn main() {
    println!("{}; 1,000 rows every ms for 20 s, 1,000 keys, {RUNS} runs", machine());
    let engine = Engine::start();
    for run in 1..=RUNS {
        let shared = engine.run_with(&CATALOG, TOPOLOGY).1;
        println!("run {run}  {}", percentiles(&shared.get_or_insert("results", Times::default).take()));
    }
}
