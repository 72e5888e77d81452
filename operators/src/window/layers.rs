//! A pane in layers, for aggregates whose states cannot be read in place: a
//! snapshot of a large one takes what is new and leaves the rest alone. Rows
//! since the last snapshot, what earlier snapshots took, and what of that has
//! been merged. Merging goes on bit by bit with the rows that come.

use std::collections::VecDeque;

use tidegate_engine::error::OperatorError;

use super::evaluated::Evaluated;
use super::open::{Saved, Says, lend};
use super::pane::{Groups, Layout, Taken};

/// The groups of one pane.
pub(super) struct Layers {
    /// Rows since the last snapshot; all of them as long as the pane is small.
    fresh: Groups,
    /// What snapshots took, oldest first, and `base` does not have yet.
    waiting: VecDeque<Taken>,
    base: Option<Groups>,
    is_changed: bool,
}

impl Layers {
    pub(super) fn new(layout: &Layout) -> Result<Layers, OperatorError> {
        Ok(Layers { fresh: Groups::new(layout)?, waiting: VecDeque::new(), base: None, is_changed: false })
    }

    /// A pane as a snapshot has it.
    pub(super) fn restored(groups: Groups, layout: &Layout) -> Result<Layers, OperatorError> {
        Ok(Layers { base: Some(groups), ..Layers::new(layout)? })
    }

    /// Adds rows.
    pub(super) fn update(&mut self, rows: &Evaluated, count: usize) -> Result<(), OperatorError> {
        self.is_changed = true;
        self.fresh.update(rows, count)
    }

    /// Its groups, those that are in several layers counted several times.
    pub(super) fn groups(&self) -> usize {
        self.fresh.len() + self.waiting() + self.base.as_ref().map_or(0, Groups::len)
    }

    /// Memory of all groups, about.
    pub(super) fn bytes(&self) -> usize {
        let waiting = self.waiting.iter().flat_map(|taken| taken.columns.iter());
        let waiting: usize = waiting.map(|column| column.get_array_memory_size()).sum();
        self.fresh.bytes() + waiting + self.base.as_ref().map_or(0, Groups::bytes)
    }

    /// Groups that wait to be merged.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.iter().map(|taken| taken.groups).sum()
    }

    /// Merges at most so many of the groups that wait; answers what is left of
    /// the number.
    pub(super) fn settle(&mut self, layout: &Layout, mut most: usize) -> Result<usize, OperatorError> {
        while most > 0
            && let Some(mut taken) = self.waiting.pop_front()
        {
            let rest = taken.split_off(most);
            most -= taken.groups;
            match &mut self.base {
                Some(base) => base.merge(layout, &taken)?,
                None => {
                    let mut base = Groups::new(layout)?;
                    base.merge(layout, &taken)?;
                    self.base = Some(base);
                }
            }
            if rest.groups > 0 {
                self.waiting.push_front(rest);
            }
        }
        Ok(most)
    }

    /// Adds all groups to a window that is being put together; the pane keeps them.
    pub(super) fn add_to(&mut self, window: &mut Groups, layout: &Layout) -> Result<(), OperatorError> {
        if let Some(base) = &mut self.base {
            lend(base, window, layout)?;
        }
        self.waiting.iter().try_for_each(|taken| window.merge(layout, taken))?;
        lend(&mut self.fresh, window, layout)
    }

    /// All groups in one.
    pub(super) fn into_groups(mut self, layout: &Layout) -> Result<Groups, OperatorError> {
        self.settle(layout, usize::MAX)?;
        let Some(mut base) = self.base else { return Ok(self.fresh) };
        base.merge(layout, &self.fresh.take()?)?;
        Ok(base)
    }

    /// Everything.
    pub(super) fn save(&mut self, layout: &Layout) -> Result<Vec<Saved>, OperatorError> {
        self.is_changed = false;
        let mut layers = Vec::new();
        if let Some(base) = &mut self.base {
            let taken = base.take()?;
            base.merge(layout, &taken)?;
            layers.push(taken);
        }
        layers.extend(self.waiting.iter().cloned());
        let fresh = self.fresh.take()?;
        if layers.is_empty() {
            self.fresh.merge(layout, &fresh)?;
        } else {
            // It is not new any more.
            self.waiting.extend(Some(fresh.clone()).filter(|fresh| fresh.groups > 0));
        }
        layers.push(fresh);
        let layers = layers.into_iter().filter(|taken| taken.groups > 0).enumerate();
        let says = |index| if index == 0 { Says::Whole } else { Says::More };
        Ok(layers.map(|(index, groups)| Saved { says: says(index), groups }).collect())
    }

    /// What is new; `None` if nothing is.
    pub(super) fn changes(&mut self) -> Result<Option<Saved>, OperatorError> {
        if !std::mem::take(&mut self.is_changed) {
            return Ok(None);
        }
        // Nobody was told more about it than what is in here.
        let says = if self.base.is_none() && self.waiting.is_empty() { Says::Whole } else { Says::More };
        let groups = self.fresh.take()?;
        self.waiting.push_back(groups.clone());
        Ok(Some(Saved { says, groups }))
    }
}
