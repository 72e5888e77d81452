//! Which rows of one key make a pattern. Pure: rows and instants go in, matches
//! come out.
//!
//! Of all beginnings that could still become a match only one is kept for each
//! step: the newest, which has most time left and the fewest forbidden rows
//! behind it. So a match is found whenever there is one, and memory does not
//! grow with the number of beginnings.

/// What a pattern waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    /// Steps that are rows.
    pub(super) steps: usize,
    /// Behind them nothing forbidden may come until the time is over.
    pub(super) ends_in_silence: bool,
    pub(super) within_us: i64,
}

/// The first steps of a pattern, one row for each.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Partial<R> {
    pub(super) start_us: i64,
    pub(super) rows: Vec<R>,
}

/// What is remembered of a key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State<R> {
    /// At `k`: `k + 1` steps are taken.
    pub(super) partials: Vec<Option<Partial<R>>>,
}

impl<R> Default for State<R> {
    fn default() -> State<R> {
        State { partials: Vec::new() }
    }
}

impl<R: Clone> State<R> {
    /// The next row in event-time order, at `at_us`. `when` and `not` say whether
    /// it is what the step with this number wants, or forbids before it.
    pub(super) fn on_row(
        &mut self,
        spec: &Spec,
        at_us: i64,
        row: &R,
        when: &dyn Fn(usize) -> bool,
        not: &dyn Fn(usize) -> bool,
    ) -> Option<Partial<R>> {
        self.partials.resize_with(spec.steps, || None);
        for (taken, partial) in self.partials.iter_mut().enumerate() {
            let is_over = |partial: &Partial<R>| at_us.saturating_sub(partial.start_us) >= spec.within_us;
            if partial.as_ref().is_some_and(|partial| is_over(partial) || not(taken + 1)) {
                *partial = None;
            }
        }
        // From the last step: a row is one step of a match only.
        for step in (0..spec.steps).rev().filter(|step| when(*step)) {
            let before = match step.checked_sub(1) {
                None => Some(Partial { start_us: at_us, rows: Vec::with_capacity(spec.steps) }),
                Some(before) => self.partials.get(before).cloned().flatten(),
            };
            let Some(mut taken) = before else { continue };
            taken.rows.push(row.clone());
            let is_last = step + 1 == spec.steps;
            if is_last && !spec.ends_in_silence {
                self.partials.clear();
                return Some(taken);
            }
            if let Some(place) = self.partials.get_mut(step) {
                // The silence behind the oldest is over first.
                let is_better = |kept: &Partial<R>| !is_last && kept.start_us <= taken.start_us;
                if place.as_ref().is_none_or(is_better) {
                    *place = Some(taken);
                }
            }
        }
        None
    }

    /// The instant at which silence becomes a match.
    pub(super) fn due(&self, spec: &Spec) -> Option<i64> {
        let whole = self.partials.get(spec.steps.checked_sub(1)?)?.as_ref()?;
        spec.ends_in_silence.then(|| whole.start_us.saturating_add(spec.within_us))
    }

