//! Forgets old runs while the others go on: small steps with pauses between
//! them, chosen on a connection of their own, so that no firing waits.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::handle::Shared;
use crate::flow::journal::{JournalError, JournalReader, OldRows};
use crate::storage::blocking::blocking;
use crate::time::Time;
use crate::topology::load::Retention;

/// After the start, others have more need of the disk.
const FIRST_LOOK: Duration = Duration::from_secs(30);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Rows of each kind in one step. A step stands between others in the writer:
/// a millisecond where the pages are in memory, about twenty where they are not.
const STEP_ROWS: usize = 16;
/// Between two steps: 1,600 runs a second are forgotten at most.
const STEP_PAUSE: Duration = Duration::from_millis(10);

/// Looks again and again, until the task is aborted.
pub(super) async fn retain(shared: Arc<Shared>) {
    tokio::time::sleep(FIRST_LOOK).await;
    loop {
        match forget_old(&shared).await {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(topology = %shared.flows.topology, "{count} old runs and firings are forgotten");
            }
            Err(error) => tracing::warn!("cannot forget old runs: {error}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Forgets everything that is beyond the retention; answers how many rows.
pub(super) async fn forget_old(shared: &Arc<Shared>) -> Result<usize, JournalError> {
    let mut counts = None;
    let mut forgotten = 0;
    loop {
        let (path, retention, now) = (shared.journal.path().to_owned(), shared.retention, shared.clock.now());
        let (old, seen) = blocking(move || look(&path, retention, counts, now)).await?;
        if old.is_empty() {
            return Ok(forgotten);
        }
        let (runs, firings) = (old.runs.len(), old.firings.len());
        counts = Some((seen.0.saturating_sub(runs as u64), seen.1.saturating_sub(firings as u64)));
        forgotten += runs + firings;
        shared.journal.forget(old).await?;
        tokio::time::sleep(STEP_PAUSE).await;
    }
}

type Counts = (u64, u64);

fn look(
    path: &Path,
    retention: Retention,
    counts: Option<Counts>,
    now: Time,
) -> Result<(OldRows, Counts), JournalError> {
    let reader = JournalReader::open(path)?;
    let counts = counts.map_or_else(|| reader.firing_counts(), Ok)?;
    Ok((reader.old_rows(retention, counts, STEP_ROWS, now)?, counts))
}
