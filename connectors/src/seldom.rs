//! Log lines that would repeat every few seconds while a peer is away: one per
//! kind and interval, with the count of those left out. Must never hide the
//! first line of a kind.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(30);

/// Kinds remembered; with more, the memory starts anew.
const KINDS_MAX: usize = 64;

/// Decides whether a line is written.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    kinds: Mutex<HashMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    left_out: u64,
}

impl Seldom {
    /// Whether to write a line of this kind now: the count of lines left out
    /// since the last one, or `None` to keep silent.
    pub(crate) fn may_say(&self, kind: &str) -> Option<u64> {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(said) = kinds.get_mut(kind) {
            if now.duration_since(said.at) < INTERVAL {
                said.left_out += 1;
                return None;
            }
            let left_out = said.left_out;
            *said = Said { at: now, left_out: 0 };
            return Some(left_out);
        }
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        kinds.insert(kind.to_owned(), Said { at: now, left_out: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_each_kind_is_written_and_repeats_are_not() {
        let seldom = Seldom::default();
        assert_eq!(seldom.may_say("down"), Some(0));
        assert_eq!(seldom.may_say("down"), None);
        assert_eq!(seldom.may_say("refused"), Some(0));
    }
}
