//! Raw payloads and lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_connectors::fuzz::raw(bytes));
