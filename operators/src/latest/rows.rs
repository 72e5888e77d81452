//! The last row of each key, in chunks of rows in the order they came. A
//! snapshot gives chunks as they are, so it costs nothing to take; rows that
//! others have replaced go when most of a chunk is of that kind.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::row::{RowConverter, Rows, SortField};
use tidegate_engine::changelog::gives;
use tidegate_engine::error::OperatorError;
use tidegate_engine::schema::StreamSchema;

/// Most keys; the topology fails rather than fill the memory.
const KEYS_MAX: usize = 1_000_000;
/// Chunks are put together up to about so many rows.
const CHUNK_ROWS: usize = 8_192;
/// What a report leaves behind is put together if it is smaller than this.
const SMALL_ROWS: usize = 1_024;
/// Keys that were taken back are left out when they are more than this, and more
/// than the others.
const GONE_MAX: usize = 1_024;

/// The last rows of a stream.
pub(super) struct LastRows {
    stream: StreamSchema,
    key: Vec<usize>,
    converter: RowConverter,
    places: HashMap<Box<[u8]>, Place>,
    /// By number, in the order their newest rows came.
    chunks: BTreeMap<u64, Chunk>,
    /// The newest chunk.
    newest: u64,
    /// Chunks up to this one have been reported.
    reported: u64,
    /// How many keys were taken back last. Their rows stay for a while, so that
    /// rows of theirs in earlier chunks and reports do not come up again.
    gone: usize,
    /// Rows of keys that are gone have been left out: the next report is whole.
    whole: bool,
}

/// Where the row of a key is.
#[derive(Clone, Copy)]
struct Place {
    time_us: i64,
    chunk: u64,
    row: usize,
    /// The row takes the key back.
    is_gone: bool,
}

#[derive(Clone)]
struct Chunk {
    rows: RecordBatch,
    /// Whether a row is the last of its key.
    live: Vec<bool>,
    alive: usize,
}

impl Chunk {
    fn new(rows: RecordBatch) -> Chunk {
        let alive = rows.num_rows();
        Chunk { rows, live: vec![true; alive], alive }
    }

    fn live_rows(self) -> Result<RecordBatch, OperatorError> {
        if self.alive == self.live.len() {
            return Ok(self.rows);
        }
        Ok(filter_record_batch(&self.rows, &BooleanArray::from(self.live))?)
    }
}

