//! Sessions: rows of a key less than `gap` apart, ended by silence, or at the
//! latest `max` after they began.

use super::assigned::{Part, Row, Rule, Scene};

pub(super) struct Session {
    gap_us: i64,
    /// `i64::MAX`: as long as rows come.
    max_us: i64,
}

impl Session {
    pub(super) fn new(gap_us: i64, max_us: i64) -> Result<Session, String> {
        if gap_us < 1 || max_us < 1 {
            return Err("`gap` and `max` are at least 1 µs long".into());
        }
        Ok(Session { gap_us, max_us })
    }

    /// After so much silence nothing is known of a key.
    pub(super) fn forget_us(&self) -> i64 {
        self.gap_us
    }

    fn end_of(&self, part: &Part) -> i64 {
        part.last_us.saturating_add(self.gap_us).min(part.start_us.saturating_add(self.max_us))
    }
}

impl Rule for Session {
    fn row(&self, parts: &mut Vec<Part>, row: Row, scene: &mut Scene<'_>) -> Option<usize> {
        if let Some(end_us) =
            parts.first().map(|part| self.end_of(part)).filter(|end_us| *end_us <= row.at_us)
        {
            scene.end(parts, usize::MAX, end_us);
        }
        if parts.is_empty() {
            parts.push(scene.open(row.at_us));
        }
        // A row behind the watermark is less than a gap before it, and so less than
        // a gap before a session that is open: no two sessions ever become one.
        let part = parts.first_mut()?;
        part.add(row.at_us);
        Some(part.slot)
    }

    fn due(&self, parts: &[Part]) -> Option<i64> {
        parts.first().map(|part| self.end_of(part))
    }

    /// A row that would make a session, were it alone, that has not ended.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us.saturating_sub(self.gap_us.min(self.max_us)).saturating_add(1))
    }
}
