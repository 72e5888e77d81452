//! Tidegate's operators, triggers and flow tasks: the only crate that sees
//! DataFusion. A new operator is one file and one row below.

use tidegate_engine::catalog::{BuildOperator, BuildTable, Row};

mod deadband;
#[cfg(test)]
mod disturbed;
pub mod expression;
mod filter;
mod join;
mod latest;
mod narrow;
mod part;
mod project;
mod route;
mod rule;
mod tasks;
mod union;
mod window;

pub use rule::TRIGGER;
pub use tasks::TASKS;

/// Every `[operator.x] type = …`.
pub const OPERATORS: &[Row<BuildOperator>] =
    &[deadband::ROW, filter::ROW, join::ROW, project::ROW, route::ROW, union::ROW, window::ROW];

/// Every `[table.x] type = …` that is made from a stream.
pub const TABLES: &[Row<BuildTable>] = &[latest::ROW];
