//! Each query of `examples/nexmark` gives what it gives as one batch.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test that fails says where"
)]

#[path = "../src/catalog.rs"]
mod catalog;
#[path = "../benches/support/mod.rs"]
mod support;

use std::process::Command;

use support::Engine;
use support::nexmark::{answer, batch_answer, generate, queries};

/// Twenty seconds of event time.
const EVENTS: usize = 200_000;

#[test]
fn queries_are_equal_to_their_batch() {
    generate(EVENTS);
    let engine = Engine::start();
    let queries = queries();
    assert!(queries.len() >= 20, "{}", queries.len());
    for (name, text, sql) in queries {
        let (given, batch) = (answer(&engine, &text), batch_answer(&engine, &sql));
        assert!(!batch.is_empty(), "{name} is tried with rows");
        let first = given.iter().zip(&batch).find(|(given, batch)| given != batch);
        assert_eq!(first, None, "{name}: {} rows of {}", given.len(), batch.len());
        assert_eq!(given.len(), batch.len(), "{name}");
    }
}

/// As they stand, with their files.
#[test]
fn queries_are_right_as_files() {
    let folder = format!("{}/examples/nexmark", env!("CARGO_MANIFEST_DIR"));
    for (name, ..) in queries() {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["check", &format!("{folder}/{name}.toml")])
            .output()
            .expect("tidegate starts");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
}
