//! Owns a source: opens it, reads it, opens it again when the peer is lost.
//! A task of its own, so that `next` is never cancelled while the driver
//! serves barriers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::stats::NodeStats;
use crate::error::ConnectorError;
use crate::source::{Committer, Polled, Position, Rows, Silence, Source};

/// First wait after a lost peer.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An attempt that lived this long starts the back-off anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What the reader tells its driver.
pub(super) enum Reading {
    /// The peer is there.
    Opened { committer: Option<Box<dyn Committer>>, silence: Option<Arc<dyn Silence>> },
    /// Rows.
    Rows(Rows),
    /// These partitions are the source's from here on.
    Partitions(Vec<u32>),
    /// The peer is away; it is opened again by itself.
    Lost,
    /// There will be no more rows.
    End,
    /// The topology must fail.
    Fatal(String),
}

/// Partitions of rows between the source and the driver: they are not silent.
#[derive(Debug, Default)]
pub(super) struct Transit(Mutex<VecDeque<u32>>);

impl Transit {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver has taken the oldest rows.
    pub(super) fn taken(&self) {
        self.lock().pop_front();
    }

    /// Whether no rows are on their way.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Whether rows of this partition are on their way.
    pub(super) fn has(&self, partition: u32) -> bool {
        self.lock().contains(&partition)
    }
}

/// Until when it is certain that no row of this partition is to come.
pub(super) fn known_until(
    opened: bool,
    silence: Option<&Arc<dyn Silence>>,
    transit: &Transit,
    partition: u32,
) -> Option<Instant> {
    // The source is asked first: its rows go into transit before it forgets them.
    let known = match silence {
        _ if !opened => return None,
        Some(silence) => silence.known_until(partition)?,
        None => Instant::now(),
    };
    (!transit.has(partition)).then_some(known)
}

/// Where the reader's news go.
pub(super) struct Desk {
    pub(super) sender: mpsc::Sender<Reading>,
    pub(super) transit: Arc<Transit>,
}

/// Reads until the end, a fatal error or `stop`.
pub(super) async fn read(
    mut source: Box<dyn Source>,
    mut position: Option<Position>,
    stats: Arc<NodeStats>,
    desk: Desk,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let opened_at = tokio::time::Instant::now();
        let reading = read_once(source.as_mut(), &mut position, &stats, &desk);
        let outcome = tokio::select! {
            biased;
            outcome = reading => outcome,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let last = match outcome {
            Ok(()) => Reading::End,
            Err(ConnectorError::Fatal(message)) => Reading::Fatal(message),
            Err(error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_))) => {
                stats.error();
                stats.set_state(format!("lost: {error}"));
                tracing::warn!(node = %stats.name, "lost: {error}; trying again");
                if desk.sender.send(Reading::Lost).await.is_err() {
                    break;
                }
                if opened_at.elapsed() >= STABLE_AFTER {
                    backoff = BACKOFF_MIN;
                }
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(backoff) => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
        };
        if desk.sender.send(last).await.is_err() {
            tracing::debug!(node = %stats.name, "the driver is gone");
        }
        break;
    }
    if let Err(error) = source.close().await {
        tracing::warn!(node = %stats.name, "closing: {error}");
    }
}

/// From open to end; `Ok` means the source has ended or nobody listens.
async fn read_once(
    source: &mut dyn Source,
    position: &mut Option<Position>,
    stats: &NodeStats,
    desk: &Desk,
) -> Result<(), ConnectorError> {
    stats.set_state("connecting");
    source.open(position.as_ref()).await?;
    stats.set_state("connected");
    tracing::info!(node = %stats.name, "connected");
    let mut reading = Reading::Opened { committer: source.committer(), silence: source.silence() };
    while desk.sender.send(reading).await.is_ok() {
        reading = match source.next().await? {
            Polled::End => break,
            Polled::Partitions(all) => Reading::Partitions(all),
            Polled::Rows(rows) => {
                *position = Some(rows.position.clone());
                desk.transit.lock().push_back(rows.partition);
                Reading::Rows(rows)
            }
        };
    }
    Ok(())
}
