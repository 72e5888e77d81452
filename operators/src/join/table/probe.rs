//! Rows of a batch look for theirs in the table: candidates by hash, keys
//! compared where hashes do not tell, the rest of `on`, a batch of pairs at a
//! time. Rows leave in the order they came.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, prep_null_mask_filter, take};
use tidegate_engine::error::{OperatorError, RejectedRow};
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::reject::narrow;

use std::sync::Arc;

use super::index::{Indexed, NONE};
use super::{Keyed, REJECTS_PORT, Shape};
use crate::join::layout::{OUTPUT_ROWS, pieces};
use crate::narrow::reject_rows;

/// Candidates that are looked at before what they gave is sent on.
const PAIRS_MAX: usize = 4 * OUTPUT_ROWS;

/// A batch that is looking for its rows.
pub(super) struct Probe {
    rows: Keyed,
    /// The row that looks next, and its next candidate.
    next: usize,
    candidate: Option<u32>,
    /// Rows that have found one.
    matched: Vec<bool>,
}

/// A row of the batch and one of the table, or none.
type Pair = (u32, Option<u32>);

impl Probe {
    pub(super) fn new(rows: Keyed) -> Probe {
        let matched = vec![false; rows.batch.num_rows()];
        Probe { rows, next: 0, candidate: None, matched }
    }

    /// Sends what the next rows find; answers whether all have looked.
    pub(super) fn step(
        &mut self,
        shape: &Shape,
        table: &Indexed,
        out: &mut Output,
    ) -> Result<bool, OperatorError> {
        let from = self.next;
        let (mut own, mut theirs) = self.candidates(table)?;
        let mut mask = BooleanArray::from(vec![true; own.len()]);
        if !shape.is_exact && !own.is_empty() {
            mask = self.equal_keys(table, &own.clone().into(), &theirs.clone().into())?;
        }
        keep(&mask, &mut own, &mut theirs);
        if let Some(residual) = &shape.residual {
            let columns = self.columns(table, &own.clone().into(), &theirs.clone().into())?;
            let pair = RecordBatch::try_new(Arc::clone(&shape.pair), columns)?;
            let (mask, bad) = fulfilled(residual.as_ref(), &pair)?;
            if !bad.is_empty() {
                let columns = pair.columns().to_vec();
                let shown = RecordBatch::try_new(Arc::clone(&shape.output.columns), columns)?;
                // A row that cannot be judged is no row without a partner.
                for row in bad.iter().filter_map(|bad| own.get(bad.row)) {
                    self.set_matched(*row);
                }
                out.emit_to(REJECTS_PORT, reject_rows(&shape.name, &shape.output, &shown, bad)?);
            }
            keep(&mask, &mut own, &mut theirs);
        }
        own.iter().for_each(|row| self.set_matched(*row));
        let pairs = self.pairs(shape, own, theirs, from..self.next);
        for part in pieces(pairs.len()) {
            let part = pairs.get(part).unwrap_or_default();
            let own: UInt32Array = part.iter().map(|(row, _)| Some(*row)).collect();
            let theirs: UInt32Array = part.iter().map(|(_, row)| *row).collect();
            let columns = self.columns(table, &own, &theirs)?;
            out.emit_to(MAIN_PORT, RecordBatch::try_new(Arc::clone(&shape.output.columns), columns)?);
        }
        Ok(self.next >= self.rows.batch.num_rows())
    }

    fn set_matched(&mut self, row: u32) {
        if let Some(matched) = self.matched.get_mut(row as usize) {
            *matched = true;
        }
    }

    /// Pairs of equal hashes of the next rows, until there are many.
    fn candidates(&mut self, table: &Indexed) -> Result<(Vec<u32>, Vec<u32>), OperatorError> {
        let (mut own, mut theirs) = (Vec::new(), Vec::new());
        let count = self.rows.batch.num_rows();
        while self.next < count && own.len() < PAIRS_MAX {
            let row = u32::try_from(self.next).map_err(OperatorError::new)?;
            let first = || match self.rows.hashes.get(self.next) {
                Some(hash) if self.rows.has_key(self.next) => table.first(*hash),
                Some(_) | None => NONE,
            };
            let mut candidate = self.candidate.take().unwrap_or_else(first);
            while candidate != NONE && own.len() < PAIRS_MAX {
                own.push(row);
                theirs.push(candidate);
                candidate = table.behind(candidate);
            }
            if candidate == NONE {
                self.next += 1;
            } else {
                self.candidate = Some(candidate);
            }
        }
        Ok((own, theirs))
    }

    fn equal_keys(
        &self,
        table: &Indexed,
        own: &UInt32Array,
        theirs: &UInt32Array,
    ) -> Result<BooleanArray, OperatorError> {
        let mut equal = BooleanArray::from(vec![true; own.len()]);
        for (left, right) in self.rows.keys.iter().zip(&table.keys) {
            equal = and(&equal, &eq(&take(left, own, None)?, &take(right, theirs, None)?)?)?;
        }
        Ok(equal)
    }

    /// The columns of both.
    fn columns(
        &self,
        table: &Indexed,
        own: &UInt32Array,
        theirs: &UInt32Array,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        let rows = &self.rows.batch;
        let is_all = own.len() == rows.num_rows() && own.values().iter().zip(0..).all(|(row, at)| *row == at);
        let left = rows
            .columns()
            .iter()
            .map(|column| if is_all { Ok(Arc::clone(column)) } else { Ok(take(column, own, None)?) });
        let right = table.rows.columns().iter().map(|column| Ok(take(column, theirs, None)?));
        left.chain(right).collect()
    }

    /// What leaves, in the order of the rows; where rows leave alone, those of
    /// `done` too that have found none.
    fn pairs(&self, shape: &Shape, own: Vec<u32>, theirs: Vec<u32>, done: Range<usize>) -> Vec<Pair> {
        let mut found = own.into_iter().zip(theirs).peekable();
        let mut pairs = Vec::with_capacity(found.len());
        if shape.is_outer {
            for (row, matched) in (0..).zip(&self.matched).take(done.end).skip(done.start) {
                while let Some((own, theirs)) = found.next_if(|(own, _)| *own == row) {
                    pairs.push((own, Some(theirs)));
                }
                if !matched {
                    pairs.push((row, None));
                }
            }
        }
        pairs.extend(found.map(|(own, theirs)| (own, Some(theirs))));
        pairs
    }
}

/// Keeps the pairs for which the mask is true.
fn keep(mask: &BooleanArray, own: &mut Vec<u32>, theirs: &mut Vec<u32>) {
    if mask.true_count() == own.len() {
        return;
    }
    for rows in [own, theirs] {
        let mut is_kept = mask.values().iter();
        rows.retain(|_| is_kept.next().unwrap_or(false));
    }
}

/// Which pairs fulfil the rest of `on`, and those on which it fails.
fn fulfilled(
    residual: &dyn tidegate_engine::expression::Expression,
    pair: &RecordBatch,
) -> Result<(BooleanArray, Vec<RejectedRow>), OperatorError> {
    let (masks, bad) = narrow(pair.num_rows(), |part| {
        let mask = residual.evaluate(&pair.slice(part.start, part.len()))?;
        let mask = mask.as_boolean();
        // NULL is not true.
        Ok((part, if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() }))
    });
    let mut fulfilled = vec![false; pair.num_rows()];
    for (part, mask) in masks {
        for (place, is) in fulfilled.iter_mut().skip(part.start).zip(mask.values()) {
            *place = is;
        }
    }
    Ok((BooleanArray::from(fulfilled), bad))
}
