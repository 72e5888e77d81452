//! When one key of a trigger fires. Pure: rows and instants go in, firings
//! come out.

use std::collections::VecDeque;

/// What a trigger waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) hold_us: Option<i64>,
    /// True for n of the last m rows.
    pub(super) hits: Option<(usize, usize)>,
    /// True n times within microseconds.
    pub(super) count: Option<(usize, i64)>,
    pub(super) absent_us: Option<i64>,
    pub(super) cooldown_us: i64,
    pub(super) forget_us: i64,
    /// Every row for which it is true fires, not only the first.
    pub(super) on_row: bool,
    /// A false condition is enough to fire again.
    pub(super) clears_itself: bool,
}

/// What is remembered of one key.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct KeyState {
    /// It has fired, or owes a firing, and has not been cleared.
    active: bool,
    /// Since when the condition has been true.
    since_us: Option<i64>,
    /// The last rows' conditions, for `hits`.
    recent: VecDeque<bool>,
    /// When it was true, for `count`.
    times_us: VecDeque<i64>,
    /// The newest row.
    seen_us: i64,
    /// How far that row was behind the watermark when it came. The key's
    /// instants wait for as long: its next rows will be as far behind.
    lag_us: i64,
    /// Silence has been told and no row came since.
    silent: bool,
    /// It would have fired while it cooled down, and is still true.
    owes: bool,
    /// Firings before this instant are suppressed.
    quiet_until_us: Option<i64>,
    /// Firings so far: part of a firing's identity.
    pub(super) ordinal: i64,
}

/// What a row or an instant led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Quiet,
    /// It fires.
    Fires,
    /// It would fire, but cools down after the last firing.
    Cooling,
}

impl KeyState {
    /// A key whose first row is at this instant.
    pub(super) fn first_seen(at_us: i64) -> KeyState {
        KeyState { seen_us: at_us, ..KeyState::default() }
    }

    /// Whether a row at `at_us` is older than what was judged of this key.
    pub(super) fn is_late(&self, at_us: i64) -> bool {
        at_us < self.seen_us
    }

    /// A row at `at_us`, not late, that came when event time was `now_us`;
    /// `when` and `clear` are `None` where they are NULL. A NULL `when` keeps
    /// the state as it is.
    pub(super) fn on_row(
        &mut self,
        spec: &Spec,
        (at_us, now_us): (i64, i64),
        when: Option<bool>,
        clear: Option<bool>,
    ) -> Verdict {
        self.seen_us = at_us;
        self.lag_us = now_us.saturating_sub(at_us).max(0);
        if spec.absent_us.is_some() {
            // With a condition, only rows for which it is true are signs of life.
            self.silent = false;
            self.owes = false;
            return Verdict::Quiet;
        }
        if !spec.clears_itself && clear == Some(true) {
            self.clear();
            return Verdict::Quiet;
        }
        let Some(holds) = when else { return Verdict::Quiet };
        if !self.is_enough(spec, at_us, holds) {
            self.since_us = None;
            // A firing that is owed was never told, so there is nothing to clear.
            if spec.clears_itself || self.owes {
                self.active = false;
                self.owes = false;
            }
            return Verdict::Quiet;
        }
        self.since_us.get_or_insert(at_us);
        // With `hold` the firing comes from `on_due`.
        if spec.hold_us.is_some() || (self.active && !spec.on_row) {
            return Verdict::Quiet;
        }
        self.fire(spec, at_us)
    }

    /// The next instant of the key's own time at which something happens
    /// without a row.
    pub(super) fn due(&self, spec: &Spec) -> Option<i64> {
        if self.owes {
            return self.quiet_until_us;
        }
        if let Some(absent_us) = spec.absent_us {
            return (!self.silent).then(|| self.seen_us.saturating_add(absent_us));
        }
        let since_us = self.since_us.filter(|_| !self.active)?;
        Some(since_us.saturating_add(spec.hold_us?))
    }

    /// The watermark at which that instant has come for this key.
    pub(super) fn wakes(&self, spec: &Spec) -> Option<i64> {
        Some(self.due(spec)?.saturating_add(self.lag_us))
    }

