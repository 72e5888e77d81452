//! Joins against the traps of the semantics and against the same SQL as one
//! batch, in any interleaving of the two inputs.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "a test that fails says where"
)]

mod as_of;
mod harness;
#[path = "../kit/mod.rs"]
mod kit;
mod oracle;
mod table;
mod within;
