//! Whether a logged source is silent: its peer says so, and nothing waits
//! between it and the driver.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::source::Silence;

/// Reads between the source and the driver.
#[derive(Debug, Default)]
pub(super) struct Waiting(AtomicUsize);

impl Waiting {
    /// A read has come.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The driver has taken these.
    pub(super) fn taken(&self, reads: usize) {
        self.0.fetch_sub(reads, Ordering::AcqRel);
    }

    /// A pump has ended: what it had read comes from the log or not at all.
    pub(super) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

/// What the source itself says.
#[derive(Default)]
pub(super) enum Peer {
    /// It is not open: records of the log come first, or it is away.
    #[default]
    Away,
    /// Open, and its silence is silence.
    Trusted,
    /// Ask it.
    Asked(Arc<dyn Silence>),
}

/// The silence of a logged source.
#[derive(Default)]
pub(super) struct LoggedSilence {
    pub(super) waiting: Arc<Waiting>,
    peer: Mutex<Peer>,
    /// Records of an earlier process have all been handed out.
    is_replayed: AtomicBool,
}

impl LoggedSilence {
    /// Records of an earlier process have all been handed out.
    pub(super) fn replayed(&self) {
        self.is_replayed.store(true, Ordering::Release);
    }

    /// The source was opened, or lost.
    pub(super) fn set(&self, peer: Peer) {
        *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = peer;
    }
}

impl Silence for LoggedSilence {
    fn known_until(&self, partition: u32) -> Option<Instant> {
        // The peer first: its rows are counted before it forgets them.
        let known = match &*self.peer.lock().unwrap_or_else(PoisonError::into_inner) {
            Peer::Away => None,
            Peer::Trusted => Some(Instant::now()),
            Peer::Asked(silence) => silence.known_until(partition),
        };
        known.filter(|_| self.waiting.is_empty())
    }

    fn is_drained(&self) -> bool {
        self.is_replayed.load(Ordering::Acquire) && self.waiting.is_empty()
    }
}
