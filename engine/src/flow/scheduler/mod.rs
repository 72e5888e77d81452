//! Starts runs, lets them go on after waits and crashes, and keeps at most so
//! many in memory. Everything it knows is in the journal too: losing it loses
//! nothing.

mod attempt;
mod drive;
mod former;
mod handle;
mod load;
mod retain;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};

use drive::{Driver, Ended, Entry, How};
use handle::{Command, Shared};
pub use handle::{Idle, NewRun, SchedulerHandle};

use super::events::FlowEvents;
use super::journal::{Journal, JournalError};
use super::key::run_id_text;
use super::run::RunEvent;
use super::spec::Flows;
use crate::planted;
use crate::time::{Clock, Time};
use crate::topology::load::Retention;

/// Most runs in memory at once, unless said otherwise.
pub const ACTIVE_MAX: usize = 512;
/// Most runs that wait for a place in memory before sources are slowed down.
const BACKLOG_MAX: usize = 100_000;
/// Words of launchers and people that wait for the loop.
const COMMANDS_MAX: usize = 64;
/// A clock that was set is noticed after this time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What a scheduler needs.
pub struct SchedulerConfig {
    /// Where everything is kept.
    pub journal: Arc<Journal>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Who is told what happens.
    pub events: FlowEvents,
    /// Most runs in memory at once.
    pub active_max: usize,
    /// Which ended runs are kept.
    pub retention: Retention,
}

/// Starts the scheduler of a topology's flows on the current runtime. Open
/// runs of the journal go on at once.
///
/// # Errors
/// The journal cannot be read.
pub fn start(flows: Arc<Flows>, config: SchedulerConfig) -> Result<SchedulerHandle, JournalError> {
    let backlog = config.journal.open_runs(&flows.topology, 0, usize::MAX)?;
    let backlog = if planted!(OpenRunsForgotten) { Vec::new() } else { backlog };
    let revisions = flows.flows.iter().map(|flow| (flow.name.clone(), flow.revision.clone())).collect();
    let text = Arc::clone(&flows.workshop.text);
    config.journal.keep_revisions(&flows.topology, revisions, text, config.clock.now())?;
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let shared = Arc::new(Shared::new(config, flows));
    let handle = SchedulerHandle::new(sender, Arc::clone(&shared));
    let scheduler = Scheduler {
        shared,
        commands,
        active: HashMap::new(),
        running: JoinSet::new(),
        drives: HashMap::new(),
        late: HashMap::new(),
        backlog: backlog.into_iter().map(|id| (id, None)).collect(),
        parked: BinaryHeap::new(),
        resting: BTreeSet::new(),
        idle_waiters: Vec::new(),
    };
    tokio::spawn(scheduler.serve());
    Ok(handle)
}

struct Scheduler {
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    /// Runs in memory, and how to talk to them.
    active: HashMap<i64, mpsc::Sender<RunEvent>>,
    running: JoinSet<Ended>,
    /// Which run a task of the runtime drives.
    drives: HashMap<Id, i64>,
    /// What came for a run that was just leaving memory.
    late: HashMap<i64, RunEvent>,
    /// Runs that wait for a place in memory, and what they are to hear first.
    backlog: VecDeque<(i64, Option<RunEvent>)>,
    /// Runs that wait for a time, not in memory.
    parked: BinaryHeap<Reverse<(Time, i64)>>,
    /// Runs that are not in memory: parked, or waiting for a person.
    resting: BTreeSet<i64>,
    idle_waiters: Vec<oneshot::Sender<Idle>>,
}

