//! Rows that event time has not reached. Each batch is sorted when it comes, so
//! that what is ready is the beginning of some of them; batches that follow
//! each other in time, as most do, leave as they are.

use std::collections::BTreeMap;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use tidegate_engine::error::OperatorError;

/// Most rows of a batch that is put together from others.
const MERGED_ROWS_MAX: usize = 8_192;
/// What is left of a batch is copied when it is so much smaller, so that a few
/// rows of the future do not keep all their neighbours in memory.
const REST_MIN: usize = 4;

/// Rows and their event times in microseconds.
#[derive(Clone)]
pub(super) struct Timed {
    pub(super) rows: RecordBatch,
    pub(super) times: ScalarBuffer<i64>,
}

impl Timed {
    fn slice(&self, start: usize, count: usize) -> Timed {
        Timed { rows: self.rows.slice(start, count), times: self.times.slice(start, count) }
    }

    pub(super) fn filter(&self, mask: &BooleanArray) -> Result<Timed, OperatorError> {
        let times = self.times.iter().zip(mask.values()).filter(|(_, keep)| *keep).map(|(time, _)| *time);
        Ok(Timed { rows: filter_record_batch(&self.rows, mask)?, times: times.collect() })
    }

    fn take(&self, order: Vec<u32>) -> Result<Timed, OperatorError> {
        let row = |index: &u32| self.times.get(usize::try_from(*index).ok()?).copied();
        let times = order.iter().filter_map(row).collect();
        Ok(Timed { rows: take_record_batch(&self.rows, &UInt32Array::from(order))?, times })
    }

    fn sorted(self) -> Result<Timed, OperatorError> {
        if self.times.is_sorted() {
            return Ok(self);
        }
        let rows = u32::try_from(self.times.len()).map_err(OperatorError::new)?;
        let mut order: Vec<(i64, u32)> = self.times.iter().copied().zip(0..rows).collect();
        order.sort_unstable();
        self.take(order.into_iter().map(|(_, row)| row).collect())
    }
}

/// A sorted batch, or what is left of it.
struct Part {
    timed: Timed,
    /// Rows of the batch that it keeps in memory.
    held_rows: usize,
}

impl Part {
    /// Without its first rows.
    fn behind(self, start: usize) -> Result<Part, OperatorError> {
        let count = self.timed.times.len().saturating_sub(start);
        let timed = self.timed.slice(start, count);
        if count.saturating_mul(REST_MIN) >= self.held_rows {
            return Ok(Part { timed, held_rows: self.held_rows });
        }
        let all = 0..u32::try_from(count).map_err(OperatorError::new)?;
        Ok(Part { timed: timed.take(all.collect())?, held_rows: count })
    }
}

/// All rows that wait.
pub(super) struct Waiting {
    pub(super) schema: SchemaRef,
    /// By the time of the first row, then by the order of arrival.
    parts: BTreeMap<(i64, u64), Part>,
    /// How many batches have come.
    arrived: u64,
}

impl Waiting {
    pub(super) fn new(schema: SchemaRef) -> Waiting {
        Waiting { schema, parts: BTreeMap::new(), arrived: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Memory of all rows, about.
    pub(super) fn bytes(&self) -> usize {
        self.parts.values().map(|part| part.timed.rows.get_array_memory_size()).sum()
    }

    pub(super) fn push(&mut self, timed: Timed) -> Result<(), OperatorError> {
        let timed = timed.sorted()?;
        self.arrived += 1;
        self.keep(self.arrived, Part { held_rows: timed.times.len(), timed });
        Ok(())
    }

    fn keep(&mut self, arrival: u64, part: Part) {
        if let Some(first_us) = part.timed.times.first() {
            self.parts.insert((*first_us, arrival), part);
        }
    }

    /// Takes the rows up to this instant, in order of their times and of equal
    /// ones in order of arrival.
    pub(super) fn take(&mut self, until_us: i64) -> Result<Vec<Timed>, OperatorError> {
        let mut ready: Vec<(u64, Timed)> = Vec::new();
        while let Some(entry) = self.parts.first_entry().filter(|entry| entry.key().0 <= until_us) {
            let ((_, arrival), part) = entry.remove_entry();
            let count = part.timed.times.partition_point(|time_us| *time_us <= until_us);
            if count == part.timed.times.len() {
                ready.push((arrival, part.timed));
            } else {
                ready.push((arrival, part.timed.slice(0, count)));
                self.keep(arrival, part.behind(count)?);
            }
        }
        let follows = |earlier: &(u64, Timed), later: &(u64, Timed)| {
            let (last, first) = (earlier.1.times.last(), later.1.times.first());
            last < first || (last == first && earlier.0 < later.0)
        };
        if ready.is_sorted_by(follows) {
            return Ok(ready.into_iter().map(|(_, timed)| timed).collect());
        }
        ready.sort_unstable_by_key(|(arrival, _)| *arrival);
        merged(&ready.into_iter().map(|(_, timed)| timed).collect::<Vec<_>>())
    }

    /// All rows, in order of arrival.
    pub(super) fn all(&self) -> Result<RecordBatch, OperatorError> {
        let mut parts: Vec<(u64, &RecordBatch)> =
            self.parts.iter().map(|((_, arrival), part)| (*arrival, &part.timed.rows)).collect();
        parts.sort_unstable_by_key(|(arrival, _)| *arrival);
        Ok(concat_batches(&self.schema, parts.into_iter().map(|(_, rows)| rows))?)
    }
}

/// Sorted batches in order of arrival as new ones that follow each other.
fn merged(parts: &[Timed]) -> Result<Vec<Timed>, OperatorError> {
    let mut order: Vec<(i64, usize, usize)> = Vec::new();
    for (part, timed) in parts.iter().enumerate() {
        order.extend(timed.times.iter().enumerate().map(|(row, time_us)| (*time_us, part, row)));
    }
    order.sort_unstable();
    let sources: Vec<&RecordBatch> = parts.iter().map(|timed| &timed.rows).collect();
    let piece = |places: &[(i64, usize, usize)]| {
        let indices: Vec<(usize, usize)> = places.iter().map(|(_, part, row)| (*part, *row)).collect();
        let rows = interleave_record_batch(&sources, &indices)?;
        Ok(Timed { rows, times: places.iter().map(|(time_us, _, _)| *time_us).collect() })
    };
    order.chunks(MERGED_ROWS_MAX).map(piece).collect()
}
