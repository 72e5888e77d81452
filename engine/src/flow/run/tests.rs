//! The state machine of a run, event by event, and over random flows.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::flow::state::Resolution;

const NONE: [usize; 0] = [];

fn task(id: &str, after: &[usize]) -> TaskPlan {
    TaskPlan {
        id: id.into(),
        after: after.to_vec(),
        always: false,
        conditional: false,
        finally: false,
        device: false,
        retry: RetryPolicy { jitter: 0.0, ..RetryPolicy::default() },
        on_fail: OnFail::Pause,
    }
}

fn run_of(tasks: Vec<TaskPlan>) -> Run {
    Run::new(Arc::new(RunPlan { tasks, timeout: None }), 1)
}

fn starts(actions: &[Action]) -> Vec<usize> {
    let started = actions.iter().map(|action| match action {
        Action::Start { task, .. } => Some(*task),
        Action::Decide(_) | Action::Abort(_) | Action::Task(_) | Action::Run => None,
    });
    started.flatten().collect()
}

fn transient(class: &str) -> Failure {
    Failure { kind: FailureKind::Transient(None), class: class.into(), message: "away".into() }
}

#[test]
fn in_order_in_parallel_and_joined() {
    // a, then b and c at once, then d after both.
    let mut run = run_of(vec![task("a", &[]), task("b", &[0]), task("c", &[0]), task("d", &[1, 2])]);
    assert_eq!(starts(&run.on(RunEvent::Begin, Time(0))), [0]);
    assert_eq!(starts(&run.on(RunEvent::Done(0), Time(1))), [1, 2]);
    assert_eq!(starts(&run.on(RunEvent::Done(2), Time(2))), NONE);
    assert_eq!(starts(&run.on(RunEvent::Done(1), Time(3))), [3]);
    run.on(RunEvent::Done(3), Time(4));
    assert_eq!(run.state(), (RunState::Succeeded, ""));
    assert_eq!(run.on(RunEvent::Done(3), Time(5)), [], "nothing happens after the end");
}

#[test]
fn what_follows_a_skipped_task_is_skipped_unless_it_names_others() {
    let conditional = TaskPlan { conditional: true, ..task("b", &[0]) };
    let always = TaskPlan { always: true, ..task("e", &[1]) };
    let mut run = run_of(vec![task("a", &[]), conditional, task("c", &[1]), task("d", &[0, 1]), always]);
    run.on(RunEvent::Begin, Time(0));
    assert!(run.on(RunEvent::Done(0), Time(1)).contains(&Action::Decide(1)));
    assert_eq!(starts(&run.on(RunEvent::Decided(1, Ok(false)), Time(2))), [3, 4]);
    assert_eq!(run.task(2).map(|cell| cell.state), Some(TaskState::Skipped));
}

#[test]
fn retries_wait_then_a_person_decides() {
    let mut run = run_of(vec![task("a", &[])]);
    run.on(RunEvent::Begin, Time(0));
    let mut now = Time(0);
    for wait in [1, 2, 4] {
        assert_eq!(starts(&run.on(RunEvent::Failed(0, transient("network")), now)), NONE);
        assert_eq!(run.state().0, RunState::Waiting);
        let due = now.plus(Duration::from_secs(wait));
        assert_eq!(run.next_wake(), Some(due));
        assert_eq!(starts(&run.on(RunEvent::Woke, Time(due.0 - 1))), NONE);
        assert_eq!(starts(&run.on(RunEvent::Woke, due)), [0]);
        now = due;
    }
    run.on(RunEvent::Failed(0, transient("network")), now);
    assert_eq!(run.state(), (RunState::Paused, "task a: away"));
    let again = run.on(RunEvent::Retry, now);
    assert!(again.contains(&Action::Start { task: 0, attempt: 5, resume: None }), "{again:?}");
    run.on(RunEvent::Done(0), now);
    assert_eq!(run.state().0, RunState::Succeeded);
}

#[test]
fn an_unknown_effect_is_never_repeated_by_itself() {
    let mut run = run_of(vec![task("a", &[]), task("b", &[0])]);
    run.on(RunEvent::Begin, Time(0));
    let failure =
        Failure { kind: FailureKind::Unknown, class: "unknown".into(), message: "no answer".into() };
    assert_eq!(starts(&run.on(RunEvent::Failed(0, failure), Time(1))), NONE);
    assert_eq!(run.task(0).map(|cell| cell.state), Some(TaskState::Unknown));
    assert_eq!(run.state().0, RunState::Paused);
    assert_eq!(run.next_wake(), None);
}

