//! What a join knows before any row comes: the shapes of its rows, its
//! condition, and what becomes of rows on their way in.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array, new_null_array};
use arrow::compute::{is_not_null, take_record_batch};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::schema::StreamSchema;

use super::bound::{Both, Side, floor};
use super::keys::{hashes, is_exact};
use super::store::{Gathered, Rows};
use super::{LATE_PORT, REJECTS_PORT};
use crate::narrow::{narrow, reject_rows};

/// Most rows of a batch that leaves.
pub(super) const OUTPUT_ROWS: usize = 8_192;

/// Which columns stand before those of both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// The later of the two times, less this.
    EventTime { shift_us: i64 },
    /// Start and end of the window that both lie in.
    Window { size_us: i64 },
}

/// A compiled `on`.
pub(super) struct Condition {
    /// Expressions over each side whose values must be equal.
    pub(super) keys: Both<Vec<Arc<dyn Expression>>>,
    /// What else must be true, over the columns of both sides.
    pub(super) residual: Option<Arc<dyn Expression>>,
}

/// Shapes and condition of a join.
pub(super) struct Layout {
    pub(super) name: String,
    /// What the inputs are called.
    pub(super) names: Both<String>,
    pub(super) inputs: Both<StreamSchema>,
    /// Whether rows of this side leave without a partner.
    pub(super) outer: Both<bool>,
    pub(super) output: StreamSchema,
    /// As the output, but any column may be NULL.
    pub(super) late: StreamSchema,
    pub(super) lead: Lead,
    /// Columns of both sides.
    pub(super) pair: SchemaRef,
    /// Columns of an input and those computed for keys.
    wide: Both<SchemaRef>,
    computed: Both<Vec<Arc<dyn Expression>>>,
    /// Where the keys are among the columns of `wide`.
    pub(super) keys: Both<Vec<usize>>,
    pub(super) residual: Option<Arc<dyn Expression>>,
    /// Whether equal hashes mean equal keys.
    pub(super) is_exact: bool,
}

/// What a layout is made of.
pub(super) struct Shapes {
    pub(super) name: String,
    pub(super) names: Both<String>,
    pub(super) inputs: Both<StreamSchema>,
    pub(super) outer: Both<bool>,
    pub(super) output: StreamSchema,
    pub(super) lead: Lead,
}

impl Layout {
    pub(super) fn new(shapes: Shapes, condition: Condition) -> Layout {
        let Shapes { name, names, inputs, outer, output, lead } = shapes;
        let may_be_null = |index: usize, field: &arrow::datatypes::FieldRef| {
            let is_lead = output.time.is_some_and(|time| index <= time);
            field.as_ref().clone().with_nullable(!is_lead || field.is_nullable())
        };
        let fields = output.columns.fields().iter().enumerate();
        let late = Schema::new(fields.map(|(index, field)| may_be_null(index, field)).collect::<Vec<_>>());
        let late = StreamSchema { columns: Arc::new(late), ..output.clone() };
        let all = Side::BOTH.map(|side| inputs.of(side).columns.fields().iter().cloned());
        let pair = Arc::new(Schema::new(all.into_iter().flatten().collect::<Vec<_>>()));
        let types: Vec<_> = condition.keys.left.iter().map(|key| key.data_type().clone()).collect();
        let is_exact = is_exact(&types);
        let widen = |side| widened(inputs.of(side), condition.keys.of(side));
        let (left, right) = (widen(Side::Left), widen(Side::Right));
        Layout {
            name,
            names,
            outer,
            output,
            late,
            lead,
            pair,
            wide: Both { left: left.0, right: right.0 },
            computed: Both { left: left.1, right: right.1 },
            keys: Both { left: left.2, right: right.2 },
            residual: condition.residual,
            is_exact,
            inputs,
        }
    }

    /// Number of columns of a side.
    pub(super) fn width(&self, side: Side) -> usize {
        self.inputs.of(side).columns.fields().len()
    }

