//! The groups of one pane: keys interned once, one accumulator for each
//! aggregate. DataFusion's keys and accumulators give their state away when
//! asked for it, so what was taken is merged back with its keys in order.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::{GroupOrdering, GroupOrderingFull};
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Selected;

use super::boxed::Boxed;
use super::direct::{Direct, direct, is_extreme};
use super::evaluated::{Evaluated, is_computed};
use crate::expression::{AggregateColumn, AggregateSelect, columns};

/// What every pane of a window operator has in common.
pub(crate) struct Layout {
    /// Whether all states can be read and set in place.
    pub(super) is_direct: bool,
    pub(crate) keys: Vec<usize>,
    key_schema: SchemaRef,
    pub(crate) aggregates: Vec<AggregateColumn>,
    /// Columns of each aggregate's state.
    state_fields: Vec<Vec<FieldRef>>,
    /// Output columns over (keys…, aggregates…).
    pub(crate) columns: Vec<Selected>,
    /// Keys, then aggregates.
    pub(crate) result_schema: SchemaRef,
}

impl Layout {
    pub(crate) fn new(
        keys: Vec<usize>,
        fields: Vec<FieldRef>,
        select: AggregateSelect,
    ) -> Result<Layout, OperatorError> {
        let mut state_fields = Vec::new();
        let mut result: Vec<FieldRef> = fields.clone();
        for (index, aggregate) in select.aggregates.iter().enumerate() {
            state_fields.push(aggregate.state_fields().map_err(failed)?);
            let field = aggregate.result_field();
            let name = format!("aggregate {index}");
            result.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
        }
        let key_schema = Arc::new(Schema::new(fields));
        let result_schema = Arc::new(Schema::new(result));
        let AggregateSelect { aggregates, columns } = select;
        let is_direct =
            aggregates.iter().all(|aggregate| aggregate.plain.as_ref().and_then(direct).is_some());
        Ok(Layout { is_direct, keys, key_schema, aggregates, state_fields, columns, result_schema })
    }

    /// Empty states of all aggregates that can be read in place.
    pub(crate) fn direct_states(&self) -> Result<Vec<Box<dyn Direct>>, OperatorError> {
        let state = |aggregate: &AggregateColumn| match aggregate.plain.as_ref().and_then(direct) {
            Some(direct) => Ok(direct),
            None => Ok(Box::new(Boxed::new(aggregate.clone())?) as Box<dyn Direct>),
        };
        self.aggregates.iter().map(state).collect()
    }

    pub(crate) fn key_fields(&self) -> &[FieldRef] {
        self.key_schema.fields()
    }

    /// What keys, arguments and filters of a row are, one behind the other.
    pub(super) fn width(&self) -> usize {
        self.keys.len() + self.inputs().count()
    }

    /// Arguments and filters, in their order.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.aggregates.iter().flat_map(|aggregate| aggregate.arguments.iter().chain(&aggregate.filter))
    }

    /// Those that have to be computed, and may fail on a row.
    pub(crate) fn computed(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        self.inputs().filter(|input| is_computed(input))
    }

    /// Columns of the input that keys, arguments and filters read.
    pub(crate) fn reads(&self) -> Vec<usize> {
        self.keys.iter().copied().chain(self.inputs().flat_map(columns)).collect()
    }

    /// Columns of a snapshot row after the pane's start: keys, then states.
    pub(super) fn snapshot_fields(&self) -> Vec<FieldRef> {
        self.key_schema.fields().iter().cloned().chain(self.state_columns()).collect()
    }

    /// Columns of the states of all aggregates.
    pub(super) fn state_columns(&self) -> Vec<FieldRef> {
        let mut fields = Vec::new();
        for (index, states) in self.state_fields.iter().enumerate() {
            for (part, field) in states.iter().enumerate() {
                let name = format!("state {index} {part}");
                fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
            }
        }
        fields
    }
}

/// Keys and states of groups, in group order.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// Key columns, then state columns.
    pub(super) columns: Vec<ArrayRef>,
    pub(super) groups: usize,
}

