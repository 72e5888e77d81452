//! A case: a seed, and what is left out of what the seed says. One line of
//! text, so that a case that failed can be kept, read and run again.

use std::fmt;
use std::str::FromStr;

use tidegate_engine::testing::seed::Seed;

/// Something that a case can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The second source.
    Second,
    /// The filter.
    Filter,
    /// Trigger and flow.
    Flow,
    /// Faults of peers, sinks and devices.
    Peers,
    /// Faults of the disk but for the loss of power.
    Disk,
    /// Bytes that change between two lives.
    Damage,
    /// A wall clock that is set.
    Jumps,
    /// Long quiet stretches.
    Quiet,
    /// Lives that end in good order.
    Stops,
}

impl Part {
    pub(crate) const ALL: [Part; 9] = [
        Part::Second,
        Part::Filter,
        Part::Flow,
        Part::Peers,
        Part::Disk,
        Part::Damage,
        Part::Jumps,
        Part::Quiet,
        Part::Stops,
    ];

    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A seed and its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// At most so many lives before the calm.
    pub(crate) lives: usize,
    /// At most so many rows of each source.
    pub(crate) rows: usize,
    pub(crate) without: Vec<Part>,
}

/// Lives before the calm.
pub(crate) const LIVES_MAX: usize = 6;
/// Rows of a source.
pub(crate) const ROWS_MAX: usize = 150;

impl Case {
    pub(crate) fn of(seed: u64) -> Case {
        Case { seed, lives: LIVES_MAX, rows: ROWS_MAX, without: Vec::new() }
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    /// Choices for one aspect: leaving another one out does not change them.
    pub(crate) fn choices(&self, aspect: u64) -> Seed {
        Seed::new(Seed::new(self.seed ^ aspect.rotate_right(8)).number())
    }

    /// Cases that are smaller in one way, the boldest first.
    pub(crate) fn smaller(&self) -> Vec<Case> {
        let mut found = Vec::new();
        for part in Part::ALL.into_iter().filter(|part| self.has(*part)) {
            let mut without = self.without.clone();
            without.push(part);
            found.push(Case { without, ..self.clone() });
        }
        let sizes = |size: usize| [0, size / 2, size.saturating_sub(size / 8), size.saturating_sub(1)];
        found.extend(sizes(self.lives).map(|lives| Case { lives, ..self.clone() }));
        found.extend(sizes(self.rows).map(|rows| Case { rows: rows.max(1), ..self.clone() }));
        found.retain(|case| case != self);
        found.dedup();
        found
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "seed={} lives={} rows={}", self.seed, self.lives, self.rows)?;
        if self.without.is_empty() {
            return Ok(());
        }
        let words: Vec<String> = self.without.iter().map(|part| part.word()).collect();
        write!(out, " without={}", words.join(","))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(line: &str) -> Result<Case, String> {
        let mut case = Case::of(0);
        let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("seed", value)) => case.seed = number(value)?,
                Some(("lives", value)) => case.lives = number(value)? as usize,
                Some(("rows", value)) => case.rows = number(value)? as usize,
                Some(("without", value)) => {
                    for word in value.split(',') {
                        let part = Part::ALL.into_iter().find(|part| part.word() == word);
                        case.without.push(part.ok_or_else(|| format!("nothing is called {word:?}"))?);
                    }
                }
                _ => return Err(format!("{word:?} says nothing about a case")),
            }
        }
        Ok(case)
    }
}
