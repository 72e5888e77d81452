//! Tidegate's engine. It knows no protocol, no SQL and no file format.
//!
//! Read the nouns first ([`event`], [`time`], [`schema`], [`changelog`],
//! [`error`]), then the contracts ([`source`], [`operator`], [`sink`],
//! [`task`]), then how a file becomes a plan ([`topology`]) and a plan runs
//! ([`runtime`], [`flow`]).

pub mod catalog;
pub mod changelog;
pub mod codec;
pub mod dead_letters;
pub mod device_write;
pub mod diagnostic;
pub mod error;
pub mod event;
pub mod expression;
pub mod flow;
pub mod lookup;
pub mod operator;
pub mod partition;
mod planted;
pub mod reject;
pub mod runtime;
pub mod schema;
pub mod secret;
pub mod shared;
pub mod sink;
pub mod source;
pub mod storage;
pub mod table;
pub mod task;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod topology;
