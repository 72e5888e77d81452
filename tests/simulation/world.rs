//! What is outside the daemon and outlives it: what there is to read, what
//! peers have been told, what remote systems hold, what devices did.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_engine::testing::seed::Seed;
use tidegate_engine::time::{Clock, Time, micros};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::device::Device;

/// 2023-11-14, in microseconds: the true time when a simulation begins.
pub(crate) const START_US: i64 = 1_700_000_000_000_000;

/// A row of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) number: i64,
    pub(crate) key: String,
    pub(crate) time_us: i64,
}

/// One source's outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outside {
    pub(crate) rows: Vec<Row>,
    /// How many the peer was told we have.
    pub(crate) acknowledged: usize,
    /// Longest pause between two reads, in milliseconds.
    pub(crate) pause_ms: usize,
}

/// A remote system that takes rows.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// The last epoch that was published.
    pub(crate) marker: u64,
    /// What was flushed for each epoch.
    pub(crate) prepared: BTreeMap<u64, Vec<String>>,
    /// What everybody sees.
    pub(crate) published: Vec<String>,
}

/// Everything outside.
pub(crate) struct World {
    state: Mutex<State>,
    /// Something was acknowledged.
    pub(crate) news: Notify,
    /// How far the wall clock was set away from the true time, in microseconds.
    pub(crate) clock_jump_us: AtomicI64,
    /// The true time at an instant of the life's own clock.
    now: Mutex<(i64, Option<Instant>)>,
    /// Where journals are, and what removes them.
    pub(crate) folder: Folder,
}

pub(crate) struct State {
    pub(crate) seed: Seed,
    pub(crate) sources: BTreeMap<String, Outside>,
    pub(crate) remotes: BTreeMap<String, Remote>,
    pub(crate) device: Device,
    /// Bytes of the first source's log that the disk has changed.
    pub(crate) damaged: usize,
    /// Checkpoints of which it has changed a byte.
    pub(crate) damaged_checkpoints: Vec<PathBuf>,
    /// The newest checkpoint that was whole when this life began.
    pub(crate) whole: u64,
    /// No more faults: peers answer, sources end.
    pub(crate) is_calm: bool,
    /// Peers and devices never fail.
    pub(crate) is_kind: bool,
    /// Promises that were broken while it ran.
    pub(crate) broken: Vec<String>,
    /// What happened, in order.
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: Seed, is_kind: bool, folder: Folder) -> Arc<World> {
        let state = State {
            seed,
            sources: BTreeMap::new(),
            remotes: BTreeMap::new(),
            device: Device::default(),
            damaged: 0,
            damaged_checkpoints: Vec::new(),
            whole: 0,
            is_calm: false,
            is_kind,
            broken: Vec::new(),
            trace: Vec::new(),
        };
        Arc::new(World {
            state: Mutex::new(state),
            news: Notify::new(),
            clock_jump_us: AtomicI64::new(0),
            now: Mutex::new((START_US, None)),
            folder,
        })
    }

    /// The true time, which nobody can set.
    pub(crate) fn true_us(&self) -> i64 {
        let (start_us, since) = *self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = since.map_or(Duration::ZERO, |since| since.elapsed());
        start_us.saturating_add(micros(passed))
    }

    /// A life begins, or ends: between two of them no time passes.
    pub(crate) fn set_life(&self, is_alive: bool) {
        let start_us = self.true_us();
        let since = is_alive.then(Instant::now);
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = (start_us, since);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a fault happens now.
    pub(crate) fn fault(&mut self, percent: usize) -> bool {
        !self.is_calm && !self.is_kind && self.seed.chance(percent)
    }

    pub(crate) fn note(&mut self, what: String) {
        self.trace.push(what);
    }

    pub(crate) fn remote(&mut self, name: &str) -> &mut Remote {
        self.remotes.entry(name.to_owned()).or_default()
    }
}

/// The wall clock of a simulation: the paused clock of its runtime, and what
/// somebody set it to.
pub(crate) struct SimClock(pub(crate) Arc<World>);

impl fmt::Debug for SimClock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("SimClock")
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time(self.0.true_us().saturating_add(self.0.clock_jump_us.load(Ordering::Relaxed)))
    }
}

/// A folder of a simulation's own on the real disk, for its journal.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Where this thread's next journal is.
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicI64 = AtomicI64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Folder(std::env::temp_dir().join(format!("tidegate-simulation-{}-{number}", std::process::id())))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        std::fs::create_dir_all(&self.0).expect("a folder for the journal");
        self.0.join("journal.db")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.0.exists() {
            std::fs::remove_dir_all(&self.0).expect("the folder of the journal");
        }
    }
}
