//! Tidegate's connectors: one file or folder per outside system, and one row
//! in the tables below; the formats they share are in [`format`].

mod deliveries;
mod file;
pub mod format;
mod json_template;
mod kafka;
mod modbus;
mod mqtt;
mod narrow;
mod opcua;
mod row_encoder;
mod seldom;
mod stdout;
#[cfg(test)]
#[path = "../tests/support/topology.rs"]
mod testing;

use tidegate_engine::catalog::{BuildSink, BuildSource, BuildTask, Row};

/// Every `[source.x] type = …`.
#[rustfmt::skip]
pub const SOURCES: &[Row<BuildSource>] = &[
    file::SOURCE,
    kafka::SOURCE,
    modbus::SOURCE,
    mqtt::SOURCE,
    opcua::SOURCE,
];

/// Every `[sink.x] type = …`.
#[rustfmt::skip]
pub const SINKS: &[Row<BuildSink>] = &[
    file::SINK,
    kafka::SINK,
    mqtt::SINK,
    stdout::SINK,
];

/// Every `[[flow.x.task]] type = …` that speaks to a device or broker.
#[rustfmt::skip]
pub const TASKS: &[Row<BuildTask>] = &[
    mqtt::PUBLISH,
];
