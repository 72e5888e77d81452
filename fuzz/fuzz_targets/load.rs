//! Topologies from their text to built parts, with the whole catalog.
#![no_main]

#[path = "../../src/catalog.rs"]
mod catalog;
#[path = "../../tests/fuzz/load.rs"]
mod load;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| load::load(bytes));
