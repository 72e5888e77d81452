//! Records of the ingress log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_engine::testing::fuzz::ingress(bytes));
