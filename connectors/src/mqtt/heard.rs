//! When a broker gave its last sign of life. A connection can hang for two
//! keep-alives before it is given up: until then its silence is believed only
//! as far as this.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidegate_engine::source::Silence;
use tokio::time::Instant;

/// Written by the session, read by the engine.
#[derive(Debug)]
pub(super) struct Heard {
    since: Instant,
    /// Microseconds after `since`.
    last_us: AtomicU64,
}

impl Heard {
    /// Heard now.
    pub(super) fn new() -> Heard {
        Heard { since: Instant::now(), last_us: AtomicU64::new(0) }
    }

    /// Something came from the broker.
    pub(super) fn now(&self) {
        let us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last_us.store(us, Ordering::Release);
    }
}

impl Silence for Heard {
    fn known_until(&self, _partition: u32) -> Option<Instant> {
        self.since.checked_add(Duration::from_micros(self.last_us.load(Ordering::Acquire)))
    }
}
