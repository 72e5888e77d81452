//! Rows in event-time order, for operators whose answer depends on it. Rows
//! wait until the watermark has reached them and are then handed to a core as
//! sorted batches, with the number of each row's key; what comes in another
//! interleaving gives the same answer.
//!
//! A row behind the watermark is judged when it comes, unless the core would
//! have to change the past: then it leaves by the port `late`, and never in
//! silence.

mod kept;
mod keys;
mod ordered;
mod per_key;
mod report;
mod reshare;
#[cfg(test)]
mod tests;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{Compaction, Input, Operator, Output, Port, Progress};
use tidegate_engine::partition::Partition;
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::time::{Time, micros};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::NodeConfig;

use crate::narrow::{narrow, reject_rows};
use crate::part::named_columns;
pub(crate) use kept::Kept;
use keys::{Judged, Keys};
pub(crate) use ordered::{Ordered, Rows};
pub(crate) use per_key::PerKey;
pub(crate) use reshare::Share;
use waiting::{Timed, Waiting};

/// Rows that come too late to be judged, in the shape of the input.
pub(crate) const LATE_PORT: usize = 1;
/// Rows on which an expression of the core fails; only where it has some.
/// Ports of a core's own come behind.
pub(crate) const REJECTS_PORT: usize = 2;

/// The columns of the key, for the tables of operators.
pub(crate) const KEY: Key = optional(
    "key",
    Kind::List(&Kind::Text),
    "columns; each combination is judged by itself, in event-time order: a row older than the newest one judged of its own key leaves by the port `late`",
);
/// How long a key is remembered.
pub(crate) const FORGET: Key = optional(
    "forget",
    Kind::Duration,
    "a key without rows for this long begins afresh at its next row, \"30d\" if left out",
)
.aside();
/// Keys are forgotten after this silence, as those of triggers are.
const FORGET_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// With more keys than this a snapshot says what is new, not everything.
const KEYS_WHOLE_MAX: usize = 50_000;

/// The ports of an operator in order: the main one and `late`.
pub(crate) fn ports(main: StreamSchema, input: &StreamSchema) -> Vec<Port> {
    vec![Port { name: String::new(), stream: main }, Port { name: "late".into(), stream: input.clone() }]
}

/// The key's columns, all of types that keys can have.
pub(crate) fn key_columns(config: &NodeConfig, input: &Input, out: &mut Vec<Diagnostic>) -> Vec<usize> {
    let keys = named_columns(config, "key", &input.stream, out);
    check_kept(config, "key", input, &keys, out);
    keys
}

/// Refuses columns whose values cannot be kept (see `arrow::row`).
pub(crate) fn check_kept(
    config: &NodeConfig,
    key: &str,
    input: &Input,
    columns: &[usize],
    out: &mut Vec<Diagnostic>,
) {
    for field in columns.iter().filter_map(|index| input.stream.columns.fields().get(*index)) {
        if !RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]) {
            let message = format!(
                "`{}` is {}, and values of that type cannot be compared",
                field.name(),
                type_name(field.data_type())
            );
            out.push(Diagnostic::error("TG-X003", message).at(config.table.span_of(key)));
        }
    }
}

/// How long this node remembers a key, in microseconds.
pub(crate) fn forget_us(config: &NodeConfig) -> i64 {
    micros(config.table.duration(FORGET.name).unwrap_or(FORGET_AFTER))
}

/// An operator around a core that wants rows in order.
pub(crate) struct InOrder<C> {
    pub(crate) core: C,
    name: String,
    input: StreamSchema,
    expressions: Vec<Arc<dyn Expression>>,
    keys: Keys,
    waiting: Waiting,
    /// Event time has come this far for the core.
    watermark_us: i64,
    /// It is this much behind the input's.
    bound_us: i64,
    forget_us: i64,
    /// Only keys that are spent are forgotten.
    keeps_all: bool,
    /// Forgotten keys are removed when event time comes here.
    sweep_at_us: i64,
    keys_whole_max: usize,
}

