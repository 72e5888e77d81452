//! The real binary, killed at random instants over and over, against an oracle
//! that recomputes the output from the input. `cargo test --test crash`, or for
//! a night: `cargo test --test crash -- --cycles 10000 --seed 7 --only kafka`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test that fails says where, and kills in real time"
)]

mod calls;
mod file;
mod kafka;
#[path = "../../connectors/tests/support/kafka.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka_client;
#[path = "../../connectors/tests/support/kafka_real.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod kafka_real;
mod mqtt;
#[path = "../../connectors/tests/support/parts.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod parts;
mod process;
mod random;

use random::Random;

/// Kills of each scenario in an ordinary run.
const CYCLES: usize = 55;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // What cargo passes on for other tests (filters, options) means nothing here.
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let cycles = number("--cycles").map_or(CYCLES, |cycles| usize::try_from(cycles).unwrap_or(CYCLES));
    let seed = number("--seed").unwrap_or_else(|| std::process::id().into());
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).map(String::as_str);
    println!("{cycles} kills of each scenario, --seed {seed}");
    type Scenario = fn(usize, &mut Random);
    let scenarios: [(&str, Scenario); 4] =
        [("file", file::run), ("calls", calls::run), ("mqtt", mqtt::run), ("kafka", kafka::run)];
    for (_, run) in scenarios.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        run(cycles, &mut Random::new(seed));
    }
}
