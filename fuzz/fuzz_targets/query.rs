//! Any text as a query over streams.
#![no_main]

#[path = "../../src/catalog.rs"]
mod catalog;
#[path = "../../tests/fuzz/query.rs"]
mod query;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| query::query(bytes));
