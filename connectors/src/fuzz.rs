//! What a fuzzer calls here: every reader of bytes that come from outside, with
//! what must hold whatever they are; see the engine's `testing::fuzz`.

pub use crate::format::fuzz::{csv, json, raw};
pub use crate::modbus::fuzz::modbus;
pub use crate::mqtt::fuzz::mqtt;

use tidegate_engine::testing::fuzz::Target;

/// Every target of this crate by its name.
pub const TARGETS: &[(&str, Target)] =
    &[("csv", csv), ("json", json), ("modbus", modbus), ("mqtt", mqtt), ("raw", raw)];
