//! State that is shared anew among copies of an operator: keys go where their
//! rows will go, and with them the rows that wait and what the core has of them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, UInt32Type};
use tidegate_engine::error::OperatorError;
use tidegate_engine::partition::{Copies, Partition, columns_of};

use super::report::OWN_BATCHES;
use super::{InOrder, Ordered, shape};

/// Which key the rows of a batch belong to that a core saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// The place of the key stands in this column (uint32).
    Keyed(usize),
    /// There is one row for each key, in their order.
    Aligned,
    /// To the key of the same row of that batch.
    Beside(usize),
    /// To all: numbers (int64) of which each copy may have the greatest.
    Common,
}

/// The columns of a key among those saved of keys, and by name among rows.
struct Shape {
    names: Vec<String>,
    shares: Vec<Share>,
}

impl<C: Ordered> InOrder<C> {
    pub(super) fn shared(&self) -> Option<Partition> {
        let columns = self.keys.columns().to_vec();
        let fields = self.input.columns.fields();
        let names = columns.iter().filter_map(|index| fields.get(*index)).map(|field| field.name().clone());
        let shape = Shape { names: names.collect(), shares: self.core.shares()?.to_vec() };
        if shape.names.is_empty() {
            return None;
        }
        let reshare =
            Arc::new(move |states: &[Vec<RecordBatch>], copies: Copies| shape.reshare(states, copies));
        Some(Partition { keys: vec![columns_of(columns)], reshare })
    }
}

impl Shape {
    fn reshare(
        &self,
        states: &[Vec<RecordBatch>],
        copies: Copies,
    ) -> Result<Vec<Vec<RecordBatch>>, OperatorError> {
        let mut shared: Vec<Vec<Vec<RecordBatch>>> = vec![Vec::new(); copies.0];
        for state in states {
            for (share, piece) in shared.iter_mut().zip(self.cut(state, copies)?) {
                share.push(piece);
            }
        }
        shared.iter().map(|pieces| self.join(pieces)).collect()
    }

    fn share_of(&self, batch: usize) -> Result<Share, OperatorError> {
        // The last one stands for all behind it.
        self.shares.get(batch).or(self.shares.last()).copied().ok_or_else(shape)
    }

    /// The part of a state for each copy.
    fn cut(&self, state: &[RecordBatch], copies: Copies) -> Result<Vec<Vec<RecordBatch>>, OperatorError> {
        let [keys, waiting, head, core @ ..] = state else { return Err(shape()) };
        // A report of changes names those that are gone, behind the others.
        let gone = keys.columns().last().map_or(0, |times| times.null_count());
        let keys = &keys.slice(0, keys.num_rows().saturating_sub(gone));
        let own = keys.columns().get(..self.names.len()).ok_or_else(shape)?;
        let of_keys = copies.of(own, keys.num_rows())?;
        let columns = self.names.iter().map(|name| waiting.column_by_name(name).cloned());
        let columns = columns.collect::<Option<Vec<_>>>().ok_or_else(shape)?;
        let of_waiting = copies.of(&columns, waiting.num_rows())?;
        let of_core = (0..core.len()).map(|batch| self.places(core, batch, &of_keys));
        let of_core = of_core.collect::<Result<Vec<_>, _>>()?;
        let copy = |copy: usize| {
            let numbers = numbers(&of_keys, copy);
            let mut piece =
                vec![only(keys, &of_keys, copy)?, only(waiting, &of_waiting, copy)?, head.clone()];
            for (index, (batch, places)) in core.iter().zip(&of_core).enumerate() {
                let Some(places) = places else {
                    piece.push(batch.clone());
                    continue;
                };
                let kept = only(batch, places, copy)?;
                piece.push(match self.share_of(index)? {
                    Share::Keyed(column) => renumbered(&kept, column, |key| {
                        numbers.get(usize::try_from(key).ok()?).copied().flatten()
                    })?,
                    Share::Aligned | Share::Beside(_) | Share::Common => kept,
                });
            }
            Ok(piece)
        };
        (0..copies.0).map(copy).collect()
    }

    /// The copy of each row of a core's batch; `None` if all have it.
    fn places(
        &self,
        core: &[RecordBatch],
        batch: usize,
        of_keys: &[usize],
    ) -> Result<Option<Vec<usize>>, OperatorError> {
        let rows = core.get(batch).ok_or_else(shape)?;
        match self.share_of(batch)? {
            Share::Common => Ok(None),
            Share::Aligned => {
                (rows.num_rows() == of_keys.len()).then(|| Some(of_keys.to_vec())).ok_or_else(shape)
            }
            Share::Beside(other) => match self.share_of(other)? {
                Share::Beside(_) => Err(shape()),
                Share::Keyed(_) | Share::Aligned | Share::Common => self.places(core, other, of_keys),
            },
            Share::Keyed(column) => {
                let place = |key: &u32| of_keys.get(usize::try_from(*key).ok()?).copied();
                let places: Option<Vec<usize>> = keys_in(rows, column)?.values().iter().map(place).collect();
                places.map(Some).ok_or_else(shape)
            }
        }
    }

