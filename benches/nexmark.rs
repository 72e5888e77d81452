//! The Nexmark queries of `examples/nexmark`: events per second of one core,
//! from batches in memory to a sink that forgets, with the answer of each
//! compared with the same query as one batch in DataFusion. Flink's figures are
//! its own published ones, for one core of another machine.
//!
//! `cargo bench --bench nexmark -- [q5 …] [--events 1000000]`; it binds itself
//! to one core.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use support::nexmark::{answer, batch_answer, generate, queries, run};
use support::{Engine, Rates, bind_to_one_core, machine, now};

const EVENTS: usize = 1_000_000;
const RUNS: usize = 5;

/// K events/s of one core of Flink 1.17, of github.com/nexmark/nexmark.
const FLINK: &[(&str, u32)] = &[
    ("q0", 155),
    ("q1", 158),
    ("q2", 175),
    ("q3", 152),
    ("q4", 34),
    ("q5", 22),
    ("q7", 12),
    ("q8", 146),
    ("q9", 14),
    ("q11", 40),
    ("q12", 76),
    ("q15", 72),
    ("q17", 117),
    ("q18", 54),
    ("q19", 44),
    ("q20", 19),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let events = arguments.iter().position(|word| word == "--events").and_then(|at| arguments.get(at + 1));
    let events = events.map_or(EVENTS, |text| text.parse().expect("a number of events"));
    let wanted: Vec<&String> = arguments.iter().filter(|word| word.starts_with('q')).collect();
    if !bind_to_one_core() {
        return;
    }
    println!("{}; {events} events", machine());
    generate(events);
    let engine = Engine::start();
    for (name, text, sql) in queries() {
        if !wanted.is_empty() && !wanted.contains(&&name) {
            continue;
        }
        let mut rates = Rates::default();
        for _ in 0..RUNS {
            let started = now();
            let rows = run(&engine, &text);
            rates.add(rows, started.elapsed());
        }
        let given = answer(&engine, &text);
        let same = if given == batch_answer(&engine, &sql) {
            "equal to its batch"
        } else {
            "NOT EQUAL TO ITS BATCH"
        };
        let flink = FLINK.iter().find(|(query, _)| *query == name);
        let flink = flink.map_or(String::new(), |(_, rate)| format!("; Flink {rate} K"));
        println!("{name:<4} {rates}; {} rows, {same}{flink}", given.len());
    }
}
