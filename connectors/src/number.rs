//! The one number that an expression gives for a task.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use tidegate_engine::error::TaskError;
use tidegate_engine::expression::Expression;

/// The expression's value on the task's one row.
///
/// # Errors
/// `Fatal`, if it fails, is NULL or is no number.
pub(crate) fn single_number(expression: &dyn Expression, values: &RecordBatch) -> Result<f64, TaskError> {
    let fatal = |reason: &dyn std::fmt::Display| TaskError::Fatal(format!("the value to write: {reason}"));
    let value = expression.evaluate(values).map_err(|error| fatal(&error))?;
    let value = cast(&value, &DataType::Float64).map_err(|error| fatal(&error))?;
    let numbers = value.as_primitive::<Float64Type>();
    if numbers.len() != 1 || numbers.is_null(0) {
        return Err(fatal(&"it is NULL"));
    }
    Ok(numbers.value(0))
}
