//! Any aggregate of values that may be taken back in any order: the values
//! themselves are kept. The least and the greatest are at its ends; all others
//! are computed anew from what is left, in the order it came.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, ListArray, StructArray, UInt64Array, new_empty_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type, Schema, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::scalar::ScalarValue;
use tidegate_engine::error::OperatorError;

use super::states::{Changed, Updating};
use crate::expression::AggregateColumn;
use crate::in_order::{Kept, shape};
use crate::window::failed;

pub(super) struct Multiset {
    aggregate: AggregateColumn,
    ends: Option<End>,
    values: Kept,
    fields: Vec<Field>,
    groups: Vec<Bag>,
    /// Values that have come.
    arrived: u64,
}

/// Which end of the order an aggregate asks for.
#[derive(Clone, Copy)]
enum End {
    Least,
    Greatest,
}

/// By the values of all arguments, whose bytes have their order.
type Bag = BTreeMap<Box<[u8]>, Entry>;

/// Equal values.
#[derive(Default)]
struct Entry {
    /// When each of them came, oldest first.
    arrivals: VecDeque<u64>,
    /// So many were taken back before they came.
    owed: i64,
}

impl Multiset {
    pub(super) fn new(aggregate: AggregateColumn) -> Result<Multiset, OperatorError> {
        let types = &aggregate.argument_types;
        for data_type in types {
            if !RowConverter::supports_fields(&[SortField::new(data_type.clone())]) {
                let message =
                    format!("values of the type {data_type} cannot be told from each other to be taken back");
                return Err(OperatorError::new(message));
            }
        }
        // Whatever is wrong with it is told when the file is loaded.
        aggregate.single().map_err(failed)?;
        let named = types.iter().enumerate();
        let fields: Vec<Field> = named
            .map(|(index, data_type)| Field::new(format!("value {index}"), data_type.clone(), true))
            .collect();
        let all = (0..fields.len()).collect();
        let values = Kept::new(&Arc::new(Schema::new(fields.clone())), all)?;
        let plain = aggregate.plain.as_ref();
        let plain = plain.filter(|plain| plain.argument == plain.result && !plain.argument.is_nested());
        let ends = match plain.map(|plain| plain.name.as_str()) {
            Some("min") => Some(End::Least),
            Some("max") => Some(End::Greatest),
            _ => None,
        };
        Ok(Multiset { aggregate, ends, values, fields, groups: Vec::new(), arrived: 0 })
    }

    /// Least or greatest values.
    fn extremes(&self, end: End, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        let extreme = |group: &usize| {
            let mut entries = self.groups.get(*group)?.iter().filter(|(_, entry)| !entry.arrivals.is_empty());
            let found = match end {
                End::Least => entries.next(),
                End::Greatest => entries.next_back(),
            };
            found.map(|(value, _)| value.as_ref())
        };
        self.values.decode(groups.iter().map(extreme))?.pop().ok_or_else(shape)
    }

    /// The aggregate over what is there.
    fn computed(&self, group: usize) -> Result<ScalarValue, OperatorError> {
        let mut accumulator = self.aggregate.single().map_err(failed)?;
        let entries = self.groups.get(group).into_iter().flatten();
        let mut values: Vec<(u64, &[u8])> = entries
            .flat_map(|(value, entry)| entry.arrivals.iter().map(|arrival| (*arrival, value.as_ref())))
            .collect();
        if !values.is_empty() {
            values.sort_unstable();
            let columns = self.values.decode(values.into_iter().map(|(_, value)| Some(value)))?;
            accumulator.update_batch(&columns).map_err(failed)?;
        }
        accumulator.evaluate().map_err(failed)
    }

    fn item(&self) -> Fields {
        let mut fields = self.fields.clone();
        fields.push(Field::new("arrived", DataType::UInt64, false));
        fields.push(Field::new("owed", DataType::Int64, false));
        fields.into()
    }
}

fn change(bag: &mut Bag, value: &[u8], arrived: u64, gives: bool) {
    let entry = match bag.get_mut(value) {
        Some(entry) => entry,
        None => bag.entry(value.into()).or_default(),
    };
    match (gives, entry.owed) {
        (true, 0) => entry.arrivals.push_back(arrived),
        (true, _) => entry.owed -= 1,
        (false, _) => {
            if entry.arrivals.pop_front().is_none() {
                entry.owed += 1;
            }
        }
    }
    if entry.arrivals.is_empty() && entry.owed == 0 {
        bag.remove(value);
    }
}

