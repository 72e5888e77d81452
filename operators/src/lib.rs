//! Tidegate's operators, triggers and flow tasks: the only crate that sees
//! DataFusion. A new operator is one file and one row below.

use tidegate_engine::catalog::{BuildOperator, BuildTable, Composed, Row};

mod aggregate;
mod alarm;
mod anomaly;
mod changed;
mod changes;
mod deadband;
mod dedup;
#[cfg(test)]
mod disturbed;
pub mod expression;
mod fft;
mod fill;
mod filter;
mod flatten;
mod in_order;
mod join;
mod lag;
mod latest;
mod limit_rate;
mod narrow;
mod part;
mod pattern;
mod pivot;
mod project;
mod route;
mod rule;
mod sample;
mod sort;
mod sql;
mod tasks;
mod top;
mod union;
mod unpivot;
mod window;

pub use rule::TRIGGER;
pub use tasks::TASKS;

/// Every `[operator.x] type = …`.
pub const OPERATORS: &[Row<BuildOperator>] = &[
    aggregate::ROW,
    alarm::ROW,
    anomaly::ROW,
    changed::ROW,
    deadband::ROW,
    dedup::ROW,
    fft::ROW,
    fill::ROW,
    filter::ROW,
    flatten::ROW,
    join::ROW,
    lag::ROW,
    limit_rate::ROW,
    pattern::ROW,
    pivot::ROW,
    project::ROW,
    route::ROW,
    sample::ROW,
    sort::ROW,
    top::ROW,
    union::ROW,
    unpivot::ROW,
    window::ROW,
];

/// Every `[operator.x] type = …` that is made of others.
pub const COMPOSED: &[Row<Composed>] = &[sql::ROW];

/// Every `[table.x] type = …` that is made from a stream.
pub const TABLES: &[Row<BuildTable>] = &[latest::ROW];
