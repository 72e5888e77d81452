//! Nexmark queries on two cores against one: with `parallelism = 2` on each
//! operator that has a key, and without it, where a query has two cores for its
//! source and its operators. Runs take turns, so that the machine's moods meet
//! all of them.
//!
//! `cargo bench --bench parallel -- [q5 …] [--events 1000000]`

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_precision_loss,
    reason = "a benchmark stops at the first surprise"
)]

#[path = "../src/catalog.rs"]
mod catalog;
mod support;

use std::process::Command;
use std::time::Duration;

use support::nexmark::{generate, queries, run};
use support::{Engine, Rates, machine, now};

const EVENTS: usize = 1_000_000;
const RUNS: usize = 5;
const QUERIES: &[&str] = &["q3", "q5", "q8", "q11", "q15", "q17", "q20"];

/// Says to a process of its own which query it runs, and with how many copies.
const COPIES: &str = "TIDEGATE_BENCH_COPIES";
const QUERY: &str = "TIDEGATE_BENCH_QUERY";

/// Cores, and copies of each operator.
const WAYS: [(&str, usize); 3] = [("0", 1), ("0,1", 1), ("0,1", 2)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let events = arguments.iter().position(|word| word == "--events").and_then(|at| arguments.get(at + 1));
    let events = events.map_or(EVENTS, |text| text.parse().expect("a number of events"));
    if let (Ok(query), Ok(copies)) = (std::env::var(QUERY), std::env::var(COPIES)) {
        return child(&query, copies.parse().expect("a number"), events);
    }
    println!("{}; {events} events", machine());
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| word.starts_with('q')).collect();
    for query in if wanted.is_empty() { QUERIES.to_vec() } else { wanted } {
        let mut rates: [Rates; 3] = Default::default();
        for _ in 0..RUNS {
            for ((cores, copies), rates) in WAYS.iter().zip(&mut rates) {
                let (rows, time) = measured(query, cores, *copies);
                rates.add(rows, time);
            }
        }
        let one = rates[0].median();
        println!("{query:<4} one core               {}", rates[0]);
        println!("     two cores              {}  {:.2} x", rates[1], rates[1].median() / one);
        println!("     two cores, two copies  {}  {:.2} x", rates[2], rates[2].median() / one);
    }
}

/// Runs once in a process bound to these cores.
fn measured(query: &str, cores: &str, copies: usize) -> (u64, Duration) {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(std::env::current_exe().expect("has a path"));
    command.args(std::env::args().skip(1)).env(QUERY, query).env(COPIES, copies.to_string());
    let output = command.output().expect("taskset, of util-linux");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    let mut words = said.split_whitespace();
    let rows = words.next().and_then(|word| word.parse().ok()).expect("rows");
    let micros = words.next().and_then(|word| word.parse().ok()).expect("microseconds");
    (rows, Duration::from_micros(micros))
}

/// Runs the query twice, the first time to warm up; prints rows and microseconds.
fn child(query: &str, copies: usize, events: usize) {
    generate(events);
    let engine = Engine::start();
    let (_, text, _) = queries().into_iter().find(|(name, ..)| name == query).expect("a query of that name");
    let text = with_copies(&text, copies);
    run(&engine, &text);
    let started = now();
    let rows = run(&engine, &text);
    println!("{rows} {}", started.elapsed().as_micros());
}

/// The topology with so many copies of each operator that has a key.
fn with_copies(text: &str, copies: usize) -> String {
    let part = |part: &str| {
        let has_key = part.contains("\nkey ") || part.contains("\"join\"");
        if part.contains("[operator.") && has_key && copies > 1 {
            return format!("{}\nparallelism = {copies}", part.trim_end());
        }
        part.to_owned()
    };
    text.split("\n\n").map(part).collect::<Vec<_>>().join("\n\n")
}
