//! State windows: from a row on which one condition holds to the next one on
//! which another does, both included. Rows between two windows belong to none.

use super::assigned::{Part, Row, Rule, Scene};

pub(super) struct Between;

impl Rule for Between {
    fn row(&self, parts: &mut Vec<Part>, row: Row, scene: &mut Scene<'_>) -> Option<usize> {
        if parts.is_empty() {
            if !row.opens {
                return None;
            }
            parts.push(scene.open(row.at_us));
        }
        let part = parts.first_mut()?;
        part.add(row.at_us);
        let slot = part.slot;
        if row.closes {
            scene.end(parts, usize::MAX, row.at_us);
        }
        Some(slot)
    }
}
