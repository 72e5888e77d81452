//! Tidegate's connectors: one file or folder per outside system, and one row
//! in the tables below; the formats they share are in [`format`].

pub mod format;
mod kafka;
mod modbus;
mod row_encoder;
mod seldom;
#[cfg(test)]
#[path = "../tests/support/topology.rs"]
mod testing;

use tidegate_engine::catalog::{BuildSink, BuildSource, Row};

/// Every `[source.x] type = …`.
pub const SOURCES: &[Row<BuildSource>] = &[kafka::SOURCE, modbus::SOURCE];

/// Every `[sink.x] type = …`.
pub const SINKS: &[Row<BuildSink>] = &[kafka::SINK];
