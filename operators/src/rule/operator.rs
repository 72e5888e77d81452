//! The trigger operator: rows wait until the watermark has reached them, are
//! judged in event-time order, and firings leave with the rows that caused
//! them. A row behind the watermark is judged when it comes, unless its key
//! has been judged at a later instant: then it leaves by `late`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{Compaction, MAIN_PORT, Operator, Output, Progress};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::Time;

use super::judge::{KeyState, Spec, Verdict};
use super::save;
use crate::narrow::{narrow, reject_rows};
use crate::part::key_texts;

const COOLING_PORT: usize = 1;
const REJECTS_PORT: usize = 2;
const LATE_PORT: usize = 3;

/// Rows kept with a key, to be handed to the run: the newest.
const ROWS_KEPT_MAX: usize = 100;
/// With more keys than this a snapshot says what is new, not everything.
const KEYS_WHOLE_MAX: usize = 50_000;

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
    /// The watermark at which each key wants to be looked at without a row.
    due: BTreeSet<(i64, String)>,
    pub(super) watermark_us: i64,
    /// Forgotten keys are removed when event time comes here.
    sweep_at_us: i64,
    /// Keys that have changed since the last snapshot, also removed ones.
    pub(super) changed: Vec<String>,
    pub(super) keys_whole_max: usize,
}

/// What is kept of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyed {
    pub(super) state: KeyState,
    /// The rows of the condition that is true or counted now, each by itself.
    pub(super) rows: VecDeque<RecordBatch>,
    /// It is among the changed ones.
    pub(super) is_changed: bool,
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

/// Where a row stands; in event-time order, then in order of arrival.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    time_us: i64,
    batch: usize,
    row: usize,
}

/// A copy of one row, which does not keep its batch in memory.
fn one_row(batch: &RecordBatch, row: usize) -> Result<RecordBatch, OperatorError> {
    let index = UInt32Array::from(vec![u32::try_from(row).map_err(OperatorError::new)?]);
    Ok(take_record_batch(batch, &index)?)
}

