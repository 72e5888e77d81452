//! What of a write is on the disk after the power has gone.

use super::disk::Write;
use super::seed::Seed;

/// All of a write, a part of it, or nothing.
pub(super) fn survive(bytes: &mut Vec<u8>, write: Write, seed: &mut Seed) {
    match write {
        Write::Cut(length) if seed.chance(50) => bytes.truncate(length),
        Write::At(at, mut new) => {
            match seed.below(4) {
                0 => return,
                1 => new.truncate(seed.below(new.len())),
                // Pages reach the disk in any order.
                2 => {
                    let from = seed.below(new.len());
                    let to = from + seed.below(new.len() - from);
                    new.get_mut(from..to).unwrap_or_default().fill(0);
                }
                _ => {}
            }
            put(bytes, at, &new);
        }
        Write::Cut(_) => {}
    }
}

pub(super) fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    if let Some(place) = bytes.get_mut(at..at + new.len()) {
        place.copy_from_slice(new);
    }
}
