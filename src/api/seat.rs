//! What a topology shows of itself: its state and why, its nodes, its flows.
//! The same seat serves all of its lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_engine::flow::scheduler::SchedulerHandle;
use tidegate_engine::runtime::stats::NodeStats;

use crate::daemon::Running;

/// States of a topology, as `tidegate_topology_state` names them.
const STATES: [&str; 7] = ["starting", "running", "failed", "waiting", "safe mode", "ended", "stopped"];

/// A topology's place in the API.
pub(crate) struct Seat {
    name: String,
    shown: Mutex<Shown>,
}

struct Shown {
    state: &'static str,
    reason: String,
    nodes: Vec<Arc<NodeStats>>,
    flows: Option<SchedulerHandle>,
}

impl Seat {
    pub(crate) fn new(name: &str) -> Arc<Seat> {
        let shown = Shown { state: "starting", reason: String::new(), nodes: Vec::new(), flows: None };
        let seat = Seat { name: name.to_owned(), shown: Mutex::new(shown) };
        seat.set_state("starting", "");
        Arc::new(seat)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// It runs, with these nodes and flows.
    pub(crate) fn show(&self, running: &Running) {
        {
            let mut shown = self.lock();
            shown.nodes = running.job.stats.clone();
            shown.flows = running.scheduler.clone();
        }
        self.set_state("running", "");
    }

    /// Its state and why. Only what runs or has ended has flows; the nodes stay
    /// as they were, so that the failed one is seen.
    pub(crate) fn set_state(&self, state: &'static str, reason: &str) {
        for known in STATES {
            let is_now = if known == state { 1.0 } else { 0.0 };
            let labels = [("topology", self.name.clone()), ("state", known.replace(' ', "_"))];
            metrics::gauge!("tidegate_topology_state", &labels).set(is_now);
        }
        let mut shown = self.lock();
        shown.state = state;
        reason.clone_into(&mut shown.reason);
        if !matches!(state, "running" | "ended") {
            shown.flows = None;
        }
    }

    pub(super) fn flows(&self) -> Option<SchedulerHandle> {
        self.lock().flows.clone()
    }

    pub(super) fn to_json(&self) -> serde_json::Value {
        let shown = self.lock();
        let nodes: Vec<_> = shown.nodes.iter().map(|node| node.read()).collect();
        serde_json::json!({
            "topology": self.name, "state": shown.state, "reason": shown.reason, "nodes": nodes,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
