//! A pane that is open, and what a snapshot says about it.

use tidegate_engine::error::OperatorError;

use super::evaluated::Evaluated;
use super::layers::Layers;
use super::marks::Marks;
use super::pane::{Groups, Layout, Taken};

/// The groups of one pane, which can tell what has changed.
pub(super) enum Pane {
    /// States are read in place.
    Marks(Marks),
    /// States cannot be read without being given away.
    Layers(Layers),
}

/// What a snapshot says about a pane.
pub(super) struct Saved {
    pub(super) says: Says,
    pub(super) groups: Taken,
}

/// What groups of a snapshot stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// All that was said of the pane before.
    Whole,
    /// More, by their keys.
    More,
    /// What the groups of these numbers have now.
    Now,
}

impl Pane {
    pub(super) fn new(layout: &Layout) -> Result<Pane, OperatorError> {
        if layout.is_direct {
            Marks::new(layout).map(Pane::Marks)
        } else {
            Layers::new(layout).map(Pane::Layers)
        }
    }

    /// A pane as a snapshot has it.
    pub(super) fn restored(groups: Groups, layout: &Layout) -> Result<Pane, OperatorError> {
        if layout.is_direct {
            Ok(Pane::Marks(Marks::restored(groups)))
        } else {
            Layers::restored(groups, layout).map(Pane::Layers)
        }
    }

    /// Adds rows.
    pub(super) fn update(&mut self, rows: &Evaluated, count: usize) -> Result<(), OperatorError> {
        match self {
            Pane::Marks(marks) => marks.update(rows, count),
            Pane::Layers(layers) => layers.update(rows, count),
        }
    }

    /// Its groups; those that are in several layers are counted several times.
    pub(super) fn groups(&self) -> usize {
        match self {
            Pane::Marks(marks) => marks.groups(),
            Pane::Layers(layers) => layers.groups(),
        }
    }

    /// Memory of all groups, about.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Pane::Marks(marks) => marks.bytes(),
            Pane::Layers(layers) => layers.bytes(),
        }
    }

    /// Groups that wait to be merged.
    pub(super) fn waiting(&self) -> usize {
        match self {
            Pane::Marks(_) => 0,
            Pane::Layers(layers) => layers.waiting(),
        }
    }

    /// Merges at most so many of the groups that wait; answers what is left of
    /// the number.
    pub(super) fn settle(&mut self, layout: &Layout, most: usize) -> Result<usize, OperatorError> {
        match self {
            Pane::Marks(_) => Ok(most),
            Pane::Layers(layers) => layers.settle(layout, most),
        }
    }

    /// Adds all groups to a window that is being put together; the pane keeps them.
    pub(super) fn add_to(&mut self, window: &mut Groups, layout: &Layout) -> Result<(), OperatorError> {
        match self {
            Pane::Marks(marks) => marks.add_to(window, layout),
            Pane::Layers(layers) => layers.add_to(window, layout),
        }
    }

    /// All groups in one.
    pub(super) fn into_groups(self, layout: &Layout) -> Result<Groups, OperatorError> {
        match self {
            Pane::Marks(marks) => Ok(marks.into_groups()),
            Pane::Layers(layers) => layers.into_groups(layout),
        }
    }

    /// Everything.
    pub(super) fn save(&mut self, layout: &Layout) -> Result<Vec<Saved>, OperatorError> {
        match self {
            Pane::Marks(marks) => marks.save(layout),
            Pane::Layers(layers) => layers.save(layout),
        }
    }

    /// What is new.
    pub(super) fn changes(&mut self) -> Result<Vec<Saved>, OperatorError> {
        match self {
            Pane::Marks(marks) => marks.changes(),
            Pane::Layers(layers) => Ok(layers.changes()?.into_iter().collect()),
        }
    }
}

/// Adds groups to a window that is being put together. They are given away for
/// it, so they are merged back; their numbers stay as they are.
pub(super) fn lend(groups: &mut Groups, window: &mut Groups, layout: &Layout) -> Result<(), OperatorError> {
    let taken = groups.take()?;
    window.merge(layout, &taken)?;
    groups.merge(layout, &taken)
}
