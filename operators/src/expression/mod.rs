//! SQL expressions, compiled once when a topology is loaded. Planning costs
//! milliseconds, evaluating a compiled predicate microseconds, so nothing here
//! is called per batch but `evaluate`.

mod aggregate;
mod compile;
mod locate;

pub(crate) use aggregate::{AggregateColumn, AggregateSelect, compile_aggregates};
pub(crate) use compile::CompiledExpression;
pub use compile::SqlExpressions;