impl Taken {
    /// Keeps the first `count` groups and answers the others.
    pub(super) fn split_off(&mut self, count: usize) -> Taken {
        let count = count.min(self.groups);
        let rest = self.groups - count;
        let later = self.columns.iter().map(|column| column.slice(count, rest)).collect();
        self.columns = self.columns.iter().map(|column| column.slice(0, count)).collect();
        self.groups = count;
        Taken { columns: later, groups: rest }
    }
}

/// The groups of a pane, or of a window that is being put together.
pub(super) struct Groups {
    keys: Option<Box<dyn GroupValues>>,
    accumulators: Vec<Accumulator>,
    /// Group of each row; kept to spare the allocation.
    indices: Vec<usize>,
    count: usize,
}

enum Accumulator {
    /// All of a direct layout's are, and every minimum and maximum.
    Direct(Box<dyn Direct>),
    Given(Box<dyn GroupsAccumulator>),
}

impl Groups {
    pub(super) fn new(layout: &Layout) -> Result<Groups, OperatorError> {
        let keys = if layout.keys.is_empty() {
            None
        } else {
            let schema = Arc::clone(&layout.key_schema);
            // Numbers must follow the order in which keys come. The library's way for
            // several columns puts keys with equal hashes last, and a NULL changes none.
            let ordering = if layout.is_direct && layout.keys.len() > 1 {
                GroupOrdering::Full(GroupOrderingFull::new())
            } else {
                GroupOrdering::None
            };
            Some(new_group_values(schema, &ordering).map_err(failed)?)
        };
        let accumulator = |aggregate: &AggregateColumn| {
            let own = aggregate.plain.as_ref().filter(|plain| layout.is_direct || is_extreme(plain));
            match own.and_then(direct) {
                Some(direct) => Ok(Accumulator::Direct(direct)),
                None => aggregate.accumulator().map(Accumulator::Given),
            }
        };
        let accumulators: Result<Vec<_>, DataFusionError> =
            layout.aggregates.iter().map(accumulator).collect();
        Ok(Groups { keys, accumulators: accumulators.map_err(failed)?, indices: Vec::new(), count: 0 })
    }

