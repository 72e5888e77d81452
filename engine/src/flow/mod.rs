//! Flows: what a trigger starts. A firing is durable before its run begins;
//! after a crash every run goes on where it was.
//!
//! Read [`run`] first: the state machine. [`spec`] makes flows from a file,
//! [`launcher`] takes firings from a stream, [`journal`] keeps everything, and
//! [`scheduler`] drives the runs.

pub mod admission;
pub mod events;
mod firing;
pub mod journal;
pub mod key;
pub mod launcher;
pub mod rows;
pub mod run;
pub mod scheduler;
pub mod spec;
pub mod state;
mod values;
