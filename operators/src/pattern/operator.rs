//! The pattern operator: rows of each key go through its machine, and matches
//! leave as one row each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef, UInt32Type};
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Selected;
use tidegate_engine::operator::Output;
use tidegate_engine::schema::{StreamKind, StreamSchema};

use super::machine::{Partial, Spec, State};
use crate::in_order::{Ordered, PerKey, REJECTS_PORT, Rows, Share, shape};
use crate::narrow::{narrow, reject_rows};

/// A step, with the numbers of its expressions.
pub(super) struct Step {
    pub(super) name: String,
    pub(super) when: Option<usize>,
    pub(super) not: Option<usize>,
}

/// A row that has taken a step. It is copied out of its batch when the batch
/// has been judged and the row is still needed.
#[derive(Clone)]
struct Held {
    batch: Arc<RecordBatch>,
    row: usize,
}

impl Held {
    fn alone(&self) -> Result<RecordBatch, OperatorError> {
        let row = u32::try_from(self.row).map_err(OperatorError::new)?;
        Ok(take_record_batch(&self.batch, &UInt32Array::from(vec![row]))?)
    }
}

/// A match and when it was found.
struct Match {
    end_us: i64,
    whole: Partial<Held>,
}

pub(super) struct Pattern {
    name: String,
    input: StreamSchema,
    output: StreamSchema,
    spec: Spec,
    steps: Vec<Step>,
    keys: Vec<usize>,
    columns: Vec<Selected>,
    /// The columns of all steps side by side.
    wide: SchemaRef,
    states: PerKey<State<Held>>,
    /// When silence becomes a match, by instant and key.
    due: BTreeSet<(i64, u32)>,
}

impl Pattern {
    pub(super) fn new(
        name: String,
        input: StreamSchema,
        output: StreamSchema,
        (spec, steps): (Spec, Vec<Step>),
    ) -> Pattern {
        Pattern {
            name,
            input,
            output,
            spec,
            steps,
            keys: Vec::new(),
            columns: Vec::new(),
            wide: Arc::new(Schema::empty()),
            states: PerKey::default(),
            due: BTreeSet::new(),
        }
    }

    /// With these columns of the key, and these over those of all steps.
    pub(super) fn selecting(mut self, keys: Vec<usize>, columns: Vec<Selected>, wide: Vec<Field>) -> Pattern {
        (self.keys, self.columns) = (keys, columns);
        let numbered = wide.into_iter().enumerate();
        let fields: Vec<Field> =
            numbered.map(|(at, field)| field.with_name(format!("column {at}"))).collect();
        self.wide = Arc::new(Schema::new(fields));
        self
    }

    fn judge(&mut self, at_us: i64, key: u32, row: &Held, masks: &[&BooleanArray]) -> Option<Match> {
        let spec = self.spec;
        let (steps, state) = (&self.steps, self.states.of(key)?);
        let is = |mask: Option<usize>| {
            let mask = mask.and_then(|mask| masks.get(mask));
            mask.is_some_and(|mask| mask.is_valid(row.row) && mask.value(row.row))
        };
        let when = |step: usize| steps.get(step).is_some_and(|step| is(step.when));
        let not = |step: usize| steps.get(step).is_some_and(|step| is(step.not));
        let before = state.due(&spec);
        let whole = state.on_row(&spec, at_us, row, &when, &not);
        let after = state.due(&spec);
        if before != after {
            if let Some(at) = before {
                self.due.remove(&(at, key));
            }
            self.due.extend(after.map(|at| (at, key)));
        }
        whole.map(|whole| Match { end_us: at_us, whole })
    }

    /// Silence up to an instant.
    fn run_due(&mut self, until_us: i64, found: &mut Vec<Match>) {
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= until_us) {
            self.due.pop_first();
            let whole = self.states.of(key).and_then(State::on_due);
            found.extend(whole.map(|whole| Match { end_us: at, whole }));
        }
    }

    fn send(&self, found: &[Match], out: &mut Output) -> Result<(), OperatorError> {
        if found.is_empty() {
            return Ok(());
        }
        let mut wide = Vec::with_capacity(self.wide.fields().len());
        let mut keys: Vec<ArrayRef> = Vec::new();
        for step in 0..self.spec.steps {
            let rows = found.iter().map(|found| found.whole.rows.get(step).ok_or_else(shape)?.alone());
            let rows = rows.collect::<Result<Vec<_>, _>>()?;
            let rows = concat_batches(&self.input.columns, &rows)?;
            if step == 0 {
                keys.extend(self.keys.iter().filter_map(|index| rows.columns().get(*index).cloned()));
            }
            wide.extend(rows.columns().iter().cloned());
        }
        let times = |of: fn(&Match) -> i64| -> ArrayRef {
            let times = found.iter().map(of).collect::<Vec<_>>();
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
        };
        // All that `select` needs, and all it does not look at behind it.
        let count = wide.len();
        let mut fields: Vec<Arc<Field>> = self.wide.fields().iter().cloned().collect();
        fields.extend(self.output.columns.fields().iter().take(2 + keys.len()).cloned());
        wide.extend([times(|found| found.whole.start_us), times(|found| found.end_us)]);
        wide.extend(keys);
        let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), wide)?;
        let mut select = |rows: &RecordBatch| {
            let (steps, known) = rows.columns().split_at_checked(count).ok_or_else(shape)?;
            let steps = RecordBatch::try_new(Arc::clone(&self.wide), steps.to_vec())?;
            let mut columns = known.to_vec();
            for column in &self.columns {
                columns.push(column.expression.evaluate(&steps)?);
            }
            Ok(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?)
        };
        let bad = narrow(&all, &mut select, &mut |rows| out.emit(rows));
        if !bad.is_empty() {
            let time = Some(count + 1);
            let stream = StreamSchema {
                columns: all.schema(),
                time,
                time_shift_us: 0,
                kind: StreamKind::Appends,
                key: None,
            };
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &stream, &all, bad)?);
        }
        Ok(())
    }

    /// Rows that are still needed leave their batch.
    fn let_go(&mut self, batch: &Arc<RecordBatch>, keys: &[u32]) -> Result<(), OperatorError> {
        for key in keys {
            let partials = self.states.of(*key).map(|state| state.partials.iter_mut());
            let rows = partials.into_iter().flatten().flatten().flat_map(|partial| &mut partial.rows);
            for held in rows.filter(|held| Arc::ptr_eq(&held.batch, batch)) {
                *held = Held { batch: Arc::new(held.alone()?), row: 0 };
            }
        }
        Ok(())
    }
}

