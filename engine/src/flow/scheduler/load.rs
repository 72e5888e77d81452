//! A run into memory: from its launcher, or from the journal after a wait or a
//! crash.

use std::sync::Arc;

use super::drive::{Entry, How};
use super::former::flow_of;
use super::handle::{NewRun, Shared};
use crate::flow::journal::{JournalError, OpenRun, Record, Resolved};
use crate::flow::rows::from_bytes;
use crate::flow::run::{Run, TaskCell};
use crate::flow::spec::Flow;
use crate::flow::state::{RunState, TaskState};
use crate::flow::values::Results;
use crate::planted;
use crate::storage::blocking::blocking;
use crate::task::Mode;
use crate::time::Time;

/// A run, ready to be driven.
pub(super) struct Loaded {
    pub(super) facts: NewRun,
    pub(super) run: Run,
    pub(super) results: Results,
    /// Why it must stop, if it must.
    pub(super) stop: Option<String>,
    /// What people have said about it.
    pub(super) said: Vec<Resolved>,
}

pub(super) async fn load(shared: &Arc<Shared>, id: i64, entry: Entry) -> Result<Loaded, How> {
    match entry {
        Entry::New(facts) => {
            let plan = Arc::clone(&facts.flow.plan);
            let results = vec![None; facts.flow.tasks.len()];
            let run = Run::new(plan, seed(id));
            Ok(Loaded { facts: *facts, run, results, stop: None, said: Vec::new() })
        }
        Entry::Stored => stored(shared, id).await,
    }
}

async fn stored(shared: &Arc<Shared>, id: i64) -> Result<Loaded, How> {
    let reader = Arc::clone(shared);
    let read = blocking(move || {
        let found = reader.journal.open_run(id)?;
        let said = reader.journal.resolutions(id)?;
        Ok::<_, JournalError>(found.map(|run| (flow_of(&reader, &run), run, said)))
    });
    let (flow, found, said) = match read.await {
        Ok(Some((Ok(flow), found, said))) => (flow, found, said),
        Ok(Some((Err(reason), _, _))) => return Err(pause(shared, id, reason).await),
        Ok(None) => return Err(How::Over(None)),
        Err(error) => return Err(How::Lost(error.0)),
    };
    let flow = &flow;
    if found.state == RunState::Queued
        && let Some(reason) = expired(flow, &found, shared)
    {
        let now = shared.clock.now();
        let ended = shared.journal.expire(id, reason, now).await;
        return Err(ended.map_or_else(|error| How::Lost(error.0), |advanced| How::Over(advanced.start)));
    }
    match rebuild(flow, found) {
        Ok(loaded) => Ok(Loaded { said, ..loaded }),
        Err(reason) => Err(pause(shared, id, reason).await),
    }
}

/// A run that cannot go on is shown to a person, not dropped.
async fn pause(shared: &Shared, id: i64, reason: String) -> How {
    tracing::warn!("run {}: {reason}", crate::flow::key::run_id_text(id));
    let record = Record::Run { state: RunState::Paused, reason, closing: None };
    match shared.journal.advance(id, vec![record], shared.clock.now()).await {
        Ok(_) => How::Paused,
        Err(error) => How::Lost(error.0),
    }
}

/// Late writes are worse than none.
fn expired(flow: &Flow, found: &OpenRun, shared: &Shared) -> Option<String> {
    let age = shared.clock.now().since(found.fired_at);
    let expires = flow.mode == Mode::Armed && flow.writes_devices() && age > flow.max_age;
    let expires = expires && !planted!(MaxAgeIgnored);
    expires.then(|| format!("fired {:.1} s ago; max_age is {:?}", age.as_secs_f64(), flow.max_age))
}

fn rebuild(flow: &Arc<Flow>, found: OpenRun) -> Result<Loaded, String> {
    let broken = |error: arrow::error::ArrowError| format!("its rows in the journal cannot be read: {error}");
    let params = from_bytes(&found.params).map_err(broken)?.into_iter().next();
    let params = params.ok_or("its parameters are missing in the journal")?;
    if params.schema().fields() != flow.params.fields() {
        return Err("the flow's parameters have changed since it began".into());
    }
    let mut cells = Vec::new();
    let mut results: Results = Vec::new();
    for task in &flow.tasks {
        let saved = found.tasks.iter().find(|saved| saved.task == task.id);
        cells.push(saved.map_or_else(TaskCell::default, |saved| TaskCell {
            state: saved.state,
            attempt: saved.attempt,
            failures: saved.failures,
            wait_until: if planted!(WaitForgotten) {
                saved.wait_until.map(|_| Time(0))
            } else {
                saved.wait_until
            },
            wait_data: saved.wait_data.clone(),
            reason: saved.reason.clone(),
        }));
        let bytes =
            saved.filter(|saved| saved.state == TaskState::Succeeded).and_then(|saved| saved.result.as_ref());
        let rows = bytes.map(|bytes| from_bytes(bytes)).transpose().map_err(broken)?;
        if rows.iter().flatten().any(|rows| rows.schema().fields() != task.result.columns.fields()) {
            return Err(format!("the result of task {} has changed since it ended", task.id));
        }
        results.push(rows.map(Arc::new));
    }
    let plan = Arc::clone(&flow.plan);
    let run = Run::restore(plan, seed(found.id), found.state, found.closing, found.started_at, cells);
    let facts = NewRun {
        id: found.id,
        run_key: found.run_key,
        flow: Arc::clone(flow),
        trigger: found.trigger,
        fired_at: found.fired_at,
        recorded_at: found.recorded_at,
        params,
        rows: from_bytes(&found.rows).map_err(broken)?,
    };
    Ok(Loaded { facts, run, results, stop: found.stop, said: Vec::new() })
}

/// Jitter differs between runs and is the same after a restart.
fn seed(id: i64) -> u64 {
    id.unsigned_abs()
}