impl<C: Ordered> InOrder<C> {
    /// An operator without expressions that remembers keys as long as the node
    /// says.
    pub(crate) fn new(
        config: &NodeConfig,
        input: &Input,
        keys: Vec<usize>,
        core: C,
    ) -> Result<InOrder<C>, ConfigError> {
        let stream = input.stream.clone();
        let keys = Keys::new(&stream.columns, keys);
        let keys = keys.map_err(|error| {
            ConfigError::from(Diagnostic::error("TG-X003", error.0).at(config.table.span_of("key")))
        })?;
        Ok(InOrder {
            core,
            name: config.name.clone(),
            waiting: Waiting::new(Arc::clone(&stream.columns)),
            input: stream,
            expressions: Vec::new(),
            keys,
            watermark_us: i64::MIN,
            bound_us: 0,
            forget_us: forget_us(config),
            keeps_all: false,
            sweep_at_us: i64::MIN,
            keys_whole_max: KEYS_WHOLE_MAX,
        })
    }

    /// With expressions whose values come with the rows. Rows on which one fails
    /// leave by `REJECTS_PORT`.
    pub(crate) fn with_expressions(mut self, expressions: Vec<Arc<dyn Expression>>) -> InOrder<C> {
        let values = expressions.iter().enumerate().map(|(index, expression)| {
            Field::new(format!("expression {index}"), expression.data_type().clone(), true)
        });
        let fields = self.input.columns.fields().iter().map(|field| field.as_ref().clone());
        self.waiting = Waiting::new(Arc::new(Schema::new(fields.chain(values).collect::<Vec<_>>())));
        self.expressions = expressions;
        self
    }

    /// With another time that keys are remembered for.
    pub(crate) fn with_forget(self, forget_us: i64) -> InOrder<C> {
        InOrder { forget_us, ..self }
    }

    /// Without forgetting anything of a key that it could still need.
    pub(crate) fn that_keeps_all(self) -> InOrder<C> {
        InOrder { keeps_all: true, ..self }
    }

    /// Rows wait until the input's watermark is this much past them.
    pub(crate) fn with_bound(self, bound_us: i64) -> InOrder<C> {
        InOrder { bound_us, ..self }
    }

    /// The rows with the values of all expressions behind their columns.
    fn evaluate(&self, batch: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let mut columns = batch.columns().to_vec();
        for expression in &self.expressions {
            columns.push(expression.evaluate(batch)?);
        }
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }

    /// Rows that waited in a former life, in the shape of this one: columns that
    /// nobody here reads may have come or gone since.
    fn conformed(&self, saved: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let schema = self.schema();
        let column = |field: &Arc<Field>| match saved.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), saved.num_rows())),
            Some(_) | None => Err(OperatorError::new(format!(
                "rows of `{}` wait in the checkpoint without the column `{}` that its input has now",
                self.name,
                field.name()
            ))),
        };
        let columns: Result<Vec<ArrayRef>, OperatorError> = schema.fields().iter().map(column).collect();
        Ok(RecordBatch::try_new(schema, columns?)?)
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.waiting.schema)
    }

    /// Rows up to the watermark are judged, the others wait.
    fn take_up(&mut self, rows: RecordBatch, out: &mut Output) -> Result<(), OperatorError> {
        let times = self.input.times(&rows)?;
        let watermark_us = self.watermark_us;
        let ready = times.values().iter().filter(|time_us| **time_us <= watermark_us).count();
        let times = times.values().clone();
        if ready == 0 {
            return self.waiting.push(Timed { rows, times });
        }
        if ready == rows.num_rows() {
            return self.judge(&Timed { rows, times }, out);
        }
        let ready: BooleanArray = times.iter().map(|time_us| Some(*time_us <= watermark_us)).collect();
        let timed = Timed { rows, times };
        self.judge(&timed.filter(&ready)?, out)?;
        self.waiting.push(timed.filter(&not(&ready)?)?)
    }

    fn judge(&mut self, timed: &Timed, out: &mut Output) -> Result<(), OperatorError> {
        let late_before = self.core.late_before(self.watermark_us);
        let forget_us = if self.keeps_all { i64::MAX } else { self.forget_us };
        let Judged { keys, late, replaced } =
            self.keys.judge(timed, self.watermark_us, forget_us, late_before)?;
        let columns = self.input.columns.fields().len();
        let hand_over = |core: &mut C, timed: &Timed, out: &mut Output| {
            let (batch, values) = parts(&self.input.columns, &timed.rows, columns)?;
            core.on_rows(&Rows { batch: &batch, values: &values, times: &timed.times, keys: &keys }, out)
        };
        match late {
            None => hand_over(&mut self.core, timed, out)?,
            Some(late) => {
                let (rows, _) = parts(&self.input.columns, &timed.rows, columns)?;
                out.emit_to(LATE_PORT, filter_record_batch(&rows, &late)?);
                let good = timed.filter(&not(&late)?)?;
                if !good.times.is_empty() {
                    hand_over(&mut self.core, &good, out)?;
                }
            }
        }
        self.free(&replaced, out)
    }

    fn free(&mut self, gone: &[u32], out: &mut Output) -> Result<(), OperatorError> {
        self.keys.free(gone);
        gone.iter().try_for_each(|key| self.core.forget(*key, out))
    }

    fn judge_waiting(&mut self, until_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        self.waiting.take(until_us)?.iter().try_for_each(|timed| self.judge(timed, out))
    }

    /// Frees forgotten keys; `Keys::judge` takes none of them up again.
    fn sweep(&mut self, out: &mut Output) -> Result<(), OperatorError> {
        if self.watermark_us < self.sweep_at_us {
            return Ok(());
        }
        // Each sweep looks at every key, so not at every watermark.
        self.sweep_at_us = self.watermark_us.saturating_add(self.forget_us / 2);
        let (core, keeps_all) = (&self.core, self.keeps_all);
        let may_go = |key: u32| !keeps_all || core.is_spent(key);
        let gone = self.keys.sweep(self.watermark_us, self.forget_us, may_go);
        self.free(&gone, out)
    }
}

