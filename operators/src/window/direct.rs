//! Accumulators whose state can be read and set in place, for the aggregates
//! that most windows are made of. DataFusion's give their state away when asked
//! for it. The states are the same as theirs.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, Int64Array,
    PrimitiveArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeType, DataType, Float32Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    UInt64Type,
};
use tidegate_engine::error::OperatorError;

use crate::expression::Plain;

/// The state of one aggregate in every group.
pub(crate) trait Direct: Send {
    /// Adds the arguments of each row to its group.
    fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<(), OperatorError>;

    /// Adds states to groups.
    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError>;

    /// Takes from groups what they have.
    fn empty(&mut self, groups: &[usize], total: usize);

    /// Puts states in the place of what groups have.
    fn set(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError> {
        self.empty(groups, total);
        self.merge(states, groups, total)
    }

    /// The states of these groups, which keep them.
    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError>;

    /// The states of groups that stand side by side.
    fn read_range(&mut self, groups: Range<usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        self.read(&groups.collect::<Vec<_>>())
    }

    /// The results of these groups, which must be emptied before they are used
    /// again.
    fn finish(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError>;

    /// Memory of all groups, about.
    fn bytes(&self) -> usize;

    /// The results of these groups, which keep what they have.
    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        self.finish(groups)
    }

    /// The states of all groups; empty afterwards.
    fn take(&mut self) -> Result<Vec<ArrayRef>, OperatorError>;

    /// The results of all groups; empty afterwards.
    fn evaluate(&mut self) -> Result<ArrayRef, OperatorError>;
}

/// The accumulator of an aggregate, if it has one of this kind.
pub(super) fn direct(plain: &Plain) -> Option<Box<dyn Direct>> {
    let numbers = plain.argument == plain.result;
    match (plain.name.as_str(), &plain.result) {
        ("count", DataType::Int64) => Some(Box::new(Count::default())),
        ("avg", DataType::Float64) if numbers => Some(Box::new(Mean::default())),
        ("sum", DataType::Int64) if numbers => Some(sum::<Int64Type>(plain)),
        ("sum", DataType::UInt64) if numbers => Some(sum::<UInt64Type>(plain)),
        ("sum", DataType::Float64) if numbers => Some(sum::<Float64Type>(plain)),
        ("min" | "max", DataType::Int64) if numbers => Some(extreme::<Int64Type>(plain)),
        ("min" | "max", DataType::UInt64) if numbers => Some(extreme::<UInt64Type>(plain)),
        ("min" | "max", DataType::Float32) if numbers => Some(extreme::<Float32Type>(plain)),
        ("min" | "max", DataType::Float64) if numbers => Some(extreme::<Float64Type>(plain)),
        ("min" | "max", DataType::Timestamp(TimeUnit::Microsecond, _)) if numbers => {
            Some(extreme::<TimestampMicrosecondType>(plain))
        }
        _ => None,
    }
}

fn sum<T: ArrowPrimitiveType>(plain: &Plain) -> Box<dyn Direct> {
    Box::new(Fold::<T, _>::new(plain, |known: T::Native, new| known.add_wrapping(new)))
}

/// Whether it is a minimum or maximum: the library's for groups depend on the
/// order in which NaN and numbers come.
pub(super) fn is_extreme(plain: &Plain) -> bool {
    matches!(plain.name.as_str(), "min" | "max")
}

/// In the total order of IEEE 754, as the library sorts: NaN is greater than
/// every number, or less if its sign is set, and -0.0 is less than 0.0, in
/// whatever order values come and states are merged.
fn extreme<T: ArrowPrimitiveType>(plain: &Plain) -> Box<dyn Direct> {
    if plain.name == "min" {
        Box::new(Fold::<T, _>::new(plain, |known: T::Native, new| if new.is_lt(known) { new } else { known }))
    } else {
        Box::new(Fold::<T, _>::new(plain, |known: T::Native, new| if new.is_gt(known) { new } else { known }))
    }
}

/// Calls with the group and the value of each row that counts.
fn each<T: ArrowPrimitiveType>(
    values: &PrimitiveArray<T>,
    groups: &[usize],
    filter: Option<&BooleanArray>,
    mut take: impl FnMut(usize, T::Native),
) {
    let rows = groups.iter().zip(values.values());
    match (values.nulls().filter(|nulls| nulls.null_count() > 0), filter) {
        (None, None) => rows.for_each(|(group, value)| take(*group, *value)),
        (nulls, filter) => {
            for (row, (group, value)) in rows.enumerate() {
                if nulls.is_none_or(|nulls| nulls.is_valid(row)) && passes(filter, row) {
                    take(*group, *value);
                }
            }
        }
    }
}

fn passes(filter: Option<&BooleanArray>, row: usize) -> bool {
    filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row))
}

