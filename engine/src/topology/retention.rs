//! Which ended runs of flows a topology keeps.

use std::time::Duration;

use super::value::Table;

/// Which ended runs of flows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// For so long after their end.
    pub age: Duration,
    /// At most so many, the newest ones.
    pub runs_max: u64,
}

impl Default for Retention {
    /// 30 days and a million runs.
    fn default() -> Retention {
        Retention { age: Duration::from_secs(30 * 86_400), runs_max: 1_000_000 }
    }
}

impl Retention {
    /// As `[topology]` says.
    pub(super) fn of(topology: &Table) -> Retention {
        let default = Retention::default();
        Retention {
            age: topology.duration("keep_runs").unwrap_or(default.age),
            runs_max: topology.int_as("keep_runs_max").unwrap_or(default.runs_max),
        }
    }
}
