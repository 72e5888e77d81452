//! Modbus: TCP, RTU on a serial line, RTU over TCP. One row per poll and unit;
//! a value that could not be read is NULL and the row says why.

mod address;
mod blocks;
mod bus;
mod config;
mod decode;
mod ear;
#[cfg(feature = "testing")]
pub(crate) mod fuzz;
mod point;
mod poller;
mod source;
mod unit;
mod write;

pub(crate) use source::ROW as SOURCE;
pub(crate) use write::{DEADLINE as WRITE_DEADLINE, ROW as WRITE};
