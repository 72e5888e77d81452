//! Rows by the hash of their keys, each list in order of time: what finds the
//! partners of a row. Holds no values; whoever asks compares the keys.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// A row by its time and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) time_us: i64,
    pub(super) number: u64,
}

/// Hashes are hashes already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// The rows of a side by key.
#[derive(Default)]
pub(super) struct Index {
    lists: HashMap<u64, VecDeque<Entry>, BuildHasherDefault<AsIs>>,
}

impl Index {
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        let list = self.lists.entry(hash).or_default();
        if list.back().is_none_or(|last| *last < entry) {
            list.push_back(entry);
        } else {
            list.insert(list.partition_point(|known| *known < entry), entry);
        }
    }

    /// Rows leave in the order of time, more or less. A key without rows is
    /// forgotten.
    pub(super) fn remove(&mut self, hash: u64, entry: Entry) {
        let Some(list) = self.lists.get_mut(&hash) else { return };
        if list.front() == Some(&entry) {
            list.pop_front();
        } else if let Ok(at) = list.binary_search(&entry) {
            list.remove(at);
        }
        if list.is_empty() {
            self.lists.remove(&hash);
        }
    }

    /// Rows of the key between these times, both included, in order.
    pub(super) fn between(&self, hash: u64, from_us: i64, to_us: i64) -> impl Iterator<Item = Entry> {
        let list = self.lists.get(&hash);
        let start = list.map_or(0, |list| match list.front() {
            Some(first) if first.time_us >= from_us => 0,
            _ => list.partition_point(|entry| entry.time_us < from_us),
        });
        let rest = list.into_iter().flat_map(move |list| list.range(start..));
        rest.copied().take_while(move |entry| entry.time_us <= to_us)
    }

    /// The rows of the key, in order of time.
    pub(super) fn list(&self, hash: u64) -> Option<&VecDeque<Entry>> {
        self.lists.get(&hash)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_in_order_and_forgotten() {
        let entry = |time_us, number| Entry { time_us, number };
        let rows = [entry(5, 0), entry(2, 1), entry(5, 2), entry(9, 3), entry(4, 4)];
        let mut index = Index::default();
        rows.iter().for_each(|row| index.insert(7, *row));
        let found = |index: &Index, from, to| -> Vec<u64> {
            index.between(7, from, to).map(|entry| entry.number).collect()
        };
        assert_eq!(found(&index, 3, 5), [4, 0, 2]);
        assert_eq!(found(&index, 5, 5), [0, 2]);
        assert_eq!(found(&index, 10, 20), [] as [u64; 0]);
        assert_eq!(index.between(8, 0, 9).count(), 0, "another key");
        index.remove(7, entry(5, 0));
        index.remove(7, entry(5, 0));
        assert_eq!(found(&index, 0, 9), [1, 4, 2, 3]);
        rows.iter().for_each(|row| index.remove(7, *row));
        assert!(index.is_empty());
    }
}
