//! The only code that makes files durable.

pub mod files;