#[test]
fn a_failure_aborts_the_others_and_finally_runs() {
    let failing = TaskPlan { on_fail: OnFail::Fail, retry: RetryPolicy::never(), ..task("a", &[]) };
    let device = TaskPlan { device: true, ..task("valve", &[]) };
    let last = TaskPlan { finally: true, ..task("tidy", &[]) };
    let mut run = run_of(vec![failing, task("b", &[]), device, task("c", &[1]), last]);
    assert_eq!(starts(&run.on(RunEvent::Begin, Time(0))), [0, 1, 2]);
    let actions = run.on(RunEvent::Failed(0, transient("5xx")), Time(1));
    assert!(actions.contains(&Action::Abort(1)) && !actions.contains(&Action::Abort(2)), "{actions:?}");
    assert_eq!(run.task(3).map(|cell| cell.state), Some(TaskState::Skipped));
    let aborted = Failure { kind: FailureKind::Aborted, class: String::new(), message: "stopped".into() };
    assert_eq!(starts(&run.on(RunEvent::Failed(1, aborted), Time(2))), NONE, "the device write goes on");
    assert_eq!(starts(&run.on(RunEvent::Done(2), Time(3))), [4]);
    run.on(RunEvent::Done(4), Time(4));
    assert_eq!(run.state(), (RunState::Failed, "task a failed: away"));
}

#[test]
fn the_timeout_ends_a_wait_and_finally_still_runs() {
    let plan = RunPlan {
        tasks: vec![task("a", &[]), TaskPlan { finally: true, ..task("tidy", &[]) }],
        timeout: Some(Duration::from_micros(100)),
    };
    let mut run = Run::new(Arc::new(plan), 1);
    run.on(RunEvent::Begin, Time(0));
    run.on(RunEvent::Suspended(0, Time(500), vec![7]), Time(10));
    assert_eq!(run.next_wake(), Some(Time(100)));
    assert_eq!(starts(&run.on(RunEvent::Woke, Time(100))), [1]);
    run.on(RunEvent::Done(1), Time(110));
    assert_eq!(run.state().0, RunState::TimedOut);
}

#[test]
fn a_restart_goes_on_with_what_was_kept() {
    let plan = Arc::new(RunPlan {
        tasks: vec![task("a", &[]), task("b", &[]), task("c", &[0])],
        timeout: Some(Duration::from_secs(9)),
    });
    let cells = vec![
        TaskCell { state: TaskState::Running, attempt: 2, failures: 1, ..TaskCell::default() },
        TaskCell {
            state: TaskState::TimerWait,
            attempt: 1,
            wait_until: Some(Time(50)),
            wait_data: Some(vec![3]),
            ..TaskCell::default()
        },
    ];
    let mut run = Run::restore(plan, 1, RunState::Running, None, Some(Time(0)), cells);
    let actions = run.on(RunEvent::Begin, Time(60));
    assert!(actions.contains(&Action::Start { task: 0, attempt: 3, resume: None }), "{actions:?}");
    assert!(actions.contains(&Action::Start { task: 1, attempt: 1, resume: Some(vec![3]) }), "{actions:?}");
    assert_eq!(run.next_wake(), Some(Time(9_000_000)), "the deadline counts from the first start");
}

/// What a driver and a journal would do, with every answer chosen by the test.
struct World {
    run: Run,
    under_way: BTreeSet<usize>,
    undecided: BTreeSet<usize>,
    kept: Vec<TaskCell>,
    kept_run: (RunState, Option<(RunState, String)>),
    now: Time,
    finals: u32,
}

impl World {
    fn tell(&mut self, event: RunEvent) {
        let was_final = self.run.state().0.is_final();
        for action in self.run.on(event, self.now) {
            match action {
                Action::Decide(task) => {
                    self.undecided.insert(task);
                }
                Action::Start { task, .. } => {
                    assert!(self.under_way.insert(task), "task {task} was under way already");
                    if self.run.is_finally(task) {
                        assert!(self.run.cells(false).all(|cell| cell.state.is_final()));
                    }
                }
                Action::Abort(task) => assert!(self.under_way.contains(&task)),
                Action::Task(task) => self.kept[task] = self.run.tasks[task].clone(),
                Action::Run => {
                    let (state, _) = self.run.state();
                    self.kept_run = (state, self.run.closing().cloned());
                }
            }
        }
        // What is kept is all there is: a restart loses nothing.
        assert_eq!(self.kept, self.run.tasks);
        assert_eq!(self.kept_run.0, self.run.state().0);
        assert_eq!(self.kept_run.1.as_ref(), self.run.closing());
        if self.run.closing().is_some() {
            let ends = |cell: &TaskCell| cell.state.is_final() || cell.state == TaskState::Running;
            assert!(self.run.cells(false).all(ends), "a run that ends waits for nothing new: {:?}", self.run);
        }
        if self.run.state().0.is_final() && !was_final {
            self.finals += 1;
        }
    }

