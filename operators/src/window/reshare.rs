//! A window's state, shared anew among copies: the groups of each pane go where
//! the rows of their keys will go.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::partition::{Copies, Partition, columns_of};

use super::pane::Layout;
use super::state::{Schemas, WATERMARK, begins_with, head, number, shape};

/// By its key, of which there is one.
pub(super) fn partition(layout: &Arc<Layout>) -> Partition {
    let key = columns_of(layout.keys.clone());
    let layout = Arc::clone(layout);
    Partition { keys: vec![key], reshare: Arc::new(move |states, copies| reshare(&layout, states, copies)) }
}

fn reshare(
    layout: &Layout,
    states: &[Vec<RecordBatch>],
    copies: Copies,
) -> Result<Vec<Vec<RecordBatch>>, OperatorError> {
    let (mut watermark_us, mut closed_us) = (i64::MIN, i64::MIN);
    let mut shared = vec![Vec::new(); copies.0];
    let more = Schemas::new(layout).more;
    for batch in states.iter().flatten() {
        if begins_with(batch, WATERMARK) {
            // No copy gives a window again.
            watermark_us = watermark_us.max(number(batch, 0)?);
            closed_us = closed_us.max(number(batch, 1)?);
            continue;
        }
        let keys = batch.columns().get(1..=layout.key_fields().len()).ok_or_else(shape)?;
        let places = copies.of(keys, batch.num_rows())?;
        // Groups of one pane may come from several states.
        let batch = RecordBatch::try_new(Arc::clone(&more), batch.columns().to_vec())?;
        for (copy, share) in shared.iter_mut().enumerate() {
            let own: BooleanArray = places.iter().map(|place| Some(*place == copy)).collect();
            let own = filter_record_batch(&batch, &own)?;
            if own.num_rows() > 0 {
                share.push(own);
            }
        }
    }
    for share in &mut shared {
        share.insert(0, head(watermark_us, closed_us)?);
    }
    Ok(shared)
}
