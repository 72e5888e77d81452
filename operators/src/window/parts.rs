//! Open windows of keys as a record batch: whose they are, when they began, and
//! what their aggregates have.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, UInt32Type, UInt64Type};
use tidegate_engine::error::OperatorError;

use super::assigned::Part;
use super::pane::Layout;
use crate::in_order::shape;

/// Columns before keys and states.
const HEAD: usize = 4;

/// Open windows, and their keys and states in the same order.
pub(super) struct Saved {
    pub(super) open: Vec<(u32, Part)>,
    pub(super) keys: Vec<ArrayRef>,
    pub(super) states: Vec<ArrayRef>,
}

pub(super) fn save(
    layout: &Layout,
    open: &[(u32, Part)],
    keys: Vec<ArrayRef>,
    states: Vec<ArrayRef>,
) -> Result<RecordBatch, OperatorError> {
    let number = |of: fn(&Part) -> i64| -> ArrayRef {
        Arc::new(open.iter().map(|(_, part)| Some(of(part))).collect::<Int64Array>())
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(open.iter().map(|(place, _)| *place))),
        number(|part| part.start_us),
        number(|part| part.last_us),
        Arc::new(open.iter().map(|(_, part)| Some(part.rows)).collect::<UInt64Array>()),
    ];
    columns.extend(keys);
    columns.extend(states);
    let head = [
        Field::new("key", DataType::UInt32, false),
        Field::new("start_us", DataType::Int64, false),
        Field::new("last_us", DataType::Int64, false),
        Field::new("rows", DataType::UInt64, false),
    ];
    let fields: Vec<FieldRef> = head.into_iter().map(Arc::new).chain(layout.snapshot_fields()).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

pub(super) fn load(layout: &Layout, batch: &RecordBatch) -> Result<Saved, OperatorError> {
    let (head, rest) = batch.columns().split_at_checked(HEAD).ok_or_else(shape)?;
    let [places, starts, lasts, rows] = head else { return Err(shape()) };
    let places = places.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
    let starts = starts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
    let lasts = lasts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
    let rows = rows.as_primitive_opt::<UInt64Type>().ok_or_else(shape)?;
    let times = starts.values().iter().zip(lasts.values()).zip(rows.values());
    let open = places.values().iter().zip(times).map(|(place, ((start_us, last_us), rows))| {
        (*place, Part { start_us: *start_us, last_us: *last_us, rows: *rows, slot: 0, wakes_us: i64::MAX })
    });
    let (keys, states) = rest.split_at_checked(layout.key_fields().len()).ok_or_else(shape)?;
    let types = layout.snapshot_fields();
    if !types.iter().map(|field| field.data_type()).eq(rest.iter().map(|column| column.data_type())) {
        return Err(shape());
    }
    Ok(Saved { open: open.collect(), keys: keys.to_vec(), states: states.to_vec() })
}
