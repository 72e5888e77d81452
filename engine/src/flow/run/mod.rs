//! What a flow does next: a function from state and event to new state and
//! actions. No clock, no channel, no await; whoever drives it carries the
//! actions out and tells what came of them.
//!
//! A run goes through two phases: the ordinary tasks, then the `finally`
//! tasks. The first phase closes when nothing is left to do, or by a failure,
//! the time-out or a cancel; it is over when no attempt is under way.

mod event;
mod plan;
mod steps;

use std::sync::Arc;

pub use event::{Action, Failure, FailureKind, RunEvent, TaskCell};
pub use plan::{OnFail, RetryPolicy, RunPlan, TaskPlan};

use super::state::{RunState, TaskState};
use crate::time::Time;

/// A run.
#[derive(Clone, Debug)]
pub struct Run {
    plan: Arc<RunPlan>,
    tasks: Vec<TaskCell>,
    state: RunState,
    reason: String,
    /// How the run will end, once the first phase is closed.
    closing: Option<(RunState, String)>,
    /// The first phase must be over at this instant.
    deadline: Option<Time>,
    seed: u64,
    actions: Vec<Action>,
}

impl Run {
    /// A run that has not begun. `seed` decides the jitter of its waits.
    #[must_use]
    pub fn new(plan: Arc<RunPlan>, seed: u64) -> Run {
        let tasks = vec![TaskCell::default(); plan.tasks.len()];
        Run {
            plan,
            tasks,
            state: RunState::Queued,
            reason: String::new(),
            closing: None,
            deadline: None,
            seed,
            actions: Vec::new(),
        }
    }

    /// A run as the journal knows it: began at `started_at`, with the tasks'
    /// last states. Attempts under way at the crash are begun again by `Begin`.
    #[must_use]
    pub fn restore(
        plan: Arc<RunPlan>,
        seed: u64,
        state: RunState,
        closing: Option<(RunState, String)>,
        started_at: Option<Time>,
        tasks: Vec<TaskCell>,
    ) -> Run {
        let mut run = Run::new(plan, seed);
        run.state = state;
        run.closing = closing;
        run.deadline = started_at.and_then(|at| run.plan.timeout.map(|timeout| at.plus(timeout)));
        run.tasks = tasks;
        run.tasks.resize(run.plan.tasks.len(), TaskCell::default());
        run
    }

    /// Where the run stands, and why.
    #[must_use]
    pub fn state(&self) -> (RunState, &str) {
        (self.state, &self.reason)
    }