impl Updating for Multiset {
    fn change(&mut self, rows: &Changed<'_>) -> Result<(), OperatorError> {
        self.groups.resize_with(rows.total, Bag::new);
        let values = self.values.encode_columns(rows.arguments)?;
        // NULL is neither least nor greatest.
        let nulls = self.ends.and(rows.arguments.first()).and_then(|column| column.logical_nulls());
        for (row, group, gives) in rows.iter() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            self.arrived += 1;
            let arrived = self.arrived;
            let bag = self.groups.get_mut(group);
            bag.into_iter().for_each(|bag| change(bag, values.row(row).data(), arrived, gives));
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let value = |value: &[u8]| value.len() + size_of::<(Box<[u8]>, Entry)>();
        let values = self.groups.iter().flat_map(Bag::keys).map(|bytes| value(bytes));
        self.groups.capacity() * size_of::<Bag>() + values.sum::<usize>()
    }

    fn empty(&mut self, groups: &[usize]) {
        for group in groups {
            self.groups.get_mut(*group).into_iter().for_each(Bag::clear);
        }
    }

    fn results(&mut self, groups: &[usize]) -> Result<ArrayRef, OperatorError> {
        if let Some(end) = self.ends {
            return self.extremes(end, groups);
        }
        if groups.is_empty() {
            return Ok(new_empty_array(self.aggregate.result_field().data_type()));
        }
        let computed: Result<Vec<ScalarValue>, OperatorError> =
            groups.iter().map(|group| self.computed(*group)).collect();
        ScalarValue::iter_to_array(computed?).map_err(failed)
    }

    fn state_types(&self) -> Vec<DataType> {
        vec![DataType::List(item_field(self.item()))]
    }

    /// A list for each key: values with the number of their arrival, or with how
    /// many of them are owed.
    fn read(&mut self, groups: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let (mut values, mut arrivals, mut owed) = (Vec::new(), Vec::new(), Vec::new());
        let mut lengths = Vec::with_capacity(groups.len());
        for group in groups {
            let before = values.len();
            for (value, entry) in self.groups.get(*group).into_iter().flatten() {
                let debt = (entry.owed != 0).then_some((0, entry.owed));
                for (arrival, debt) in entry.arrivals.iter().map(|arrival| (*arrival, 0)).chain(debt) {
                    values.push(Some(value.as_ref()));
                    arrivals.push(arrival);
                    owed.push(debt);
                }
            }
            lengths.push(values.len() - before);
        }
        let mut columns = self.values.decode(values)?;
        columns.push(Arc::new(UInt64Array::from(arrivals)));
        columns.push(Arc::new(Int64Array::from(owed)));
        let items = StructArray::try_new(self.item(), columns, None)?;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(vec![Arc::new(ListArray::try_new(item_field(self.item()), offsets, Arc::new(items), None)?)])
    }

    fn load(&mut self, states: &[ArrayRef]) -> Result<(), OperatorError> {
        let lists = states.first().and_then(|column| column.as_list_opt::<i32>()).ok_or_else(shape)?;
        let items = lists.values().as_struct_opt().ok_or_else(shape)?;
        let [columns @ .., arrivals, owed] = items.columns() else { return Err(shape()) };
        let arrivals = arrivals.as_primitive_opt::<UInt64Type>().ok_or_else(shape)?;
        let owed = owed.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        let values = self.values.encode_columns(columns)?;
        self.groups = (0..lists.len()).map(|_| Bag::new()).collect();
        for (bag, ends) in self.groups.iter_mut().zip(lists.value_offsets().windows(2)) {
            let [from, to] = ends else { continue };
            for item in usize::try_from(*from).unwrap_or(0)..usize::try_from(*to).unwrap_or(0) {
                let entry = bag.entry(values.row(item).data().into()).or_default();
                match owed.value(item) {
                    0 => entry.arrivals.push_back(arrivals.value(item)),
                    debt => entry.owed = debt,
                }
                self.arrived = self.arrived.max(arrivals.value(item));
            }
        }
        Ok(())
    }
}

fn item_field(item: Fields) -> FieldRef {
    Arc::new(Field::new("item", DataType::Struct(item), false))
}