fn column<T: ArrowPrimitiveType>(array: Option<&ArrayRef>) -> Result<&PrimitiveArray<T>, OperatorError> {
    let column = array.and_then(|array| array.as_primitive_opt::<T>());
    column.ok_or_else(|| OperatorError::new("a state or argument of another type"))
}

fn at<T: Copy + Default>(values: &[T], group: usize) -> T {
    values.get(group).copied().unwrap_or_default()
}

/// As `at` for groups side by side.
fn copied<T: Copy + Default>(values: &[T], groups: &Range<usize>) -> Vec<T> {
    let mut copied = values.get(groups.start..groups.end.min(values.len())).unwrap_or_default().to_vec();
    copied.resize(groups.len(), T::default());
    copied
}

/// Values that are folded into one of their kind.
struct Fold<T: ArrowPrimitiveType, F> {
    values: Vec<T::Native>,
    /// Whether a group has seen a value.
    seen: Vec<bool>,
    fold: F,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType, F: Fn(T::Native, T::Native) -> T::Native + Send> Fold<T, F> {
    fn new(plain: &Plain, fold: F) -> Fold<T, F> {
        Fold { values: Vec::new(), seen: Vec::new(), fold, data_type: plain.result.clone() }
    }

    fn grow(&mut self, total: usize) {
        self.values.resize(total, T::Native::usize_as(0));
        self.seen.resize(total, false);
    }

    fn array(&self, values: Vec<T::Native>, seen: &[bool]) -> ArrayRef {
        let nulls = seen.contains(&false).then(|| NullBuffer::from(seen));
        Arc::new(PrimitiveArray::<T>::new(values.into(), nulls).with_data_type(self.data_type.clone()))
    }
}

impl<T: ArrowPrimitiveType, F: Fn(T::Native, T::Native) -> T::Native + Send> Direct for Fold<T, F> {
    fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<(), OperatorError> {
        self.grow(total);
        let Fold { values: known, seen, fold, .. } = self;
        each(column::<T>(arguments.first())?, groups, filter, |group, value| {
            if let (Some(known), Some(seen)) = (known.get_mut(group), seen.get_mut(group)) {
                *known = if std::mem::replace(seen, true) { fold(*known, value) } else { value };
            }
        });
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError> {
        self.update(states, groups, None, total)
    }

    fn empty(&mut self, groups: &[usize], total: usize) {
        self.grow(total);
        for group in groups {
            self.seen.get_mut(*group).into_iter().for_each(|seen| *seen = false);
        }
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.finish(groups)?])
    }

    fn read_range(&mut self, groups: Range<usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.array(copied(&self.values, &groups), &copied(&self.seen, &groups))])
    }

    fn finish(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let values = groups.iter().map(|group| at(&self.values, *group)).collect();
        let seen: Vec<bool> = groups.iter().map(|group| at(&self.seen, *group)).collect();
        Ok(self.array(values, &seen))
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T::Native>() + self.seen.capacity()
    }

    fn take(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ArrayRef, OperatorError> {
        let (values, seen) = (std::mem::take(&mut self.values), std::mem::take(&mut self.seen));
        Ok(self.array(values, &seen))
    }
}

/// `count`.
#[derive(Default)]
struct Count {
    counts: Vec<i64>,
}

impl Direct for Count {
    fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<(), OperatorError> {
        self.counts.resize(total, 0);
        let counts = &mut self.counts;
        let mut add = |group: usize| counts.get_mut(group).into_iter().for_each(|count| *count += 1);
        let nulls = arguments.first().and_then(|values| values.logical_nulls());
        match (nulls.filter(|nulls| nulls.null_count() > 0), filter) {
            (None, None) => groups.iter().for_each(|group| add(*group)),
            (nulls, filter) => {
                for (row, group) in groups.iter().enumerate() {
                    if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) && passes(filter, row) {
                        add(*group);
                    }
                }
            }
        }
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError> {
        self.counts.resize(total, 0);
        let counts = &mut self.counts;
        each(column::<Int64Type>(states.first())?, groups, None, |group, more| {
            counts.get_mut(group).into_iter().for_each(|count| *count += more);
        });
        Ok(())
    }