    /// The key's time has come to `at_us`, which `due` had named.
    pub(super) fn on_due(&mut self, spec: &Spec, at_us: i64) -> Verdict {
        self.silent = spec.absent_us.is_some();
        self.fire(spec, at_us)
    }

    /// Whether its next row, coming at `now_us`, begins afresh.
    pub(super) fn is_forgotten(&self, spec: &Spec, now_us: i64) -> bool {
        let heard_us = self.seen_us.saturating_add(self.lag_us);
        let silent_for = now_us.saturating_sub(heard_us);
        silent_for >= spec.forget_us && self.quiet_until_us.is_none_or(|until| until <= now_us)
    }

    /// How many of the newest rows a firing after this verdict rests on.
    pub(super) fn evidence(&self, spec: &Spec, verdict: Verdict) -> usize {
        match (spec.hits, spec.count) {
            (Some(_), _) => self.recent.len(),
            (None, Some((count, _))) if verdict != Verdict::Quiet => count,
            (None, Some(_)) => self.times_us.len(),
            (None, None) if spec.absent_us.is_some() || spec.on_row => 1,
            (None, None) if self.since_us.is_some() => usize::MAX,
            (None, None) => 0,
        }
    }

    fn clear(&mut self) {
        self.active = false;
        self.owes = false;
        self.since_us = None;
        self.recent.clear();
        self.times_us.clear();
    }

    fn is_enough(&mut self, spec: &Spec, at_us: i64, holds: bool) -> bool {
        if let Some((hits, of)) = spec.hits {
            self.recent.push_back(holds);
            while self.recent.len() > of {
                self.recent.pop_front();
            }
            return self.recent.iter().filter(|hit| **hit).count() >= hits;
        }
        if let Some((count, within_us)) = spec.count {
            if holds {
                self.times_us.push_back(at_us);
            }
            let oldest = at_us.saturating_sub(within_us);
            while self.times_us.front().is_some_and(|time| *time <= oldest) || self.times_us.len() > count {
                self.times_us.pop_front();
            }
            return self.times_us.len() >= count;
        }
        holds
    }