    /// Adds rows.
    pub(super) fn update(&mut self, rows: &Evaluated, count: usize) -> Result<(), OperatorError> {
        self.intern(&rows.keys, count)?;
        for (accumulator, (arguments, filter)) in self.accumulators.iter_mut().zip(rows.inputs()) {
            match accumulator {
                Accumulator::Direct(own) => {
                    own.update(arguments, &self.indices, filter, self.count)?;
                }
                Accumulator::Given(given) => {
                    given.update_batch(arguments, &self.indices, filter, self.count).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// Group of each row that was added last.
    pub(super) fn indices(&self) -> &[usize] {
        &self.indices
    }

    /// Adds groups that were taken from another pane or from a snapshot.
    pub(super) fn merge(&mut self, layout: &Layout, taken: &Taken) -> Result<(), OperatorError> {
        if taken.groups == 0 {
            return Ok(());
        }
        let (keys, states) = taken.columns.split_at_checked(layout.keys.len()).ok_or_else(too_few)?;
        self.intern(keys, taken.groups)?;
        let states = split_states(layout, states)?;
        for (accumulator, states) in self.accumulators.iter_mut().zip(states) {
            match accumulator {
                Accumulator::Direct(own) => own.merge(states, &self.indices, self.count)?,
                Accumulator::Given(given) => {
                    given.merge_batch(states, &self.indices, self.count).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// The states of these groups; direct layouts only.
    pub(super) fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns = Vec::new();
        for accumulator in &mut self.accumulators {
            match accumulator {
                Accumulator::Direct(own) => columns.extend(own.read(groups)?),
                Accumulator::Given(_) => return Err(not_in_place()),
            }
        }
        Ok(columns)
    }

    /// As `read` for groups that stand side by side.
    pub(super) fn read_range(&mut self, groups: Range<usize>) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns = Vec::new();
        for accumulator in &mut self.accumulators {
            match accumulator {
                Accumulator::Direct(own) => columns.extend(own.read_range(groups.clone())?),
                Accumulator::Given(_) => return Err(not_in_place()),
            }
        }
        Ok(columns)
    }

    /// Puts states in the place of what these groups have; direct layouts only.
    pub(super) fn set(
        &mut self,
        layout: &Layout,
        groups: &[usize],
        states: &[ArrayRef],
    ) -> Result<(), OperatorError> {
        if groups.iter().any(|group| *group >= self.count) {
            return Err(OperatorError::new("the state of a group that is not there"));
        }
        let states = split_states(layout, states)?;
        for (accumulator, states) in self.accumulators.iter_mut().zip(states) {
            match accumulator {
                Accumulator::Direct(own) => own.set(states, groups, self.count)?,
                Accumulator::Given(_) => return Err(not_in_place()),
            }
        }
        Ok(())
    }

    /// Gives all groups away and is empty afterwards.
    pub(super) fn take(&mut self) -> Result<Taken, OperatorError> {
        let groups = std::mem::take(&mut self.count);
        if groups == 0 {
            return Ok(Taken::default());
        }
        let mut columns = self.take_keys()?;
        for accumulator in &mut self.accumulators {
            match accumulator {
                Accumulator::Direct(own) => columns.extend(own.take()?),
                Accumulator::Given(given) => columns.extend(given.state(EmitTo::All).map_err(failed)?),
            }
        }
        Ok(Taken { columns, groups })
    }

    /// The results of all groups, as (keys…, aggregates…); empty afterwards.
    pub(super) fn evaluate(&mut self) -> Result<(Vec<ArrayRef>, usize), OperatorError> {
        let groups = std::mem::take(&mut self.count);
        let mut columns = self.take_keys()?;
        for accumulator in &mut self.accumulators {
            columns.push(match accumulator {
                Accumulator::Direct(own) => own.evaluate()?,
                Accumulator::Given(given) => given.evaluate(EmitTo::All).map_err(failed)?,
            });
        }
        Ok((columns, groups))
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Memory of keys and states, about.
    pub(super) fn bytes(&self) -> usize {
        let states = self.accumulators.iter().map(|accumulator| match accumulator {
            Accumulator::Direct(own) => own.bytes(),
            Accumulator::Given(given) => given.size(),
        });
        self.keys.as_ref().map_or(0, |keys| keys.size()) + states.sum::<usize>()
    }

    fn take_keys(&mut self) -> Result<Vec<ArrayRef>, OperatorError> {
        let Some(keys) = &mut self.keys else { return Ok(Vec::new()) };
        let groups = keys.len();
        let taken = keys.emit(EmitTo::All).map_err(failed)?;
        // Those of several columns would go on looking for what they gave away.
        keys.clear_shrink(groups);
        Ok(taken)
    }

    fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> Result<(), OperatorError> {
        match &mut self.keys {
            Some(values) => {
                values.intern(keys, &mut self.indices).map_err(failed)?;
                self.count = values.len();
            }
            None => {
                self.indices.clear();
                self.indices.resize(rows, 0);
                self.count = self.count.max(usize::from(rows > 0));
            }
        }
        Ok(())
    }
}

/// The columns of each aggregate's state.
pub(super) fn split_states<'a>(
    layout: &Layout,
    mut states: &'a [ArrayRef],
) -> Result<Vec<&'a [ArrayRef]>, OperatorError> {
    let mut split = Vec::new();
    for fields in &layout.state_fields {
        let (own, rest) = states.split_at_checked(fields.len()).ok_or_else(too_few)?;
        split.push(own);
        states = rest;
    }
    Ok(split)
}

fn not_in_place() -> OperatorError {
    OperatorError::new("a state that cannot be read or set in place")
}

pub(super) fn too_few() -> OperatorError {
    OperatorError::new("a state with too few columns")
}

#[allow(clippy::needless_pass_by_value, reason = "handed to map_err")]
pub(crate) fn failed(error: DataFusionError) -> OperatorError {
    OperatorError::new(error.strip_backtrace())
}