impl Scheduler {
    async fn serve(mut self) {
        // Aborted with the loop, when it is dropped.
        let mut retaining = JoinSet::new();
        retaining.spawn(retain::retain(Arc::clone(&self.shared)));
        loop {
            while let Some(ended) = self.running.try_join_next_with_id() {
                self.on_ended(ended);
            }
            self.wake_parked();
            self.fill();
            self.answer_idle();
            let wake = self.next_wake();
            tokio::select! {
                // Ended runs had their turn above, whatever is commanded.
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Stop(done)) => {
                        self.stop().await;
                        if done.send(()).is_err() {
                            tracing::debug!("whoever stopped the flows has gone");
                        }
                        return;
                    }
                    Some(command) => self.on_command(command),
                    None => return self.stop().await,
                },
                Some(ended) = self.running.join_next_with_id() => self.on_ended(ended),
                () = tokio::time::sleep(wake) => {}
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Launched { runs, stop } => {
                runs.into_iter().for_each(|run| self.launch(run));
                stop.into_iter().for_each(|(id, reason)| self.tell(id, RunEvent::Cancel(reason)));
            }
            Command::Tell(id, event) => self.tell(id, event),
            Command::Idle(waiter) => self.idle_waiters.push(waiter),
            Command::Stop(_) => {}
        }
    }

    fn launch(&mut self, run: NewRun) {
        if self.active.len() >= self.shared.active_max || !self.backlog.is_empty() {
            // Its rows are in the journal; only the number stays in memory.
            self.backlog.push_back((run.id, None));
            return;
        }
        self.begin(run.id, Entry::New(Box::new(run)), None);
    }

    /// Hands an event to a run, wherever it is; one that has ended hears nothing.
    fn tell(&mut self, id: i64, event: RunEvent) {
        if let Some(inbox) = self.active.get(&id) {
            match inbox.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Closed(event)) => drop(self.late.insert(id, event)),
                Err(TrySendError::Full(_)) => tracing::warn!("run {} hears too much", run_id_text(id)),
            }
        } else if self.resting.remove(&id) {
            self.backlog.push_front((id, Some(event)));
        } else if let Some(waiting) = self.backlog.iter_mut().find(|(waiting, _)| *waiting == id) {
            waiting.1 = Some(event);
        }
    }

    fn begin(&mut self, id: i64, entry: Entry, first: Option<RunEvent>) {
        let (sender, inbox) = mpsc::channel(16);
        self.active.insert(id, sender);
        let shared = Arc::clone(&self.shared);
        let drive = self.running.spawn(Driver::live(shared, id, entry, first, inbox));
        self.drives.insert(drive.id(), id);
        self.shared.gauge(self.active.len(), self.backlog.len());
    }

    fn fill(&mut self) {
        while self.active.len() < self.shared.active_max {
            let Some((id, event)) = self.backlog.pop_front() else { break };
            if !self.active.contains_key(&id) {
                self.begin(id, Entry::Stored, event);
            }
        }
        let was = self.shared.backlog.swap(self.backlog.len(), Ordering::Relaxed);
        if was >= BACKLOG_MAX && self.backlog.len() < BACKLOG_MAX {
            self.shared.room.notify_waiters();
        }
    }

    fn on_ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (drive, how) = match ended {
            Ok((drive, ended)) => (drive, ended.how),
            Err(error) => (error.id(), How::Lost(format!("it has failed inside: {error}"))),
        };
        let Some(id) = self.drives.remove(&drive) else { return };
        self.active.remove(&id);
        let how = match (self.late.remove(&id), how) {
            (Some(event), How::Parked(_) | How::Paused) => How::Again(event),
            (_, how) => how,
        };
        match how {
            How::Over(next) => {
                if let Some(next) = next {
                    self.backlog.push_front((next, None));
                }
            }
            How::Parked(until) => {
                self.parked.push(Reverse((until, id)));
                self.resting.insert(id);
            }
            How::Paused => {
                self.resting.insert(id);
            }
            How::Again(event) => self.backlog.push_front((id, Some(event))),
            // It is in the journal and goes on after a restart.
            How::Lost(message) => {
                tracing::error!("run {} is lost until a restart: {message}", run_id_text(id))
            }
        }
        self.shared.gauge(self.active.len(), self.backlog.len());
    }

    fn next_wake(&self) -> Duration {
        let now = self.shared.clock.now();
        self.parked.peek().map_or(LOOK_EVERY, |Reverse((until, _))| until.since(now).min(LOOK_EVERY))
    }

    fn wake_parked(&mut self) {
        let now = self.shared.clock.now();
        while let Some(Reverse((until, id))) = self.parked.peek().copied() {
            if until > now {
                break;
            }
            self.parked.pop();
            if self.resting.remove(&id) {
                self.backlog.push_back((id, None));
            }
        }
    }

    fn answer_idle(&mut self) {
        if self.idle_waiters.is_empty() || !self.active.is_empty() || !self.backlog.is_empty() {
            return;
        }
        let waiting = self.shared.journal.unfinished(&self.shared.flows.topology);
        let idle = Idle { waiting: waiting.unwrap_or_default() };
        for waiter in self.idle_waiters.drain(..) {
            drop(waiter.send(idle.clone()));
        }
    }

    /// Lets device writes under way end, drops everything else: the journal
    /// knows how to go on.
    async fn stop(&mut self) {
        self.active.clear();
        while self.running.join_next().await.is_some() {}
    }
}