    fn empty(&mut self, groups: &[usize], total: usize) {
        self.counts.resize(total, 0);
        for group in groups {
            self.counts.get_mut(*group).into_iter().for_each(|count| *count = 0);
        }
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.finish(groups)?])
    }

    fn read_range(&mut self, groups: Range<usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![Arc::new(Int64Array::from(copied(&self.counts, &groups)))])
    }

    fn finish(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        Ok(Arc::new(Int64Array::from_iter_values(groups.iter().map(|group| at(&self.counts, *group)))))
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<i64>()
    }

    fn take(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(vec![self.evaluate()?])
    }

    fn evaluate(&mut self) -> Result<ArrayRef, OperatorError> {
        Ok(Arc::new(Int64Array::from(std::mem::take(&mut self.counts))))
    }
}

/// `avg`: how many, and their sum.
#[derive(Default)]
struct Mean {
    counts: Vec<u64>,
    sums: Vec<f64>,
}

impl Mean {
    fn grow(&mut self, total: usize) {
        self.counts.resize(total, 0);
        self.sums.resize(total, 0.0);
    }

    fn add(&mut self, group: usize, count: u64, sum: f64) {
        if let (Some(known_count), Some(known_sum)) = (self.counts.get_mut(group), self.sums.get_mut(group)) {
            *known_count += count;
            *known_sum += sum;
        }
    }

    fn states(counts: Vec<u64>, sums: Vec<f64>) -> Vec<ArrayRef> {
        let is_null = |count: &u64| *count == 0;
        let nulls = counts.iter().any(is_null).then(|| counts.iter().map(|count| !is_null(count)).collect());
        vec![
            Arc::new(UInt64Array::new(counts.into(), nulls.clone())),
            Arc::new(Float64Array::new(sums.into(), nulls)),
        ]
    }
}

impl Direct for Mean {
    fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<(), OperatorError> {
        self.grow(total);
        let values = column::<Float64Type>(arguments.first())?;
        each(values, groups, filter, |group, value| self.add(group, 1, value));
        Ok(())
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError> {
        self.grow(total);
        let (counts, sums) = (column::<UInt64Type>(states.first())?, column::<Float64Type>(states.get(1))?);
        for ((group, count), sum) in groups.iter().zip(counts).zip(sums) {
            if let (Some(count), Some(sum)) = (count, sum) {
                self.add(*group, count, sum);
            }
        }
        Ok(())
    }

    fn empty(&mut self, groups: &[usize], total: usize) {
        self.grow(total);
        for group in groups {
            self.counts.get_mut(*group).into_iter().for_each(|count| *count = 0);
            self.sums.get_mut(*group).into_iter().for_each(|sum| *sum = 0.0);
        }
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let counts = groups.iter().map(|group| at(&self.counts, *group)).collect();
        let sums = groups.iter().map(|group| at(&self.sums, *group)).collect();
        Ok(Mean::states(counts, sums))
    }

    fn read_range(&mut self, groups: Range<usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(Mean::states(copied(&self.counts, &groups), copied(&self.sums, &groups)))
    }

    fn finish(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let group = |group: &usize| mean(at(&self.sums, *group), at(&self.counts, *group));
        Ok(Arc::new(groups.iter().map(group).collect::<Float64Array>()))
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u64>() + self.sums.capacity() * size_of::<f64>()
    }

    fn take(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(Mean::states(std::mem::take(&mut self.counts), std::mem::take(&mut self.sums)))
    }

    fn evaluate(&mut self) -> Result<ArrayRef, OperatorError> {
        let (counts, sums) = (std::mem::take(&mut self.counts), std::mem::take(&mut self.sums));
        let groups = sums.into_iter().zip(counts).map(|(sum, count)| mean(sum, count));
        Ok(Arc::new(groups.collect::<Float64Array>()))
    }
}

#[allow(clippy::cast_precision_loss, reason = "an average of more than 2^53 rows is as exact as that")]
fn mean(sum: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| sum / count as f64)
}