    /// Event time has come to the instant that `due` had named.
    pub(super) fn on_due(&mut self) -> Option<Partial<R>> {
        let whole = self.partials.pop().flatten();
        self.partials.clear();
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds rows: a letter at an instant. Steps are letters, `!` is what is
    /// forbidden before the step of that number. Answers each match as its
    /// letters with their instants, and when it was found.
    fn matches(spec: &Spec, steps: &[char], not: &[(usize, char)], rows: &[(i64, char)]) -> Vec<String> {
        let mut state = State::default();
        let mut found = Vec::new();
        let tell = |at: i64, whole: Partial<(i64, char)>| {
            let rows: Vec<String> = whole.rows.iter().map(|(at, letter)| format!("{letter}{at}")).collect();
            format!("{} @{at}", rows.join(" "))
        };
        for row in rows {
            while let Some(due) = state.due(spec).filter(|due| *due <= row.0) {
                found.extend(state.on_due().map(|whole| tell(due, whole)));
            }
            let when = |step: usize| steps.get(step) == Some(&row.1);
            let forbids = |step: usize| not.contains(&(step, row.1));
            found.extend(state.on_row(spec, row.0, row, &when, &forbids).map(|whole| tell(row.0, whole)));
        }
        found
    }

    const TWO: Spec = Spec { steps: 2, ends_in_silence: false, within_us: 10 };
    const THREE: Spec = Spec { steps: 3, ..TWO };
    const SILENCE: Spec = Spec { steps: 1, ends_in_silence: true, within_us: 10 };

    #[test]
    fn one_then_the_other_within_a_time() {
        let ab = ['a', 'b'];
        assert_eq!(
            matches(&TWO, &ab, &[], &[(0, 'b'), (1, 'a'), (2, 'x'), (3, 'b'), (4, 'b')]),
            ["a1 b3 @3"]
        );
        assert_eq!(matches(&TWO, &ab, &[], &[(0, 'a'), (9, 'b')]), ["a0 b9 @9"]);
        assert_eq!(matches(&TWO, &ab, &[], &[(0, 'a'), (10, 'b')]), [""; 0], "the time is over");
        assert_eq!(matches(&TWO, &ab, &[], &[(0, 'a'), (8, 'a'), (12, 'b')]), ["a8 b12 @12"]);
        assert_eq!(
            matches(&TWO, &ab, &[], &[(0, 'a'), (1, 'b'), (2, 'a'), (3, 'b')]),
            ["a0 b1 @1", "a2 b3 @3"]
        );
        assert_eq!(
            matches(&TWO, &['a', 'a'], &[], &[(0, 'a'), (1, 'a'), (2, 'a'), (3, 'a')]),
            ["a0 a1 @1", "a2 a3 @3"]
        );
    }

    #[test]
    fn a_forbidden_row_ends_what_has_begun() {
        let (ab, not) = (['a', 'b'], [(1, 'c')]);
        assert_eq!(matches(&TWO, &ab, &not, &[(0, 'a'), (1, 'c'), (2, 'b')]), [""; 0]);
        assert_eq!(matches(&TWO, &ab, &not, &[(0, 'c'), (1, 'a'), (2, 'b'), (3, 'c')]), ["a1 b2 @2"]);
        assert_eq!(matches(&TWO, &ab, &not, &[(0, 'a'), (1, 'c'), (2, 'a'), (3, 'b')]), ["a2 b3 @3"]);
        assert_eq!(matches(&TWO, &ab, &[(1, 'b')], &[(0, 'a'), (1, 'b')]), [""; 0], "forbidden comes first");
    }

    #[test]
    fn a_later_step_does_not_use_up_an_earlier_one() {
        let abd = ['a', 'b', 'd'];
        assert_eq!(matches(&THREE, &abd, &[], &[(0, 'a'), (1, 'b'), (2, 'b'), (3, 'd')]), ["a0 b2 d3 @3"]);
        let rows = [(0, 'a'), (1, 'b'), (2, 'c'), (3, 'b'), (4, 'd')];
        assert_eq!(matches(&THREE, &abd, &[(2, 'c')], &rows), ["a0 b3 d4 @4"], "c only ends the first b");
        assert_eq!(
            matches(&THREE, &abd, &[(1, 'c')], &rows),
            ["a0 b1 d4 @4"],
            "c only ends what waits for b"
        );
        let rows = [(0, 'a'), (5, 'b'), (6, 'a'), (7, 'b'), (12, 'd')];
        assert_eq!(matches(&THREE, &abd, &[], &rows), ["a6 b7 d12 @12"]);
        let rows = [(0, 'a'), (5, 'b'), (6, 'a'), (9, 'd')];
        assert_eq!(matches(&THREE, &abd, &[], &rows), ["a0 b5 d9 @9"]);
    }

    #[test]
    fn silence_is_the_end_of_a_time_without_a_forbidden_row() {
        let not = [(1, 'c')];
        assert_eq!(matches(&SILENCE, &['a'], &not, &[(0, 'a'), (5, 'x'), (20, 'x')]), ["a0 @10"]);
        assert_eq!(matches(&SILENCE, &['a'], &not, &[(0, 'a'), (9, 'c'), (20, 'x')]), [""; 0]);
        assert_eq!(matches(&SILENCE, &['a'], &not, &[(0, 'a'), (10, 'c')]), ["a0 @10"], "too late");
        let often = [(0, 'a'), (8, 'a'), (16, 'a'), (30, 'x')];
        assert_eq!(matches(&SILENCE, &['a'], &not, &often), ["a0 @10", "a16 @26"], "the oldest counts");
        let two = Spec { steps: 2, ..SILENCE };
        assert_eq!(matches(&two, &['a', 'b'], &[(2, 'c')], &[(0, 'a'), (4, 'b'), (40, 'x')]), ["a0 b4 @10"]);
    }

    /// Against a search through all pairs and triples of rows.
    #[test]
    fn a_match_is_found_whenever_there_is_one() {
        let mut seed: u64 = 7;
        for _ in 0..2_000 {
            let mut at = 0;
            let mut rows = Vec::new();
            for _ in 0..10 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                at += i64::try_from(seed >> 40).expect("small") % 5;
                rows.push((at, ['a', 'b', 'd', 'c'][usize::try_from(seed >> 61).expect("small") % 4]));
            }
            let not = [(1, 'c'), (2, 'c')];
            let first = rows.iter().enumerate().position(|(last, row)| {
                row.1 == 'd'
                    && (0..last).any(|b| {
                        rows[b].1 == 'b'
                            && (0..b).any(|a| {
                                rows[a].1 == 'a'
                                    && row.0 - rows[a].0 < 10
                                    && rows[a..last].iter().all(|between| between.1 != 'c')
                            })
                    })
            });
            let found = matches(&THREE, &['a', 'b', 'd'], &not, &rows);
            let end = |text: &String| text.rsplit('@').next().and_then(|at| at.parse::<i64>().ok());
            assert_eq!(found.first().and_then(end), first.map(|last| rows[last].0), "{rows:?}");
        }
    }
}
