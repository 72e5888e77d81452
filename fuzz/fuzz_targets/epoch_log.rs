//! Logs of epochs.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_engine::testing::fuzz::epoch_log(bytes));
