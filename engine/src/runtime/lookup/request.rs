//! One request: tried again while its peer is away, given up when there is no
//! answer in time.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::time::{sleep, timeout};

use super::Key;
use super::answer::Answer;
use crate::lookup::{Answers, Lookup, LookupError, Settings};
use crate::runtime::stats::NodeStats;

/// Pause before the second attempt, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What has become of each key.
pub(super) type Outcome = Vec<(Key, Answer)>;

/// Asks for these keys, which are the rows of `batch`. Where several have no
/// answer together, each half is asked for: one key must not cost the others theirs.
pub(super) async fn ask(
    lookup: Arc<dyn Lookup>,
    keys: Vec<Key>,
    batch: RecordBatch,
    settings: Settings,
    stats: Arc<NodeStats>,
) -> Outcome {
    let mut outcome = Vec::with_capacity(keys.len());
    let mut parts = vec![(keys, batch)];
    while let Some((mut keys, batch)) = parts.pop() {
        match ask_once(lookup.as_ref(), &keys, &batch, settings, &stats).await {
            Ok(mut answers) => outcome.append(&mut answers),
            Err(_) if keys.len() > 1 => {
                let middle = keys.len() / 2;
                let rest = keys.split_off(middle);
                parts.push((rest, batch.slice(middle, batch.num_rows() - middle)));
                parts.push((keys, batch.slice(0, middle)));
            }
            Err(reason) => outcome.append(&mut none(&keys, &reason)),
        }
    }
    outcome
}

/// The outcome, or why these keys will never have one.
async fn ask_once(
    lookup: &dyn Lookup,
    keys: &[Key],
    batch: &RecordBatch,
    settings: Settings,
    stats: &NodeStats,
) -> Result<Outcome, String> {
    let mut pause = PAUSE_MIN;
    let mut attempts = 0;
    loop {
        attempts += 1;
        metrics::counter!("tidegate_lookup_requests_total", "node" => stats.name.clone()).increment(1);
        let reason = match timeout(settings.timeout, lookup.fetch(batch)).await {
            Ok(Ok(answers)) => return Ok(split(keys, answers)),
            Ok(Err(LookupError::Never(reason))) => {
                stats.error();
                return Err(reason);
            }
            Ok(Err(LookupError::Later(reason))) => reason,
            Err(_) => format!("no answer within {:?}", settings.timeout),
        };
        stats.error();
        if attempts > settings.retries {
            return Ok(none(keys, &format!("{reason} (attempt {attempts}, the last one)")));
        }
        stats.set_state(format!("lost: {reason}"));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        stats.set_state("running");
    }
}

fn none(keys: &[Key], reason: &str) -> Outcome {
    let failed = Answer::failed(reason);
    keys.iter().map(|key| (key.clone(), failed.clone())).collect()
}

/// Each key with its rows. An answer out of order would be taken for another
/// key's, so it is none.
fn split(keys: &[Key], answers: Answers) -> Outcome {
    let Answers { rows, of, refused } = answers;
    if !of.is_sorted() || of.len() != rows.num_rows() || of.last().is_some_and(|last| *last >= keys.len()) {
        return none(keys, "the answer has rows of keys that nobody asked for");
    }
    let rows = Arc::new(rows);
    let answer = |(index, key): (usize, &Key)| {
        let key = key.clone();
        if let Some(bad) = refused.iter().find(|bad| bad.row == index) {
            return (key, Answer::failed(&bad.reason));
        }
        let start = of.partition_point(|owner| *owner < index);
        let end = of.partition_point(|owner| *owner <= index);
        (key, Answer::rows(&rows, start, end - start))
    };
    keys.iter().enumerate().map(answer).collect()
}