    /// Where a task with this id stands in the flow.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<usize> {
        self.plan.tasks.iter().position(|task| task.id == id)
    }

    /// Where a task stands.
    #[must_use]
    pub fn task(&self, index: usize) -> Option<&TaskCell> {
        self.tasks.get(index)
    }

    /// The flow it follows.
    #[must_use]
    pub fn plan(&self) -> &Arc<RunPlan> {
        &self.plan
    }

    /// How the run will end, once nothing but `finally` tasks is left.
    #[must_use]
    pub fn closing(&self) -> Option<&(RunState, String)> {
        self.closing.as_ref()
    }

    /// The next instant at which something is due by itself.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        if self.state.is_final() {
            return None;
        }
        let deadline = if self.closing.is_none() { self.deadline } else { None };
        self.tasks.iter().filter_map(|cell| cell.wait_until).chain(deadline).min()
    }

    /// Takes an event and answers what must now be done, in order. Everything
    /// to be kept comes before what is started because of it.
    pub fn on(&mut self, event: RunEvent, now: Time) -> Vec<Action> {
        if self.state.is_final() {
            return Vec::new();
        }
        let was_closing = self.closing.is_some();
        match event {
            RunEvent::Begin => self.begin(now),
            RunEvent::Decided(task, verdict) => self.decided(task, verdict),
            RunEvent::Done(task) => self.end_task(task, TaskState::Succeeded, ""),
            RunEvent::Suspended(task, until, data) => self.suspended(task, until, data),
            RunEvent::Failed(task, failure) => self.failed(task, &failure, now),
            RunEvent::Woke => {}
            RunEvent::Cancel(reason) => self.close(RunState::Cancelled, &reason),
            RunEvent::Retry => self.retry(),
            RunEvent::Resolved { task, resolution, who } => self.resolved(&task, resolution, &who),
        }
        self.check_time(now);
        self.advance();
        self.settle(was_closing);
        std::mem::take(&mut self.actions)
    }

    /// Begins every task whose turn it is.
    fn advance(&mut self) {
        if self.closing.is_none() && self.cells(false).all(|cell| cell.state.is_final()) {
            self.closing = Some(self.verdict());
        }
        let first_phase_over = self.closing.is_some() && self.cells(false).all(|cell| cell.state.is_final());
        let plan = Arc::clone(&self.plan);
        // Tasks stand after those they wait for, so one pass is enough.
        for (index, task) in plan.tasks.iter().enumerate() {
            let its_phase = if task.finally { first_phase_over } else { self.closing.is_none() };
            if !its_phase || self.state_of(index) != Some(TaskState::Waiting) {
                continue;
            }
            let before: Vec<TaskState> =
                task.after.iter().filter_map(|other| self.state_of(*other)).collect();
            if !before.iter().all(|state| state.is_final()) {
                continue;
            }
            let all_skipped = !before.is_empty() && before.iter().all(|state| *state == TaskState::Skipped);
            if all_skipped && !task.always {
                self.end_task(index, TaskState::Skipped, "the task before it was skipped");
            } else if task.conditional {
                self.change(index, |cell| cell.state = TaskState::Ready);
                self.actions.push(Action::Decide(index));
            } else {
                self.change(index, |cell| cell.state = TaskState::Ready);
                self.start(index);
            }
        }
        // Skipping may have ended the first phase in this very pass.
        if self.closing.is_none() && self.cells(false).all(|cell| cell.state.is_final()) {
            self.advance();
        }
    }

    /// How the first phase ended, by its tasks' states.
    fn verdict(&self) -> (RunState, String) {
        let bad = self.plan.tasks.iter().zip(&self.tasks).find(|(plan, cell)| {
            let ended_badly = matches!(cell.state, TaskState::Failed | TaskState::TimedOut);
            !plan.finally && plan.on_fail != OnFail::Continue && ended_badly
        });
        match bad {
            Some((plan, cell)) => (RunState::Failed, format!("task {} failed: {}", plan.id, cell.reason)),
            None => (RunState::Succeeded, String::new()),
        }
    }

    /// The run's own state follows from its tasks'.
    fn settle(&mut self, was_closing: bool) {
        let any = |states: &[TaskState]| self.tasks.iter().any(|cell| states.contains(&cell.state));
        let (state, reason) = if self.tasks.iter().all(|cell| cell.state.is_final()) {
            let (state, reason) = self.closing.clone().unwrap_or_else(|| self.verdict());
            (state, self.with_failed_finally(reason))
        } else if any(&[TaskState::Running, TaskState::Ready]) {
            (RunState::Running, String::new())
        } else if any(&[TaskState::Paused, TaskState::Unknown]) {
            (RunState::Paused, self.reason_of(&[TaskState::Paused, TaskState::Unknown]))
        } else {
            (RunState::Waiting, self.reason_of(&[TaskState::RetryWait, TaskState::TimerWait]))
        };
        if self.state != state || was_closing != self.closing.is_some() {
            debug_assert!(self.state == state || self.state.may_become(state), "{} to {state}", self.state);
            self.state = state;
            self.reason = reason;
            // Before what is started, after the tasks that caused it.
            let at = self.actions.iter().position(|action| !matches!(action, Action::Task(_)));
            self.actions.insert(at.unwrap_or(self.actions.len()), Action::Run);
        }
    }

    fn with_failed_finally(&self, reason: String) -> String {
        let failed = self.plan.tasks.iter().zip(&self.tasks).find(|(plan, cell)| {
            plan.finally && matches!(cell.state, TaskState::Failed | TaskState::TimedOut)
        });
        let Some((plan, cell)) = failed else { return reason };
        let joint = if reason.is_empty() { "" } else { "; " };
        format!("{reason}{joint}finally task {} failed: {}", plan.id, cell.reason)
    }

    fn reason_of(&self, states: &[TaskState]) -> String {
        let found = self.plan.tasks.iter().zip(&self.tasks).find(|(_, cell)| states.contains(&cell.state));
        found.map_or_else(String::new, |(plan, cell)| format!("task {}: {}", plan.id, cell.reason))
    }

    fn start(&mut self, task: usize) {
        let mut started = None;
        self.change(task, |cell| {
            let resumes = cell.wait_data.is_some();
            // A wait belongs to its attempt; anything else is a new one.
            if cell.state != TaskState::TimerWait || !resumes {
                cell.attempt = cell.attempt.saturating_add(1);
            }
            cell.state = TaskState::Running;
            cell.wait_until = None;
            cell.reason = String::new();
            started = Some((cell.attempt, cell.wait_data.clone()));
        });
        if let Some((attempt, resume)) = started {
            self.actions.push(Action::Start { task, attempt, resume });
        }
    }

    fn end_task(&mut self, task: usize, state: TaskState, reason: &str) {
        if self.state_of(task).is_none_or(TaskState::is_final) {
            return;
        }
        self.change(task, |cell| {
            cell.state = state;
            cell.wait_until = None;
            cell.wait_data = None;
            cell.reason = reason.to_owned();
        });
    }

    fn change(&mut self, task: usize, change: impl FnOnce(&mut TaskCell)) {
        let Some(cell) = self.tasks.get_mut(task) else { return };
        let before = cell.state;
        change(cell);
        debug_assert!(before == cell.state || before.may_become(cell.state), "{before} to {}", cell.state);
        if !self.actions.contains(&Action::Task(task)) {
            // What is kept comes before what is started.
            let at = self.actions.iter().position(|action| !matches!(action, Action::Task(_)));
            self.actions.insert(at.unwrap_or(self.actions.len()), Action::Task(task));
        }
    }

    fn state_of(&self, task: usize) -> Option<TaskState> {
        self.tasks.get(task).map(|cell| cell.state)
    }

    fn is_finally(&self, task: usize) -> bool {
        self.plan.tasks.get(task).is_some_and(|plan| plan.finally)
    }

    /// Cells of the `finally` tasks, or of the others.
    fn cells(&self, finally: bool) -> impl Iterator<Item = &TaskCell> {
        self.plan
            .tasks
            .iter()
            .zip(&self.tasks)
            .filter(move |(plan, _)| plan.finally == finally)
            .map(|(_, cell)| cell)
    }
}

#[cfg(test)]
mod tests;
