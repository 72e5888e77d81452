//! The real binary, killed at random instants over and over, against an oracle
//! that recomputes the output from the input. `cargo test --test crash`, or for
//! a night: `cargo test --test crash -- --cycles 10000 --seed 7`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test that fails says where, and kills in real time"
)]

mod calls;
mod file;
mod mqtt;
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
    println!("{cycles} kills of each scenario, --seed {seed}");
    file::run(cycles, &mut Random::new(seed));
    calls::run(cycles, &mut Random::new(seed));
    mqtt::run(cycles, &mut Random::new(seed));
}
