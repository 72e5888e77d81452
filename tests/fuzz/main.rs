//! Every reader of bytes that others wrote, over the kept corpora and over
//! random damage to them: the short run of what `fuzz/` does for a night, with
//! the same targets and without its compiler. `cargo test --test fuzz`, or
//! `cargo test --test fuzz -- --target segment --seed 7 --runs 1000000`.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "a test that fails says where, and waits in real time"
)]

#[path = "../../src/catalog.rs"]
mod catalog;
mod corpus;
mod load;
mod mutate;
mod query;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_engine::testing::fuzz::Target;
use tidegate_engine::testing::seed::Seed;

/// Runs of an ordinary run, all targets together.
const RUNS: usize = 20_000;
/// A target whose every run plans queries takes this many times fewer.
const LOAD_SHARE: usize = 4;
/// Bytes that a target may allocate at a time whatever it is given, and for
/// each byte that it is given.
const BYTES_FREE: u64 = 1 << 20;
const BYTES_EACH: u64 = 256;
/// Longest time of one input; the machine may be busy.
const TIME_MAX: Duration = Duration::from_secs(60);
/// The stack of a thread of the runtime.
const STACK_BYTES: usize = 2 << 20;
/// Its name.
const TRIES: &str = "tries";

/// What a panic said last: most are caught, and nobody wants to read them.
static SAID: Mutex<String> = Mutex::new(String::new());

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    // What cargo passes on for other tests (filters, options) means nothing here.
    let word = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str| word(name)?.parse::<u64>().ok();
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    // Always the same ones in the gate: a night tries others.
    let seed = number("--seed").unwrap_or(1);
    let mut targets = targets();
    if let Some(name) = word("--target") {
        targets.retain(|(target, _)| *target == name);
        assert!(!targets.is_empty(), "no target is called {name}");
    }
    let shares = targets.len().max(1);
    let runs = number("--runs").map_or(RUNS, |runs| usize::try_from(runs).unwrap_or(RUNS)) / shares;
    println!("--seed {seed}; an input that ends the process stays in {}", env!("CARGO_TARGET_TMPDIR"));
    let by_default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
        Some(TRIES) => *SAID.lock().expect("nobody panics here") = panic.to_string(),
        Some(_) | None => by_default(panic),
    }));
    let mut failed = false;
    for (name, target) in targets {
        let runs = if ["load", "query"].contains(&name) && shares > 1 { runs / LOAD_SHARE } else { runs };
        failed |= !all(name, target, seed, runs);
    }
    std::process::exit(i32::from(failed));
}

fn targets() -> Vec<(&'static str, Target)> {
    let mut all = vec![("load", load::load as Target), ("query", query::query as Target)];
    all.extend(tidegate_engine::testing::fuzz::TARGETS);
    all.extend(tidegate_connectors::fuzz::TARGETS);
    all.sort_by_key(|(name, _)| *name);
    all
}

/// The kept inputs of a target, then damaged ones; answers whether all is well.
fn all(name: &'static str, target: Target, seed: u64, runs: usize) -> bool {
    let kept = corpus::of(name);
    let begin = Instant::now();
    let under_way = Arc::new(UnderWay::new(name));
    let (sender, receiver) = sync_channel(1_000);
    let inputs = kept.clone();
    let worker = Arc::clone(&under_way);
    let thread = std::thread::Builder::new().name(TRIES.into()).stack_size(STACK_BYTES).spawn(move || {
        let mut most = 0;
        for (file, input) in &inputs {
            most = most.max(one(target, input, &worker, &sender, file)?);
        }
        let mut random = Seed::new(seed);
        let inputs: Vec<Vec<u8>> = inputs.into_iter().map(|(_, input)| input).collect();
        for run in 0..runs {
            let input = mutate::mutate(&inputs, &mut random);
            most = most.max(one(target, &input, &worker, &sender, &format!("run {run}"))?);
        }
        Some(most)
    });
    let thread = thread.expect("a thread starts");
    loop {
        match receiver.recv_timeout(TIME_MAX) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("{name}: takes longer than {TIME_MAX:?}, --target {name} --seed {seed}");
                under_way.show();
                return false;
            }
        }
    }
    match thread.join().expect("panics are caught") {
        Some(most) => {
            under_way.forget();
            let (kept, took) = (kept.len(), begin.elapsed());
            println!("{name:<13} {kept:>4} kept, {runs:>6} damaged, {took:>8.1?}, at most {most} bytes");
            true
        }
        None => {
            println!("{name}: failed, --target {name} --seed {seed}");
            under_way.show();
            false
        }
    }
}

/// One input; answers how many bytes were in use at a time, `None` if a promise
/// is broken.
fn one(target: Target, input: &[u8], under_way: &UnderWay, done: &SyncSender<()>, what: &str) -> Option<u64> {
    under_way.set(input);
    let mut outcome = Ok(());
    let used = allocation_counter::measure(|| {
        outcome = catch_unwind(AssertUnwindSafe(|| target(input)));
    });
    let allowed = BYTES_FREE + BYTES_EACH * input.len() as u64;
    if outcome.is_err() {
        println!("{what}: {}", SAID.lock().expect("nobody panics here"));
    } else if used.bytes_max > allowed {
        println!("{what} allocates {} bytes for {}; {allowed} are allowed", used.bytes_max, input.len());
    } else {
        done.send(()).expect("somebody counts");
        return Some(used.bytes_max);
    }
    None
}

/// The input that is tried now, in a file too: a target may end the process.
struct UnderWay {
    path: PathBuf,
    input: Mutex<Vec<u8>>,
}

impl UnderWay {
    fn new(name: &str) -> UnderWay {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{name}"));
        UnderWay { path, input: Mutex::default() }
    }

    fn set(&self, input: &[u8]) {
        std::fs::write(&self.path, input).expect("the input is kept");
        *self.input.lock().expect("nobody panics here") = input.to_vec();
    }

    fn show(&self) {
        let input = self.input.lock().expect("nobody panics here");
        println!("{} bytes, in {}:\n{}", input.len(), self.path.display(), input.escape_ascii());
    }

    fn forget(&self) {
        std::fs::remove_file(&self.path).expect("the input was kept");
    }
}
