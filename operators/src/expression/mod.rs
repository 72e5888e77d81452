//! SQL expressions, compiled once when a topology is loaded. Planning costs
//! milliseconds, evaluating a compiled predicate microseconds, so nothing here
//! is called per batch but `evaluate`.

mod aggregate;
mod compile;
mod locate;
mod over_time;
mod unlike;

pub(crate) use aggregate::{AggregateColumn, AggregateSelect, Plain, compile_aggregates, is_key_type};
pub use compile::SqlExpressions;
pub(crate) use compile::{CompiledExpression, check_size, columns, on_stack, to_df_schema};
pub(crate) use locate::{locate_in_query, location_in};
