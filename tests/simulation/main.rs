//! Whole topologies and their flows on a simulated disk, clock, network, peers,
//! devices and people. One seed chooses topology, data, faults and crashes:
//! first chaos, then calm, then the invariants are checked.
//!
//! `cargo test --test simulation`: cases that failed once, many seeds, and
//! planted bugs, each of which must be noticed. A part of it: `-- --seeds 50000`,
//! `-- --planted [WORD]`, `-- --case "seed=17 lives=2"`, `-- --seed 17`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    reason = "a simulation stops at the first surprise, and says how fast it was"
)]

mod attempt;
mod case;
#[path = "../../src/catalog.rs"]
mod catalog;
mod check;
mod damage;
mod device;
mod life;
mod people;
mod planted;
mod probe;
mod scenario;
mod sink;
mod source;
mod world;

use std::sync::Arc;
use std::time::Instant;

use tidegate_engine::expression::Expressions;
use tidegate_operators::expression::SqlExpressions;

use attempt::{attempt_twice, failed_once, keep, shrink};
use case::Case;
use life::Totals;

/// Seeds of an ordinary run.
const SEEDS: u64 = 2_000;

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        self.cases += other.cases;
        self.crashes += other.crashes;
        self.stops += other.stops;
        self.rows += other.rows;
        self.runs += other.runs;
        self.commands += other.commands;
        self.events += other.events;
        self.simulated += other.simulated;
    }

    fn print(&self, started: Instant) {
        let Totals { cases, crashes, stops, rows, runs, commands, events, simulated } = self;
        let real = started.elapsed().as_secs_f64();
        println!(
            "{cases} cases, {crashes} crashes, {stops} stops, {rows} rows, {runs} runs, {commands} commands; \
             {:.0} simulated hours in {real:.0} s: {:.0} x real time, {:.0} events per second",
            simulated.as_secs_f64() / 3_600.0,
            simulated.as_secs_f64() / real,
            *events as f64 / real
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).map_or("", String::as_str))
    };
    let number = |name: &str| value(name).map(|value| value.parse::<u64>().expect("a number"));
    let expressions: Arc<dyn Expressions> = Arc::new(SqlExpressions::new());
    let one = number("--seed").map(Case::of).or(value("--case").map(|line| line.parse().expect("a case")));
    if let Some(case) = one {
        match attempt_twice(&case, &expressions) {
            Ok(told) => println!("{case} holds: {} steps, the same twice", told.trace.len()),
            Err(what) => panic!("{case}\n{what}"),
        }
        return;
    }
    // What is expected to fail fails in silence.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(word) = value("--planted") {
        return or_exit(|| planted::run(word, &expressions));
    }
    or_exit(|| seeds(number("--seeds").unwrap_or(SEEDS), &expressions));
    if value("--seeds").is_none() {
        or_exit(|| planted::run("", &expressions));
    }
}

/// Runs the cases that failed once, then so many seeds.
fn seeds(seeds: u64, expressions: &Arc<dyn Expressions>) {
    let started = Instant::now();
    let first = failed_once();
    let count = first.len() as u64;
    let cases = |number: u64| match first.get(number as usize) {
        Some(case) => Some(case.clone()),
        None => (number < count + seeds).then(|| Case::of(number - count)),
    };
    match attempt::all(&cases, expressions) {
        Ok(totals) => totals.print(started),
        Err((case, what)) => {
            println!("{case} fails: {}", what.lines().next().unwrap_or_default());
            let was_known = first.contains(&case);
            let (case, what) = shrink(case, what, expressions);
            if !was_known {
                keep(&case, &what);
            }
            panic!("{what}\nagain: cargo test --test simulation -- --case \"{case}\"");
        }
    }
}

/// The message of a panic, and an exit code that says so.
fn or_exit(work: impl FnOnce()) {
    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        let text = panic.downcast_ref::<String>().cloned();
        eprintln!("{}", text.unwrap_or_else(|| "it panics".to_owned()));
        std::process::exit(1);
    }
}
