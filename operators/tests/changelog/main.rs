//! What leaves as a changelog: applied, it is what SQL says of the same rows as
//! one batch, whatever the cut of batches, restores and the order of what is
//! taken back.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a test that fails says where"
)]

#[path = "../kit/mod.rs"]
mod kit;
mod oracle;
mod retraction;
mod table;
mod words;
