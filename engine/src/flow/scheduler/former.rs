//! Flows of former files, for the runs that began with them. A run never goes
//! on with another flow than its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::handle::Shared;
use crate::flow::journal::OpenRun;
use crate::flow::rows::from_bytes;
use crate::flow::spec::Flow;
use crate::schema::{StreamKind, StreamSchema};
use crate::task::Mode;

/// Former flows that have been built, by name and revision.
#[derive(Default)]
pub(super) struct FormerFlows(Mutex<HashMap<(String, String), Arc<Flow>>>);

/// The flow that a stored run began with. May read the journal and plan
/// queries: call it where waiting is allowed.
///
/// # Errors
/// Why there is none any more, for a person.
pub(super) fn flow_of(shared: &Shared, run: &OpenRun) -> Result<Arc<Flow>, String> {
    let today = shared.flows.find(&run.flow);
    if let Some(flow) = today.filter(|flow| flow.revision == run.revision) {
        return Ok(Arc::clone(flow));
    }
    let key = (run.flow.clone(), run.revision.clone());
    let built = || shared.former.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(flow) = built().get(&key) {
        return Ok(Arc::clone(flow));
    }
    let changed = format!("flow {} has changed since the run began", run.flow);
    let text = shared.journal.revision_text(&shared.flows.topology, &run.flow, &run.revision);
    let text = text.map_err(|error| error.0)?;
    let text = text.ok_or_else(|| format!("{changed}, and the journal has no copy of it"))?;
    let rows = from_bytes(&run.rows).map_err(|error| format!("its rows cannot be read: {error}"))?;
    let trigger = rows.first().map(|rows| StreamSchema {
        columns: rows.schema(),
        time: None,
        time_shift_us: 0,
        kind: StreamKind::Appends,
        key: None,
    });
    let flow = shared.flows.workshop.former(&text, &run.flow, &run.revision, trigger);
    let mut flow = flow.map_err(|reason| format!("{changed} and cannot be built as it was: {reason}"))?;
    // Whoever disarms a flow, or takes it out of the file, disarms its open runs too.
    flow.mode = flow.mode.min(today.map_or(Mode::DryRun, |today| today.mode));
    let flow = Arc::new(flow);
    built().insert(key, Arc::clone(&flow));
    Ok(flow)
}
