//! A join's state as record batches: one with how far time has come, then the
//! rows of each side in the order they came, with whether they have found a
//! partner. Hashes and what keys are computed from are made anew.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef};
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::Output;

use super::bound::{Both, Side};
use super::layout::Layout;
use super::store::{Rows, Store};

/// The column of the first batch.
pub(super) const WATERMARK: &str = "watermark_us";
/// The column before those of a row.
const MATCHED: &str = "tidegate.matched";
/// Says which side rows are of.
const SIDE: &str = "tidegate.side";
/// Says which node they came from.
const NODE: &str = "tidegate.node";

/// Everything.
pub(super) fn save(
    layout: &Layout,
    watermark_us: i64,
    stores: &Both<Store>,
) -> Result<Vec<RecordBatch>, OperatorError> {
    let mut rows = Vec::new();
    for side in Side::BOTH {
        let schema = schema_of(layout, side);
        for (batch, matched) in stores.of(side).live()? {
            let mut columns = vec![Arc::new(BooleanArray::from(matched)) as ArrayRef];
            columns.extend(batch.columns().iter().take(layout.width(side)).cloned());
            rows.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
    }
    if rows.is_empty() && watermark_us == i64::MIN {
        return Ok(Vec::new());
    }
    let watermark: ArrayRef = Arc::new(Int64Array::from(vec![watermark_us]));
    let mut batches = vec![RecordBatch::try_from_iter([(WATERMARK, watermark)])?];
    batches.append(&mut rows);
    Ok(batches)
}

fn schema_of(layout: &Layout, side: Side) -> SchemaRef {
    let matched: FieldRef = Arc::new(Field::new(MATCHED, DataType::Boolean, false));
    let fields = layout.inputs.of(side).columns.fields().iter().cloned();
    let fields: Vec<FieldRef> = std::iter::once(matched).chain(fields).collect();
    let marks = [(SIDE, word(side)), (NODE, layout.names.of(side))];
    let marks = marks.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Arc::new(Schema::new_with_metadata(fields, HashMap::from(marks)))
}

fn word(side: Side) -> &'static str {
    match side {
        Side::Left => "left",
        Side::Right => "right",
    }
}

/// What `save` has saved.
pub(super) struct Saved {
    pub(super) watermark_us: i64,
    pub(super) rows: Vec<(Side, Rows)>,
}

impl Saved {
    pub(super) fn read(layout: &Layout, batches: &[RecordBatch]) -> Result<Saved, OperatorError> {
        let mut saved = Saved { watermark_us: i64::MIN, rows: Vec::new() };
        for batch in batches {
            if batch.schema_ref().fields().first().is_some_and(|field| field.name() == WATERMARK) {
                let column =
                    batch.columns().first().and_then(|column| column.as_primitive_opt::<Int64Type>());
                let first = column.and_then(|column| column.iter().next().flatten());
                saved.watermark_us = first.ok_or_else(shape)?;
                continue;
            }
            let side = side_of(layout, batch)?;
            let matched = batch.columns().first().and_then(|column| column.as_boolean_opt());
            let matched: Vec<bool> =
                matched.ok_or_else(shape)?.iter().map(|matched| matched.unwrap_or(false)).collect();
            let columns = batch.columns().iter().skip(1).cloned().collect();
            let rows = RecordBatch::try_new(Arc::clone(&layout.inputs.of(side).columns), columns)?;
            // None of them is late, and none has a key that is NULL or fails.
            let mut out = Output::default();
            for mut rows in layout.prepare(side, &rows, i64::MIN, &mut out)? {
                if rows.matched.len() != matched.len() {
                    return Err(shape());
                }
                rows.matched.clone_from(&matched);
                saved.rows.push((side, rows));
            }
        }
        Ok(saved)
    }
}

/// The side that saved rows belong to. A node may have another name now, but
/// the two must not have changed places: what is kept of each side differs.
pub(super) fn side_of(layout: &Layout, batch: &RecordBatch) -> Result<Side, OperatorError> {
    let marks = batch.schema_ref().metadata();
    let mark = marks.get(SIDE).ok_or_else(shape)?;
    let side = Side::BOTH.into_iter().find(|side| word(*side) == mark).ok_or_else(shape)?;
    if marks.get(NODE) == Some(layout.names.of(side.other())) {
        let order = format!("[\"{}\", \"{}\"]", layout.names.right, layout.names.left);
        return Err(OperatorError::new(format!("it was saved with from = {order}, in this order")));
    }
    Ok(side)
}

fn shape() -> OperatorError {
    OperatorError::new("the saved state of the join has another shape")
}