    /// Makes rows ready to be looked up and kept. Late rows and rows on which a
    /// key fails leave by their ports; a row with a NULL in its key has no
    /// partner, and leaves at once if it leaves at all.
    pub(super) fn prepare(
        &self,
        side: Side,
        batch: &RecordBatch,
        late_before_us: i64,
        out: &mut Output,
    ) -> Result<Vec<Rows>, OperatorError> {
        let times = self.inputs.of(side).times(batch)?;
        let is_late = |time_us: &i64| *time_us < late_before_us;
        if times.values().iter().any(is_late) {
            let (late, kept) = split(times.values().iter().map(is_late))?;
            let late_times = take_times(&times, &late)?;
            let late = take_record_batch(batch, &late)?;
            out.emit_to(LATE_PORT, self.alone(&self.late, side, late.columns(), &late_times)?);
            return self.prepare(side, &take_record_batch(batch, &kept)?, i64::MIN, out);
        }
        let mut pieces = Vec::new();
        let mut work = |piece: &RecordBatch| self.widen(side, piece);
        let bad = narrow(batch, &mut work, &mut |piece| pieces.push(piece));
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, self.inputs.of(side), batch, bad)?);
        }
        let mut rows = Vec::new();
        for piece in pieces {
            let piece = self.without_null_keys(side, piece, out)?;
            if piece.num_rows() > 0 {
                let times_us = self.inputs.of(side).times(&piece)?.values().to_vec();
                let matched = vec![false; piece.num_rows()];
                let hashes = hashes(&self.key_columns(side, &piece), self.is_exact, piece.num_rows())?;
                rows.push(Rows { batch: piece, hashes, times_us, matched });
            }
        }
        Ok(rows)
    }

    /// A batch with the columns that are computed for keys.
    fn widen(&self, side: Side, batch: &RecordBatch) -> Result<RecordBatch, OperatorError> {
        let mut columns = batch.columns().to_vec();
        for expression in self.computed.of(side) {
            columns.push(expression.evaluate(batch)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(self.wide.of(side)), columns)?)
    }

    /// The keys of rows as they come.
    pub(super) fn keys_of(&self, side: Side, batch: &RecordBatch) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(self.key_columns(side, &self.widen(side, batch)?))
    }

    fn key_columns(&self, side: Side, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.keys.of(side).iter().filter_map(|index| batch.columns().get(*index).cloned()).collect()
    }

    fn without_null_keys(
        &self,
        side: Side,
        batch: RecordBatch,
        out: &mut Output,
    ) -> Result<RecordBatch, OperatorError> {
        let keys = self.key_columns(side, &batch);
        if keys.iter().all(|key| key.null_count() == 0) {
            return Ok(batch);
        }
        let masks = keys.iter().map(|key| is_not_null(key)).collect::<Result<Vec<_>, _>>()?;
        let rows = 0..batch.num_rows();
        let is_null = |row: usize| masks.iter().any(|mask| !mask.value(row));
        let (null, kept) = split(rows.map(is_null))?;
        if *self.outer.of(side) {
            let alone = take_record_batch(&batch, &null)?;
            let times = self.inputs.of(side).times(&alone)?;
            out.emit_to(MAIN_PORT, self.alone(&self.output, side, alone.columns(), times.values())?);
        }
        Ok(take_record_batch(&batch, &kept)?)
    }

    /// Rows of a side without partners, as rows of this stream.
    pub(super) fn alone(
        &self,
        stream: &StreamSchema,
        side: Side,
        columns: &[ArrayRef],
        times_us: &[i64],
    ) -> Result<RecordBatch, OperatorError> {
        let mut all = self.lead_columns(times_us.iter().copied());
        let nulls = || {
            let fields = self.inputs.of(side.other()).columns.fields().iter();
            fields.map(|field| new_null_array(field.data_type(), times_us.len()))
        };
        let own = columns.iter().take(self.width(side)).cloned();
        match side {
            Side::Left => all.extend(own.chain(nulls())),
            Side::Right => all.extend(nulls().chain(own)),
        }
        Ok(RecordBatch::try_new(Arc::clone(&stream.columns), all)?)
    }

    /// Sends rows that have found no partner.
    pub(super) fn emit_alone(
        &self,
        side: Side,
        rows: &Gathered<'_>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let times_us: Vec<i64> = rows.times_us().collect();
        let columns = rows.columns(self.width(side))?;
        out.emit_to(MAIN_PORT, self.alone(&self.output, side, &columns, &times_us)?);
        Ok(())
    }

    /// The columns before those of both sides, from event times.
    pub(super) fn lead_columns(&self, times_us: impl Iterator<Item = i64>) -> Vec<ArrayRef> {
        let column = |values: Vec<i64>| {
            Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef
        };
        match self.lead {
            Lead::EventTime { shift_us } => {
                vec![column(times_us.map(|time_us| time_us.saturating_sub(shift_us)).collect())]
            }
            Lead::Window { size_us } => {
                let starts: Vec<i64> = times_us.map(|time_us| floor(time_us, size_us)).collect();
                let ends = starts.iter().map(|start_us| start_us.saturating_add(size_us)).collect();
                vec![column(starts), column(ends)]
            }
        }
    }
}

/// Pieces of at most so many as leave in one batch.
pub(super) fn pieces(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(OUTPUT_ROWS).map(move |start| start..count.min(start + OUTPUT_ROWS))
}

type Widened = (SchemaRef, Vec<Arc<dyn Expression>>, Vec<usize>);

/// The columns of an input with those that its keys need, which those are, and
/// where each key is.
fn widened(input: &StreamSchema, keys: &[Arc<dyn Expression>]) -> Widened {
    let mut fields: Vec<_> = input.columns.fields().iter().cloned().collect();
    let (mut computed, mut places) = (Vec::new(), Vec::new());
    for key in keys {
        places.push(key.input_column().unwrap_or(fields.len()));
        if key.input_column().is_none() {
            let name = format!("key {}", computed.len());
            fields.push(Arc::new(arrow::datatypes::Field::new(name, key.data_type().clone(), true)));
            computed.push(Arc::clone(key));
        }
    }
    (Arc::new(Schema::new(fields)), computed, places)
}

/// Rows for which something is true, and the others.
fn split(rows: impl Iterator<Item = bool>) -> Result<(UInt32Array, UInt32Array), OperatorError> {
    let (mut yes, mut no) = (Vec::new(), Vec::new());
    for (row, is) in rows.enumerate() {
        let row = u32::try_from(row).map_err(OperatorError::new)?;
        if is { yes.push(row) } else { no.push(row) }
    }
    Ok((yes.into(), no.into()))
}

fn take_times(times: &TimestampMicrosecondArray, rows: &UInt32Array) -> Result<Vec<i64>, OperatorError> {
    let taken = arrow::compute::take(times, rows, None)?;
    let taken = arrow::compute::cast(&taken, &arrow::datatypes::DataType::Int64)?;
    Ok(arrow::array::AsArray::as_primitive::<Int64Type>(&taken).values().to_vec())
}
