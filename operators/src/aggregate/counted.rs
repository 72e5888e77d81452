//! Aggregates that a number or two stand for, so that a value is taken back by
//! subtraction. Whole numbers and decimals stay exact. A sum of floats may keep
//! a rest of what was taken back, until its last value is; what is not finite
//! is counted beside the sum, so that it leaves no trace. A sum of finite values
//! that itself becomes infinite stays so until the last value of its key has gone.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, Int64Array,
    PrimitiveArray,
};
use arrow::datatypes::{ArrowNativeType, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use tidegate_engine::error::OperatorError;

use super::states::{Changed, Updating};
use crate::expression::Plain;
use crate::in_order::shape;

/// The state of an aggregate of this kind.
pub(super) fn counted(plain: &Plain) -> Option<Box<dyn Updating>> {
    let same = plain.argument == plain.result;
    match (plain.name.as_str(), &plain.argument, &plain.result) {
        ("count", _, DataType::Int64) => Some(Box::new(Count::default())),
        ("sum", DataType::Int64, _) if same => Some(sum::<Int64Type>(plain)),
        ("sum", DataType::UInt64, _) if same => Some(sum::<UInt64Type>(plain)),
        ("sum", DataType::Decimal128(_, scale), DataType::Decimal128(_, of_sum)) if scale == of_sum => {
            Some(sum::<Decimal128Type>(plain))
        }
        ("sum", DataType::Float64, _) if same => Some(Box::new(Floats { is_mean: false, sums: Vec::new() })),
        ("avg", DataType::Float64, _) if same => Some(Box::new(Floats { is_mean: true, sums: Vec::new() })),
        _ => None,
    }
}

fn sum<T: ArrowPrimitiveType>(plain: &Plain) -> Box<dyn Updating> {
    Box::new(Sum::<T> { sums: Vec::new(), counts: Vec::new(), data_type: plain.result.clone() })
}

fn typed<T: ArrowPrimitiveType>(column: Option<&ArrayRef>) -> Result<&PrimitiveArray<T>, OperatorError> {
    column.and_then(|column| column.as_primitive_opt::<T>()).ok_or_else(shape)
}

/// One more, or one fewer.
fn one(gives: bool) -> i64 {
    if gives { 1 } else { -1 }
}

#[derive(Default)]
struct Count {
    counts: Vec<i64>,
}

impl Updating for Count {
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError> {
        self.counts.resize(rows.total, 0);
        let nulls = rows.arguments.first().and_then(|values| values.logical_nulls());
        for (row, group, gives) in rows.iter() {
            if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                self.counts.get_mut(group).into_iter().for_each(|count| *count += one(gives));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }

    fn empty(&mut self, groups: &[usize]) {
        for group in groups {
            self.counts.get_mut(*group).into_iter().for_each(|count| *count = 0);
        }
    }

    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let counts = groups.iter().map(|group| self.counts.get(*group).copied().unwrap_or_default());
        Ok(Arc::new(Int64Array::from_iter_values(counts)))
    }

    fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Int64]
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.results(groups)?])
    }

    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError> {
        self.counts = typed::<Int64Type>(states.first())?.values().to_vec();
        Ok(())
    }
}

