//! The alarm operator: each key's alarm lives its life, and what is told of it
//! leaves as a row.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::Int64Type;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{MAIN_PORT, Output};
use tidegate_engine::schema::StreamSchema;

use super::FLOOD_PORT;
use super::life::{Event, Flood, Life, Said, Spec, Told};
use crate::in_order::{Ordered, PerKey, Rows, shape};

/// Numbers of the expressions.
pub(super) struct Words {
    pub(super) when: Option<usize>,
    pub(super) clear: Option<usize>,
    pub(super) acknowledge: Option<usize>,
    pub(super) reset: Option<usize>,
    pub(super) shelve: Option<usize>,
    pub(super) unshelve: Option<usize>,
}

/// What is kept of a key.
#[derive(Clone, Default)]
struct Kept {
    life: Life,
    /// The newest row, alone in its batch, unless all is normal.
    row: Option<RecordBatch>,
}

/// Something to tell, with the row that led to it.
struct Telling {
    told: Told,
    in_flood: bool,
    row: Source,
}

/// Where a row stands: in the batch that is judged, or by itself.
enum Source {
    Batch(usize),
    Alone(RecordBatch),
}

pub(super) struct Alarms {
    input: StreamSchema,
    output: StreamSchema,
    spec: Spec,
    words: Words,
    /// Most alarms in microseconds.
    limit: Option<(usize, i64)>,
    flood: Flood,
    keys: PerKey<Kept>,
    /// When each key wants to be looked at without a row.
    due: BTreeSet<(i64, u32)>,
}

impl Alarms {
    pub(super) fn new(
        input: StreamSchema,
        output: StreamSchema,
        spec: Spec,
        words: Words,
        limit: Option<(usize, i64)>,
    ) -> Alarms {
        let (flood, keys, due) = (Flood::default(), PerKey::default(), BTreeSet::new());
        Alarms { input, output, spec, words, limit, flood, keys, due }
    }

    fn said(&self, masks: &[&BooleanArray], row: usize) -> Said {
        let value = |index: Option<usize>| {
            let mask = index.and_then(|index| masks.get(index));
            mask.filter(|mask| mask.is_valid(row)).map(|mask| mask.value(row))
        };
        let is = |index| value(index) == Some(true);
        Said {
            when: value(self.words.when),
            clear: value(self.words.clear),
            acknowledge: is(self.words.acknowledge),
            reset: is(self.words.reset),
            shelve: is(self.words.shelve),
            unshelve: is(self.words.unshelve),
        }
    }

    /// Counts what is raised, and remembers which alarms came in a flood.
    fn sort_out(limit: Option<(usize, i64)>, flood: &mut Flood, life: &mut Life, told: &Told) -> bool {
        if let Some((count, within_us)) = limit.filter(|_| told.event == Event::Raised) {
            let is_too_many = flood.on_raised(told.at_us, count, within_us);
            life.in_flood = life.in_flood || is_too_many;
        }
        let in_flood = life.in_flood;
        if told.state == "normal" {
            life.in_flood = false;
        }
        in_flood
    }

    fn reschedule(&mut self, key: u32, before: Option<i64>, after: Option<i64>) {
        if before != after {
            if let Some(at) = before {
                self.due.remove(&(at, key));
            }
            self.due.extend(after.map(|at| (at, key)));
        }
    }

    fn judge(&mut self, at_us: i64, key: u32, said: Said, row: usize, tellings: &mut Vec<Telling>) {
        let Some(kept) = self.keys.of(key) else { return };
        let mut told = Vec::new();
        let before = kept.life.due(&self.spec);
        kept.life.on_row(&self.spec, at_us, said, &mut told);
        let after = kept.life.due(&self.spec);
        for told in told {
            let in_flood = Alarms::sort_out(self.limit, &mut self.flood, &mut kept.life, &told);
            tellings.push(Telling { told, in_flood, row: Source::Batch(row) });
        }
        self.reschedule(key, before, after);
    }

    /// Instants up to this one. `newest` finds the newest row of a key in the
    /// batch that is judged.
    fn run_due(&mut self, until_us: i64, newest: &dyn Fn(u32) -> Option<usize>, tellings: &mut Vec<Telling>) {
        while let Some((at_us, key)) = self.due.first().copied().filter(|(at, _)| *at <= until_us) {
            self.due.pop_first();
            let Some(kept) = self.keys.of(key) else { continue };
            let mut told = Vec::new();
            kept.life.on_due(&self.spec, at_us, &mut told);
            self.due.extend(kept.life.due(&self.spec).map(|at| (at, key)));
            for told in told {
                let in_flood = Alarms::sort_out(self.limit, &mut self.flood, &mut kept.life, &told);
                let row = newest(key).map(Source::Batch).or_else(|| kept.row.clone().map(Source::Alone));
                let Some(row) = row else { continue };
                tellings.push(Telling { told, in_flood, row });
            }
        }
    }

    fn send(
        &self,
        batch: Option<&RecordBatch>,
        all: Vec<Telling>,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        // In order; a change of port begins a new batch.
        let mut all = all.into_iter().peekable();
        while let Some(in_flood) = all.peek().map(|telling| telling.in_flood) {
            let mut part = Vec::new();
            while let Some(telling) = all.next_if(|telling| telling.in_flood == in_flood) {
                part.push(telling);
            }
            let port = if in_flood { FLOOD_PORT } else { MAIN_PORT };
            out.emit_to(port, self.rows(batch, &part)?);
        }
        Ok(())
    }

