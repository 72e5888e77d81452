//! A pane whose groups are marked when rows touch them, for aggregates whose
//! states can be read in place: a snapshot of a large one takes the keys of new
//! groups and the states of marked ones. A group's number is its place in the
//! order in which groups came, also after a restart.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::{concat, take};
use tidegate_engine::error::OperatorError;

use super::evaluated::Evaluated;
use super::open::{Saved, Says, lend};
use super::pane::{Groups, Layout, Taken};

/// Where more than one group of so many is touched, looking at all marks is
/// faster than sorting.
const MANY: usize = 16;
/// Keys of new groups are reported in pieces of at least so many.
const PIECE: usize = 4_096;

/// The groups of one pane.
pub(super) struct Marks {
    groups: Groups,
    /// Groups that rows have touched since the last snapshot, each once.
    touched: Vec<usize>,
    is_touched: Vec<bool>,
    /// Groups whose keys a snapshot has.
    known: usize,
    /// The keys of the others, in pieces.
    new_keys: Vec<Vec<ArrayRef>>,
}

impl Marks {
    /// Memory of all groups, about.
    pub(super) fn bytes(&self) -> usize {
        self.groups.bytes() + self.touched.capacity() * size_of::<usize>() + self.is_touched.capacity()
    }

    pub(super) fn new(layout: &Layout) -> Result<Marks, OperatorError> {
        Groups::new(layout).map(Marks::restored)
    }

    pub(super) fn restored(groups: Groups) -> Marks {
        let known = groups.len();
        Marks { groups, touched: Vec::new(), is_touched: vec![false; known], known, new_keys: Vec::new() }
    }

    pub(super) fn update(&mut self, rows: &Evaluated, count: usize) -> Result<(), OperatorError> {
        let before = self.groups.len();
        self.groups.update(rows, count)?;
        let now = self.groups.len();
        self.is_touched.resize(now, false);
        for group in self.groups.indices() {
            if let Some(is_touched) = self.is_touched.get_mut(*group)
                && !std::mem::replace(is_touched, true)
            {
                self.touched.push(*group);
            }
        }
        if now > before {
            let keys = first_keys(rows, self.groups.indices(), before..now)?;
            self.new_keys.push(keys);
        }
        Ok(())
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn add_to(&mut self, window: &mut Groups, layout: &Layout) -> Result<(), OperatorError> {
        lend(&mut self.groups, window, layout)
    }

    pub(super) fn into_groups(self) -> Groups {
        self.groups
    }

    pub(super) fn save(&mut self, layout: &Layout) -> Result<Vec<Saved>, OperatorError> {
        let groups = self.groups.take()?;
        self.groups.merge(layout, &groups)?;
        self.is_saved();
        Ok(vec![Saved { says: Says::Whole, groups }])
    }

    pub(super) fn changes(&mut self) -> Result<Vec<Saved>, OperatorError> {
        let mut saved = Vec::new();
        let mut says = if self.known == 0 { Says::Whole } else { Says::More };
        let mut from = self.known;
        for mut columns in self.keys_of_new()? {
            let to = from + columns.first().map_or(self.groups.len() - from, |keys| keys.len());
            columns.extend(self.groups.read_range(from..to)?);
            saved.push(Saved { says, groups: Taken { columns, groups: to - from } });
            (from, says) = (to, Says::More);
        }
        let old = self.touched_in_order();
        if !old.is_empty() {
            let numbers: Result<Vec<u32>, _> = old.iter().map(|group| u32::try_from(*group)).collect();
            let numbers = UInt32Array::from(numbers.map_err(OperatorError::new)?);
            let mut columns = vec![Arc::new(numbers) as ArrayRef];
            let is_all = old.len() == self.known;
            columns.extend(if is_all {
                self.groups.read_range(0..self.known)?
            } else {
                self.groups.read(&old)?
            });
            saved.push(Saved { says: Says::Now, groups: Taken { columns, groups: old.len() } });
        }
        self.is_saved();
        Ok(saved)
    }

    /// Touched groups whose keys a snapshot has. In their order, since states that
    /// lie side by side are read several times as fast as others.
    fn touched_in_order(&mut self) -> Vec<usize> {
        if self.touched.len() < self.groups.len() / MANY {
            self.touched.sort_unstable();
            return self.touched.iter().copied().filter(|group| *group < self.known).collect();
        }
        let touched = self.is_touched.iter().take(self.known).enumerate();
        touched.filter_map(|(group, is_touched)| is_touched.then_some(group)).collect()
    }

    fn is_saved(&mut self) {
        for group in self.touched.drain(..) {
            self.is_touched.get_mut(group).into_iter().for_each(|is_touched| *is_touched = false);
        }
        self.known = self.groups.len();
        self.new_keys.clear();
    }

    /// The keys of groups that no snapshot has, in their order and in pieces: large
    /// ones are handed over as they are, small ones are put together.
    fn keys_of_new(&self) -> Result<Vec<Vec<ArrayRef>>, OperatorError> {
        let mut pieces = Vec::new();
        let mut small: Vec<&Vec<ArrayRef>> = Vec::new();
        let mut waiting = 0;
        for keys in &self.new_keys {
            let rows = keys.first().map_or(0, |keys| keys.len());
            small.push(keys);
            waiting += rows;
            if waiting >= PIECE {
                pieces.push(together(&std::mem::take(&mut small))?);
                waiting = 0;
            }
        }
        if !small.is_empty() {
            pieces.push(together(&small)?);
        }
        Ok(pieces)
    }
}

/// The columns of several pieces one behind the other.
fn together(pieces: &[&Vec<ArrayRef>]) -> Result<Vec<ArrayRef>, OperatorError> {
    let [first, rest @ ..] = pieces else { return Ok(Vec::new()) };
    if rest.is_empty() {
        return Ok((*first).clone());
    }
    let column = |column: usize| -> Vec<&dyn Array> {
        pieces.iter().filter_map(|keys| keys.get(column).map(AsRef::as_ref)).collect()
    };
    (0..first.len()).map(|index| Ok(concat(&column(index))?)).collect()
}

/// The keys of these groups, from the first row of each.
fn first_keys(
    rows: &Evaluated,
    groups: &[usize],
    new: std::ops::Range<usize>,
) -> Result<Vec<ArrayRef>, OperatorError> {
    let mut first: Vec<Option<u32>> = vec![None; new.len()];
    for (row, group) in groups.iter().enumerate() {
        if let Some(place) = group.checked_sub(new.start).and_then(|index| first.get_mut(index))
            && place.is_none()
        {
            *place = Some(u32::try_from(row).map_err(OperatorError::new)?);
        }
    }
    let first = UInt32Array::from(first);
    rows.keys.iter().map(|keys| Ok(take(keys, &first, None)?)).collect()
}
