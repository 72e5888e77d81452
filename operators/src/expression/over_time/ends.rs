//! `first`, `last`, `delta`, `rate`: what the earliest and the latest row say.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::{each_row, shape, time};

/// What is made of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    First,
    Last,
    Delta,
    Rate,
}

/// A value and its time.
type Point = (i64, ScalarValue);

/// The earliest and the latest value.
#[derive(Debug)]
pub(super) struct Ends {
    of: Of,
    data_type: DataType,
    first: Option<Point>,
    last: Option<Point>,
}

impl Ends {
    pub(super) fn new(of: Of, data_type: DataType) -> Ends {
        Ends { of, data_type, first: None, last: None }
    }

    fn wants_first(&self) -> bool {
        self.of != Of::Last
    }

    fn wants_last(&self) -> bool {
        self.of != Of::First
    }

    /// Takes a value that came behind all others; it is read only if it counts.
    fn take(&mut self, at_us: i64, values: &ArrayRef, row: usize) -> Result<()> {
        if self.wants_first() && self.first.as_ref().is_none_or(|(first_us, _)| at_us < *first_us) {
            self.first = Some((at_us, ScalarValue::try_from_array(values, row)?));
        }
        if self.wants_last() && self.last.as_ref().is_none_or(|(last_us, _)| at_us >= *last_us) {
            self.last = Some((at_us, ScalarValue::try_from_array(values, row)?));
        }
        Ok(())
    }

    fn state_of(&self, point: Option<&Point>) -> Result<[ScalarValue; 2]> {
        Ok(match point {
            Some((at_us, value)) => [time(Some(*at_us)), value.clone()],
            None => [time(None), ScalarValue::try_from(&self.data_type)?],
        })
    }

    fn difference(&self) -> Result<ScalarValue> {
        match (&self.first, &self.last) {
            // Of one row nothing is known but where it stands.
            (Some((_, first)), Some((_, last))) => {
                // What has no number is none.
                last.sub_checked(first).or_else(|_| ScalarValue::try_from(&self.data_type))
            }
            _ => ScalarValue::try_from(&self.data_type),
        }
    }
}

impl Accumulator for Ends {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        each_row(arguments, |values, row, at_us| self.take(at_us, values, row))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for pair in states.chunks(2) {
            let [times, values] = pair else { return Err(shape()) };
            let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
            for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
                self.take(times.value(row), values, row)?;
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut state = Vec::new();
        if self.wants_first() {
            state.extend(self.state_of(self.first.as_ref())?);
        }
        if self.wants_last() {
            state.extend(self.state_of(self.last.as_ref())?);
        }
        Ok(state)
    }

    #[allow(clippy::cast_precision_loss, reason = "microseconds of 285 years are exact")]
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let value = |point: &Option<Point>| match point {
            Some((_, value)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.data_type),
        };
        match self.of {
            Of::First => value(&self.first),
            Of::Last => value(&self.last),
            Of::Delta => self.difference(),
            Of::Rate => {
                let (Some((first_us, _)), Some((last_us, _))) = (&self.first, &self.last) else {
                    return Ok(ScalarValue::Float64(None));
                };
                let seconds = last_us.saturating_sub(*first_us) as f64 / 1e6;
                let ScalarValue::Float64(Some(difference)) = self.difference()? else {
                    return Ok(ScalarValue::Float64(None));
                };
                Ok(ScalarValue::Float64((seconds > 0.0).then(|| difference / seconds)))
            }
        }
    }

    fn size(&self) -> usize {
        let points = [&self.first, &self.last].into_iter().flatten();
        size_of_val(self) + points.map(|(_, value)| value.size()).sum::<usize>()
    }
}
