//! A version of a table, with its rows by the hash of their keys. Made once per
//! version; never changes.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{concat, concat_batches};
use tidegate_engine::error::{OperatorError, RejectedRow};

use super::{Keyed, Shape};
use crate::join::bound::Side;
use crate::join::index::AsIs;

/// No further row.
pub(super) const NONE: u32 = u32::MAX;

/// The rows of a table.
pub(super) struct Indexed {
    pub(super) version: String,
    /// As it came, with the rows that cannot be looked up.
    pub(super) whole: RecordBatch,
    /// The rows that can be joined, and their keys.
    pub(super) rows: RecordBatch,
    pub(super) keys: Vec<ArrayRef>,
    /// The first row of each hash.
    first: HashMap<u64, u32, BuildHasherDefault<AsIs>>,
    /// The row of the same hash behind each row.
    behind: Vec<u32>,
}

impl Indexed {
    /// Indexes a version; answers the rows too on which a key fails.
    pub(super) fn new(
        shape: &Shape,
        version: &str,
        whole: RecordBatch,
    ) -> Result<(Indexed, Vec<RejectedRow>), OperatorError> {
        let (pieces, bad) = shape.keyed(Side::Right, &whole)?;
        let Keyed { batch: rows, keys, hashes } = together(shape, pieces)?;
        let count = u32::try_from(rows.num_rows()).ok().filter(|count| *count < NONE);
        let count = count.ok_or_else(|| OperatorError::new("the table has too many rows"))?;
        let mut first = HashMap::with_capacity_and_hasher(rows.num_rows(), BuildHasherDefault::default());
        let mut behind = vec![NONE; rows.num_rows()];
        let has_key = |row: usize| keys.iter().all(|key| key.is_valid(row));
        // From the last one, so that rows are found in the order of the table.
        for ((row, hash), behind) in (0..count).zip(&hashes).zip(&mut behind).rev() {
            if has_key(row as usize) {
                *behind = first.insert(*hash, row).unwrap_or(NONE);
            }
        }
        Ok((Indexed { version: version.to_owned(), whole, rows, keys, first, behind }, bad))
    }

    /// The first row of a hash, or `NONE`.
    pub(super) fn first(&self, hash: u64) -> u32 {
        self.first.get(&hash).copied().unwrap_or(NONE)
    }

    /// The row of the same hash behind this one, or `NONE`.
    pub(super) fn behind(&self, row: u32) -> u32 {
        self.behind.get(row as usize).copied().unwrap_or(NONE)
    }
}

fn together(shape: &Shape, pieces: Vec<Keyed>) -> Result<Keyed, OperatorError> {
    let mut pieces = pieces;
    if pieces.len() == 1
        && let Some(only) = pieces.pop()
    {
        return Ok(only);
    }
    let batch = concat_batches(&shape.table.columns, pieces.iter().map(|piece| &piece.batch))?;
    let key = |index: usize| {
        let columns: Vec<_> =
            pieces.iter().filter_map(|piece| Some(piece.keys.get(index)?.as_ref())).collect();
        Ok(concat(&columns)?)
    };
    let count = if pieces.is_empty() { 0 } else { shape.keys.of(Side::Right).len() };
    let keys = (0..count).map(key).collect::<Result<Vec<_>, OperatorError>>()?;
    let hashes = pieces.iter().flat_map(|piece| piece.hashes.iter().copied()).collect();
    Ok(Keyed { batch, keys, hashes })
}
