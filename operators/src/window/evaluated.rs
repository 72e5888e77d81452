//! What accumulators are fed with.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use tidegate_engine::error::OperatorError;

use super::pane::{Layout, failed, too_few};

/// The values of a batch that accumulators are fed with, evaluated once.
pub(crate) struct Evaluated {
    pub(crate) keys: Vec<ArrayRef>,
    arguments: Vec<Vec<ArrayRef>>,
    filters: Vec<Option<BooleanArray>>,
}

/// Whether it is more than a column or a constant.
pub(super) fn is_computed(expression: &Arc<dyn PhysicalExpr>) -> bool {
    expression.downcast_ref::<Column>().is_none() && expression.downcast_ref::<Literal>().is_none()
}

impl Evaluated {
    /// Takes from `values` what was computed when the rows came.
    pub(crate) fn with(
        layout: &Layout,
        batch: &RecordBatch,
        values: &[ArrayRef],
    ) -> Result<Evaluated, OperatorError> {
        let mut values = values.iter();
        let mut columns: Vec<ArrayRef> =
            layout.keys.iter().filter_map(|index| batch.columns().get(*index).cloned()).collect();
        for input in layout.inputs() {
            columns.push(if is_computed(input) {
                Arc::clone(values.next().ok_or_else(too_few)?)
            } else {
                input.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())).map_err(failed)?
            });
        }
        Evaluated::of_columns(layout, &columns)
    }

    /// Keys, arguments and filters, one behind the other.
    pub(super) fn of_columns(layout: &Layout, columns: &[ArrayRef]) -> Result<Evaluated, OperatorError> {
        let (keys, mut rest) = columns.split_at_checked(layout.keys.len()).ok_or_else(too_few)?;
        let (mut arguments, mut filters) = (Vec::new(), Vec::new());
        for aggregate in &layout.aggregates {
            let (own, behind) = rest.split_at_checked(aggregate.arguments.len()).ok_or_else(too_few)?;
            let filter = if aggregate.filter.is_some() { behind.first() } else { None };
            rest = if filter.is_some() { behind.get(1..).unwrap_or_default() } else { behind };
            arguments.push(own.to_vec());
            filters.push(filter.map(|mask| mask.as_boolean().clone()));
        }
        Ok(Evaluated { keys: keys.to_vec(), arguments, filters })
    }

    /// As `of_columns` takes them.
    pub(super) fn columns(&self) -> Vec<ArrayRef> {
        let mut columns = self.keys.clone();
        for (arguments, filter) in self.arguments.iter().zip(&self.filters) {
            columns.extend(arguments.iter().cloned());
            columns.extend(filter.iter().map(|mask| Arc::new(mask.clone()) as ArrayRef));
        }
        columns
    }

    /// Evaluates keys, arguments and filters on a batch.
    pub(super) fn of(layout: &Layout, batch: &RecordBatch) -> Result<Evaluated, OperatorError> {
        let rows = batch.num_rows();
        let keys = layout.keys.iter().filter_map(|index| batch.columns().get(*index).cloned()).collect();
        let mut arguments = Vec::new();
        let mut filters = Vec::new();
        for aggregate in &layout.aggregates {
            let values: Result<Vec<ArrayRef>, DataFusionError> = aggregate
                .arguments
                .iter()
                .map(|argument| argument.evaluate(batch).and_then(|value| value.into_array(rows)))
                .collect();
            arguments.push(values.map_err(failed)?);
            let filter = aggregate.filter.as_ref();
            let filter = filter.map(|filter| filter.evaluate(batch).and_then(|value| value.into_array(rows)));
            filters.push(filter.transpose().map_err(failed)?.map(|mask| mask.as_boolean().clone()));
        }
        Ok(Evaluated { keys, arguments, filters })
    }

    /// Arguments and filter of each aggregate.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&[ArrayRef], Option<&BooleanArray>)> {
        self.arguments.iter().map(Vec::as_slice).zip(self.filters.iter().map(Option::as_ref))
    }

    /// The same for rows that stand together.
    pub(super) fn slice(&self, rows: &Range<usize>) -> Evaluated {
        let slice = |values: &Vec<ArrayRef>| -> Vec<ArrayRef> {
            values.iter().map(|values| values.slice(rows.start, rows.len())).collect()
        };
        let filter =
            |mask: &Option<BooleanArray>| mask.as_ref().map(|mask| mask.slice(rows.start, rows.len()));
        Evaluated {
            keys: slice(&self.keys),
            arguments: self.arguments.iter().map(slice).collect(),
            filters: self.filters.iter().map(filter).collect(),
        }
    }

    /// The same for these rows only.
    pub(crate) fn take(&self, rows: &UInt32Array) -> Result<Evaluated, OperatorError> {
        let take = |values: &Vec<ArrayRef>| -> Result<Vec<ArrayRef>, OperatorError> {
            values.iter().map(|values| Ok(arrow::compute::take(values, rows, None)?)).collect()
        };
        let filters: Result<Vec<Option<BooleanArray>>, OperatorError> = self
            .filters
            .iter()
            .map(|filter| match filter {
                Some(mask) => Ok(Some(arrow::compute::take(mask, rows, None)?.as_boolean().clone())),
                None => Ok(None),
            })
            .collect();
        let arguments: Result<Vec<Vec<ArrayRef>>, OperatorError> = self.arguments.iter().map(take).collect();
        Ok(Evaluated { keys: take(&self.keys)?, arguments: arguments?, filters: filters? })
    }
}
