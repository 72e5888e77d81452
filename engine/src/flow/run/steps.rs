//! One method for each thing that can happen to a run.

use super::{Action, Failure, FailureKind, OnFail, Run};
use crate::flow::state::{Resolution, RunState, TaskState};
use crate::time::Time;

impl Run {
    pub(super) fn begin(&mut self, now: Time) {
        if self.deadline.is_none() {
            self.deadline = self.plan.timeout.map(|timeout| now.plus(timeout));
        }
        let open: Vec<(usize, TaskState)> =
            self.tasks.iter().enumerate().map(|(index, cell)| (index, cell.state)).collect();
        for (index, state) in open {
            match state {
                TaskState::Running => self.start(index),
                TaskState::Ready => self.actions.push(Action::Decide(index)),
                TaskState::Waiting
                | TaskState::RetryWait
                | TaskState::TimerWait
                | TaskState::Paused
                | TaskState::Unknown
                | TaskState::Succeeded
                | TaskState::Skipped
                | TaskState::Failed
                | TaskState::TimedOut => {}
            }
        }
    }

    pub(super) fn decided(&mut self, task: usize, verdict: Result<bool, String>) {
        if self.state_of(task) != Some(TaskState::Ready) {
            return;
        }
        match verdict {
            Ok(true) => self.start(task),
            Ok(false) => self.end_task(task, TaskState::Skipped, "its `if` is not true"),
            Err(message) => self.give_up(task, TaskState::Failed, &format!("`if` failed: {message}")),
        }
    }

    pub(super) fn suspended(&mut self, task: usize, until: Time, data: Vec<u8>) {
        if self.state_of(task) != Some(TaskState::Running) {
            return;
        }
        if self.closing.is_some() && !self.is_finally(task) {
            self.end_task(task, TaskState::Failed, "stopped with its run");
            return;
        }
        self.change(task, |cell| {
            cell.state = TaskState::TimerWait;
            cell.wait_until = Some(until);
            cell.wait_data = Some(data);
            cell.reason = format!("waits until {until}");
        });
    }

    pub(super) fn failed(&mut self, task: usize, failure: &Failure, now: Time) {
        if self.state_of(task) != Some(TaskState::Running) {
            return;
        }
        let ending = self.closing.is_some() && !self.is_finally(task);
        let message = failure.message.as_str();
        let not_before = match failure.kind {
            FailureKind::Transient(not_before) => not_before,
            FailureKind::TimedOut => None,
            FailureKind::Fatal => return self.give_up(task, TaskState::Failed, message),
            FailureKind::Unknown => return self.give_up(task, TaskState::Unknown, message),
            FailureKind::Aborted => return self.end_task(task, TaskState::Failed, message),
        };
        let (failures, attempt) =
            self.tasks.get(task).map_or((1, 1), |cell| (cell.failures.saturating_add(1), cell.attempt));
        let seed = self.seed ^ (u64::try_from(task).unwrap_or(0) << 32) ^ u64::from(attempt);
        let next = self
            .plan
            .tasks
            .get(task)
            .and_then(|plan| plan.retry.next(failures, &failure.class, not_before, seed, now));
        self.change(task, |cell| cell.failures = failures);
        match next {
            Some(at) if !ending => self.change(task, |cell| {
                cell.state = TaskState::RetryWait;
                cell.wait_until = Some(at);
                cell.reason = format!("attempt {attempt} failed: {message}; again at {at}");
            }),
            Some(_) | None => {
                let state = match failure.kind {
                    FailureKind::TimedOut => TaskState::TimedOut,
                    FailureKind::Transient(_)
                    | FailureKind::Fatal
                    | FailureKind::Unknown
                    | FailureKind::Aborted => TaskState::Failed,
                };
                self.give_up(task, state, message);
            }
        }
    }

