//! What the aggregates of every key have. A key's number is its place.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use tidegate_engine::error::OperatorError;

use super::counted::{counted, passes};
use super::multiset::Multiset;
use crate::expression::AggregateColumn;
use crate::in_order::shape;
use crate::window::{Direct, Layout, failed};

/// Rows for one aggregate.
pub(super) struct Changed<'a> {
    pub(super) arguments: &'a [ArrayRef],
    /// The place of each row's key.
    pub(super) groups: &'a [usize],
    pub(super) filter: Option<&'a BooleanArray>,
    /// Which rows give a value; all if left out, the others take one back.
    pub(super) gives: Option<&'a BooleanArray>,
    /// Places there are.
    pub(super) total: usize,
}

impl Changed<'_> {
    /// Row, place and whether it gives, of each row that counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, usize, bool)> + '_ {
        let gives = |row| self.gives.is_none_or(|gives| gives.value(row));
        let rows = self.groups.iter().enumerate().filter(|(row, _)| passes(self.filter, *row));
        rows.map(move |(row, group)| (row, *group, gives(row)))
    }
}

/// The state of one aggregate for every key, which can be asked at any time.
pub(super) trait Updating: Send {
    /// Gives values and takes them back.
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError>;

    /// Nothing is there any more.
    fn empty(&mut self, groups: &[usize]);

    /// What the aggregate is for these keys.
    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError>;

    /// Memory of all keys, about.
    fn bytes(&self) -> usize;

    /// Types of the columns of `read`.
    fn state_types(&self) -> Vec<DataType>;

    /// The states of these keys, which keep them.
    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError>;

    /// Takes back states of keys numbered in this order; it has none before.
    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError>;
}

/// States of all aggregates; of rows that may be taken back, if the input is a
/// changelog.
pub(super) fn states(layout: &Layout, is_changelog: bool) -> Result<Vec<Box<dyn Updating>>, OperatorError> {
    if is_changelog {
        return layout.aggregates.iter().map(retractable).collect();
    }
    let direct = layout.direct_states()?.into_iter().zip(&layout.aggregates);
    let growing = |(direct, aggregate): (Box<dyn Direct>, &AggregateColumn)| {
        let fields = aggregate.state_fields().map_err(failed)?;
        let types = fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Box::new(Growing { direct, types, total: 0 }) as Box<dyn Updating>)
    };
    direct.map(growing).collect()
}

fn retractable(aggregate: &AggregateColumn) -> Result<Box<dyn Updating>, OperatorError> {
    match aggregate.plain.as_ref().and_then(counted) {
        Some(counted) => Ok(counted),
        None => Ok(Box::new(Multiset::new(aggregate.clone())?)),
    }
}

/// An aggregate of rows that stand.
struct Growing {
    direct: Box<dyn Direct>,
    types: Vec<DataType>,
    total: usize,
}

impl Updating for Growing {
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError> {
        if rows.gives.is_some_and(|gives| gives.has_false()) {
            return Err(OperatorError::new("a row that stands is taken back"));
        }
        self.total = rows.total;
        self.direct.update(rows.arguments, rows.groups, rows.filter, rows.total)
    }

    fn empty(&mut self, groups: &[usize]) {
        self.direct.empty(groups, self.total);
    }

    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        self.direct.results(groups)
    }

    fn bytes(&self) -> usize {
        self.direct.bytes()
    }

    fn state_types(&self) -> Vec<DataType> {
        self.types.clone()
    }

    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        self.direct.read(groups)
    }

    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError> {
        self.total = states.first().ok_or_else(shape)?.len();
        let all: Vec<usize> = (0..self.total).collect();
        self.direct.merge(states, &all, self.total)
    }
}
