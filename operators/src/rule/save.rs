//! A trigger's memory as four record batches: keys with their state, the rows
//! kept with each key (in the same order), the rows that wait, and the
//! watermark. Changes are four more: keys that are new, other or gone, and what
//! waits now.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, SchemaRef};
use tidegate_engine::error::OperatorError;
use tidegate_engine::planted;

use super::operator::{Keyed, Rule};

/// In the place of the number of its rows: the key is gone.
const GONE: i64 = -1;

impl Rule {
    pub(super) fn save(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        if self.keys.is_empty() && self.pending.is_empty() && self.watermark_us == i64::MIN {
            return Ok(Vec::new());
        }
        let saved = self.saved(self.keys.iter().map(|(name, keyed)| (name.as_str(), Some(keyed))))?;
        self.changed.clear();
        self.keys.values_mut().for_each(|keyed| keyed.is_changed = false);
        Ok(saved)
    }

    pub(super) fn save_changes(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        // A key may have gone and come again.
        self.changed.sort_unstable();
        self.changed.dedup();
        let saved = self.saved(self.changed.iter().map(|name| (name.as_str(), self.keys.get(name))))?;
        for name in self.changed.drain(..) {
            if let Some(keyed) = self.keys.get_mut(&name) {
                keyed.is_changed = false;
            }
        }
        Ok(saved)
    }

    /// These keys, and what else there is; `None` is a key that is gone.
    fn saved<'a>(
        &self,
        keys: impl Iterator<Item = (&'a str, Option<&'a Keyed>)>,
    ) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut names = Vec::new();
        let mut states = Vec::new();
        let mut counts = Vec::new();
        let mut rows = Vec::new();
        for (name, keyed) in keys {
            names.push(name);
            states.push(keyed.map_or(Ok(String::new()), |keyed| serde_json::to_string(&keyed.state)));
            let count = keyed.map_or(Ok(GONE), |keyed| i64::try_from(keyed.rows.len()));
            counts.push(count.map_err(OperatorError::new)?);
            rows.extend(keyed.into_iter().flat_map(|keyed| keyed.rows.iter().cloned()));
        }
        let states = states.into_iter().collect::<Result<Vec<_>, _>>().map_err(OperatorError::new)?;
        let keys = keys_batch(names, states, counts)?;
        let waiting: Result<Vec<RecordBatch>, OperatorError> =
            self.pending.iter().map(super::operator::Judgeable::waiting).collect();
        let schema = &self.input.columns;
        let watermark = Arc::new(Int64Array::from(vec![self.watermark_us])) as ArrayRef;
        let watermark = RecordBatch::try_from_iter([("watermark", watermark)])?;
        Ok(vec![keys, concat_batches(schema, &rows)?, concat_batches(schema, &waiting?)?, watermark])
    }

    pub(super) fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let mut last = None;
        for report in reports(state)? {
            for (name, key) in &report.keys {
                self.keys.remove(*name);
                if let Some(SavedKey { state, rows }) = key {
                    let rows = (0..rows.num_rows()).map(|row| rows.slice(row, 1)).collect();
                    let state = serde_json::from_str(state).map_err(OperatorError::new)?;
                    self.keys.insert((*name).to_owned(), Keyed { state, rows, is_changed: false });
                }
            }
            last = Some(report);
        }
        let Some(Report { waiting, watermark, .. }) = last else { return Ok(()) };
        let [watermark] = watermark.columns() else { return Err(OperatorError::new(SHAPE)) };
        let watermark = watermark.as_primitive_opt::<Int64Type>().and_then(|times| times.values().first());
        self.watermark_us = *watermark.ok_or_else(|| OperatorError::new(SHAPE))?;
        if waiting.num_rows() > 0 && !planted!(WaitingForgotten) {
            let waiting = self.evaluate(waiting)?;
            self.pending.push(waiting);
        }
        if !planted!(TimersForgotten) {
            self.schedule_all();
        }
        Ok(())
    }
}

/// One snapshot of a snapshot and the changes behind it.
pub(super) fn together(
    columns: &SchemaRef,
    state: &[RecordBatch],
) -> Result<Vec<RecordBatch>, OperatorError> {
    let mut keys = BTreeMap::new();
    let mut last = None;
    for report in reports(state)? {
        for (name, key) in report.keys {
            match key {
                Some(key) => drop(keys.insert(name, key)),
                None => drop(keys.remove(name)),
            }
        }
        last = Some((report.waiting, report.watermark));
    }
    let Some((waiting, watermark)) = last else { return Ok(Vec::new()) };
    let counts = keys.values().map(|key| i64::try_from(key.rows.num_rows()));
    let counts = counts.collect::<Result<Vec<_>, _>>().map_err(OperatorError::new)?;
    let states = keys.values().map(|key| key.state.to_owned()).collect();
    let rows = concat_batches(columns, keys.values().map(|key| &key.rows))?;
    let names = keys.into_keys().collect();
    Ok(vec![keys_batch(names, states, counts)?, rows, waiting.clone(), watermark.clone()])
}

/// What one snapshot says.
struct Report<'a> {
    /// `None` is a key that is gone.
    keys: Vec<(&'a str, Option<SavedKey<'a>>)>,
    waiting: &'a RecordBatch,
    watermark: &'a RecordBatch,
}

struct SavedKey<'a> {
    state: &'a str,
    rows: RecordBatch,
}

fn reports(state: &[RecordBatch]) -> Result<Vec<Report<'_>>, OperatorError> {
    state.chunks(4).map(|report| read(report).ok_or_else(|| OperatorError::new(SHAPE))).collect()
}

fn read(report: &[RecordBatch]) -> Option<Report<'_>> {
    let [keys, rows, waiting, watermark] = report else { return None };
    let [names, states, counts] = keys.columns() else { return None };
    let (names, states) = (names.as_string_opt::<i32>()?, states.as_string_opt::<i32>()?);
    let counts = counts.as_primitive_opt::<Int64Type>()?;
    let mut at = 0;
    let mut found = Vec::new();
    for ((name, state), count) in names.iter().zip(states.iter()).zip(counts.values()) {
        let key = if *count == GONE {
            None
        } else {
            let count = usize::try_from(*count).ok().filter(|count| *count <= rows.num_rows() - at)?;
            at += count;
            Some(SavedKey { state: state?, rows: rows.slice(at - count, count) })
        };
        found.push((name?, key));
    }
    Some(Report { keys: found, waiting, watermark })
}

fn keys_batch(names: Vec<&str>, states: Vec<String>, counts: Vec<i64>) -> Result<RecordBatch, OperatorError> {
    Ok(RecordBatch::try_from_iter([
        ("key", Arc::new(StringArray::from(names)) as ArrayRef),
        ("state", Arc::new(StringArray::from(states)) as ArrayRef),
        ("rows", Arc::new(Int64Array::from(counts)) as ArrayRef),
    ])?)
}

const SHAPE: &str = "the saved state of the trigger has another shape";
