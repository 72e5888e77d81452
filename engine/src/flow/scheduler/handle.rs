//! How others talk to the scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use tokio::sync::{Notify, mpsc, oneshot};

use super::former::FormerFlows;
use super::{BACKLOG_MAX, SchedulerConfig};
use crate::flow::events::FlowEvents;
use crate::flow::journal::{Journal, JournalError, Resolved, RunLine};
use crate::flow::key::RunKey;
use crate::flow::run::RunEvent;
use crate::flow::spec::{Flow, Flows};
use crate::time::{Clock, Time};
use crate::topology::load::Retention;

/// A run that may start, with all it needs: nothing is read again.
#[derive(Clone)]
pub struct NewRun {
    /// Its number.
    pub id: i64,
    /// Name of its firing.
    pub run_key: RunKey,
    /// The flow.
    pub flow: Arc<Flow>,
    /// The trigger.
    pub trigger: String,
    /// When the trigger fired (event time).
    pub fired_at: Time,
    /// When the firing was recorded (wall clock).
    pub recorded_at: Time,
    /// One row with its parameters.
    pub params: RecordBatch,
    /// The rows that fired.
    pub rows: Vec<RecordBatch>,
}

/// Nothing moves any more by itself, or not soon.
#[derive(Clone, Debug, Default)]
pub struct Idle {
    /// Runs that wait for a person or a time, oldest first.
    pub waiting: Vec<RunLine>,
}

pub(super) enum Command {
    Launched { runs: Vec<NewRun>, stop: Vec<(i64, String)> },
    Tell(i64, RunEvent),
    Idle(oneshot::Sender<Idle>),
    Stop(oneshot::Sender<()>),
}

/// What the loop, the runs and the handles share.
pub(super) struct Shared {
    pub(super) flows: Arc<Flows>,
    pub(super) former: FormerFlows,
    pub(super) journal: Arc<Journal>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: FlowEvents,
    pub(super) active_max: usize,
    pub(super) retention: Retention,
    pub(super) backlog: AtomicUsize,
    pub(super) room: Notify,
}

impl Shared {
    pub(super) fn new(config: SchedulerConfig, flows: Arc<Flows>) -> Shared {
        Shared {
            flows,
            former: FormerFlows::default(),
            journal: config.journal,
            clock: config.clock,
            events: config.events,
            active_max: config.active_max.max(1),
            retention: config.retention,
            backlog: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }

    pub(super) fn gauge(&self, active: usize, backlog: usize) {
        let topology = self.flows.topology.clone();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        metrics::gauge!("tidegate_runs_active", "topology" => topology.clone()).set(number(active));
        metrics::gauge!("tidegate_runs_backlog", "topology" => topology).set(number(backlog));
    }
}

/// Talks to a scheduler. Cheap to clone; when all are gone it stops.
#[derive(Clone)]
pub struct SchedulerHandle {
    sender: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

impl SchedulerHandle {
    pub(super) fn new(sender: mpsc::Sender<Command>, shared: Arc<Shared>) -> SchedulerHandle {
        SchedulerHandle { sender, shared }
    }

    /// The journal.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.shared.journal
    }

    /// The wall clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Where events are told.
    #[must_use]
    pub fn events(&self) -> &FlowEvents {
        &self.shared.events
    }

    /// Waits while too many runs wait for a place: this is what slows a source.
    pub(in crate::flow) async fn room(&self) {
        loop {
            let notified = self.shared.room.notified();
            if self.shared.backlog.load(Ordering::Relaxed) < BACKLOG_MAX || self.sender.is_closed() {
                return;
            }
            // A notice between the look and the wait is missed at most this long.
            drop(tokio::time::timeout(std::time::Duration::from_millis(100), notified).await);
        }
    }

    /// Hands over runs whose firings are durable, and those that must stop.
    pub(in crate::flow) async fn launched(&self, runs: Vec<NewRun>, stop: Vec<(i64, String)>) {
        if !runs.is_empty() || !stop.is_empty() {
            drop(self.sender.send(Command::Launched { runs, stop }).await);
        }
    }

    /// Cancels a run: what is under way is stopped, `finally` tasks run.
    ///
    /// # Errors
    /// The journal cannot be written.
    pub async fn cancel(&self, run: i64, reason: &str) -> Result<(), JournalError> {
        let now = self.shared.clock.now();
        self.shared.journal.ask_to_stop(run, reason.to_owned(), now).await?;
        drop(self.sender.send(Command::Tell(run, RunEvent::Cancel(reason.to_owned()))).await);
        Ok(())
    }

    /// Lets a paused run try again.
    pub async fn retry(&self, run: i64) {
        drop(self.sender.send(Command::Tell(run, RunEvent::Retry)).await);
    }

    /// Takes a person's word about a task that nobody knows of, and lets its
    /// run go on. The word is durable before the run hears of it.
    ///
    /// # Errors
    /// The journal cannot be written; within, why the word is not taken.
    pub async fn resolve(&self, run: i64, said: Resolved) -> Result<Result<(), String>, JournalError> {
        let taken = self.shared.journal.resolve(run, said.clone()).await?;
        if taken.is_ok() {
            drop(self.sender.send(Command::Tell(run, RunEvent::from(said))).await);
        }
        Ok(taken)
    }

    /// Resolves when every run has ended or waits for a person, or for a time
    /// that is not near. Call it when no more firings come.
    pub async fn wait_idle(&self) -> Idle {
        let (sender, answer) = oneshot::channel();
        if self.sender.send(Command::Idle(sender)).await.is_err() {
            return Idle::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Forgets ended runs beyond the retention now, as otherwise happens from
    /// time to time; answers how many runs and firings.
    ///
    /// # Errors
    /// The journal cannot be read or written.
    pub async fn forget_old(&self) -> Result<usize, JournalError> {
        super::retain::forget_old(&self.shared).await
    }

    /// Stops: device writes under way end, all else goes on after a restart.
    pub async fn stop(&self) {
        let (sender, done) = oneshot::channel();
        if self.sender.send(Command::Stop(sender)).await.is_ok() {
            // An error means that it has stopped already.
            drop(done.await);
        }
    }
}
