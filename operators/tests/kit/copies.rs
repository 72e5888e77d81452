//! An operator as several copies, as the runtime makes them, in one: rows are
//! shared by their key, and a restore may be among another number of copies.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::UInt64Type;
use tidegate_engine::error::OperatorError;
use tidegate_engine::operator::{Operator, OperatorPart, Output, Progress};
use tidegate_engine::partition::{Copies, Partition};
use tidegate_engine::time::Time;

struct Copied {
    partition: Partition,
    copies: Vec<Box<dyn Operator>>,
}

/// So many copies of what is built; `None` if it cannot be copied.
pub(crate) fn copied(build: impl Fn() -> OperatorPart, count: usize) -> Option<OperatorPart> {
    let OperatorPart { operator, ports } = build();
    let partition = operator.partition()?;
    let mut copies = vec![operator];
    copies.extend((1..count).map(|_| build().operator));
    Some(OperatorPart { operator: Box::new(Copied { partition, copies }), ports })
}

impl Copied {
    fn each(
        &mut self,
        out: &mut Output,
        mut call: impl FnMut(&mut dyn Operator, &mut Output) -> Result<Progress, OperatorError>,
    ) -> Result<Progress, OperatorError> {
        for copy in &mut self.copies {
            let mut progress = call(copy.as_mut(), out)?;
            while progress == Progress::More {
                progress = copy.resume(out)?;
            }
        }
        Ok(Progress::Done)
    }
}

impl Operator for Copied {
    fn on_batch(
        &mut self,
        input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        // A row whose key cannot be computed goes to the first.
        let place = |row: usize| {
            let row = batch.slice(row, 1);
            let keys = (self.partition.keys[input])(&row).ok()?;
            Some(Copies(self.copies.len()).of(&keys, 1).expect("keys")[0])
        };
        let places: Vec<usize> = (0..batch.num_rows()).map(|row| place(row).unwrap_or(0)).collect();
        let mut copy = 0;
        self.each(out, |operator, out| {
            let own: UInt32Array =
                (0..).zip(&places).filter(|(_, place)| **place == copy).map(|(row, _)| Some(row)).collect();
            copy += 1;
            if own.is_empty() {
                return Ok(Progress::Done);
            }
            operator.on_batch(input, &take_record_batch(batch, &own)?, out)
        })
    }

    fn on_watermark(&mut self, time: Time, out: &mut Output) -> Result<Progress, OperatorError> {
        self.each(out, |operator, out| operator.on_watermark(time, out))
    }

    fn on_end(&mut self, out: &mut Output) -> Result<Progress, OperatorError> {
        self.each(out, |operator, out| operator.on_end(out))
    }

    fn output_watermark(&self, input: Time) -> Time {
        self.copies.iter().map(|copy| copy.output_watermark(input)).min().unwrap_or(input)
    }

    /// How many batches each copy has, then those.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>, OperatorError> {
        let states: Result<Vec<_>, _> = self.copies.iter_mut().map(|copy| copy.snapshot()).collect();
        let states = states?;
        let counts: UInt64Array = states.iter().map(|state| Some(state.len() as u64)).collect();
        let counts = RecordBatch::try_from_iter([("batches", Arc::new(counts) as _)])?;
        Ok(std::iter::once(counts).chain(states.into_iter().flatten()).collect())
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<(), OperatorError> {
        let mut batches = state.into_iter();
        let counts = batches.next().expect("a count");
        let counts = counts.columns()[0].as_primitive::<UInt64Type>().values().to_vec();
        let mut states: Vec<Vec<RecordBatch>> = counts
            .into_iter()
            .map(|count| batches.by_ref().take(usize::try_from(count).expect("small")).collect())
            .collect();
        if states.len() != self.copies.len() {
            states.retain(|state| !state.is_empty());
            if states.is_empty() {
                return Ok(());
            }
            if let Some(compaction) = self.copies[0].compaction() {
                states = states.iter().map(|state| compaction(state)).collect::<Result<_, _>>()?;
            }
            states = (self.partition.reshare)(&states, Copies(self.copies.len()))?;
        }
        self.copies.iter_mut().zip(states).try_for_each(|(copy, state)| copy.restore(state))
    }
}
