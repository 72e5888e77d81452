//! A pane whose groups are marked when rows touch them, for aggregates whose
//! states can be read in place: a snapshot of a large one takes the keys of new
//! groups and the states of marked ones. A group's number is its place in the
//! order in which groups came, also after a restart.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{concat, take};
use tidegate_engine::error::OperatorError;

use super::open::{Saved, Says, lend};
use super::pane::{Evaluated, Groups, Layout, Taken};

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
        let new: Vec<usize> = (self.known..self.groups.len()).collect();
        if !new.is_empty() {
            let mut columns = self.keys_of_new()?;
            columns.extend(self.groups.read(&new)?);
            let says = if self.known == 0 { Says::Whole } else { Says::More };
            saved.push(Saved { says, groups: Taken { columns, groups: new.len() } });
        }
        let old: Vec<usize> = self.touched.iter().copied().filter(|group| *group < self.known).collect();
        if !old.is_empty() {
            let numbers: Result<Vec<u32>, _> = old.iter().map(|group| u32::try_from(*group)).collect();
            let numbers = UInt32Array::from(numbers.map_err(OperatorError::new)?);
            let mut columns = vec![Arc::new(numbers) as ArrayRef];
            columns.extend(self.groups.read(&old)?);
            saved.push(Saved { says: Says::Now, groups: Taken { columns, groups: old.len() } });
        }
        self.is_saved();
        Ok(saved)
    }

    fn is_saved(&mut self) {
        for group in self.touched.drain(..) {
            self.is_touched.get_mut(group).into_iter().for_each(|is_touched| *is_touched = false);
        }
        self.known = self.groups.len();
        self.new_keys.clear();
    }

    /// The keys of groups that no snapshot has, in their order.
    fn keys_of_new(&self) -> Result<Vec<ArrayRef>, OperatorError> {
        let columns = self.new_keys.first().map_or(0, Vec::len);
        let piece =
            |column: usize| self.new_keys.iter().filter_map(move |keys| keys.get(column).map(AsRef::as_ref));
        (0..columns).map(|column| Ok(concat(&piece(column).collect::<Vec<_>>())?)).collect()
    }
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
