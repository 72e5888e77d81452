//! Owns a source: opens it, reads it, opens it again when the peer is lost.
//! A task of its own, so that `next` is never cancelled while the driver
//! serves barriers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::stats::NodeStats;
use crate::error::ConnectorError;
use crate::source::{Committer, Polled, Position, Rows, Source};

/// First wait after a lost peer.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An attempt that lived this long starts the back-off anew.
const STABLE_AFTER: Duration = Duration::from_secs(30);

/// What the reader tells its driver.
pub(super) enum Reading {
    /// The peer is there.
    Opened(Option<Box<dyn Committer>>),
    /// Rows, and what is known of the rest.
    Rows { rows: Rows, partitions: u32, lag_rows: Option<u64>, connected: bool },
    /// The peer is away; it is opened again by itself.
    Lost,
    /// There will be no more rows.
    End,
    /// The topology must fail.
    Fatal(String),
}

/// Reads until the end, a fatal error or `stop`.
pub(super) async fn read(
    mut source: Box<dyn Source>,
    mut position: Option<Position>,
    stats: Arc<NodeStats>,
    sender: mpsc::Sender<Reading>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let opened_at = tokio::time::Instant::now();
        let reading = read_once(source.as_mut(), &mut position, &stats, &sender);
        let outcome = tokio::select! {
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
                if sender.send(Reading::Lost).await.is_err() {
                    break;
                }
                if opened_at.elapsed() >= STABLE_AFTER {
                    backoff = BACKOFF_MIN;
                }
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
                continue;
            }
        };
        if sender.send(last).await.is_err() {
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
    sender: &mpsc::Sender<Reading>,
) -> Result<(), ConnectorError> {
    stats.set_state("connecting");
    source.open(position.as_ref()).await?;
    stats.set_state("connected");
    tracing::info!(node = %stats.name, "connected");
    if sender.send(Reading::Opened(source.committer())).await.is_err() {
        return Ok(());
    }
    loop {
        match source.next().await? {
            Polled::End => return Ok(()),
            Polled::Rows(rows) => {
                *position = Some(rows.position.clone());
                let reading = Reading::Rows {
                    rows,
                    partitions: source.partitions(),
                    lag_rows: source.lag_rows(),
                    connected: source.is_connected(),
                };
                if sender.send(reading).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}
