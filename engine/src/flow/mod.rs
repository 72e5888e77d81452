//! Flows: what a trigger starts. A firing is durable before its run begins;
//! after a crash every run goes on where it was.
//!
//! Read [`run`] first: the state machine. [`journal`] keeps everything.

pub mod admission;
pub mod events;
pub mod journal;
pub mod key;
pub mod rows;
pub mod run;
pub mod state;
