//! Rows of a trigger's operator to firings: which rows belong together, what
//! the flow's parameters become. Pure; nothing is recorded here.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use super::journal::{NewFiring, Offer};
use super::key::RunKey;
use super::rows::to_bytes;
use super::spec::{OnePer, TriggerLink};
use super::state::Outcome;
use crate::error::OperatorError;
use crate::planted;
use crate::task::Mode;
use crate::template::display;
use crate::time::Time;

/// Most bytes that the rows of one firing may have in the journal.
const ROWS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A firing with its rows and parameters as they are in memory.
#[derive(Debug)]
pub(super) struct Firing {
    /// For the journal.
    pub(super) new: NewFiring,
    /// The rows that fired, with the columns the trigger reads.
    pub(super) rows: RecordBatch,
    /// One row with the flow's parameters.
    pub(super) params: RecordBatch,
}

/// The firings of a batch, in order. Consecutive rows with the same time, key
/// and ordinal are one firing; an operator never splits one over two batches.
pub(super) fn firings(
    link: &TriggerLink,
    batch: &RecordBatch,
    now: Time,
) -> Result<Vec<Firing>, OperatorError> {
    let head = Head::of(batch)?;
    let ranges = head.ranges(batch.num_rows());
    let last: UInt32Array = ranges.iter().map(|range| u32::try_from(range.end - 1).ok()).collect();
    let (params, misfits) = params(link, batch, &last)?;
    let groups = groups(link, &params)?;
    let own = batch.project(&link.own)?;
    let mut found = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.into_iter().enumerate() {
        let (fired_at, key, ordinal) = head.at(range.start);
        let rows = own.slice(range.start, range.len());
        let bytes = to_bytes(std::slice::from_ref(&rows))?;
        let param_row = params.slice(index, 1);
        let misfit = misfits.get(index).and_then(Option::as_ref);
        let (offer, rows_kept) = if bytes.len() > ROWS_BYTES_MAX {
            let reason = format!("its rows have {} bytes; a firing may have {ROWS_BYTES_MAX}", bytes.len());
            (Offer::Nothing(Outcome::Rejected, reason), Vec::new())
        } else {
            (offer(link, misfit, &param_row, groups.get(index), (fired_at, now))?, bytes)
        };
        let topology = &link.flow.topology;
        let new = NewFiring {
            run_key: RunKey::of(topology, &link.trigger, key, fired_at, ordinal),
            key: key.to_owned(),
            fired_at,
            ordinal,
            rows: rows_kept.into(),
            offer,
        };
        found.push(Firing { new, rows, params: param_row });
    }
    Ok(found)
}

fn offer(
    link: &TriggerLink,
    misfit: Option<&String>,
    params: &RecordBatch,
    group: Option<&String>,
    (fired_at, now): (Time, Time),
) -> Result<Offer, OperatorError> {
    if let Some(reason) = misfit {
        return Ok(Offer::Nothing(Outcome::Rejected, reason.clone()));
    }
    if link.shadow {
        return Ok(Offer::Nothing(Outcome::Shadow, "the trigger only watches".into()));
    }
    if let Some(reason) = too_old(link, fired_at, now) {
        return Ok(Offer::Nothing(Outcome::Expired, reason));
    }
    let params = to_bytes(std::slice::from_ref(params))?.into();
    Ok(Offer::Run { params, group: group.cloned().unwrap_or_default() })
}

fn too_old(link: &TriggerLink, fired_at: Time, now: Time) -> Option<String> {
    let flow = &link.flow;
    let age = now.since(fired_at);
    let expires = flow.mode == Mode::Armed && flow.writes_devices() && age > flow.max_age;
    let expires = expires && !planted!(MaxAgeIgnored);
    expires.then(|| format!("fired {:.1} s ago; max_age is {:?}", age.as_secs_f64(), flow.max_age))
}

/// The three columns that name a firing.
struct Head<'a> {
    times: &'a arrow::array::PrimitiveArray<TimestampMicrosecondType>,
    keys: &'a arrow::array::StringArray,
    ordinals: &'a arrow::array::PrimitiveArray<Int64Type>,
}

impl<'a> Head<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Head<'a>, OperatorError> {
        let wrong = || OperatorError::new("a firing begins with firing_time, firing_key and firing_ordinal");
        let column = |index: usize| batch.columns().get(index).ok_or_else(wrong);
        let times = column(0)?.as_primitive_opt().ok_or_else(wrong)?;
        let keys = column(1)?.as_string_opt().ok_or_else(wrong)?;
        let ordinals = column(2)?.as_primitive_opt().ok_or_else(wrong)?;
        if times.null_count() + keys.null_count() + ordinals.null_count() > 0 {
            return Err(OperatorError::new("firing_time, firing_key and firing_ordinal are never NULL"));
        }
        Ok(Head { times, keys, ordinals })
    }

    fn at(&self, row: usize) -> (Time, &str, i64) {
        (Time(self.times.value(row)), self.keys.value(row), self.ordinals.value(row))
    }

    fn ranges(&self, rows: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut start = 0;
        for row in 1..=rows {
            if row == rows || self.at(row) != self.at(start) {
                ranges.push(start..row);
                start = row;
            }
        }
        ranges
    }
}

/// One row of parameters for each firing, from its last row, and for each the
/// reason why they do not fit.
fn params(
    link: &TriggerLink,
    batch: &RecordBatch,
    last: &UInt32Array,
) -> Result<(RecordBatch, Vec<Option<String>>), OperatorError> {
    let mut misfits: Vec<Option<String>> = vec![None; last.len()];
    let mut columns: Vec<ArrayRef> = Vec::new();
    // What cannot be converted becomes NULL, and its firing is rejected below.
    let options = CastOptions { safe: true, ..CastOptions::default() };
    for (index, param) in link.gives.iter().zip(link.flow.params.fields()) {
        let given =
            batch.columns().get(*index).ok_or_else(|| OperatorError::new("a column of `give` is missing"))?;
        let given = take(given, last, None)?;
        let fitting = cast_with_options(&given, param.data_type(), &options)?;
        for (row, misfit) in misfits.iter_mut().enumerate() {
            if fitting.is_null(row) && !given.is_null(row) {
                let value = display(&given, row)?;
                let wanted = crate::schema::type_name(param.data_type());
                *misfit = Some(format!("`{}` is {wanted}, but {value} was given", param.name()));
            }
        }
        columns.push(fitting);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(last.len()));
    let params = RecordBatch::try_new_with_options(Arc::clone(&link.flow.params), columns, &options)?;
    Ok((params, misfits))
}

fn groups(link: &TriggerLink, params: &RecordBatch) -> Result<Vec<String>, OperatorError> {
    match &link.flow.one_per {
        OnePer::Flow => Ok(vec![String::new(); params.num_rows()]),
        OnePer::Value(expression) => {
            let values = expression.evaluate(params)?;
            (0..params.num_rows()).map(|row| display(&values, row)).collect()
        }
    }
}