impl Ordered for Pattern {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let masks: Option<Vec<&BooleanArray>> = rows.values.iter().map(AsArray::as_boolean_opt).collect();
        let masks = masks.ok_or_else(shape)?;
        let batch = Arc::new(rows.batch.clone());
        let mut found = Vec::new();
        for (row, (at_us, key)) in rows.iter().enumerate() {
            self.run_due(at_us, &mut found);
            let held = Held { batch: Arc::clone(&batch), row };
            found.extend(self.judge(at_us, key, &held, &masks));
        }
        self.send(&found, out)?;
        self.let_go(&batch, rows.keys)
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let mut found = Vec::new();
        self.run_due(now_us, &mut found);
        self.send(&found, out)
    }

    /// Where silence counts, a key whose clock is behind would seem silent.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        self.spec.ends_in_silence.then_some(watermark_us)
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        if let Some(at) = self.states.get(key).and_then(|state| state.due(&self.spec)) {
            self.due.remove(&(at, key));
        }
        self.states.forget(key);
        Ok(())
    }

    /// For each row that has taken a step: place of its key, steps taken with
    /// it, start; and the rows.
    fn bytes(&self) -> usize {
        // A row that is held keeps its batch, which others may keep too.
        self.states.bytes(|state| {
            let rows = state.partials.iter().flatten().flat_map(|partial| partial.rows.iter());
            rows.map(|held| {
                held.batch.get_array_memory_size() / held.batch.num_rows().max(1) + size_of::<Held>()
            })
            .sum()
        })
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Keyed(0), Share::Beside(0)])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let (mut places, mut takens, mut starts, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, key) in (0_u32..).zip(keys) {
            let partials = self.states.get(*key).map(|state| state.partials.iter().flatten());
            for partial in partials.into_iter().flatten() {
                for held in &partial.rows {
                    places.push(place);
                    takens.push(u32::try_from(partial.rows.len()).map_err(OperatorError::new)?);
                    starts.push(partial.start_us);
                    rows.push(held.alone()?);
                }
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let columns: [(&str, ArrayRef); 3] = [
            ("key", Arc::new(UInt32Array::from(places))),
            ("steps", Arc::new(UInt32Array::from(takens))),
            ("start", Arc::new(Int64Array::from(starts))),
        ];
        Ok(vec![RecordBatch::try_from_iter(columns)?, concat_batches(&self.input.columns, &rows)?])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [index, rows] = state else { return if state.is_empty() { Ok(()) } else { Err(shape()) } };
        let [places, takens, starts] = index.columns() else { return Err(shape()) };
        let places = places.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?.values();
        let takens = takens.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?.values();
        let starts = starts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?.values();
        if rows.num_rows() != index.num_rows() || rows.schema().fields() != self.input.columns.fields() {
            return Err(shape());
        }
        let mut found: HashMap<u32, State<Held>> = HashMap::new();
        for (row, ((place, taken), start_us)) in places.iter().zip(takens).zip(starts).enumerate() {
            let state = found.entry(*place).or_default();
            state.partials.resize_with(self.spec.steps, || None);
            let step = usize::try_from(*taken).ok().and_then(|taken| taken.checked_sub(1));
            let partial = step.and_then(|step| state.partials.get_mut(step)).ok_or_else(shape)?;
            let partial = partial.get_or_insert_with(|| Partial { start_us: *start_us, rows: Vec::new() });
            let alone = Held { batch: Arc::new(rows.clone()), row }.alone()?;
            partial.rows.push(Held { batch: Arc::new(alone), row: 0 });
        }
        for (place, state) in found {
            self.due.extend(state.due(&self.spec).map(|at| (at, place)));
            if let Some(known) = self.states.of(place) {
                *known = state;
            }
        }
        Ok(())
    }
}
