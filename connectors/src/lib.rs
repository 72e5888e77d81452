//! Tidegate's connectors: one file or folder per outside system, and one row
//! in the tables below; the formats they share are in [`format`].

pub mod format;
mod modbus;

use tidegate_engine::catalog::{BuildSource, Row};

/// Every `[source.x] type = …`.
pub const SOURCES: &[Row<BuildSource>] = &[modbus::SOURCE];
