//! Accumulators of windows that begin and end one by one: each has a slot, which
//! is used again when its window has ended.

use arrow::array::ArrayRef;
use tidegate_engine::error::OperatorError;

use super::direct::Direct;
use super::evaluated::Evaluated;
use super::pane::{Layout, split_states};

/// The state of each aggregate in every slot.
pub(super) struct Slots {
    states: Vec<Box<dyn Direct>>,
    /// Slots that were used and are empty again.
    free: Vec<usize>,
    total: usize,
}

impl Slots {
    pub(super) fn new(layout: &Layout) -> Result<Slots, OperatorError> {
        Ok(Slots { states: layout.direct_states()?, free: Vec::new(), total: 0 })
    }

    /// Memory of all slots, about.
    pub(super) fn bytes(&self) -> usize {
        self.states.iter().map(|state| state.bytes()).sum()
    }

    /// An empty slot.
    pub(super) fn open(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.total += 1;
            self.total - 1
        })
    }

    /// Adds each row to its slot.
    pub(super) fn update(&mut self, rows: &Evaluated, slots: &[usize]) -> Result<(), OperatorError> {
        for (state, (arguments, filter)) in self.states.iter_mut().zip(rows.inputs()) {
            state.update(arguments, slots, filter, self.total)?;
        }
        Ok(())
    }

    /// Adds what is in each of these slots to the one beside it.
    pub(super) fn merge(&mut self, from: &[usize], into: &[usize]) -> Result<(), OperatorError> {
        for state in &mut self.states {
            let read = state.read(from)?;
            state.merge(&read, into, self.total)?;
        }
        Ok(())
    }

    /// The states of these slots.
    pub(super) fn read(&mut self, slots: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        let mut columns = Vec::new();
        for state in &mut self.states {
            columns.extend(state.read(slots)?);
        }
        Ok(columns)
    }

    /// Adds saved states to slots.
    pub(super) fn load(
        &mut self,
        layout: &Layout,
        states: &[ArrayRef],
        slots: &[usize],
    ) -> Result<(), OperatorError> {
        for (state, saved) in self.states.iter_mut().zip(split_states(layout, states)?) {
            state.merge(saved, slots, self.total)?;
        }
        Ok(())
    }

    /// The results of these slots, one column for each aggregate.
    pub(super) fn finish(&mut self, slots: &[usize]) -> Result<Vec<ArrayRef>, OperatorError> {
        self.states.iter_mut().map(|state| state.finish(slots)).collect()
    }

    /// These slots are empty and may be used again.
    pub(super) fn close(&mut self, slots: &[usize]) {
        for state in &mut self.states {
            state.empty(slots, self.total);
        }
        self.free.extend(slots);
    }
}