    fn crash(&mut self) {
        self.under_way.clear();
        self.undecided.clear();
        let (state, closing) = self.kept_run.clone();
        let begun = (state != RunState::Queued).then_some(Time(0));
        let plan = Arc::clone(self.run.plan());
        self.run = Run::restore(plan, 1, state, closing, begun, self.kept.clone());
        self.tell(RunEvent::Begin);
    }

    fn step(&mut self, choice: u8, which: usize) {
        self.now = Time(self.now.0 + i64::from(choice) * 10_000);
        let pick = |set: &BTreeSet<usize>| set.iter().nth(which % set.len().max(1)).copied();
        if let Some(task) = pick(&self.undecided) {
            self.undecided.remove(&task);
            let verdict = match choice % 5 {
                0 => Ok(false),
                1 => Err("division by zero".into()),
                _ => Ok(true),
            };
            return self.tell(RunEvent::Decided(task, verdict));
        }
        match choice {
            0..=3 => return self.crash(),
            4 => return self.tell(RunEvent::Cancel("a person".into())),
            5..=12 => return self.tell(RunEvent::Retry),
            13..=20 => {
                let task = format!("t{}", which % 8);
                let resolution = Resolution::ALL[which % 2];
                return self.tell(RunEvent::Resolved { task, resolution, who: "a person".into() });
            }
            _ => {}
        }
        let Some(task) = pick(&self.under_way) else { return self.tell(RunEvent::Woke) };
        self.under_way.remove(&task);
        let kind = match choice % 8 {
            0 => FailureKind::Fatal,
            1 => FailureKind::Unknown,
            2 => FailureKind::TimedOut,
            3 => FailureKind::Transient(Some(self.now)),
            4 => return self.tell(RunEvent::Suspended(task, Time(self.now.0 + 5_000), vec![choice])),
            _ => return self.tell(RunEvent::Done(task)),
        };
        let failure = Failure { kind, class: "network".into(), message: "no".into() };
        self.tell(RunEvent::Failed(task, failure));
    }
}

fn any_task() -> impl Strategy<Value = (u8, bool, bool, bool, u8, u32)> {
    (any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u8, 0..3_u32)
}

fn plan_of(parts: &[(u8, bool, bool, bool, u8, u32)], finally_from: usize, timeout: Option<u64>) -> RunPlan {
    let tasks =
        parts.iter().enumerate().map(|(index, (bits, always, conditional, device, on_fail, times))| {
            let finally = index >= finally_from;
            let first = if finally { finally_from } else { 0 };
            TaskPlan {
                id: format!("t{index}"),
                after: (first..index).filter(|other| bits >> (other % 8) & 1 == 1).collect(),
                always: *always,
                conditional: *conditional,
                finally,
                device: *device,
                retry: RetryPolicy { times: *times, ..RetryPolicy::default() },
                on_fail: [OnFail::Pause, OnFail::Fail, OnFail::Continue][usize::from(*on_fail)],
            }
        });
    RunPlan { tasks: tasks.collect(), timeout: timeout.map(Duration::from_micros) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any flow, any answers, any crashes: only listed transitions (asserted
    /// where a state changes), nothing twice at once, one final state.
    #[test]
    fn every_run_reaches_exactly_one_final_state(
        parts in prop::collection::vec(any_task(), 1..8),
        finally_from in 0..9_usize,
        timeout in prop::option::of(1_u64..20_000_000),
        chaos in prop::collection::vec((any::<u8>(), any::<usize>()), 0..60),
    ) {
        let plan = Arc::new(plan_of(&parts, finally_from, timeout));
        let run = Run::new(Arc::clone(&plan), 1);
        let kept = vec![TaskCell::default(); plan.tasks.len()];
        let mut world = World {
            run, kept, under_way: BTreeSet::new(), undecided: BTreeSet::new(),
            kept_run: (RunState::Queued, None), now: Time(0), finals: 0,
        };
        world.tell(RunEvent::Begin);
        for (choice, which) in chaos {
            world.step(choice, which);
        }
        // Calm: everything is answered well, time passes, a person helps.
        for _ in 0..200 {
            if world.run.state().0.is_final() {
                break;
            }
            if let Some(task) = world.undecided.pop_first() {
                world.tell(RunEvent::Decided(task, Ok(true)));
            } else if let Some(task) = world.under_way.pop_first() {
                world.tell(RunEvent::Done(task));
            } else if let Some(wake) = world.run.next_wake() {
                world.now = world.now.max(wake);
                world.tell(RunEvent::Woke);
                world.tell(RunEvent::Retry);
            } else {
                prop_assert_eq!(world.run.state().0, RunState::Paused);
                world.tell(RunEvent::Retry);
            }
        }
        prop_assert!(world.run.state().0.is_final(), "stuck: {:?}", world.run);
        prop_assert_eq!(world.finals, 1);
        prop_assert!(world.run.tasks.iter().all(|cell| cell.state.is_final()));
        prop_assert!(world.under_way.is_empty());
    }
}
