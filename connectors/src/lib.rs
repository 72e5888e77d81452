//! Tidegate's connectors: one file or folder per outside system, and one row
//! in the tables below; the formats they share are in [`format`].

mod deliveries;
mod discard;
mod file;
pub mod format;
#[cfg(feature = "testing")]
pub mod fuzz;
mod generate;
mod http;
mod json_template;
mod kafka;
mod lookup;
mod modbus;
mod mqtt;
mod net_changes;
mod number;
mod objects;
mod opcua;
mod postgres;
mod redis;
mod row_encoder;
mod s3;
mod schedule;
mod seldom;
mod sink_log;
mod sql_table;
mod sqlite;
mod sqlite_lookup;
mod sqlite_table;
mod stdout;
mod table;
#[cfg(test)]
#[path = "../tests/support/topology.rs"]
mod testing;

use tidegate_engine::catalog::{BuildOperator, BuildSink, BuildSource, BuildTable, BuildTask, Row};

/// Every `[source.x] type = …`.
#[rustfmt::skip]
pub const SOURCES: &[Row<BuildSource>] = &[
    file::SOURCE,
    generate::SOURCE,
    http::SOURCE,
    kafka::SOURCE,
    modbus::SOURCE,
    mqtt::SOURCE,
    opcua::SOURCE,
    schedule::SOURCE,
];

/// Every `[operator.x] type = …` that asks an outside system.
pub const OPERATORS: &[Row<BuildOperator>] = &[lookup::ROW];

/// Every `[sink.x] type = …`.
#[rustfmt::skip]
pub const SINKS: &[Row<BuildSink>] = &[
    discard::SINK,
    file::SINK,
    http::SINK,
    kafka::SINK,
    mqtt::SINK,
    postgres::SINK,
    s3::SINK,
    sqlite::SINK,
    stdout::SINK,
];

/// Every `[table.x] type = …` that is read from outside.
#[rustfmt::skip]
pub const TABLES: &[Row<BuildTable>] = &[
    table::CSV,
    table::JSON,
    table::parquet::ROW,
    table::recorded::ROW,
    postgres::TABLE,
    sqlite_table::ROW,
];

/// Every `[[flow.x.task]] type = …` that speaks to a device or broker.
#[rustfmt::skip]
pub const TASKS: &[Row<BuildTask>] = &[
    modbus::WRITE,
    mqtt::PUBLISH,
    opcua::WRITE,
];