impl LastRows {
    pub(super) fn new(stream: StreamSchema, key: Vec<usize>) -> Result<LastRows, OperatorError> {
        let types = key.iter().filter_map(|index| stream.columns.fields().get(*index));
        let fields = types.map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(LastRows {
            stream,
            key,
            converter: RowConverter::new(fields)?,
            places: HashMap::new(),
            chunks: BTreeMap::new(),
            newest: 0,
            reported: 0,
            gone: 0,
            whole: false,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The column that says what a row is, if the stream is a changelog.
    pub(super) fn change(&self) -> Option<usize> {
        self.stream.change()
    }

    /// Keeps the rows that are the last of their keys: the latest event time,
    /// and of equal ones the row that came last.
    pub(super) fn keep(&mut self, batch: &RecordBatch) -> Result<(), OperatorError> {
        let times = self.stream.times(batch)?;
        let gives = self.change().map(|change| gives(batch, change)).transpose()?;
        let keys = self.keys(batch)?;
        let mut last: HashMap<&[u8], (usize, i64)> = HashMap::new();
        for (row, time) in times.values().iter().enumerate() {
            let place = last.entry(keys.row(row).data()).or_insert((row, *time));
            if *time >= place.1 {
                *place = (row, *time);
            }
        }
        let is_newer = |key: &[u8], time: i64| self.places.get(key).is_none_or(|known| known.time_us <= time);
        let newer = last.into_iter().filter(|(key, (_, time))| is_newer(key, *time));
        let mut kept: Vec<(usize, i64)> = newer.map(|(_, place)| place).collect();
        if kept.is_empty() {
            return Ok(());
        }
        kept.sort_unstable();
        let indices: Result<Vec<u32>, _> = kept.iter().map(|(row, _)| u32::try_from(*row)).collect();
        let rows = take_record_batch(batch, &UInt32Array::from(indices.map_err(OperatorError::new)?))?;
        self.newest += 1;
        let chunk = self.newest;
        self.chunks.insert(chunk, Chunk::new(rows));
        let mut thinned = Vec::new();
        for (row, (in_batch, time_us)) in kept.into_iter().enumerate() {
            let is_gone = gives.as_ref().is_some_and(|gives| !gives.value(in_batch));
            let place = Place { time_us, chunk, row, is_gone };
            let before = self.places.insert(keys.row(in_batch).data().into(), place);
            self.gone += usize::from(is_gone);
            self.gone -= usize::from(before.is_some_and(|before| before.is_gone));
            thinned.extend(before.and_then(|before| self.replaced(before)));
        }
        if self.places.len() - self.gone > KEYS_MAX {
            return Err(OperatorError::new(format!("more than {KEYS_MAX} keys in a table of last rows")));
        }
        thinned.push(chunk);
        thinned.into_iter().try_for_each(|chunk| self.settle(chunk, 0))?;
        if self.gone > GONE_MAX && self.gone * 2 > self.places.len() { self.leave_out_gone() } else { Ok(()) }
    }

    /// Leaves out what was taken back, with every row that it keeps down. Changes
    /// of a key never go back in time, so no row older than it is to come.
    fn leave_out_gone(&mut self) -> Result<(), OperatorError> {
        let gone: Vec<Place> =
            self.places.extract_if(|_, place| place.is_gone).map(|(_, place)| place).collect();
        for place in gone {
            self.replaced(place);
        }
        self.gone = 0;
        for (number, chunk) in std::mem::take(&mut self.chunks) {
            if chunk.alive == 0 {
                continue;
            }
            let rows = chunk.live_rows()?;
            let keys = self.keys(&rows)?;
            for (row, key) in keys.iter().enumerate() {
                self.places.get_mut(key.data()).into_iter().for_each(|place| place.row = row);
            }
            self.chunks.insert(number, Chunk::new(rows));
        }
        self.whole = true;
        Ok(())
    }

    /// Whether only a report of everything says what it holds.
    pub(super) fn must_be_whole(&self) -> bool {
        self.whole
    }

    fn keys(&self, batch: &RecordBatch) -> Result<Rows, OperatorError> {
        let columns: Vec<ArrayRef> =
            self.key.iter().filter_map(|index| batch.columns().get(*index).cloned()).collect();
        Ok(self.converter.convert_columns(&columns)?)
    }

    /// A row is not the last any more; answers its chunk if that is the one row
    /// that leaves less than half of it.
    fn replaced(&mut self, place: Place) -> Option<u64> {
        let chunk = self.chunks.get_mut(&place.chunk)?;
        *chunk.live.get_mut(place.row)? = false;
        let was_half = chunk.alive * 2 >= chunk.live.len();
        chunk.alive -= 1;
        (was_half && chunk.alive * 2 < chunk.live.len()).then_some(place.chunk)
    }

    /// Puts a chunk together with those before it that are small or not much larger,
    /// and leaves out what is replaced. What was reported and what was not stay apart.
    fn settle(&mut self, number: u64, small: usize) -> Result<(), OperatorError> {
        let Some(chunk) = self.chunks.get(&number) else { return Ok(()) };
        let mut alive = chunk.alive;
        let mut together = vec![number];
        for (before, chunk) in self.chunks.range(..number).rev() {
            let is_apart = (*before <= self.reported) != (number <= self.reported);
            if is_apart || chunk.alive > small.max(alive * 2) || chunk.alive + alive > CHUNK_ROWS {
                break;
            }
            alive += chunk.alive;
            together.push(*before);
        }
        let is_dense = self.chunks.get(&number).is_some_and(|chunk| alive * 2 >= chunk.live.len());
        if together.len() == 1 && is_dense {
            return Ok(());
        }
        together.reverse();
        let chunks = together.iter().filter_map(|number| self.chunks.remove(number));
        let rows = chunks.map(Chunk::live_rows).collect::<Result<Vec<_>, _>>()?;
        if alive == 0 {
            return Ok(());
        }
        let rows = concat_batches(&self.stream.columns, &rows)?;
        let keys = self.keys(&rows)?;
        for (row, key) in keys.iter().enumerate() {
            if let Some(place) = self.places.get_mut(key.data()) {
                (place.chunk, place.row) = (number, row);
            }
        }
        self.chunks.insert(number, Chunk::new(rows));
        Ok(())
    }

    /// Everything, also rows that later ones replace.
    pub(super) fn report_all(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let all = self.chunks.values().map(|chunk| chunk.rows.clone()).collect();
        self.whole = false;
        self.is_reported()?;
        Ok(all)
    }

    /// What came since the last report.
    pub(super) fn report(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let new = self.chunks.range(self.reported + 1..).map(|(_, chunk)| chunk.rows.clone()).collect();
        self.is_reported()?;
        Ok(new)
    }

    fn is_reported(&mut self) -> Result<(), OperatorError> {
        self.reported = self.newest;
        self.settle(self.newest, SMALL_ROWS)
    }

    /// What it holds has been reported by an earlier process.
    pub(super) fn restored(&mut self) -> Result<(), OperatorError> {
        self.is_reported()
    }

    /// The last rows as they are now; whoever asks makes them one by one, without
    /// holding up what comes.
    pub(super) fn now(&self) -> impl Iterator<Item = Result<RecordBatch, OperatorError>> + use<> {
        let chunks: Vec<Chunk> = self.chunks.values().cloned().collect();
        chunks.into_iter().filter(|chunk| chunk.alive > 0).map(Chunk::live_rows)
    }
}

/// A report of everything from one and the reports behind it.
pub(super) fn together(
    stream: &StreamSchema,
    key: &[usize],
    reports: &[RecordBatch],
) -> Result<Vec<RecordBatch>, OperatorError> {
    let mut rows = LastRows::new(stream.clone(), key.to_vec())?;
    reports.iter().try_for_each(|batch| rows.keep(batch))?;
    rows.now().collect()
}
