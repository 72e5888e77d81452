//! The trigger operator: rows wait until the watermark has reached them, are
//! judged in event-time order, and firings leave with the rows that caused
//! them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{MAIN_PORT, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::Time;

use super::judge::{KeyState, Spec, Verdict};
use crate::narrow::{narrow, reject_rows};
use crate::part::key_texts;

const COOLING_PORT: usize = 1;
const REJECTS_PORT: usize = 2;

/// Rows kept with a key, to be handed to the run: the newest.
const ROWS_KEPT_MAX: usize = 100;

/// The compiled words of a trigger.
pub(super) struct Parts {
    pub(super) when: Option<Arc<dyn Expression>>,
    pub(super) clear_when: Option<Arc<dyn Expression>>,
    pub(super) keys: Vec<usize>,
    pub(super) give: Vec<(String, Arc<dyn Expression>)>,
}

pub(super) struct Rule {
    pub(super) name: String,
    pub(super) input: StreamSchema,
    output: StreamSchema,
    spec: Spec,
    parts: Parts,
    /// Rows that the watermark has not reached, in order of arrival.
    pub(super) pending: Vec<Judgeable>,
    pub(super) keys: BTreeMap<String, Keyed>,
    /// When each key wants to be looked at without a row.
    due: BTreeSet<(i64, String)>,
    pub(super) watermark_us: i64,
}

/// What is kept of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyed {
    pub(super) state: KeyState,
    /// The rows of the condition that is true or counted now, each by itself.
    pub(super) rows: VecDeque<RecordBatch>,
}

/// A batch with its conditions evaluated.
pub(super) struct Judgeable {
    pub(super) batch: RecordBatch,
    times: TimestampMicrosecondArray,
    keys: Vec<String>,
    when: Option<BooleanArray>,
    clear: Option<BooleanArray>,
    /// Rows judged already.
    done: Vec<bool>,
}

impl Judgeable {
    /// The rows that wait.
    pub(super) fn waiting(&self) -> Result<RecordBatch, OperatorError> {
        let mask: BooleanArray = self.done.iter().map(|done| Some(!done)).collect();
        Ok(arrow::compute::filter_record_batch(&self.batch, &mask)?)
    }
}

impl Rule {
    pub(super) fn new(
        name: String,
        input: StreamSchema,
        output: StreamSchema,
        spec: Spec,
        parts: Parts,
    ) -> Rule {
        Rule {
            name,
            input,
            output,
            spec,
            parts,
            pending: Vec::new(),
            keys: BTreeMap::new(),
            due: BTreeSet::new(),
            watermark_us: i64::MIN,
        }
    }

    pub(super) fn evaluate(&self, batch: &RecordBatch) -> Result<Judgeable, OperatorError> {
        let condition = |expression: &Option<Arc<dyn Expression>>| match expression {
            Some(expression) => Ok(Some(expression.evaluate(batch)?.as_boolean().clone())),
            None => Ok::<_, OperatorError>(None),
        };
        // `give` is evaluated here too, so that a row on which it fails is rejected now.
        for (_, value) in &self.parts.give {
            value.evaluate(batch)?;
        }
        Ok(Judgeable {
            batch: batch.clone(),
            times: self.input.times(batch)?,
            keys: key_texts(batch, &self.parts.keys)?,
            when: condition(&self.parts.when)?,
            clear: condition(&self.parts.clear_when)?,
            done: vec![false; batch.num_rows()],
        })
    }

    /// Judges every waiting row up to the watermark, in event-time order, and
    /// the instants between them.
    fn judge(&mut self, until_us: i64, timers: bool, out: &mut Output) -> Result<(), OperatorError> {
        let mut order: Vec<(i64, usize, usize)> = Vec::new();
        for (batch, pending) in self.pending.iter().enumerate() {
            for (row, time) in pending.times.values().iter().enumerate() {
                if *time <= until_us && pending.done.get(row) == Some(&false) {
                    order.push((*time, batch, row));
                }
            }
        }
        order.sort_unstable();
        let mut pending = std::mem::take(&mut self.pending);
        for (time_us, batch, row) in order {
            if timers {
                self.run_timers(time_us, out)?;
            }
            if let Some(batch) = pending.get_mut(batch) {
                if let Some(done) = batch.done.get_mut(row) {
                    *done = true;
                }
                self.judge_row(time_us, batch, row, out)?;
            }
        }
        pending.retain(|batch| batch.done.iter().any(|done| !done));
        self.pending = pending;
        if timers {
            self.run_timers(until_us, out)?;
        }
        Ok(())
    }

