//! Tidegate's operators, triggers and flow tasks: the only crate that sees
//! DataFusion. A new operator is one file and one row below.

use tidegate_engine::catalog::{BuildOperator, Row};

mod deadband;
pub mod expression;
mod filter;
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
    &[deadband::ROW, filter::ROW, project::ROW, route::ROW, union::ROW, window::ROW];
