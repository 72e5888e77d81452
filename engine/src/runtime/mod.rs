//! Runs a plan: edges, loops, barriers, checkpoints.
//!
//! The difficulty sits in three pure files, [`align`], [`ledger`] and
//! [`watermark`]; the loops around them carry events and actions to and fro.

pub mod align;
pub mod alignment;
mod allowed;
mod anew;
mod build;
mod chain;
pub mod checkpoint;
mod checkpoint_store;
pub mod edge;
mod edits;
pub(crate) mod egress;
pub(crate) mod ingress;
pub mod job;
pub mod ledger;
mod leftover;
mod lookup;
mod outlets;
mod parallel;
mod parts;
mod received;
mod retry;
mod segment;
mod sink_driver;
mod source_driver;
mod source_reader;
mod state_limit;
pub mod stats;
pub mod watermark;
