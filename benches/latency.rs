//! How long a row takes through the engine when rows come one at a time:
//! source → filter → window → sink, one row a millisecond, each of which closes
//! the window before it; and source → filter → sink. Beside them, in the same
//! run, a bare pair of channels over the same two runtimes.
//! Open loop: a row's time begins when it is due, not when it could be sent.
//!
//! `cargo bench --bench latency`

#![allow(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::time::{Duration, Instant};

use support::due::{CATALOG, Times, wait_until};
use support::{Engine, machine, now, percentiles};

const ROWS: i64 = 10_000;
const EVERY: Duration = Duration::from_millis(1);
const RUNS: usize = 5;

const TOPOLOGY: &str = r#"
[source.rows]
type  = "due"
rows  = 10000
every = "1ms"

[operator.positive]
type  = "filter"
from  = "rows"
where = "value >= 0"

[operator.each]
type   = "window"
from   = "positive"
window = { kind = "tumbling", size = "1ms" }
select = ["count(*) AS n", "max(value) AS peak"]

[sink.windows]
type = "arrived"
from = "each"

[sink.rows_through]
type = "arrived"
from = "positive"
"#;

fn main() {
    println!("{}; one row every {EVERY:?}, {ROWS} rows, {RUNS} runs", machine());
    let engine = Engine::start();
    for run in 1..=RUNS {
        println!("run {run}");
        let shared = engine.run_with(&CATALOG, TOPOLOGY).1;
        for sink in ["windows", "rows_through"] {
            println!("  {sink:14} {}", percentiles(&shared.get_or_insert(sink, Times::default).take()));
        }
        println!("  {:14} {}", "bare channels", percentiles(&bare_channels(&engine)));
    }
}

/// As many hand-overs as the engine has between reader, driver, segment and
/// sink, and nothing else.
fn bare_channels(engine: &Engine) -> Vec<Duration> {
    let start = now() + Duration::from_millis(50);
    let (first, mut to_driver) = tokio::sync::mpsc::channel(64);
    let (second, mut to_segment) = tokio::sync::mpsc::channel(64);
    let (third, mut to_sink) = tokio::sync::mpsc::channel::<Instant>(64);
    engine.io().spawn(async move {
        for row in 0..ROWS {
            wait_until(start + EVERY * row as u32).await;
            first.send(start + EVERY * row as u32).await.expect("is read");
        }
    });
    engine.io().spawn(async move {
        while let Some(row) = to_driver.recv().await {
            second.send(row).await.expect("is read");
        }
    });
    engine.compute().spawn(async move {
        while let Some(row) = to_segment.recv().await {
            third.send(row).await.expect("is read");
        }
    });
    engine.io().block_on(async move {
        let mut times = Vec::new();
        while let Some(row) = to_sink.recv().await {
            times.push(now().saturating_duration_since(row));
        }
        times
    })
}
