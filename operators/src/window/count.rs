//! Windows of so many rows of a key, one behind the other or overlapping. They
//! are made of panes of rows, as windows of time are.

use super::assigned::{Part, Row, Rule, Scene};

pub(super) struct Count {
    /// Rows of a pane.
    pane: u64,
    /// Panes of a window.
    size: usize,
    /// Panes from one window to the next.
    slide: usize,
}

impl Count {
    pub(super) fn new(size: u64, slide: u64, panes_max: u64) -> Result<Count, String> {
        if slide > size {
            return Err("`slide` is larger than `size`: rows between two windows would vanish".into());
        }
        let pane = gcd(size, slide).max(1);
        let panes = size / pane;
        if panes > panes_max {
            return Err(format!(
                "a window of this size and slide consists of {panes} panes; at most {panes_max}"
            ));
        }
        let narrow = |panes: u64| usize::try_from(panes).map_err(|error| error.to_string());
        Ok(Count { pane, size: narrow(panes)?, slide: narrow(slide / pane)? })
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Rule for Count {
    fn row(&self, parts: &mut Vec<Part>, row: Row, scene: &mut Scene<'_>) -> Option<usize> {
        if parts.last().is_none_or(|part| part.rows >= self.pane) {
            parts.push(scene.open(row.at_us));
        }
        let part = parts.last_mut()?;
        part.add(row.at_us);
        let slot = part.slot;
        if part.rows >= self.pane && parts.len() >= self.size {
            scene.end(parts, self.slide, row.at_us);
        }
        Some(slot)
    }
}
