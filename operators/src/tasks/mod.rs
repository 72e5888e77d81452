//! One file per kind of flow task. A new task is one file and one row below.

mod alert;
mod emit;
mod http;
mod mail;
mod parts;
mod sql;
mod ticket;
mod wait;

use tidegate_engine::catalog::{BuildTask, Row};

/// Every `[[flow.x.task]] type = …` that needs no connector.
#[rustfmt::skip]
pub const TASKS: &[Row<BuildTask>] = &[
    alert::ROW,
    emit::ROW,
    http::ROW,
    mail::ROW,
    sql::ROW,
    ticket::ROW,
    wait::ROW,
];
