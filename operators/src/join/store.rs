//! Rows of one side that are still needed, in chunks in the order they came.
//! A row has a number that never changes, however chunks are put together; a
//! row that is gone stays in its chunk until most of the chunk is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, interleave, take};
use tidegate_engine::error::OperatorError;

use super::index::{Entry, Index};

/// Chunks are put together up to so many rows.
const CHUNK_ROWS: usize = 8_192;

/// What is kept of a row beside its columns, its place in the index included.
const ROW_BYTES: usize = 64;

/// Rows on their way into a store, with what was computed of them.
pub(super) struct Rows {
    /// Columns of the input, then those computed for keys.
    pub(super) batch: RecordBatch,
    pub(super) hashes: Vec<u64>,
    pub(super) times_us: Vec<i64>,
    /// Whether a row has found a partner.
    pub(super) matched: Vec<bool>,
}

/// Where a row is until chunks are put together: chunk and row in it.
pub(super) type Place = (usize, usize);

struct Chunk {
    rows: Rows,
    first: u64,
    /// Numbers of the rows where they do not follow each other.
    numbers: Option<Vec<u64>>,
    live: Vec<bool>,
    alive: usize,
    /// Rows by time.
    order: Vec<u32>,
    /// Rows at the beginning of the order that are gone.
    gone: usize,
    /// Rows at the beginning of the order that are gone or have found a partner.
    told: usize,
    /// Rows at the beginning of the order that event time has reached.
    passed: usize,
}

impl Chunk {
    fn new(rows: Rows, first: u64, numbers: Option<Vec<u64>>) -> Result<Chunk, OperatorError> {
        let count = rows.times_us.len();
        let mut order: Vec<u32> = (0..u32::try_from(count).map_err(OperatorError::new)?).collect();
        if !rows.times_us.is_sorted() {
            order.sort_by_key(|row| rows.times_us.get(*row as usize));
        }
        let live = vec![true; count];
        Ok(Chunk { rows, first, numbers, live, alive: count, order, gone: 0, told: 0, passed: 0 })
    }

    fn len(&self) -> usize {
        self.live.len()
    }

    fn number(&self, row: usize) -> u64 {
        match &self.numbers {
            Some(numbers) => numbers.get(row).copied().unwrap_or(u64::MAX),
            None => self.first + row as u64,
        }
    }

    fn row(&self, number: u64) -> Option<usize> {
        match &self.numbers {
            Some(numbers) => numbers.binary_search(&number).ok(),
            None => usize::try_from(number.checked_sub(self.first)?).ok().filter(|row| *row < self.len()),
        }
    }

    /// Row, time and hash at a place of the order.
    fn in_order(&self, at: usize) -> Option<(usize, i64, u64)> {
        let row = *self.order.get(at)? as usize;
        Some((row, *self.rows.times_us.get(row)?, *self.rows.hashes.get(row)?))
    }

    fn is_live(&self, row: usize) -> bool {
        self.live.get(row).copied().unwrap_or(false)
    }

    fn is_matched(&self, row: usize) -> bool {
        self.rows.matched.get(row).copied().unwrap_or(true)
    }

    fn kill(&mut self, row: usize) {
        if let Some(live) = self.live.get_mut(row).filter(|live| **live) {
            *live = false;
            self.alive -= 1;
        }
    }

    /// Its live rows, under their numbers.
    fn compacted(self) -> Result<Chunk, OperatorError> {
        let kept: Vec<usize> = (0..self.len()).filter(|row| self.is_live(*row)).collect();
        let numbers = kept.iter().map(|row| self.number(*row)).collect::<Vec<_>>();
        let rows = self.live_rows()?;
        let first = numbers.first().copied().unwrap_or(self.first);
        Chunk::new(rows, first, Some(numbers))
    }