    fn fire(&mut self, spec: &Spec, at_us: i64) -> Verdict {
        let cools = self.quiet_until_us.is_some_and(|until| at_us < until);
        self.active = true;
        self.owes = false;
        if spec.count.is_some() {
            // The next firing needs as many again.
            self.times_us.clear();
            if cools {
                self.active = false;
                self.since_us = None;
            }
        } else if cools {
            // Where each row fires by itself, none is owed.
            self.owes = !spec.on_row || spec.hold_us.is_some() || spec.absent_us.is_some();
        }
        if cools {
            return Verdict::Cooling;
        }
        self.ordinal += 1;
        self.quiet_until_us = (spec.cooldown_us > 0).then(|| at_us.saturating_add(spec.cooldown_us));
        Verdict::Fires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Spec = Spec {
        hold_us: None,
        hits: None,
        count: None,
        absent_us: None,
        cooldown_us: 0,
        forget_us: i64::MAX,
        on_row: false,
        clears_itself: true,
    };

    /// Feeds (time, condition) rows and due instants in order; answers when it fired.
    fn firings(spec: &Spec, rows: &[(i64, Option<bool>)]) -> Vec<i64> {
        let mut state = KeyState::default();
        let mut fired = Vec::new();
        for (at, when) in rows {
            while let Some(due) = state.due(spec).filter(|due| due <= at && state.seen_us > 0) {
                if state.on_due(spec, due) == Verdict::Fires {
                    fired.push(due);
                }
            }
            if state.on_row(spec, (*at, *at), *when, Some(*when == Some(false) && *at % 2 == 0))
                == Verdict::Fires
            {
                fired.push(*at);
            }
        }
        fired
    }

    const T: Option<bool> = Some(true);
    const F: Option<bool> = Some(false);

    #[test]
    fn fires_when_it_becomes_true_and_null_keeps_the_state() {
        assert_eq!(firings(&PLAIN, &[(1, F), (2, T), (3, T), (4, None), (5, T), (6, F), (7, T)]), [2, 7]);
        let every = Spec { on_row: true, ..PLAIN };
        assert_eq!(firings(&every, &[(1, F), (2, T), (3, T), (4, None), (5, T)]), [2, 3, 5]);
    }

    #[test]
    fn hold_needs_it_to_stay_true_and_fires_at_the_instant() {
        let hold = Spec { hold_us: Some(10), ..PLAIN };
        assert_eq!(firings(&hold, &[(1, T), (9, F), (12, T), (21, T), (40, F), (41, F)]), [22]);
        assert_eq!(firings(&hold, &[(1, T), (30, F)]), [11], "nothing said it was false at 11");
    }

    #[test]
    fn hits_counts_the_last_rows() {
        let hits = Spec { hits: Some((3, 5)), ..PLAIN };
        let rows = [(1, T), (2, F), (3, T), (4, F), (5, T), (6, F), (7, F), (8, F), (9, T), (10, T), (11, T)];
        assert_eq!(firings(&hits, &rows), [5, 11]);
    }

    #[test]
    fn count_within_forgets_what_is_too_old_and_starts_anew_after_firing() {
        let count = Spec { count: Some((3, 10)), on_row: true, ..PLAIN };
        assert_eq!(firings(&count, &[(1, T), (5, T), (12, T), (14, T), (15, T), (16, T), (17, T)]), [14, 17]);
    }

    #[test]
    fn a_clear_condition_of_its_own_gives_hysteresis() {
        let spec = Spec { clears_itself: false, ..PLAIN };
        // In `firings`, clear is true for false rows at even times only.
        assert_eq!(firings(&spec, &[(1, T), (3, F), (5, T), (6, F), (7, T)]), [1, 7]);
    }

    #[test]
    fn cooldown_suppresses_and_counts() {
        let spec = Spec { cooldown_us: 10, ..PLAIN };
        assert_eq!(firings(&spec, &[(1, T), (2, F), (5, T), (6, F), (11, T)]), [1, 11]);
    }

    #[test]
    fn what_is_still_true_when_the_cooldown_ends_fires_then() {
        let spec = Spec { cooldown_us: 10, ..PLAIN };
        assert_eq!(firings(&spec, &[(1, T), (2, F), (5, T), (9, T), (20, T)]), [1, 11]);
        assert_eq!(firings(&spec, &[(1, T), (2, F), (5, T), (9, F), (20, F)]), [1], "false at the end");
        let own_clear = Spec { clears_itself: false, ..spec };
        assert_eq!(
            firings(&own_clear, &[(1, T), (2, F), (5, T), (7, F), (12, T)]),
            [1, 12],
            "what was never told needs no clearing"
        );
        let silence = Spec { absent_us: Some(3), on_row: true, ..spec };
        assert_eq!(firings(&silence, &[(1, None), (5, None), (30, None)]), [4, 14]);
        let hold = Spec { hold_us: Some(2), on_row: true, ..spec };
        assert_eq!(firings(&hold, &[(1, T), (4, F), (5, T), (30, T)]), [3, 13]);
        let count = Spec { count: Some((2, 100)), ..spec };
        assert_eq!(firings(&count, &[(1, T), (2, T), (3, T), (4, T), (20, T), (21, T)]), [2, 21]);
    }

    #[test]
    fn clear_when_counts_where_when_is_null() {
        let spec = Spec { clears_itself: false, ..PLAIN };
        let mut state = KeyState::default();
        assert_eq!(state.on_row(&spec, (1, 1), T, F), Verdict::Fires);
        assert_eq!(state.on_row(&spec, (2, 2), None, T), Verdict::Quiet);
        assert_eq!(state.on_row(&spec, (3, 3), T, F), Verdict::Fires);
    }

    #[test]
    fn silence_fires_once_until_a_row_comes() {
        let spec = Spec { absent_us: Some(10), ..PLAIN };
        assert_eq!(firings(&spec, &[(1, None), (5, None), (40, None), (60, None)]), [15, 50]);
    }

    #[test]
    fn a_firing_has_a_number_of_its_own() {
        let mut state = KeyState::default();
        for at in [1, 3, 5] {
            assert_eq!(state.on_row(&PLAIN, (at, at), T, None), Verdict::Fires);
            assert_eq!(state.on_row(&PLAIN, (at + 1, at + 1), F, None), Verdict::Quiet);
        }
        assert_eq!(state.ordinal, 3);
    }
}