    /// One state of pieces of several.
    fn join(&self, pieces: &[Vec<RecordBatch>]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut joined = Vec::new();
        for batch in 0..pieces.iter().map(Vec::len).max().unwrap_or(0) {
            let mut behind = 0_u32;
            let mut batches = Vec::new();
            for piece in pieces {
                let keys = u32::try_from(piece.first().ok_or_else(shape)?.num_rows());
                if let Some(rows) = piece.get(batch) {
                    batches.push(match batch.checked_sub(OWN_BATCHES).map(|core| self.share_of(core)) {
                        Some(Ok(Share::Keyed(column))) => {
                            renumbered(rows, column, |key| key.checked_add(behind))?
                        }
                        Some(Err(error)) => return Err(error),
                        Some(Ok(_)) | None => rows.clone(),
                    });
                }
                behind = keys.ok().and_then(|keys| behind.checked_add(keys)).ok_or_else(shape)?;
            }
            let is_head = batch + 1 == OWN_BATCHES;
            let core = batch.checked_sub(OWN_BATCHES).map(|core| self.share_of(core));
            let is_common = matches!(core, Some(Ok(Share::Common)));
            joined.push(if is_head || is_common { greatest(&batches)? } else { concat(&batches)? });
        }
        Ok(joined)
    }
}

/// The new number of each key that goes to this copy.
fn numbers(of_keys: &[usize], copy: usize) -> Vec<Option<u32>> {
    let mut next = 0..;
    of_keys.iter().map(|place| if *place == copy { next.next() } else { None }).collect()
}

fn only(batch: &RecordBatch, places: &[usize], copy: usize) -> Result<RecordBatch, OperatorError> {
    let mask: BooleanArray = places.iter().map(|place| Some(*place == copy)).collect();
    Ok(filter_record_batch(batch, &mask)?)
}

fn keys_in(batch: &RecordBatch, column: usize) -> Result<&UInt32Array, OperatorError> {
    let keys = batch.columns().get(column).and_then(|keys| keys.as_primitive_opt::<UInt32Type>());
    keys.ok_or_else(shape)
}

fn renumbered(
    batch: &RecordBatch,
    column: usize,
    number: impl Fn(u32) -> Option<u32>,
) -> Result<RecordBatch, OperatorError> {
    let keys = keys_in(batch, column)?.values().iter().map(|key| number(*key));
    let keys: UInt32Array = keys.collect::<Option<Vec<_>>>().ok_or_else(shape)?.into();
    let mut columns = batch.columns().to_vec();
    if let Some(place) = columns.get_mut(column) {
        *place = Arc::new(keys);
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// All rows; a column may hold NULLs if it may in one of them.
fn concat(batches: &[RecordBatch]) -> Result<RecordBatch, OperatorError> {
    let mut fields: Vec<Field> = Vec::new();
    for (index, field) in batches.first().ok_or_else(shape)?.schema().fields().iter().enumerate() {
        let may_be_null = |batch: &RecordBatch| {
            batch.schema_ref().fields().get(index).is_some_and(|field| field.is_nullable())
        };
        fields.push(field.as_ref().clone().with_nullable(batches.iter().any(may_be_null)));
    }
    let columns = |batch: &RecordBatch| batch.columns().to_vec();
    let schema = Arc::new(Schema::new(fields));
    let batches: Result<Vec<RecordBatch>, _> =
        batches.iter().map(|batch| RecordBatch::try_new(Arc::clone(&schema), columns(batch))).collect();
    Ok(concat_batches(&schema, &batches?)?)
}

/// Row by row the greatest of each number.
fn greatest(batches: &[RecordBatch]) -> Result<RecordBatch, OperatorError> {
    let first = batches.first().ok_or_else(shape)?;
    let mut columns: Vec<ArrayRef> = Vec::new();
    for index in 0..first.num_columns() {
        let column = |batch: &RecordBatch| -> Option<Vec<i64>> {
            Some(batch.columns().get(index)?.as_primitive_opt::<Int64Type>()?.values().to_vec())
        };
        let mut most = column(first).ok_or_else(shape)?;
        for batch in batches {
            let other = column(batch).filter(|other| other.len() == most.len()).ok_or_else(shape)?;
            for (most, other) in most.iter_mut().zip(other) {
                *most = (*most).max(other);
            }
        }
        columns.push(Arc::new(Int64Array::from(most)));
    }
    Ok(RecordBatch::try_new(first.schema(), columns)?)
}