    fn live_rows(&self) -> Result<Rows, OperatorError> {
        fn kept<T: Copy>(values: &[T], live: &[bool]) -> Vec<T> {
            values.iter().zip(live).filter(|(_, live)| **live).map(|(value, _)| *value).collect()
        }
        let mask = BooleanArray::from(self.live.clone());
        Ok(Rows {
            batch: filter_record_batch(&self.rows.batch, &mask)?,
            hashes: kept(&self.rows.hashes, &self.live),
            times_us: kept(&self.rows.times_us, &self.live),
            matched: kept(&self.rows.matched, &self.live),
        })
    }

    /// Both in one; `later` has the greater numbers.
    fn with(self, later: Chunk) -> Result<Chunk, OperatorError> {
        let follows = self.numbers.is_none()
            && later.numbers.is_none()
            && self.first + self.len() as u64 == later.first;
        let numbers = (!follows).then(|| {
            let all = (0..self.len()).map(|row| self.number(row));
            all.chain((0..later.len()).map(|row| later.number(row))).collect()
        });
        let first = self.first;
        let (mut rows, mut live) = (self.rows, self.live);
        let schema = rows.batch.schema();
        rows.batch = concat_batches(&schema, [&rows.batch, &later.rows.batch])?;
        rows.hashes.extend(later.rows.hashes);
        rows.times_us.extend(later.rows.times_us);
        rows.matched.extend(later.rows.matched);
        live.extend(later.live);
        let alive = self.alive + later.alive;
        Ok(Chunk { live, alive, ..Chunk::new(rows, first, numbers)? })
    }
}

/// The rows of one side.
pub(super) struct Store {
    chunks: VecDeque<Chunk>,
    /// Number of the next row.
    next: u64,
    /// Where rows are looked up by key.
    index: Option<Index>,
}

impl Store {
    pub(super) fn new(is_looked_up: bool) -> Store {
        Store { chunks: VecDeque::new(), next: 0, index: is_looked_up.then(Index::default) }
    }

    pub(super) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Keeps rows.
    /// Memory of all rows, about.
    pub(super) fn bytes(&self) -> usize {
        let chunk = |chunk: &Chunk| chunk.rows.batch.get_array_memory_size() + chunk.len() * ROW_BYTES;
        self.chunks.iter().map(chunk).sum()
    }

    pub(super) fn push(&mut self, rows: Rows) -> Result<(), OperatorError> {
        if rows.times_us.is_empty() {
            return Ok(());
        }
        let first = self.next;
        if let Some(index) = &mut self.index {
            for (number, (time_us, hash)) in (first..).zip(rows.times_us.iter().zip(&rows.hashes)) {
                index.insert(*hash, Entry { time_us: *time_us, number });
            }
        }
        self.next += rows.times_us.len() as u64;
        self.chunks.push_back(Chunk::new(rows, first, None)?);
        self.settle(self.chunks.len() - 1)
    }

    /// Puts a chunk together with those before it that are not much larger.
    fn settle(&mut self, mut at: usize) -> Result<(), OperatorError> {
        while let (Some(before), Some(chunk)) =
            (at.checked_sub(1).and_then(|at| self.chunks.get(at)), self.chunks.get(at))
        {
            if before.len() > chunk.len() * 2 || before.len() + chunk.len() > CHUNK_ROWS {
                break;
            }
            let Some(later) = self.chunks.remove(at) else { break };
            at -= 1;
            let Some(earlier) = self.chunks.remove(at) else { break };
            self.chunks.insert(at, earlier.with(later)?);
        }
        Ok(())
    }

    /// Where rows with these numbers are. Rows that are gone are left out.
    pub(super) fn places(&self, numbers: &[u64]) -> Vec<Place> {
        let mut last = 0;
        let place = |number: &u64| {
            if let Some(row) = self.chunks.get(last).and_then(|chunk| chunk.row(*number)) {
                return Some((last, row));
            }
            last = self.chunks.partition_point(|chunk| chunk.first <= *number).checked_sub(1)?;
            Some((last, self.chunks.get(last)?.row(*number)?))
        };
        numbers.iter().filter_map(place).collect()
    }

    pub(super) fn is_matched(&self, (chunk, row): Place) -> bool {
        self.chunks.get(chunk).is_none_or(|chunk| chunk.is_matched(row))
    }

