//! The join with a table. Rows wait until the first version is there. Another
//! version is taken into use at the next barrier; after an end in good order at
//! once, since nothing is replayed then.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{Compaction, Operator, Output, Progress};
use tidegate_engine::table::version_of;
use tidegate_engine::time::Time;

use super::index::Indexed;
use super::probe::Probe;
use super::state::{Report, Saved, together};
use super::{REJECTS_PORT, Shape};
use crate::join::bound::Side;
use crate::narrow::reject_rows;

/// The input that gives the table.
const TABLE: usize = 1;
/// With more rows than this a checkpoint holds a version of the table once.
const ROWS_WHOLE_MAX: usize = 50_000;
/// Most bytes of rows that wait for the table; more stay on their edge, but for
/// those that a checkpoint must have.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// With so many it fails.
const WAITING_BYTES_END: usize = 1 << 30;

pub(super) struct TableJoin {
    shape: Arc<Shape>,
    table: Option<Indexed>,
    /// The version that is taken into use at the next barrier.
    next: Option<Indexed>,
    /// The table that was saved may be an old one: its source speaks first.
    is_unsure: bool,
    waiting: VecDeque<RecordBatch>,
    waiting_bytes: usize,
    /// Time of the oldest row that waits.
    held_us: Option<i64>,
    watermark_us: i64,
    probes: VecDeque<Probe>,
    has_ended: bool,
    /// The version that the last report or the saved state holds.
    reported: Option<String>,
    rows_whole_max: usize,
}

impl TableJoin {
    pub(super) fn new(shape: Arc<Shape>) -> TableJoin {
        TableJoin {
            shape,
            table: None,
            next: None,
            is_unsure: false,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            held_us: None,
            watermark_us: i64::MIN,
            probes: VecDeque::new(),
            has_ended: false,
            reported: None,
            rows_whole_max: ROWS_WHOLE_MAX,
        }
    }

    #[cfg(test)]
    pub(super) fn report_changes_above(&mut self, rows: usize) {
        self.rows_whole_max = rows;
    }

    fn is_ready(&self) -> bool {
        self.table.is_some() && !self.is_unsure
    }

    /// Rows that have come look for theirs, as far as there is a table.
    fn look(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        let Some(table) = self.table.as_ref().filter(|_| !self.is_unsure) else { return Ok(Progress::Done) };
        loop {
            if let Some(probe) = self.probes.front_mut() {
                if probe.step(&self.shape, table, out)? {
                    self.probes.pop_front();
                }
                if !out.is_empty() {
                    return Ok(Progress::More);
                }
                continue;
            }
            let Some(batch) = self.waiting.pop_front() else {
                (self.held_us, self.waiting_bytes) = (None, 0);
                return Ok(Progress::Done);
            };
            let (pieces, bad) = self.shape.keyed(Side::Left, &batch)?;
            if !bad.is_empty() {
                out.emit_to(REJECTS_PORT, reject_rows(&self.shape.name, &self.shape.stream, &batch, bad)?);
            }
            self.probes.extend(pieces.into_iter().map(Probe::new));
        }
    }

    fn wait(&mut self, batch: &RecordBatch) -> Result<(), OperatorError> {
        if !self.is_ready() {
            self.waiting_bytes += batch.get_array_memory_size();
            if self.waiting_bytes > WAITING_BYTES_END {
                let message = "more rows wait for the first version of its table than can be kept";
                return Err(OperatorError::new(format!(
                    "{message} ({WAITING_BYTES_END} bytes): the log says why the table cannot be read"
                )));
            }
            if self.shape.stream.time.is_some() {
                let times = self.shape.stream.times(batch)?;
                // What was promised before is kept, whatever comes late.
                let oldest = times.values().iter().min().map(|oldest| (*oldest).max(self.watermark_us));
                self.held_us = [self.held_us, oldest].into_iter().flatten().min();
            }
        }
        self.waiting.push_back(batch.clone());
        Ok(())
    }

    fn take_version(&mut self, batch: &RecordBatch, out: &mut Output) -> Result<(), OperatorError> {
        let version = version_of(batch);
        if self.table.as_ref().is_some_and(|table| table.version == version) {
            // It is as it was again.
            (self.next, self.is_unsure) = (None, false);
            return Ok(());
        }
        let (table, bad) = Indexed::new(&self.shape, version, batch.clone())?;
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.shape.name, &self.shape.table, batch, bad)?);
        }
        if self.is_ready() {
            self.next = Some(table);
        } else {
            (self.table, self.is_unsure) = (Some(table), false);
        }
        Ok(())
    }

    fn report(&mut self, is_whole: bool) -> Result<Vec<RecordBatch>, OperatorError> {
        if let Some(next) = self.next.take() {
            self.table = Some(next);
        }
        let version = self.table.as_ref().map(|table| table.version.clone());
        let is_new = is_whole || self.reported != version;
        self.reported = version;
        Report {
            table: self.table.as_ref().filter(|_| is_new).map(|table| &table.whole),
            version: self.reported.as_deref(),
            waiting: &self.waiting,
            held_us: self.held_us,
            has_ended: self.has_ended,
        }
        .batches()
    }
}

impl Operator for TableJoin {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        if input == TABLE {
            self.take_version(batch, out)?
        } else {
            self.wait(batch)?
        }
        self.look(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.look(out)
    }

    fn on_watermark(&mut self, time: Time, _out: &mut Output) -> Result<Progress, OperatorError> {
        self.watermark_us = self.watermark_us.max(time.0);
        Ok(Progress::Done)
    }

    fn on_end(&mut self, _out: &mut Output) -> Result<Progress, OperatorError> {
        self.has_ended = true;
        Ok(Progress::Done)
    }

    fn output_watermark(&self, input: Time) -> Time {
        Time(self.held_us.map_or(input.0, |held_us| held_us.min(input.0)))
    }

    fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn accepts(&self, input: usize) -> bool {
        input == TABLE || self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// At a barrier: what follows it is joined with the version that the
    /// checkpoint holds.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.report(true)
    }

    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        let rows = |table: &Option<Indexed>| table.as_ref().map_or(0, |table| table.whole.num_rows());
        if rows(&self.table).max(rows(&self.next)) <= self.rows_whole_max {
            return Ok(None);
        }
        self.report(false).map(Some)
    }

    fn compaction(&self) -> Option<Compaction> {
        Some(Arc::new(together))
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        let Saved { version, table, waiting, held_us, has_ended } = Saved::read(&state)?;
        self.held_us = held_us;
        for batch in &waiting {
            let columns = Arc::clone(&self.shape.stream.columns);
            let batch = RecordBatch::try_new(columns, batch.columns().to_vec())?;
            self.waiting_bytes += batch.get_array_memory_size();
            self.waiting.push_back(batch);
        }
        let fits = |table: &RecordBatch| {
            let (saved, today) = (table.schema(), &self.shape.table.columns);
            let names = |schema: &arrow::datatypes::Schema| {
                let fields = schema.fields().iter();
                fields.map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>()
            };
            names(&saved) == names(today)
        };
        let (Some(version), Some(table)) = (version, table) else { return Ok(()) };
        // Today's file has other columns: its first version is waited for.
        if fits(&table) {
            let table =
                RecordBatch::try_new(Arc::clone(&self.shape.table.columns), table.columns().to_vec())?;
            let (table, _) = Indexed::new(&self.shape, &version, table)?;
            (self.table, self.is_unsure) = (Some(table), has_ended);
            self.reported = Some(version);
        }
        Ok(())
    }
}
