//! A join's state, shared anew among copies: rows of both sides go where those
//! of the same key will go.

use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::partition::{Copies, KeyOf, Partition};

use super::bound::Side;
use super::layout::Layout;
use super::state::{Saved, WATERMARK, side_of};

/// By what must be equal on both sides; `None` if nothing must.
pub(super) fn partition(layout: &Arc<Layout>) -> Option<Partition> {
    if layout.keys.left.is_empty() {
        return None;
    }
    let key = |side| -> KeyOf {
        let layout = Arc::clone(layout);
        Arc::new(move |batch| layout.keys_of(side, batch))
    };
    let keys = Side::BOTH.map(key).to_vec();
    let layout = Arc::clone(layout);
    Some(Partition { keys, reshare: Arc::new(move |states, copies| reshare(&layout, states, copies)) })
}

fn reshare(
    layout: &Layout,
    states: &[Vec<RecordBatch>],
    copies: Copies,
) -> Result<Vec<Vec<RecordBatch>>, OperatorError> {
    let mut watermark_us = i64::MIN;
    let mut shared = vec![Vec::new(); copies.0];
    for batch in states.iter().flatten() {
        if batch.schema_ref().fields().first().is_some_and(|field| field.name() == WATERMARK) {
            let one = Saved::read(layout, std::slice::from_ref(batch))?;
            watermark_us = watermark_us.max(one.watermark_us);
            continue;
        }
        let side = side_of(layout, batch)?;
        let rows = batch.columns().iter().skip(1).cloned().collect();
        let rows = RecordBatch::try_new(Arc::clone(&layout.inputs.of(side).columns), rows)?;
        let places = copies.of(&layout.keys_of(side, &rows)?, rows.num_rows())?;
        for (copy, share) in shared.iter_mut().enumerate() {
            let own: BooleanArray = places.iter().map(|place| Some(*place == copy)).collect();
            let own = filter_record_batch(batch, &own)?;
            if own.num_rows() > 0 {
                share.push(own);
            }
        }
    }
    let head = Arc::new(Int64Array::from(vec![watermark_us])) as arrow::array::ArrayRef;
    for share in &mut shared {
        share.insert(0, RecordBatch::try_from_iter([(WATERMARK, Arc::clone(&head))])?);
    }
    Ok(shared)
}