/// Rows not judged whose time has come at `until_us`, in order of arrival.
fn places(batches: &[Judgeable], until_us: i64) -> Vec<Place> {
    let mut found = Vec::new();
    for (batch, waiting) in batches.iter().enumerate() {
        for (row, (time_us, done)) in waiting.times.values().iter().zip(&waiting.done).enumerate() {
            if *time_us <= until_us && !done {
                found.push(Place { time_us: *time_us, batch, row });
            }
        }
    }
    found
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
            sweep_at_us: i64::MIN,
            changed: Vec::new(),
            keys_whole_max: KEYS_WHOLE_MAX,
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

    /// Judges every waiting row up to an instant, in event-time order.
    fn judge_pending(
        &mut self,
        until_us: i64,
        time_passes: bool,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let pending = std::mem::take(&mut self.pending);
        let mut order = places(&pending, until_us);
        order.sort_unstable();
        self.pending = self.judge(pending, &order, time_passes, out)?;
        Ok(())
    }

    /// Judges rows of these batches in the given order, and the instants
    /// between them if event time passes by; the answer is what is left.
    fn judge(
        &mut self,
        mut batches: Vec<Judgeable>,
        order: &[Place],
        time_passes: bool,
        out: &mut Output,
    ) -> Result<Vec<Judgeable>, OperatorError> {
        for Place { time_us, batch, row } in order {
            if time_passes {
                self.run_timers(*time_us, out)?;
            }
            if let Some(batch) = batches.get_mut(*batch) {
                if let Some(done) = batch.done.get_mut(*row) {
                    *done = true;
                }
                self.judge_row(*time_us, batch, *row, out)?;
            }
        }
        batches.retain(|batch| batch.done.iter().any(|done| !done));
        Ok(batches)
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
        let spec = self.spec;
        if spec.absent_us.is_some() && when != Some(true) {
            return Ok(());
        }
        let mut known = self.keys.get(key);
        // A key whose rows are behind the watermark has its own time.
        while let Some(due_us) = known.and_then(|keyed| keyed.state.due(&spec)).filter(|due| *due <= at_us) {
            self.fall_due(key, due_us, out)?;
            known = self.keys.get(key);
        }
        let now_us = at_us.max(self.watermark_us);
        if known.is_some_and(|keyed| keyed.state.is_forgotten(&spec, now_us)) {
            self.remove(key);
            known = None;
        }
        if known.is_some_and(|keyed| keyed.state.is_late(at_us)) {
            out.emit_to(LATE_PORT, one_row(&batch.batch, row)?);
            return Ok(());
        }
        let wakes_before = known.and_then(|keyed| keyed.state.wakes(&spec));
        let keyed = self
            .keys
            .entry(key.clone())
            .or_insert_with(|| Keyed { state: KeyState::first_seen(at_us), ..Keyed::default() });
        if !std::mem::replace(&mut keyed.is_changed, true) {
            self.changed.push(key.clone());
        }
        let verdict = keyed.state.on_row(&spec, (at_us, now_us), when, clear);
        if when == Some(true) || (spec.hits.is_some() && when.is_some()) {
            keyed.rows.push_back(one_row(&batch.batch, row)?);
        }
        let keep = keyed.state.evidence(&spec, verdict).min(ROWS_KEPT_MAX);
        keyed.rows.drain(..keyed.rows.len().saturating_sub(keep));
        let wakes = keyed.state.wakes(&spec);
        self.reschedule(key, wakes_before, wakes);
        self.tell(verdict, at_us, key, out)
    }

    fn reschedule(&mut self, key: &str, before: Option<i64>, after: Option<i64>) {
        if before == after {
            return;
        }
        if let Some(at) = before {
            self.due.remove(&(at, key.to_owned()));
        }
        if let Some(at) = after {
            self.due.insert((at, key.to_owned()));
        }
    }

    fn due_of(&self, key: &str) -> Option<i64> {
        self.keys.get(key)?.state.due(&self.spec)
    }

    fn run_timers(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        while let Some((_, key)) = self.due.first().filter(|(wakes, _)| *wakes <= until_us).cloned() {
            match self.due_of(&key) {
                Some(due_us) => self.fall_due(&key, due_us, out)?,
                None => drop(self.due.pop_first()),
            }
        }
        Ok(())
    }

    /// An instant of a key has come.
    fn fall_due(&mut self, key: &str, due_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let spec = self.spec;
        let Some(keyed) = self.keys.get_mut(key) else { return Ok(()) };
        if !std::mem::replace(&mut keyed.is_changed, true) {
            self.changed.push(key.to_owned());
        }
        let before = keyed.state.wakes(&spec);
        let verdict = keyed.state.on_due(&spec, due_us);
        let after = keyed.state.wakes(&spec);
        self.reschedule(key, before, after);
        self.tell(verdict, due_us, key, out)
    }

    fn remove(&mut self, key: &str) {
        if let Some(keyed) = self.keys.remove(key) {
            if !keyed.is_changed {
                self.changed.push(key.to_owned());
            }
            self.reschedule(key, keyed.state.wakes(&self.spec), None);
        }
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
        let counts = self.spec.count.is_some();
        let Some(keyed) = self.keys.get_mut(key) else { return Ok(()) };
        let rows = concat_batches(&self.input.columns, keyed.rows.iter())?;
        if counts {
            // A row is counted for one firing.
            keyed.rows.clear();
        }
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

    /// Frees the memory of forgotten keys; `judge_row` takes none of them up again.
    fn sweep(&mut self) {
        if self.watermark_us < self.sweep_at_us {
            return;
        }
        let (spec, now_us) = (self.spec, self.watermark_us);
        let is_done =
            |keyed: &Keyed| keyed.state.due(&spec).is_none() && keyed.state.is_forgotten(&spec, now_us);
        for (key, keyed) in self.keys.extract_if(.., |_, keyed| is_done(keyed)) {
            if !keyed.is_changed {
                self.changed.push(key);
            }
        }
        // Each sweep looks at every key, so not at every watermark.
        self.sweep_at_us = now_us.saturating_add(spec.forget_us / 2);
    }

    /// Puts the instants of restored keys in order again.
    pub(super) fn schedule_all(&mut self) {
        let spec = self.spec;
        let due = self.keys.iter().filter_map(|(key, keyed)| Some((keyed.state.wakes(&spec)?, key.clone())));
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
        // Rows behind the watermark are judged in the order they came.
        let behind = places(&ready, self.watermark_us);
        let left = self.judge(ready, &behind, false, out)?;
        self.pending.extend(left);
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.input, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.judge_pending(time.0, true, out)?;
        self.run_timers(time.0, out)?;
        self.watermark_us = time.0;
        self.sweep();
        Ok(Progress::Done)
    }

    /// The last rows are judged; what waits for time to pass sees no more time.
    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.judge_pending(i64::MAX, false, out)?;
        Ok(Progress::Done)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.save()
    }

    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        if self.keys.len() <= self.keys_whole_max {
            return Ok(None);
        }
        self.save_changes().map(Some)
    }

    fn compaction(&self) -> Option<Compaction> {
        let columns = Arc::clone(&self.input.columns);
        Some(Arc::new(move |reports| save::together(&columns, reports)))
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.load(&state)
    }
}