struct Sum<T: ArrowPrimitiveType> {
    sums: Vec<T::Native>,
    /// How many values are in it: without any there is no sum.
    counts: Vec<i64>,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Updating for Sum<T> {
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError> {
        self.sums.resize(rows.total, T::Native::usize_as(0));
        self.counts.resize(rows.total, 0);
        let values = typed::<T>(rows.arguments.first())?;
        for (row, group, gives) in rows.iter().filter(|(row, ..)| values.is_valid(*row)) {
            if let (Some(sum), Some(count)) = (self.sums.get_mut(group), self.counts.get_mut(group)) {
                let value = values.value(row);
                *sum = if gives { sum.add_wrapping(value) } else { sum.sub_wrapping(value) };
                *count += one(gives);
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<T::Native>() + self.counts.capacity() * size_of::<i64>()
    }

    fn empty(&mut self, groups: &[usize]) {
        for group in groups {
            self.sums.get_mut(*group).into_iter().for_each(|sum| *sum = T::Native::usize_as(0));
            self.counts.get_mut(*group).into_iter().for_each(|count| *count = 0);
        }
    }

    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let sum = |group: &usize| {
            let count = self.counts.get(*group).copied().unwrap_or_default();
            self.sums.get(*group).copied().filter(|_| count != 0)
        };
        let sums: PrimitiveArray<T> = groups.iter().map(sum).collect();
        Ok(Arc::new(sums.with_data_type(self.data_type.clone())))
    }

    fn state_types(&self) -> Vec<DataType> {
        vec![self.data_type.clone(), DataType::Int64]
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let zero = T::Native::usize_as(0);
        let sums = groups.iter().map(|group| self.sums.get(*group).copied().unwrap_or(zero));
        let sums = PrimitiveArray::<T>::from_iter_values(sums).with_data_type(self.data_type.clone());
        let counts = groups.iter().map(|group| self.counts.get(*group).copied().unwrap_or_default());
        Ok(vec![Arc::new(sums), Arc::new(Int64Array::from_iter_values(counts))])
    }

    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError> {
        self.sums = typed::<T>(states.first())?.values().to_vec();
        self.counts = typed::<Int64Type>(states.get(1))?.values().to_vec();
        Ok(())
    }
}

/// A sum of floats, or their mean.
struct Floats {
    is_mean: bool,
    sums: Vec<FloatSum>,
}

#[derive(Clone, Copy, Default)]
struct FloatSum {
    sum: f64,
    /// All values.
    count: i64,
    nan: i64,
    positive: i64,
    negative: i64,
}

impl FloatSum {
    fn change(&mut self, value: f64, gives: bool) {
        let one = one(gives);
        self.count += one;
        if value.is_nan() {
            self.nan += one;
        } else if value == f64::INFINITY {
            self.positive += one;
        } else if value == f64::NEG_INFINITY {
            self.negative += one;
        } else if gives {
            self.sum += value;
        } else {
            self.sum -= value;
        }
        if self.count == 0 {
            self.sum = 0.0;
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a mean of more than 2^53 rows is as exact as that")]
    fn result(&self, is_mean: bool) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        Some(match (self.nan > 0, self.positive > 0, self.negative > 0) {
            (true, ..) | (_, true, true) => f64::NAN,
            (_, true, _) => f64::INFINITY,
            (_, _, true) => f64::NEG_INFINITY,
            _ if is_mean => self.sum / self.count as f64,
            _ => self.sum,
        })
    }
}

impl Updating for Floats {
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError> {
        self.sums.resize(rows.total, FloatSum::default());
        let values = typed::<Float64Type>(rows.arguments.first())?;
        for (row, group, gives) in rows.iter().filter(|(row, ..)| values.is_valid(*row)) {
            let sum = self.sums.get_mut(group);
            sum.into_iter().for_each(|sum| sum.change(values.value(row), gives));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<FloatSum>()
    }

    fn empty(&mut self, groups: &[usize]) {
        for group in groups {
            self.sums.get_mut(*group).into_iter().for_each(|sum| *sum = FloatSum::default());
        }
    }

    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let result = |group: &usize| self.sums.get(*group)?.result(self.is_mean);
        Ok(Arc::new(groups.iter().map(result).collect::<Float64Array>()))
    }

    fn state_types(&self) -> Vec<DataType> {
        vec![DataType::Float64, DataType::Int64, DataType::Int64, DataType::Int64, DataType::Int64]
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let sums: Vec<FloatSum> =
            groups.iter().map(|group| self.sums.get(*group).copied().unwrap_or_default()).collect();
        let numbers = |of: fn(&FloatSum) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(sums.iter().map(of)))
        };
        Ok(vec![
            Arc::new(Float64Array::from_iter_values(sums.iter().map(|sum| sum.sum))),
            numbers(|sum| sum.count),
            numbers(|sum| sum.nan),
            numbers(|sum| sum.positive),
            numbers(|sum| sum.negative),
        ])
    }

    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError> {
        let sums = typed::<Float64Type>(states.first())?;
        let numbers =
            |column: usize| Ok::<_, OperatorError>(typed::<Int64Type>(states.get(column))?.values());
        let counts = numbers(1)?.iter().zip(numbers(2)?.iter());
        let infinite = numbers(3)?.iter().zip(numbers(4)?.iter());
        let all = sums.values().iter().zip(counts).zip(infinite);
        self.sums = all
            .map(|((sum, (count, nan)), (positive, negative))| FloatSum {
                sum: *sum,
                count: *count,
                nan: *nan,
                positive: *positive,
                negative: *negative,
            })
            .collect();
        Ok(())
    }
}

/// Rows that this aggregate's filter lets through.
pub(super) fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}
