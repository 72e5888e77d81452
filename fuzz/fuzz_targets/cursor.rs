//! How far a queue has been delivered.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_engine::testing::fuzz::cursor(bytes));