    /// A task will not succeed by itself any more.
    fn give_up(&mut self, task: usize, state: TaskState, message: &str) {
        let Some(plan) = self.plan.tasks.get(task) else { return };
        let (id, on_fail, finally) = (plan.id.clone(), plan.on_fail, plan.finally);
        let ended = if state == TaskState::TimedOut { state } else { TaskState::Failed };
        let unknown = if state == TaskState::Unknown { "nobody knows whether it took effect: " } else { "" };
        let reason = format!("{unknown}{message}");
        match on_fail {
            // Nobody waits for a person while a run ends.
            OnFail::Pause if finally || self.closing.is_some() => self.end_task(task, ended, &reason),
            OnFail::Pause => {
                let paused = if state == TaskState::Unknown { state } else { TaskState::Paused };
                self.change(task, |cell| {
                    cell.state = paused;
                    cell.wait_until = None;
                    cell.reason = reason;
                });
            }
            OnFail::Continue => self.end_task(task, ended, &reason),
            OnFail::Fail => {
                self.end_task(task, ended, &reason);
                if !finally {
                    self.close(RunState::Failed, &format!("task {id} failed: {reason}"));
                }
            }
        }
    }

    /// A person says: try again.
    pub(super) fn retry(&mut self) {
        let paused: Vec<usize> = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, cell)| matches!(cell.state, TaskState::Paused | TaskState::Unknown))
            .map(|(index, _)| index)
            .collect();
        for task in paused {
            self.change(task, |cell| cell.failures = 0);
            // An `if` that failed is looked at again.
            let began = self.tasks.get(task).is_some_and(|cell| cell.attempt > 0);
            if began {
                self.start(task);
            } else {
                self.change(task, |cell| cell.state = TaskState::Ready);
                self.actions.push(Action::Decide(task));
            }
        }
    }

    /// A person knows what became of a task of which nobody else knew. One
    /// that is not unknown any more has had its answer.
    pub(super) fn resolved(&mut self, id: &str, resolution: Resolution, who: &str) {
        let Some(task) = self.find(id).filter(|task| self.state_of(*task) == Some(TaskState::Unknown)) else {
            return;
        };
        match resolution {
            Resolution::Done => self.end_task(task, TaskState::Succeeded, &format!("done, says {who}")),
            Resolution::Failed => {
                let reason = format!("not done, says {who}");
                self.end_task(task, TaskState::Failed, &reason);
                let goes_on = self.plan.tasks.get(task).is_none_or(|plan| plan.on_fail == OnFail::Continue);
                if !goes_on {
                    self.close(RunState::Failed, &format!("task {id} failed: {reason}"));
                }
            }
        }
    }

    pub(super) fn check_time(&mut self, now: Time) {
        if self.closing.is_none() && self.deadline.is_some_and(|deadline| deadline <= now) {
            self.close(RunState::TimedOut, "the flow's timeout is over");
        }
        let due: Vec<usize> = self
            .tasks
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.wait_until.is_some_and(|until| until <= now))
            .map(|(index, _)| index)
            .collect();
        for task in due {
            self.start(task);
        }
    }

    /// Closes the first phase: nothing new begins, what is under way is asked
    /// to end, what waits ends now.
    pub(super) fn close(&mut self, state: RunState, reason: &str) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some((state, reason.to_owned()));
        let count = self.plan.tasks.iter().filter(|plan| !plan.finally).count();
        for task in 0..count {
            let Some(found) = self.state_of(task) else { continue };
            match found {
                TaskState::Waiting | TaskState::Ready => {
                    self.end_task(task, TaskState::Skipped, "the run ended before");
                }
                TaskState::Running => {
                    if self.plan.tasks.get(task).is_some_and(|plan| !plan.device) {
                        self.actions.push(Action::Abort(task));
                    }
                }
                TaskState::RetryWait | TaskState::TimerWait => {
                    self.end_task(task, TaskState::Failed, "stopped with its run");
                }
                TaskState::Paused | TaskState::Unknown => {
                    let reason = self.tasks.get(task).map(|cell| cell.reason.clone()).unwrap_or_default();
                    self.end_task(task, TaskState::Failed, &reason);
                }
                TaskState::Succeeded | TaskState::Skipped | TaskState::Failed | TaskState::TimedOut => {}
            }
        }
    }
}
