//! The text of a topology.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_engine::testing::fuzz::topology(bytes));
