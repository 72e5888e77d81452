//! The only code that makes files durable.

pub mod blocking;
pub mod epoch_log;
pub mod files;
pub mod group;
pub(crate) mod ipc;
pub mod log;
pub mod log_reader;
pub mod record;
pub mod vfs;
pub mod watched;

#[cfg(test)]
mod tests;