    fn rows(&self, batch: Option<&RecordBatch>, part: &[Telling]) -> Result<RecordBatch, OperatorError> {
        let mut sources: Vec<&RecordBatch> = batch.into_iter().collect();
        let mut places = Vec::with_capacity(part.len());
        for telling in part {
            match &telling.row {
                Source::Batch(row) => places.push((0, *row)),
                Source::Alone(row) => {
                    places.push((sources.len(), 0));
                    sources.push(row);
                }
            }
        }
        let rows = interleave_record_batch(&sources, &places)?;
        let told = || part.iter().map(|telling| &telling.told);
        let times: Vec<i64> = told().map(|told| told.at_us).collect();
        let raised: Vec<Option<i64>> = told().map(|told| told.raised_us).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(StringArray::from_iter_values(told().map(|told| told.event.word()))),
            Arc::new(StringArray::from_iter_values(told().map(|told| told.state))),
            Arc::new(TimestampMicrosecondArray::from(raised).with_timezone("UTC")),
        ];
        columns.extend(rows.columns().iter().cloned());
        Ok(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?)
    }

    /// Alarms that may change without a row keep their newest one.
    fn keep_newest(&mut self, batch: &RecordBatch, newest: &[(u32, usize)]) -> Result<(), OperatorError> {
        for (key, row) in newest {
            let Some(kept) = self.keys.of(*key) else { continue };
            kept.row = None;
            if !kept.life.is_normal() {
                let row = u32::try_from(*row).map_err(OperatorError::new)?;
                kept.row = Some(take_record_batch(batch, &UInt32Array::from(vec![row]))?);
            }
        }
        Ok(())
    }
}

impl Ordered for Alarms {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let masks: Option<Vec<&BooleanArray>> = rows.values.iter().map(AsArray::as_boolean_opt).collect();
        let masks = masks.ok_or_else(shape)?;
        let mut tellings = Vec::new();
        let mut newest = std::collections::HashMap::new();
        for (row, (at_us, key)) in rows.iter().enumerate() {
            self.run_due(at_us, &|key| newest.get(&key).copied(), &mut tellings);
            let said = self.said(&masks, row);
            let is_normal = |alarms: &Alarms| alarms.keys.get(key).is_none_or(|kept| kept.life.is_normal());
            let was_normal = is_normal(self);
            self.judge(at_us, key, said, row, &mut tellings);
            // A command does not take the place of a measurement.
            if !is_normal(self) && (said.when.is_some() || was_normal) {
                newest.insert(key, row);
            }
        }
        self.send(Some(rows.batch), tellings, out)?;
        let newest: Vec<(u32, usize)> = newest.into_iter().collect();
        self.keep_newest(rows.batch, &newest)
    }

    fn on_time(&mut self, now_us: i64, out: &mut Output) -> Result<(), OperatorError> {
        let mut tellings = Vec::new();
        self.run_due(now_us, &|_| None, &mut tellings);
        self.send(None, tellings, out)
    }

    /// Delays end when time passes, and a flood is a matter of all keys.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us)
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        // What there was to tell has been told at its instant.
        if let Some(at) = self.keys.get(key).and_then(|kept| kept.life.due(&self.spec)) {
            self.due.remove(&(at, key));
        }
        self.keys.forget(key);
        Ok(())
    }

    /// The life of each key and whether it keeps a row; those rows; the flood.
    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let nothing = Kept::default();
        let kept: Vec<&Kept> = keys.iter().map(|key| self.keys.get(*key).unwrap_or(&nothing)).collect();
        let lives = kept.iter().map(|kept| match kept.life.is_normal() {
            true => Ok(None),
            false => serde_json::to_string(&kept.life).map(Some).map_err(OperatorError::new),
        });
        let lives = lives.collect::<Result<StringArray, OperatorError>>()?;
        let has_row: BooleanArray = kept.iter().map(|kept| Some(kept.row.is_some())).collect();
        let lives = [("life", Arc::new(lives) as ArrayRef), ("has_row", Arc::new(has_row) as ArrayRef)];
        let rows = concat_batches(&self.input.columns, kept.iter().filter_map(|kept| kept.row.as_ref()))?;
        let raised: ArrayRef = Arc::new(Int64Array::from_iter_values(self.flood.raised_us.iter().copied()));
        let raised = RecordBatch::try_from_iter([("raised", raised)])?;
        Ok(vec![
            RecordBatch::try_from_iter_with_nullable(lives.map(|(name, column)| (name, column, true)))?,
            rows,
            raised,
        ])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [lives, rows, raised] = state else {
            return if state.is_empty() { Ok(()) } else { Err(shape()) };
        };
        let ([lives, has_row], [raised]) = (lives.columns(), raised.columns()) else { return Err(shape()) };
        let lives = lives.as_string_opt::<i32>().ok_or_else(shape)?;
        let has_row = has_row.as_boolean_opt().ok_or_else(shape)?;
        let raised = raised.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        if has_row.true_count() != rows.num_rows() || rows.schema().fields() != self.input.columns.fields() {
            return Err(shape());
        }
        self.flood.raised_us = raised.values().iter().copied().collect();
        let (mut kept, mut next) = (Vec::with_capacity(lives.len()), 0);
        for (place, (life, has_row)) in (0_u32..).zip(lives.iter().zip(has_row)) {
            let life: Life = match life {
                Some(life) => serde_json::from_str(life).map_err(OperatorError::new)?,
                None => Life::default(),
            };
            let row = if has_row == Some(true) {
                next += 1;
                Some(take_record_batch(rows, &UInt32Array::from(vec![next - 1]))?)
            } else {
                None
            };
            self.due.extend(life.due(&self.spec).map(|at| (at, place)));
            kept.push(Kept { life, row });
        }
        self.keys.load(kept);
        Ok(())
    }
}
