//! Records of dead letters.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_engine::testing::fuzz::dead_letters(bytes));
