//! What a fuzzer calls: every reader of bytes that others wrote, with what must
//! hold whatever they are. `fuzz/` makes a program of each, `tests/fuzz` runs
//! all of them for a short while. A target never panics unless a promise is
//! broken; how much it may allocate and how long it may take is for its caller
//! to see.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target panics to say that a promise is broken"
)]

mod log;
mod rows;
mod topology;

pub use log::{epoch_log, segment};
pub use rows::{checkpoint, cursor, dead_letters, ingress};
pub use topology::{show, topology};

/// A target: takes any bytes, panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target of the engine by its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("checkpoint", checkpoint),
    ("cursor", cursor),
    ("dead_letters", dead_letters),
    ("epoch_log", epoch_log),
    ("ingress", ingress),
    ("segment", segment),
    ("topology", topology),
];

/// Bytes with the checksum of all before it in their last four: what lies
/// behind a checksum is read by nobody who only guesses.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (body, _) = bytes.split_last_chunk::<4>()?;
    Some([body, &crc32c::crc32c(body).to_le_bytes()].concat())
}

/// Whether the last four bytes are the checksum of those before.
fn is_sealed(bytes: &[u8]) -> bool {
    sealed(bytes).is_some_and(|right| right == bytes)
}
