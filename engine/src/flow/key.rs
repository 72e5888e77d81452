//! The name of a firing: the same after every replay, so that it is found in
//! the journal and starts nothing twice. Must not depend on the file's
//! revision, the clock or the order of arrival.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use crate::time::Time;

/// Hash of (topology, trigger, key, event time, ordinal).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunKey(pub [u8; 16]);

impl RunKey {
    /// The key of a firing.
    #[must_use]
    pub fn of(topology: &str, trigger: &str, key: &str, fired_at: Time, ordinal: i64) -> RunKey {
        let mut hash = Xxh3::new();
        for text in [topology, trigger, key] {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(&fired_at.0.to_le_bytes());
        hash.update(&ordinal.to_le_bytes());
        RunKey(hash.digest128().to_be_bytes())
    }
}

impl fmt::Display for RunKey {
    /// 32 hexadecimal digits.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for RunKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// How a run's number is written: hexadecimal, as in `run.id`.
#[must_use]
pub fn run_id_text(id: i64) -> String {
    format!("{id:x}")
}

/// The number behind `run_id_text`.
#[must_use]
pub fn parse_run_id(text: &str) -> Option<i64> {
    i64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts_and_nothing_else() {
        let base = RunKey::of("t", "hot", "p1", Time(5), 0);
        assert_eq!(base, RunKey::of("t", "hot", "p1", Time(5), 0));
        let others = [
            RunKey::of("u", "hot", "p1", Time(5), 0),
            RunKey::of("t", "cold", "p1", Time(5), 0),
            RunKey::of("t", "hot", "p2", Time(5), 0),
            RunKey::of("t", "hot", "p1", Time(6), 0),
            RunKey::of("t", "hot", "p1", Time(5), 1),
            RunKey::of("th", "ot", "p1", Time(5), 0),
        ];
        for other in others {
            assert_ne!(base, other);
        }
        // Kept in journals for years: the value itself must not change.
        assert_eq!(base.to_string().len(), 32);
    }

    #[test]
    fn run_numbers_read_back() {
        assert_eq!(parse_run_id(&run_id_text(1_764_000_000_000_000)), Some(1_764_000_000_000_000));
        assert_eq!(parse_run_id("x"), None);
    }
}