    fn judge_row(
        &mut self,
        at_us: i64,
        batch: &Judgeable,
        row: usize,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let value = |mask: &Option<BooleanArray>| match mask {
            Some(mask) if mask.is_null(row) => None,
            Some(mask) => Some(mask.value(row)),
            None => Some(true),
        };
        let when = value(&batch.when);
        let clear = batch.clear.as_ref().and_then(|_| value(&batch.clear));
        let Some(key) = batch.keys.get(row) else { return Ok(()) };
        if self.spec.absent_us.is_some() && when != Some(true) {
            return Ok(());
        }
        let spec = self.spec;
        let keyed = self
            .keys
            .entry(key.clone())
            .or_insert_with(|| Keyed { state: KeyState::first_seen(at_us), rows: VecDeque::new() });
        let due_before = keyed.state.due(&spec);
        let verdict = keyed.state.on_row(&spec, at_us, when, clear);
        let counts = when == Some(true) || spec.hits.is_some();
        if counts {
            let single = UInt32Array::from(vec![u32::try_from(row).unwrap_or(u32::MAX)]);
            keyed.rows.push_back(take_record_batch(&batch.batch, &single)?);
            let keep = spec.hits.map_or(ROWS_KEPT_MAX, |(_, of)| of.min(ROWS_KEPT_MAX));
            let keep =
                if spec.absent_us.is_some() || (spec.on_row && spec.count.is_none()) { 1 } else { keep };
            while keyed.rows.len() > keep {
                keyed.rows.pop_front();
            }
        } else if when == Some(false) && spec.count.is_none() {
            keyed.rows.clear();
        }
        let due_after = keyed.state.due(&spec);
        self.reschedule(key, due_before, due_after);
        self.tell(verdict, at_us, key, out)
    }

    fn reschedule(&mut self, key: &str, before: Option<i64>, after: Option<i64>) {
        if before == after {
            // The very first row of a key names an instant without a change.
            if let Some(at) = after {
                self.due.insert((at, key.to_owned()));
            }
            return;
        }
        if let Some(at) = before {
            self.due.remove(&(at, key.to_owned()));
        }
        if let Some(at) = after {
            self.due.insert((at, key.to_owned()));
        }
    }

    fn run_timers(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        while let Some((at_us, _)) = self.due.first().filter(|(at, _)| *at <= until_us) {
            let at_us = *at_us;
            let Some((_, key)) = self.due.pop_first() else { break };
            let spec = self.spec;
            let Some(keyed) = self.keys.get_mut(&key) else { continue };
            if keyed.state.due(&spec) != Some(at_us) {
                continue;
            }
            let verdict = keyed.state.on_due(&spec, at_us);
            if let Some(next) = keyed.state.due(&spec) {
                self.due.insert((next, key.clone()));
            }
            self.tell(verdict, at_us, &key, out)?;
        }
        Ok(())
    }

    fn tell(
        &mut self,
        verdict: Verdict,
        at_us: i64,
        key: &str,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let port = match verdict {
            Verdict::Quiet => return Ok(()),
            Verdict::Fires => MAIN_PORT,
            Verdict::Cooling => COOLING_PORT,
        };
        let Some(keyed) = self.keys.get(key) else { return Ok(()) };
        let rows = concat_batches(&self.input.columns, keyed.rows.iter())?;
        let count = rows.num_rows();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(vec![at_us; count]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec![key; count])),
            Arc::new(Int64Array::from(vec![keyed.state.ordinal; count])),
        ];
        for (_, value) in &self.parts.give {
            columns.push(value.evaluate(&rows)?);
        }
        columns.extend(rows.columns().iter().cloned());
        out.emit_to(port, RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?);
        Ok(())
    }

    fn forget(&mut self, now_us: i64) {
        let spec = self.spec;
        self.keys.retain(|_, keyed| !keyed.state.is_forgotten(&spec, now_us));
    }

    /// Puts the instants of restored keys in order again.
    pub(super) fn schedule_all(&mut self) {
        let spec = self.spec;
        let due = self.keys.iter().filter_map(|(key, keyed)| Some((keyed.state.due(&spec)?, key.clone())));
        self.due = due.collect();
    }
}

impl Operator for Rule {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let mut ready = Vec::new();
        let bad = narrow(batch, &mut |rows| self.evaluate(rows), &mut |rows| ready.push(rows));
        self.pending.extend(ready);
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.input, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        let hours_passed = time.0.saturating_sub(self.watermark_us) / 3_600_000_000;
        self.judge(time.0, true, out)?;
        if hours_passed > 0 {
            self.forget(time.0);
        }
        self.watermark_us = time.0;
        Ok(Progress::Done)
    }

    /// The last rows are judged; what waits for time to pass sees no more time.
    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.judge(i64::MAX, false, out)?;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.save()
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.load(&state)
    }
}