    /// The row has found a partner.
    pub(super) fn set_matched(&mut self, (chunk, row): Place) {
        let matched = self.chunks.get_mut(chunk).and_then(|chunk| chunk.rows.matched.get_mut(row));
        if let Some(matched) = matched {
            *matched = true;
        }
    }

    /// Rows before this time leave, all of them if there is none. They can be
    /// gathered until `sweep`.
    pub(super) fn leave(&mut self, before_us: Option<i64>) -> Vec<Place> {
        let mut left = Vec::new();
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            while let Some((row, time_us, hash)) = chunk.in_order(chunk.gone) {
                if before_us.is_some_and(|before_us| time_us >= before_us) {
                    break;
                }
                chunk.gone += 1;
                if !chunk.is_live(row) {
                    continue;
                }
                let entry = Entry { time_us, number: chunk.number(row) };
                chunk.kill(row);
                if let Some(index) = &mut self.index {
                    index.remove(hash, entry);
                }
                left.push((number, row));
            }
        }
        left
    }

    /// These rows leave, as with `leave`.
    pub(super) fn remove(&mut self, places: &[Place]) {
        for (number, row) in places {
            let Some(chunk) = self.chunks.get_mut(*number).filter(|chunk| chunk.is_live(*row)) else {
                continue;
            };
            let (time_us, hash) = (chunk.rows.times_us.get(*row), chunk.rows.hashes.get(*row));
            if let (Some(time_us), Some(hash), Some(index)) = (time_us, hash, &mut self.index) {
                index.remove(*hash, Entry { time_us: *time_us, number: chunk.number(*row) });
            }
            chunk.kill(*row);
        }
    }

    /// Every row that has not found a partner.
    pub(super) fn unmatched(&self) -> Vec<Place> {
        let chunks = self.chunks.iter().enumerate();
        let places = chunks.flat_map(|(number, chunk)| {
            let rows = (0..chunk.len()).filter(|row| chunk.is_live(*row) && !chunk.is_matched(*row));
            rows.map(move |row| (number, row))
        });
        places.collect()
    }

    /// Time of the oldest row that has not found a partner.
    pub(super) fn oldest_unmatched(&mut self) -> Option<i64> {
        let oldest = self.chunks.iter_mut().filter_map(|chunk| {
            while let Some((row, time_us, _)) = chunk.in_order(chunk.told) {
                if chunk.is_live(row) && !chunk.is_matched(row) {
                    return Some(time_us);
                }
                chunk.told += 1;
            }
            None
        });
        oldest.min()
    }

    /// Rows that event time has reached since the last call, each with the row
    /// of its key's list that stands before it.
    pub(super) fn passed(&mut self, until_us: i64) -> Vec<(u64, u64)> {
        let mut pairs = Vec::new();
        let Some(index) = &self.index else { return pairs };
        for chunk in &mut self.chunks {
            while let Some((row, time_us, hash)) = chunk.in_order(chunk.passed) {
                if time_us > until_us {
                    break;
                }
                chunk.passed += 1;
                if !chunk.is_live(row) {
                    continue;
                }
                let entry = Entry { time_us, number: chunk.number(row) };
                let list = index.list(hash);
                let before = list.and_then(|list| {
                    let at = list.partition_point(|known| *known < entry);
                    list.get(at.checked_sub(1)?)
                });
                pairs.extend(before.map(|before| (before.number, entry.number)));
            }
        }
        pairs
    }

    /// Forgets chunks that are gone, and makes those small that are mostly gone.
    pub(super) fn sweep(&mut self) -> Result<(), OperatorError> {
        self.chunks.retain(|chunk| chunk.alive > 0);
        let mut at = 0;
        while let Some(chunk) = self.chunks.get(at) {
            if chunk.alive * 8 < chunk.len()
                && let Some(chunk) = self.chunks.remove(at)
            {
                self.chunks.insert(at, chunk.compacted()?);
                let count = self.chunks.len();
                self.settle(at)?;
                at -= count - self.chunks.len();
            }
            at += 1;
        }
        Ok(())
    }

    /// The rows in the order they came, and whether they have found a partner.
    pub(super) fn live(&self) -> Result<Vec<(RecordBatch, Vec<bool>)>, OperatorError> {
        let live = |chunk: &Chunk| {
            if chunk.alive == chunk.len() {
                return Ok((chunk.rows.batch.clone(), chunk.rows.matched.clone()));
            }
            chunk.live_rows().map(|rows| (rows.batch, rows.matched))
        };
        self.chunks.iter().filter(|chunk| chunk.alive > 0).map(live).collect()
    }

    /// The rows at these places.
    pub(super) fn gather(&self, places: &[Place]) -> Result<Gathered<'_>, OperatorError> {
        let mut local = vec![None; self.chunks.len()];
        let (mut chunks, mut indices) = (Vec::new(), Vec::with_capacity(places.len()));
        for (number, row) in places {
            let (Some(chunk), Some(slot)) = (self.chunks.get(*number), local.get_mut(*number)) else {
                continue;
            };
            let index = *slot.get_or_insert_with(|| {
                chunks.push(chunk);
                chunks.len() - 1
            });
            indices.push((index, *row));
        }
        let rows = if chunks.len() == 1 {
            let rows = indices.iter().map(|(_, row)| u32::try_from(*row));
            Some(rows.collect::<Result<UInt32Array, _>>().map_err(OperatorError::new)?)
        } else {
            None
        };
        Ok(Gathered { chunks, indices, rows })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.index.as_ref().is_none_or(Index::is_empty)
    }

    #[cfg(test)]
    pub(super) fn chunk_lens(&self) -> Vec<usize> {
        self.chunks.iter().map(Chunk::len).collect()
    }
}

