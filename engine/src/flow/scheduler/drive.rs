//! The life of one run in memory: events to the state machine, its answers to
//! the journal, then to the world. Never the other way round.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::attempt::{Answer, attempt};
use super::handle::{NewRun, Shared};
use super::load::{Loaded, load};
use crate::device_write::result_of;
use crate::flow::events::{FlowEvent, What};
use crate::flow::journal::{EffectScope, Record, RunLedger};
use crate::flow::key::run_id_text;
use crate::flow::rows::to_bytes;
use crate::flow::run::{Action, Failure, FailureKind, Run, RunEvent};
use crate::flow::state::{Resolution, RunState, TaskState};
use crate::flow::values::{Results, is_true, values};
use crate::task::{EffectLedger, TaskContext};
use crate::time::Time;

/// A run that waits longer than this leaves memory.
const PARK_AFTER: Duration = Duration::from_secs(10);
/// A clock that was set is noticed after this time.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Where a run comes from.
pub(super) enum Entry {
    /// From a launcher, complete.
    New(Box<NewRun>),
    /// From the journal.
    Stored,
}

/// A run that has left memory.
pub(super) struct Ended {
    pub(super) how: How,
}

/// Why a run has left memory.
pub(super) enum How {
    /// It has ended; the run that waited for it may start.
    Over(Option<i64>),
    /// It waits for a time.
    Parked(Time),
    /// It waits for a person.
    Paused,
    /// Something came while it was leaving.
    Again(RunEvent),
    /// The journal or the run itself is broken; a restart may help.
    Lost(String),
}

/// A run in memory.
pub(super) struct Driver {
    shared: Arc<Shared>,
    facts: NewRun,
    run_id: String,
    run: Run,
    results: Results,
    ledger: Arc<RunLedger>,
    queue: VecDeque<RunEvent>,
    attempts: JoinSet<Answer>,
    under_way: HashMap<Id, (usize, Time, AbortHandle)>,
    /// Results and attempts that the next change of the journal takes along.
    bytes: HashMap<usize, Vec<u8>>,
    ended_attempts: Vec<Record>,
    next: Option<i64>,
    stopping: bool,
}

impl Driver {
    /// The whole life.
    pub(super) async fn live(
        shared: Arc<Shared>,
        id: i64,
        entry: Entry,
        first: Option<RunEvent>,
        mut inbox: mpsc::Receiver<RunEvent>,
    ) -> Ended {
        let again = matches!(entry, Entry::Stored);
        let loaded = match load(&shared, id, entry).await {
            Ok(loaded) => loaded,
            Err(how) => return Ended { how },
        };
        let mut driver = Driver::new(shared, loaded);
        driver.queue.extend(first);
        driver.say(What::RunStarted { again });
        let how = driver.serve(&mut inbox).await.unwrap_or_else(How::Lost);
        inbox.close();
        // What came while it was leaving must not be lost.
        let late = if matches!(how, How::Parked(_) | How::Paused) { inbox.try_recv().ok() } else { None };
        Ended { how: late.map_or(how, How::Again) }
    }

    fn new(shared: Arc<Shared>, loaded: Loaded) -> Driver {
        let Loaded { facts, run, results, stop, said } = loaded;
        let scope = EffectScope {
            topology: facts.flow.topology.clone(),
            flow: facts.flow.name.clone(),
            run: facts.id,
        };
        let ledger = RunLedger::new(
            Arc::clone(&shared.journal),
            shared.events.clone(),
            Arc::clone(&shared.clock),
            scope,
        );
        let mut queue = VecDeque::from([RunEvent::Begin]);
        queue.extend(said.into_iter().map(RunEvent::from));
        queue.extend(stop.map(RunEvent::Cancel));
        Driver {
            run_id: run_id_text(facts.id),
            shared,
            facts,
            run,
            results,
            ledger: Arc::new(ledger),
            queue,
            attempts: JoinSet::new(),
            under_way: HashMap::new(),
            bytes: HashMap::new(),
            ended_attempts: Vec::new(),
            next: None,
            stopping: false,
        }
    }

