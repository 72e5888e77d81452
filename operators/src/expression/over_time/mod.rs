//! Aggregates whose answer depends on when values were measured, and others
//! that DataFusion does not have. The event time is their last argument; a
//! window fills it in: `last(value)`. NULL values count for none of them.

mod ends;
mod mode;
mod weighted;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType};
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;
use tidegate_engine::time::time_type;

use ends::{Ends, Of};
use mode::Mode;
use weighted::Weighted;

/// Every function of this module, to be known by name.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let over_time = FUNCTIONS.iter().map(|function| {
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::new_from_impl(OverTime { function: *function, signature })
    });
    over_time.chain([AggregateUDF::new_from_impl(Mode::new())]).collect()
}

/// Whether the function of this name takes the event time as its last argument.
pub(super) fn takes_time(name: &str) -> bool {
    FUNCTIONS.iter().any(|function| function.name() == name)
}

const FUNCTIONS: [Function; 5] =
    [Function::First, Function::Last, Function::Delta, Function::Rate, Function::TimeWeightedAvg];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Function {
    /// The value of the earliest row; among rows of one time the first that came.
    First,
    /// The value of the latest row; among rows of one time the last that came.
    Last,
    /// The last value less the first.
    Delta,
    /// The last value less the first, by the seconds between them.
    Rate,
    /// The average, each value weighted by how long it stood until the next one.
    TimeWeightedAvg,
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::First => "first",
            Function::Last => "last",
            Function::Delta => "delta",
            Function::Rate => "rate",
            Function::TimeWeightedAvg => "time_weighted_avg",
        }
    }

    /// Type that an argument of this type is cast to.
    fn argument(self, given: &DataType) -> Option<DataType> {
        match self {
            Function::First | Function::Last => Some(given.clone()),
            Function::Delta if given.is_integer() => Some(DataType::Int64),
            Function::Delta | Function::Rate | Function::TimeWeightedAvg => {
                (given.is_numeric() || given.is_null()).then_some(DataType::Float64)
            }
        }
    }

    fn result(self, argument: &DataType) -> DataType {
        match self {
            Function::First | Function::Last | Function::Delta => argument.clone(),
            Function::Rate | Function::TimeWeightedAvg => DataType::Float64,
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OverTime {
    function: Function,
    signature: Signature,
}

impl AggregateUDFImpl for OverTime {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let (value, time) = match given {
            [value] => (value, None),
            [value, time] => (value, Some(time)),
            _ => return plan_err!("{name} takes a value, and the time it was measured at"),
        };
        let Some(argument) = self.function.argument(value) else {
            return plan_err!("{name} takes a number, not {value}");
        };
        if time.is_some_and(|time| !matches!(time, DataType::Timestamp(_, _))) {
            return plan_err!("the second argument of {name} is the time the value was measured at");
        }
        Ok(std::iter::once(argument).chain(time.map(|_| time_type())).collect())
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(argument) => Ok(self.function.result(argument)),
            None => plan_err!("{} takes a value", self.name()),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let [value, _] = arguments.expr_fields else {
            return plan_err!("{0} needs to know when: {0}(value, time)", self.name());
        };
        let argument = value.data_type().clone();
        Ok(match self.function {
            Function::First => Box::new(Ends::new(Of::First, argument)),
            Function::Last => Box::new(Ends::new(Of::Last, argument)),
            Function::Delta => Box::new(Ends::new(Of::Delta, argument)),
            Function::Rate => Box::new(Ends::new(Of::Rate, argument)),
            Function::TimeWeightedAvg => Box::new(Weighted::default()),
        })
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let Some(value) = arguments.input_fields.first() else {
            return plan_err!("{} takes a value", self.name());
        };
        let field = |name: &str, data_type| Arc::new(Field::new(name, data_type, true));
        let value = || value.data_type().clone();
        Ok(match self.function {
            Function::First | Function::Last => vec![field("time", DataType::Int64), field("value", value())],
            Function::Delta | Function::Rate => vec![
                field("first_time", DataType::Int64),
                field("first", value()),
                field("last_time", DataType::Int64),
                field("last", value()),
            ],
            Function::TimeWeightedAvg => {
                let list = |item| DataType::new_list(item, true);
                vec![field("times", list(DataType::Int64)), field("values", list(DataType::Float64))]
            }
        })
    }
}

/// The values and times of rows whose value is not NULL, in their order.
fn each_row(arguments: &[ArrayRef], mut take: impl FnMut(&ArrayRef, usize, i64) -> Result<()>) -> Result<()> {
    let [values, times] = arguments else { return Err(shape()) };
    let times = times.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(shape)?;
    let nulls = values.logical_nulls();
    for row in 0..values.len() {
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) && times.is_valid(row) {
            take(values, row, times.value(row))?;
        }
    }
    Ok(())
}

fn shape() -> DataFusionError {
    DataFusionError::Internal("an argument or a state of another type".into())
}

fn time(at_us: Option<i64>) -> ScalarValue {
    ScalarValue::Int64(at_us)
}
