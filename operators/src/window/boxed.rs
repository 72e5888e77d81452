//! Any aggregate of DataFusion as one whose states can be read in place: an
//! accumulator of its own for each group.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;
use tidegate_engine::error::OperatorError;

use super::direct::Direct;
use super::pane::failed;
use crate::expression::AggregateColumn;

pub(super) struct Boxed {
    aggregate: AggregateColumn,
    /// Types of the state's columns.
    state_types: Vec<DataType>,
    /// `None`: no row and no state has come.
    groups: Vec<Option<Box<dyn Accumulator>>>,
}

impl Boxed {
    pub(super) fn new(aggregate: AggregateColumn) -> Result<Boxed, OperatorError> {
        let fields = aggregate.state_fields().map_err(failed)?;
        let state_types = fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Boxed { aggregate, state_types, groups: Vec::new() })
    }

    fn of(&mut self, group: usize) -> Result<&mut Box<dyn Accumulator>, OperatorError> {
        let place = self.groups.get_mut(group).ok_or_else(|| OperatorError::new("a group out of range"))?;
        if place.is_none() {
            *place = Some(self.aggregate.single().map_err(failed)?);
        }
        place.as_mut().ok_or_else(|| OperatorError::new("an accumulator that is not there"))
    }

    /// Calls with each group and its rows, which stay in their order.
    fn each(
        &mut self,
        columns: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        mut work: impl FnMut(&mut dyn Accumulator, &[ArrayRef]) -> Result<(), DataFusionError>,
    ) -> Result<(), OperatorError> {
        let passes = |row: &usize| filter.is_none_or(|mask| mask.is_valid(*row) && mask.value(*row));
        let mut order: Vec<(usize, usize)> =
            (0..groups.len()).filter(passes).filter_map(|row| Some((*groups.get(row)?, row))).collect();
        order.sort_unstable();
        let rows: Result<Vec<u32>, _> = order.iter().map(|(_, row)| u32::try_from(*row)).collect();
        let rows = UInt32Array::from(rows.map_err(OperatorError::new)?);
        let sorted: Result<Vec<ArrayRef>, _> =
            columns.iter().map(|column| take(column, &rows, None)).collect();
        let sorted = sorted?;
        let mut start = 0;
        for same in order.chunk_by(|a, b| a.0 == b.0) {
            let part: Vec<ArrayRef> = sorted.iter().map(|column| column.slice(start, same.len())).collect();
            start += same.len();
            if let Some((group, _)) = same.first() {
                work(self.of(*group)?.as_mut(), &part).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Direct for Boxed {
    fn update(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<(), OperatorError> {
        self.groups.resize_with(total, || None);
        self.each(arguments, groups, filter, |accumulator, rows| accumulator.update_batch(rows))
    }

    fn merge(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<(), OperatorError> {
        self.groups.resize_with(total, || None);
        self.each(states, groups, None, |accumulator, rows| accumulator.merge_batch(rows))
    }

    fn empty(&mut self, groups: &[usize], total: usize) {
        self.groups.resize_with(total, || None);
        for group in groups {
            self.groups.get_mut(*group).into_iter().for_each(|place| *place = None);
        }
    }

    /// An accumulator gives its state away when asked, so it is made anew.
    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns: Vec<Vec<ScalarValue>> = self.state_types.iter().map(|_| Vec::new()).collect();
        for group in groups {
            if *group >= self.groups.len() {
                self.groups.resize_with(*group + 1, || None);
            }
            let state = self.of(*group)?.state().map_err(failed)?;
            let arrays: Result<Vec<ArrayRef>, DataFusionError> =
                state.iter().map(|value| value.to_array()).collect();
            let mut fresh = self.aggregate.single().map_err(failed)?;
            fresh.merge_batch(&arrays.map_err(failed)?).map_err(failed)?;
            if let Some(place) = self.groups.get_mut(*group) {
                *place = Some(fresh);
            }
            columns.iter_mut().zip(state).for_each(|(column, value)| column.push(value));
        }
        let arrays = columns.into_iter().zip(&self.state_types).map(|(values, data_type)| {
            if values.is_empty() {
                return Ok(new_empty_array(data_type));
            }
            ScalarValue::iter_to_array(values).map_err(failed)
        });
        arrays.collect()
    }

    fn finish(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let mut values = Vec::with_capacity(groups.len());
        for group in groups {
            if *group >= self.groups.len() {
                self.groups.resize_with(*group + 1, || None);
            }
            values.push(self.of(*group)?.evaluate().map_err(failed)?);
        }
        if values.is_empty() {
            return Ok(new_empty_array(self.aggregate.result_field().data_type()));
        }
        ScalarValue::iter_to_array(values).map_err(failed)
    }

    fn bytes(&self) -> usize {
        let held: usize = self.groups.iter().flatten().map(|accumulator| accumulator.size()).sum();
        self.groups.capacity() * size_of::<Option<Box<dyn Accumulator>>>() + held
    }

    /// An accumulator may give its state away with its result, so copies are asked.
    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let states = self.read(groups)?;
        let mut copies = Boxed::new(self.aggregate.clone())?;
        let all: Vec<usize> = (0..groups.len()).collect();
        copies.merge(&states, &all, all.len())?;
        copies.finish(&all)
    }

    fn take(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        let all: Vec<usize> = (0..self.groups.len()).collect();
        let states = self.read(&all);
        self.groups.clear();
        states
    }

    fn evaluate(&mut self) -> Result<ArrayRef, OperatorError> {
        let all: Vec<usize> = (0..self.groups.len()).collect();
        let results = self.finish(&all);
        self.groups.clear();
        results
    }
}
