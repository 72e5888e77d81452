//! Rows that may belong together become joined rows: keys are compared where
//! hashes do not tell, the rest of `on` is evaluated, columns are taken, a
//! batch at a time.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, filter_record_batch, prep_null_mask_filter, take};
use tidegate_engine::error::{OperatorError, RejectedRow};
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::reject::narrow;

use super::REJECTS_PORT;
use super::bound::Side;
use super::layout::Layout;
use super::store::{Gathered, Place, Rows, Store};
use crate::narrow::reject_rows;

/// Rows of a batch, and the row of the other side that each may belong to.
#[derive(Default)]
pub(super) struct Pairs {
    pub(super) rows: Vec<u32>,
    pub(super) places: Vec<Place>,
}

impl Pairs {
    fn kept(self, mask: &BooleanArray) -> Pairs {
        let is_kept = |(_, index): &(u32, usize)| mask.value(*index);
        let rows = self.rows.into_iter().zip(0..).filter(is_kept).map(|(row, _)| row).collect();
        let places = self.places.into_iter().zip(0..).filter(|(_, index)| mask.value(*index));
        Pairs { rows, places: places.map(|(place, _)| place).collect() }
    }
}

/// Sends the pairs that belong together and answers them. `side` is the side
/// of `rows`. Pairs on which the condition fails leave as rejects.
pub(super) fn emit_pairs(
    layout: &Layout,
    side: Side,
    rows: &Rows,
    store: &Store,
    pairs: Pairs,
    out: &mut Output,
) -> Result<Pairs, OperatorError> {
    let mut pairs = pairs;
    if !layout.is_exact && !pairs.rows.is_empty() {
        let taken = UInt32Array::from(pairs.rows.clone());
        let equal = equal_keys(layout, side, rows, &taken, &store.gather(&pairs.places)?)?;
        if equal.true_count() < equal.len() {
            pairs = pairs.kept(&equal);
        }
    }
    if pairs.rows.is_empty() {
        return Ok(pairs);
    }
    let joined = joined(layout, side, rows, store, &pairs)?;
    let Some(residual) = &layout.residual else {
        out.emit_to(MAIN_PORT, joined);
        return Ok(pairs);
    };
    let (fulfilled, bad) = fulfilled(layout, residual.as_ref(), &joined)?;
    if !bad.is_empty() {
        out.emit_to(REJECTS_PORT, reject_rows(&layout.name, &layout.output, &joined, bad)?);
    }
    if fulfilled.true_count() == fulfilled.len() {
        out.emit_to(MAIN_PORT, joined);
        return Ok(pairs);
    }
    out.emit_to(MAIN_PORT, filter_record_batch(&joined, &fulfilled)?);
    Ok(pairs.kept(&fulfilled))
}

/// Which of the rows have the keys of the rows gathered beside them.
fn equal_keys(
    layout: &Layout,
    side: Side,
    rows: &Rows,
    taken: &UInt32Array,
    others: &Gathered<'_>,
) -> Result<BooleanArray, OperatorError> {
    let mut equal = BooleanArray::from(vec![true; taken.len()]);
    for (own, other) in layout.keys.of(side).iter().zip(layout.keys.of(side.other())) {
        let Some(own) = rows.batch.columns().get(*own) else { continue };
        let own = take(own, taken, None)?;
        equal = and(&equal, &eq(&own, &others.column(*other)?)?)?;
    }
    Ok(equal)
}

/// Which rows of a store have the keys of other rows of it.
pub(super) fn same_keys(
    layout: &Layout,
    side: Side,
    store: &Store,
    these: &[Place],
    those: &[Place],
) -> Result<BooleanArray, OperatorError> {
    let mut equal = BooleanArray::from(vec![true; these.len()]);
    if layout.is_exact || these.is_empty() {
        return Ok(equal);
    }
    let (these, those) = (store.gather(these)?, store.gather(those)?);
    for key in layout.keys.of(side) {
        equal = and(&equal, &eq(&these.column(*key)?, &those.column(*key)?)?)?;
    }
    Ok(equal)
}

/// The pairs as rows of the output.
fn joined(
    layout: &Layout,
    side: Side,
    rows: &Rows,
    store: &Store,
    pairs: &Pairs,
) -> Result<RecordBatch, OperatorError> {
    let others = store.gather(&pairs.places)?;
    let own_times = pairs.rows.iter().filter_map(|row| rows.times_us.get(*row as usize).copied());
    let mut columns = layout.lead_columns(own_times.zip(others.times_us()).map(|(a, b)| a.max(b)));
    let taken = UInt32Array::from(pairs.rows.clone());
    let own = rows.batch.columns().iter().take(layout.width(side));
    let own = own.map(|column| Ok(take(column, &taken, None)?)).collect::<Result<Vec<_>, OperatorError>>()?;
    let others = others.columns(layout.width(side.other()))?;
    match side {
        Side::Left => columns.extend(own.into_iter().chain(others)),
        Side::Right => columns.extend(others.into_iter().chain(own)),
    }
    Ok(RecordBatch::try_new(Arc::clone(&layout.output.columns), columns)?)
}

/// Which pairs fulfil the rest of `on`, and those on which it fails.
fn fulfilled(
    layout: &Layout,
    residual: &dyn Expression,
    joined: &RecordBatch,
) -> Result<(BooleanArray, Vec<RejectedRow>), OperatorError> {
    let lead = joined.num_columns() - layout.pair.fields().len();
    let columns = joined.columns().iter().skip(lead).cloned().collect();
    let pair = RecordBatch::try_new(Arc::clone(&layout.pair), columns)?;
    let (masks, bad) = narrow(pair.num_rows(), |part| {
        let mask = residual.evaluate(&pair.slice(part.start, part.len()))?;
        let mask = mask.as_boolean();
        // NULL is not true.
        Ok((part, if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() }))
    });
    if let ([(_, only)], []) = (masks.as_slice(), bad.as_slice()) {
        return Ok((only.clone(), bad));
    }
    let mut fulfilled = vec![false; pair.num_rows()];
    for (part, mask) in masks {
        for (place, is) in fulfilled.iter_mut().skip(part.start).zip(mask.values()) {
            *place = is;
        }
    }
    Ok((BooleanArray::from(fulfilled), bad))
}