/// Rows of a store, in any order.
pub(super) struct Gathered<'a> {
    chunks: Vec<&'a Chunk>,
    indices: Vec<(usize, usize)>,
    /// The rows, if all are of one chunk.
    rows: Option<UInt32Array>,
}

impl Gathered<'_> {
    pub(super) fn len(&self) -> usize {
        self.indices.len()
    }

    /// The values of a column.
    pub(super) fn column(&self, index: usize) -> Result<ArrayRef, OperatorError> {
        let columns = self.chunks.iter().filter_map(|chunk| chunk.rows.batch.columns().get(index));
        let columns: Vec<&dyn Array> = columns.map(AsRef::as_ref).collect();
        match (columns.as_slice(), &self.rows) {
            ([only], Some(rows)) => Ok(take(*only, rows, None)?),
            (many, _) => Ok(interleave(many, &self.indices)?),
        }
    }

    /// The first columns.
    pub(super) fn columns(&self, count: usize) -> Result<Vec<ArrayRef>, OperatorError> {
        (0..count).map(|index| self.column(index)).collect()
    }

    pub(super) fn times_us(&self) -> impl Iterator<Item = i64> {
        self.each(|rows| &rows.times_us)
    }

    fn each<T: Copy>(&self, of: impl Fn(&Rows) -> &Vec<T>) -> impl Iterator<Item = T> {
        let value = move |(chunk, row): &(usize, usize)| {
            self.chunks.get(*chunk).and_then(|chunk| of(&chunk.rows).get(*row).copied())
        };
        self.indices.iter().filter_map(value)
    }

    /// The rows by themselves, without partners.
    pub(super) fn into_rows(self) -> Result<Rows, OperatorError> {
        let Some(first) = self.chunks.first() else {
            return Err(OperatorError::new("no rows to gather"));
        };
        let schema = first.rows.batch.schema();
        let columns = self.columns(schema.fields().len())?;
        Ok(Rows {
            batch: RecordBatch::try_new(Arc::clone(&schema), columns)?,
            hashes: self.each(|rows| &rows.hashes).collect(),
            times_us: self.times_us().collect(),
            matched: vec![false; self.len()],
        })
    }
}
