//! What a person may allow a start that would else be refused. What is lost by
//! it stands in the log, at level error.

use super::checkpoint::Checkpoint;
use super::checkpoint_store::{CheckpointStore, NEWER};
use super::edits;
use super::job::JobConfig;
use crate::topology::plan::Plan;

/// What a person allows a start that would else be refused.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Nodes whose state is thrown away.
    pub reset_state: Vec<String>,
    /// Sources that go on from their position although the file calls what
    /// they read by another name.
    pub keep_position: Vec<String>,
    /// If no checkpoint can be read, it begins without any.
    pub accept_loss: bool,
    /// Sinks whose remote side is ahead of the state go on, and what they had
    /// may come twice.
    pub accept_duplicates: bool,
}

/// No checkpoint can be read: begins without any, if a person has said so.
pub(super) fn give_up(
    plan: &Plan,
    store: &CheckpointStore,
    config: &JobConfig,
    reason: String,
) -> Result<Option<(Checkpoint, Vec<String>)>, String> {
    if reason.contains(NEWER) {
        return Err(reason);
    }
    if !config.allowed.accept_loss {
        return Err(format!("{reason}. Bring a whole one back, or begin without any: --accept-loss"));
    }
    // A slip beside it must not cost what a person might still bring back.
    edits::names(plan, &Checkpoint::default(), &config.allowed)?;
    let empty = store.give_up()?;
    let sources: Vec<&str> = plan.sources.iter().map(|node| node.name.as_str()).collect();
    let operators: Vec<&str> = plan.operators.iter().map(|node| node.name.as_str()).collect();
    tracing::error!(
        topology = %plan.name, epoch = empty.epoch,
        "--accept-loss: begins without any state: lost are the positions of {sources:?} and the state of {operators:?}; {reason}"
    );
    Ok(Some((empty, Vec::new())))
}
