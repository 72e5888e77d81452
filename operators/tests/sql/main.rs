//! Queries over streams: what they give is compared with the same query, or one
//! that means the same, over all rows at once; what they refuse, with the word.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that fails says where, and measures real time"
)]

mod harness;
mod oracle;
mod refused;
mod state;
mod updating;