    async fn serve(&mut self, inbox: &mut mpsc::Receiver<RunEvent>) -> Result<How, String> {
        loop {
            while let Some(event) = self.queue.pop_front() {
                self.take(event).await?;
            }
            if self.run.state().0.is_final() {
                return Ok(How::Over(self.next));
            }
            let wake = self.run.next_wake();
            let now = self.shared.clock.now();
            if self.attempts.is_empty() {
                match wake {
                    Some(wake) if wake.since(now) < PARK_AFTER && !self.stopping => {}
                    Some(wake) => return Ok(How::Parked(wake)),
                    None => return Ok(How::Paused),
                }
            }
            let sleep = wake.map_or(LOOK_EVERY, |wake| wake.since(now).min(LOOK_EVERY));
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next_with_id(), if !self.attempts.is_empty() => self.ended(ended),
                event = inbox.recv(), if !self.stopping => match event {
                    Some(event) => self.queue.push_back(event),
                    None => self.begin_to_stop(),
                },
                () = tokio::time::sleep(sleep) => self.queue.push_back(RunEvent::Woke),
            }
        }
    }

    /// The daemon stops: only device writes are waited for.
    fn begin_to_stop(&mut self) {
        self.stopping = true;
        for (task, _, abort) in self.under_way.values() {
            if self.run.plan().tasks.get(*task).is_some_and(|plan| !plan.device) {
                abort.abort();
            }
        }
    }

    async fn take(&mut self, event: RunEvent) -> Result<(), String> {
        if let RunEvent::Resolved { task, resolution: Resolution::Done, .. } = &event {
            self.result_of_resolved(&task.clone()).await?;
        }
        let now = self.shared.clock.now();
        let actions = self.run.on(event, now);
        self.keep(&actions, now).await?;
        for action in actions {
            match action {
                Action::Task(task) => self.tell_task(task),
                Action::Run => self.tell_run(),
                Action::Decide(task) => {
                    let verdict = self.decide(task);
                    self.queue.push_back(RunEvent::Decided(task, verdict));
                }
                Action::Start { task, attempt, resume } => self.start(task, attempt, resume, now),
                Action::Abort(task) => {
                    let of_task = self.under_way.values().filter(|(index, _, _)| *index == task);
                    of_task.for_each(|(_, _, abort)| abort.abort());
                }
            }
        }
        Ok(())
    }

    /// What later tasks see of a device write that a person calls done: what
    /// the journal knows of it.
    async fn result_of_resolved(&mut self, id: &str) -> Result<(), String> {
        let unknown =
            |run: &Run, index: usize| run.task(index)?.state.eq(&TaskState::Unknown).then_some(index);
        let Some(index) = self.run.find(id).and_then(|index| unknown(&self.run, index)) else {
            return Ok(());
        };
        let writes = self.ledger.writes(&format!("{}-{id}", self.facts.run_key)).await;
        let Some((intent, _)) = writes.map_err(|error| error.to_string())?.pop() else { return Ok(()) };
        let rows = vec![result_of(&intent).map_err(|error| error.to_string())?];
        self.bytes.insert(index, to_bytes(&rows).map_err(|error| error.to_string())?);
        if let Some(place) = self.results.get_mut(index) {
            *place = Some(Arc::new(rows));
        }
        Ok(())
    }

    /// Puts what has changed into the journal. What a restart would find out
    /// by itself (an attempt begins) does not wait for the disk.
    async fn keep(&mut self, actions: &[Action], now: Time) -> Result<(), String> {
        let mut records = std::mem::take(&mut self.ended_attempts);
        let mut durable = false;
        for action in actions {
            match action {
                Action::Task(index) => {
                    let Some(record) = self.task_record(*index) else { continue };
                    durable |= !matches!(
                        record,
                        Record::Task {
                            state: TaskState::Running | TaskState::Ready | TaskState::Waiting,
                            ..
                        }
                    );
                    records.push(record);
                }
                Action::Run => {
                    let (state, reason) = self.run.state();
                    let closing = self.run.closing().cloned();
                    durable |= state != RunState::Running || closing.is_some();
                    records.push(Record::Run { state, reason: reason.to_owned(), closing });
                }
                Action::Decide(_) | Action::Start { .. } | Action::Abort(_) => {}
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        let journal = &self.shared.journal;
        if durable {
            let advanced = journal.advance(self.facts.id, records, now).await.map_err(|error| error.0)?;
            self.next = advanced.start.or(self.next);
        } else {
            journal.note(self.facts.id, records, now).await.map_err(|error| error.0)?;
        }
        Ok(())
    }

    fn task_record(&mut self, index: usize) -> Option<Record> {
        let cell = self.run.task(index)?;
        let plan = self.run.plan().tasks.get(index)?;
        Some(Record::Task {
            task: plan.id.clone(),
            state: cell.state,
            attempt: cell.attempt,
            failures: cell.failures,
            wait_until: cell.wait_until,
            wait_data: cell.wait_data.clone(),
            reason: cell.reason.clone(),
            result: self.bytes.remove(&index),
        })
    }

    fn decide(&self, index: usize) -> Result<bool, String> {
        let task = self.facts.flow.tasks.get(index).ok_or("the flow has no such task")?;
        let Some(condition) = &task.condition else { return Ok(true) };
        let row = values(
            &self.facts.flow,
            task,
            &self.facts.params,
            (&self.run_id, self.facts.fired_at),
            &self.results,
        )
        .map_err(|error| error.to_string())?;
        is_true(condition.as_ref(), &row).map_err(|error| error.to_string())
    }

    fn start(&mut self, task: usize, number: u32, resume: Option<Vec<u8>>, now: Time) {
        if self.stopping {
            return;
        }
        match self.context(task, number, now) {
            Ok(context) => {
                self.say(What::TaskStarted { task: context.task_id.clone(), attempt: number });
                let flow = Arc::clone(&self.facts.flow);
                let abort = self.attempts.spawn(attempt(flow, task, context, resume));
                self.under_way.insert(abort.id(), (task, now, abort));
            }
            Err(message) => {
                let failure = Failure { kind: FailureKind::Fatal, class: "config".into(), message };
                self.queue.push_back(RunEvent::Failed(task, failure));
            }
        }
    }

    fn context(&self, index: usize, number: u32, now: Time) -> Result<TaskContext, String> {
        let facts = &self.facts;
        let task = facts.flow.tasks.get(index).ok_or("the flow has no such task")?;
        let row = values(&facts.flow, task, &facts.params, (&self.run_id, facts.fired_at), &self.results)
            .map_err(|error| error.to_string())?;
        let seen = task.sees.iter().filter_map(|seen| {
            let rows = self.results.get(*seen)?.as_ref()?;
            Some((facts.flow.tasks.get(*seen)?.id.clone(), rows.as_ref().clone()))
        });
        Ok(TaskContext {
            values: row,
            trigger_rows: facts.rows.clone(),
            results: seen.collect(),
            run_id: self.run_id.clone(),
            flow: facts.flow.name.clone(),
            task_id: task.id.clone(),
            attempt: number,
            idempotency_key: format!("{}-{}", facts.run_key, task.id),
            fired_at: facts.fired_at,
            deadline: now.plus(task.timeout),
            mode: facts.flow.mode,
            clock: Arc::clone(&self.shared.clock),
            ledger: Arc::clone(&self.ledger) as Arc<dyn crate::task::EffectLedger>,
        })
    }

    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) {
        let (id, answer) = match ended {
            Ok((id, answer)) => (id, answer),
            Err(error) => {
                let (kind, message) = if error.is_cancelled() {
                    (FailureKind::Aborted, "stopped with its run")
                } else {
                    (FailureKind::Fatal, "the task has failed inside (a panic)")
                };
                let failure = Failure { kind, class: "fatal".into(), message: message.into() };
                (error.id(), Answer::Failed(failure))
            }
        };
        let Some((task, started_at, _)) = self.under_way.remove(&id) else { return };
        if self.stopping && matches!(&answer, Answer::Failed(failure) if failure.kind == FailureKind::Aborted)
        {
            return;
        }
        let (outcome, error) = match &answer {
            Answer::Done(..) => ("done".to_owned(), String::new()),
            Answer::Wait(..) => ("waits".to_owned(), String::new()),
            Answer::Failed(failure) => (failure.class.clone(), failure.message.clone()),
        };
        let cell = self.run.task(task);
        let name = self.run.plan().tasks.get(task).map(|plan| plan.id.clone()).unwrap_or_default();
        metrics::counter!("tidegate_attempts_total", "flow" => self.facts.flow.name.clone(), "task" => name.clone(),
            "outcome" => outcome.clone())
        .increment(1);
        let number = cell.map_or(1, |cell| cell.attempt);
        self.ended_attempts.push(Record::Attempt { task: name, attempt: number, started_at, outcome, error });
        let event = match answer {
            Answer::Done(rows, bytes) => {
                self.bytes.insert(task, bytes);
                if let Some(place) = self.results.get_mut(task) {
                    *place = Some(Arc::new(rows));
                }
                RunEvent::Done(task)
            }
            Answer::Wait(until, data) => RunEvent::Suspended(task, until, data),
            Answer::Failed(failure) => RunEvent::Failed(task, failure),
        };
        self.queue.push_back(event);
    }

    fn say(&self, what: What) {
        self.shared.events.say(FlowEvent {
            at: self.shared.clock.now(),
            topology: self.facts.flow.topology.clone(),
            flow: self.facts.flow.name.clone(),
            run: Some(self.facts.id),
            what,
        });
    }

    fn tell_task(&self, index: usize) {
        let (Some(cell), Some(plan)) = (self.run.task(index), self.run.plan().tasks.get(index)) else {
            return;
        };
        if !matches!(cell.state, TaskState::Waiting | TaskState::Ready | TaskState::Running) {
            self.say(What::Task { task: plan.id.clone(), state: cell.state, reason: cell.reason.clone() });
        }
    }

    fn tell_run(&self) {
        let (state, reason) = self.run.state();
        if state.is_final() {
            let flow = self.facts.flow.name.clone();
            metrics::counter!("tidegate_runs_total", "flow" => flow, "state" => state.word()).increment(1);
        }
        if state != RunState::Running {
            self.say(What::Run { state, reason: reason.to_owned() });
        }
    }
}
