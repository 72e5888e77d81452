//! `mode`: the value that comes most often; of several the least.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

use super::shape;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Mode {
    signature: Signature,
}

impl Mode {
    pub(super) fn new() -> Mode {
        Mode { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Mode {
    fn name(&self) -> &'static str {
        "mode"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [argument] if !argument.is_nested() => Ok(argument.clone()),
            _ => plan_err!("mode takes one value that is neither a list nor a struct"),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Counts { data_type: arguments.return_type().clone(), counts: HashMap::new() }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let list = |name: &str, item: &DataType| {
            Arc::new(Field::new(name, DataType::new_list(item.clone(), true), true))
        };
        Ok(vec![list("values", arguments.return_type()), list("counts", &DataType::Int64)])
    }
}

/// How often each value came.
#[derive(Debug)]
struct Counts {
    data_type: DataType,
    counts: HashMap<ScalarValue, i64>,
}

impl Counts {
    fn add(&mut self, value: ScalarValue, count: i64) {
        *self.counts.entry(value).or_default() += count;
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        let values = arguments.first().ok_or_else(shape)?;
        let nulls = values.logical_nulls();
        for row in 0..values.len() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                self.add(ScalarValue::try_from_array(values, row)?, 1);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, counts] = states else { return Err(shape()) };
        let lists = (values.as_list_opt::<i32>(), counts.as_list_opt::<i32>());
        let (Some(values), Some(counts)) = lists else { return Err(shape()) };
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let (values, counts) = (values.value(row), counts.value(row));
            let counts = counts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
            for (index, count) in counts.values().iter().enumerate() {
                self.add(ScalarValue::try_from_array(&values, index)?, *count);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> = self.counts.keys().cloned().collect();
        let counts: Vec<ScalarValue> = self.counts.values().map(|count| ScalarValue::from(*count)).collect();
        let list = |items: &[ScalarValue], item| ScalarValue::List(ScalarValue::new_list(items, item, true));
        Ok(vec![list(&values, &self.data_type), list(&counts, &DataType::Int64)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut best: Option<(&ScalarValue, i64)> = None;
        for (value, count) in &self.counts {
            let is_better = best.is_none_or(|(known, times)| {
                *count > times
                    || (*count == times && value.partial_cmp(known).is_some_and(std::cmp::Ordering::is_lt))
            });
            if is_better {
                best = Some((value, *count));
            }
        }
        best.map_or_else(|| ScalarValue::try_from(&self.data_type), |(value, _)| Ok(value.clone()))
    }

    fn size(&self) -> usize {
        let values: usize = self.counts.keys().map(ScalarValue::size).sum();
        size_of_val(self) + values + self.counts.capacity() * size_of::<i64>()
    }
}
