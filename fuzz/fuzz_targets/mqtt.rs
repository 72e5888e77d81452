//! Packets of an MQTT broker.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate_connectors::fuzz::mqtt(bytes));