/// The input's columns of a batch, and the values behind them.
fn parts(
    input: &SchemaRef,
    rows: &RecordBatch,
    columns: usize,
) -> Result<(RecordBatch, Vec<ArrayRef>), OperatorError> {
    let (own, values) = rows.columns().split_at_checked(columns).ok_or_else(shape)?;
    if values.is_empty() {
        return Ok((rows.clone(), Vec::new()));
    }
    Ok((RecordBatch::try_new(Arc::clone(input), own.to_vec())?, values.to_vec()))
}

impl<C: Ordered> Operator for InOrder<C> {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        if self.expressions.is_empty() {
            self.take_up(batch.clone(), out)?;
            return Ok(Progress::Done);
        }
        let mut good = Vec::new();
        let bad = narrow(batch, &mut |rows| self.evaluate(rows), &mut |rows| good.push(rows));
        good.into_iter().try_for_each(|rows| self.take_up(rows, out))?;
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.input, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        let now_us = time.0.saturating_sub(self.bound_us);
        self.judge_waiting(now_us, out)?;
        self.watermark_us = now_us;
        self.core.on_time(now_us, out)?;
        self.sweep(out)?;
        Ok(Progress::Done)
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.judge_waiting(i64::MAX, out)?;
        self.core.on_end(out)?;
        Ok(Progress::Done)
    }

    fn output_watermark(&self, input: Time) -> Time {
        Time(self.core.output_watermark(input.0.saturating_sub(self.bound_us)))
    }

    fn reads(&self) -> Option<Vec<usize>> {
        let mut read = self.core.reads()?;
        read.extend(self.input.time);
        read.extend(self.keys.columns());
        read.extend(self.expressions.iter().flat_map(|expression| expression.columns()));
        Some(read)
    }

    fn partition(&self) -> Option<Partition> {
        self.shared()
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        self.save()
    }

    fn changes(&mut self) -> Result<Option<Vec<RecordBatch>>, OperatorError> {
        if !self.core.is_by_key() || self.keys.len() <= self.keys_whole_max {
            return Ok(None);
        }
        self.save_changes().map(Some)
    }

    fn state_bytes(&self) -> usize {
        self.keys.bytes() + self.waiting.bytes() + self.core.bytes()
    }

    fn compaction(&self) -> Option<Compaction> {
        self.core.is_by_key().then(|| self.compact())
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        self.load(&state)
    }
}

/// The column `key` of a state that has one row for each of these keys.
pub(crate) fn places(keys: &[u32]) -> ArrayRef {
    Arc::new((0..).zip(keys).map(|(place, _)| Some(place)).collect::<UInt32Array>())
}

/// A saved state that is not as it was written.
pub(crate) fn shape() -> OperatorError {
    OperatorError::new("the saved state has another shape")
}
