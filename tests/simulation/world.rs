//! What is outside the daemon and outlives it: what there is to read, what
//! peers have been told, and what remote systems hold.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_engine::testing::seed::Seed;
use tidegate_engine::time::{Clock, Time};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A row of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) key: String,
    pub(crate) time_us: i64,
}

/// One source's outside.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) rows: Vec<Row>,
    /// How many the peer was told we have.
    pub(crate) acknowledged: usize,
}

/// Everything outside.
pub(crate) struct World {
    state: Mutex<State>,
    /// Something was acknowledged.
    pub(crate) news: Notify,
}

pub(crate) struct State {
    pub(crate) seed: Seed,
    pub(crate) sources: BTreeMap<String, Outside>,
    /// Rows by sink: prepared for an epoch, and published, as JSON.
    pub(crate) prepared: BTreeMap<String, BTreeMap<u64, Vec<String>>>,
    pub(crate) published: BTreeMap<String, Vec<String>>,
    /// No more faults: peers answer, sources end.
    pub(crate) is_calm: bool,
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: Seed) -> Arc<World> {
        let state = State {
            seed,
            sources: BTreeMap::new(),
            prepared: BTreeMap::new(),
            published: BTreeMap::new(),
            is_calm: false,
            trace: Vec::new(),
        };
        Arc::new(World { state: Mutex::new(state), news: Notify::new() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a fault happens now.
    pub(crate) fn fault(&mut self, percent: usize) -> bool {
        !self.is_calm && self.seed.chance(percent)
    }

    pub(crate) fn note(&mut self, what: String) {
        self.trace.push(what);
    }
}

/// The wall clock of a simulation: the paused clock of its runtime.
pub(crate) struct SimClock {
    pub(crate) start_us: i64,
    pub(crate) since: Instant,
}

impl fmt::Debug for SimClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SimClock")
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let passed = i64::try_from(self.since.elapsed().as_micros()).unwrap_or(i64::MAX);
        Time(self.start_us.saturating_add(passed))
    }
}
