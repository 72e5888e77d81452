//! One request: tried again while its peer is away, given up when there is no
//! answer in time.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::time::{Instant, sleep, timeout};

use super::Key;
use super::answer::Answer;
use crate::lookup::{Answers, Lookup, LookupError, Settings};
use crate::runtime::stats::NodeStats;

/// Pause before the second attempt, and the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What has become of a request.
pub(super) struct Outcome {
    /// What has become of each key.
    pub(super) answers: Vec<(Key, Answer)>,
    pub(super) began: Instant,
    /// Why nobody has answered, in no attempt, where the time has run out.
    pub(super) silent: Option<String>,
    /// The fewest keys that were too many to be answered in time.
    pub(super) too_many: Option<usize>,
}

/// One request, tried as often as it may be.
enum Tried {
    Answered(Vec<(Key, Answer)>),
    /// These keys will never have an answer together.
    Never(String),
    /// Fewer keys may have an answer in time.
    TooMany,
    Away(String),
    Silent(String),
}

/// Asks for these keys, which are the rows of `batch`. Where several have no
/// answer together, each half is asked for: one key must not cost the others theirs,
/// and many may take longer than one may. Where nobody has ever answered, the rest
/// is not tried.
pub(super) async fn ask(
    lookup: Arc<dyn Lookup>,
    keys: Vec<Key>,
    batch: RecordBatch,
    settings: Settings,
    stats: Arc<NodeStats>,
) -> Outcome {
    let answers = Vec::with_capacity(keys.len());
    let mut outcome = Outcome { answers, began: Instant::now(), silent: None, too_many: None };
    let mut is_heard = false;
    let mut parts = vec![(keys, batch)];
    while let Some((mut keys, batch)) = parts.pop() {
        let tried = match outcome.too_many {
            // It would be late as well.
            Some(late) if keys.len() > (late / 2).max(1) => Tried::TooMany,
            Some(_) | None => ask_once(lookup.as_ref(), &keys, &batch, settings, &stats).await,
        };
        is_heard |= matches!(tried, Tried::Answered(_) | Tried::Never(_));
        match tried {
            Tried::Answered(mut answers) => outcome.answers.append(&mut answers),
            Tried::Never(_) | Tried::TooMany if keys.len() > 1 => {
                if matches!(tried, Tried::TooMany) {
                    outcome.too_many = outcome.too_many.min(Some(keys.len())).or(Some(keys.len()));
                }
                let middle = keys.len() / 2;
                let rest = keys.split_off(middle);
                parts.push((rest, batch.slice(middle, batch.num_rows() - middle)));
                parts.push((keys, batch.slice(0, middle)));
            }
            Tried::Never(reason) | Tried::Away(reason) => outcome.answers.append(&mut none(&keys, &reason)),
            // Of one key, and so never: it would have been tried again.
            Tried::TooMany => outcome.answers.append(&mut none(&keys, "no answer in time")),
            Tried::Silent(reason) => {
                outcome.answers.append(&mut none(&keys, &reason));
                if !is_heard {
                    let rest = parts.drain(..).flat_map(|(keys, _)| none(&keys, &reason));
                    outcome.answers.extend(rest);
                    outcome.silent = Some(reason);
                }
            }
        }
    }
    outcome
}

async fn ask_once(
    lookup: &dyn Lookup,
    keys: &[Key],
    batch: &RecordBatch,
    settings: Settings,
    stats: &NodeStats,
) -> Tried {
    let mut pause = PAUSE_MIN;
    let mut attempts = 0;
    loop {
        attempts += 1;
        metrics::counter!("tidegate_lookup_requests_total", "node" => stats.name.clone()).increment(1);
        let (reason, is_silent) = match timeout(settings.timeout, lookup.fetch(batch)).await {
            Ok(Ok(answers)) => return Tried::Answered(split(keys, answers)),
            Ok(Err(LookupError::Never(reason))) => {
                stats.error();
                return Tried::Never(reason);
            }
            Ok(Err(LookupError::Later(reason))) => (reason, false),
            Err(_) => (format!("no answer within {:?}", settings.timeout), true),
        };
        stats.error();
        if is_silent && keys.len() > 1 {
            return Tried::TooMany;
        }
        if attempts > settings.retries {
            let reason = format!("{reason} (attempt {attempts}, the last one)");
            return if is_silent { Tried::Silent(reason) } else { Tried::Away(reason) };
        }
        stats.set_state(format!("lost: {reason}"));
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        stats.set_state("running");
    }
}

fn none(keys: &[Key], reason: &str) -> Vec<(Key, Answer)> {
    let failed = Answer::failed(reason);
    keys.iter().map(|key| (key.clone(), failed.clone())).collect()
}

/// Each key with its rows. An answer out of order would be taken for another
/// key's, so it is none.
fn split(keys: &[Key], answers: Answers) -> Vec<(Key, Answer)> {
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
