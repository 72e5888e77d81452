//! `time_weighted_avg`: a value counts for as long as it stood, until the next
//! one of its window. The last one has no next and counts for no time; where all
//! values have one time the plain average is the answer. All points are kept,
//! since rows come in any order and panes are put together.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::{each_row, shape};

#[derive(Debug, Default)]
pub(super) struct Weighted {
    /// Time and value, in order of arrival.
    points: Vec<(i64, f64)>,
}

impl Accumulator for Weighted {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        each_row(arguments, |values, row, at_us| {
            let values = values.as_primitive_opt::<Float64Type>().ok_or_else(shape)?;
            self.points.push((at_us, values.value(row)));
            Ok(())
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [times, values] = states else { return Err(shape()) };
        let lists = (times.as_list_opt::<i32>(), values.as_list_opt::<i32>());
        let (Some(times), Some(values)) = lists else { return Err(shape()) };
        for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
            let (times, values) = (times.value(row), values.value(row));
            let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
            let values = values.as_primitive_opt::<Float64Type>().ok_or_else(shape)?;
            self.points.extend(times.values().iter().copied().zip(values.values().iter().copied()));
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let times: Vec<ScalarValue> = self.points.iter().map(|point| ScalarValue::from(point.0)).collect();
        let values: Vec<ScalarValue> = self.points.iter().map(|point| ScalarValue::from(point.1)).collect();
        let list = |items: &[ScalarValue], item| ScalarValue::List(ScalarValue::new_list(items, item, true));
        Ok(vec![list(&times, &DataType::Int64), list(&values, &DataType::Float64)])
    }

    #[allow(clippy::cast_precision_loss, reason = "microseconds of 285 years are exact")]
    fn evaluate(&mut self) -> Result<ScalarValue> {
        // Stable: of one time the last that came is the one that stands.
        self.points.sort_by_key(|point| point.0);
        let (mut sum, mut seconds) = (0.0, 0.0);
        for pair in self.points.windows(2) {
            let [(from_us, value), (to_us, _)] = pair else { continue };
            let stood = to_us.saturating_sub(*from_us) as f64 / 1e6;
            sum += value * stood;
            seconds += stood;
        }
        if seconds > 0.0 {
            return Ok(ScalarValue::Float64(Some(sum / seconds)));
        }
        let count = self.points.len() as f64;
        let total: f64 = self.points.iter().map(|point| point.1).sum();
        Ok(ScalarValue::Float64((count > 0.0).then(|| total / count)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + size_of::<(i64, f64)>() * self.points.capacity()
    }
}
