//! Every crash point and every lie of a device, with a count of its effects.

use std::sync::Mutex as StdMutex;

use super::*;
use crate::task::{EffectLedger, Notice};
use crate::time::Clock;

/// A clock that is set by hand.
#[derive(Debug, Default)]
struct Hand(StdMutex<i64>);

impl Clock for Hand {
    fn now(&self) -> Time {
        Time(*self.0.lock().expect("not poisoned"))
    }
}

/// A journal that is lost at a chosen call, as a crash would.
#[derive(Default)]
struct Notebook {
    intent: StdMutex<Option<WriteIntent>>,
    outcome: StdMutex<Option<WriteOutcome>>,
    tickets: StdMutex<Vec<String>>,
    /// Another write keeps the point until then.
    taken_until: StdMutex<i64>,
    clock: Arc<Hand>,
    /// Calls left until the crash.
    calls_left: StdMutex<u32>,
}

impl Notebook {
    fn call(&self) -> Result<(), TaskError> {
        let mut left = self.calls_left.lock().expect("not poisoned");
        *left = left.checked_sub(1).ok_or_else(|| TaskError::Fatal("crash".into()))?;
        Ok(())
    }
}

#[async_trait]
impl EffectLedger for Notebook {
    async fn intent(&self, _: &str, intent: &WriteIntent, _: Duration) -> Result<Option<Time>, TaskError> {
        self.call()?;
        let taken_until = Time(*self.taken_until.lock().expect("not poisoned"));
        if taken_until > self.clock.now() {
            return Ok(Some(taken_until));
        }
        *self.intent.lock().expect("not poisoned") = Some(intent.clone());
        *self.outcome.lock().expect("not poisoned") = None;
        Ok(None)
    }

    async fn writes(&self, _: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError> {
        let outcome = self.outcome.lock().expect("not poisoned").clone();
        Ok(self
            .intent
            .lock()
            .expect("not poisoned")
            .clone()
            .map(|intent| (intent, outcome))
            .into_iter()
            .collect())
    }

    async fn outcome(&self, _: &str, outcome: &WriteOutcome) -> Result<(), TaskError> {
        self.call()?;
        *self.outcome.lock().expect("not poisoned") = Some(outcome.clone());
        Ok(())
    }

    async fn not_sent(&self, _: &str, _: &WriteIntent, outcome: &WriteOutcome) -> Result<(), TaskError> {
        *self.outcome.lock().expect("not poisoned") = Some(outcome.clone());
        Ok(())
    }

    async fn open_ticket(&self, _: &str, ticket: &Ticket) -> Result<i64, TaskError> {
        self.tickets.lock().expect("not poisoned").push(ticket.title.clone());
        Ok(1)
    }

    async fn notify(&self, _: &str, _: &Notice) -> Result<(), TaskError> {
        Ok(())
    }
}

/// What the device does with the next write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Does,
    DoesAndIsSilent,
    LosesIt,
    /// After the read-back and before it counts as lost.
    DoesItLater,
    Refuses,
    CannotBeReached,
    DoesSomethingElse,
}

struct Valve {
    value: StdMutex<f64>,
    effects: StdMutex<u32>,
    manners: StdMutex<Vec<Manner>>,
    settle: Duration,
    /// A command that is on its way, and when it is executed.
    coming: StdMutex<Option<(tokio::time::Instant, f64)>>,
}

impl Valve {
    fn set(&self, to: f64) {
        *self.value.lock().expect("not poisoned") = to;
        *self.effects.lock().expect("not poisoned") += 1;
    }
}

#[async_trait]
impl Device for Valve {
    fn settle(&self) -> Duration {
        self.settle
    }

    async fn read(&self) -> Result<f64, TaskError> {
        let mut coming = self.coming.lock().expect("not poisoned");
        if let Some((_, to)) = coming.take_if(|(at, _)| *at <= tokio::time::Instant::now()) {
            self.set(to);
        }
        Ok(*self.value.lock().expect("not poisoned"))
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        let manner = self.manners.lock().expect("not poisoned").pop().unwrap_or(Manner::Does);
        match manner {
            Manner::Does => {
                self.set(value);
                Ok(())
            }
            Manner::DoesAndIsSilent => {
                self.set(value);
                Err(NotWritten::Unknown("no answer".into()))
            }
            Manner::LosesIt => Err(NotWritten::Unknown("no answer".into())),
            Manner::DoesItLater => {
                let at = tokio::time::Instant::now() + 2 * READ_BACK_ATTEMPTS * READ_BACK_WAIT;
                *self.coming.lock().expect("not poisoned") = Some((at, value));
                Err(NotWritten::Unknown("no answer".into()))
            }
            Manner::Refuses => Err(NotWritten::Refused("exception 2".into())),
            Manner::CannotBeReached => Err(NotWritten::NotSent("connection refused".into())),
            Manner::DoesSomethingElse => {
                self.set(value / 2.0);
                Ok(())
            }
        }
    }
}

struct World {
    clock: Arc<Hand>,
    notebook: Arc<Notebook>,
    valve: Valve,
    mode: Mode,
}

impl World {
    fn new(manners: &[Manner]) -> World {
        let clock: Arc<Hand> = Arc::default();
        let notebook =
            Notebook { calls_left: StdMutex::new(100), clock: Arc::clone(&clock), ..Notebook::default() };
        World {
            clock,
            notebook: Arc::new(notebook),
            valve: Valve {
                value: StdMutex::new(1.0),
                effects: StdMutex::default(),
                manners: StdMutex::new(manners.iter().rev().copied().collect()),
                settle: Duration::ZERO,
                coming: StdMutex::default(),
            },
            mode: Mode::Armed,
        }
    }

    async fn write(&self, value: f64) -> Result<TaskStep, TaskError> {
        self.write_after(value, None).await
    }

    /// Goes on after a wait, if there was one.
    async fn write_after(&self, value: f64, waited: Option<&[u8]>) -> Result<TaskStep, TaskError> {
        let context = TaskContext {
            values: RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())),
            trigger_rows: Vec::new(),
            results: Vec::new(),
            run_id: "run".into(),
            flow: "flow".into(),
            task_id: "open".into(),
            attempt: 1,
            idempotency_key: "key".into(),
            fired_at: Time(0),
            deadline: Time::MAX,
            mode: self.mode,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ledger: Arc::clone(&self.notebook) as Arc<dyn EffectLedger>,
        };
        let rules = [WriteRule { target: "valve".into(), min: 0.0, max: 100.0, every_min: Duration::ZERO }];
        let wanted = Wanted { target: "valve", value, deadline: Duration::from_secs(10), waited };
        let gate = WriteGate::default();
        let written = write(&context, &self.valve, &wanted, &rules, &gate);
        tokio::time::timeout(Duration::from_secs(5), written).await.expect("does not hang")
    }

    fn effects(&self) -> u32 {
        *self.valve.effects.lock().expect("not poisoned")
    }

    fn outcome(&self) -> Option<WriteOutcome> {
        self.notebook.outcome.lock().expect("not poisoned").clone()
    }
}

#[tokio::test]
async fn writes_once_and_reads_back() {
    let world = World::new(&[]);
    assert!(world.write(40.0).await.is_ok());
    assert_eq!((world.effects(), world.outcome()), (1, Some(WriteOutcome::Done { read_back: "40".into() })));
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_reading_back() {
    let world = World::new(&[Manner::DoesAndIsSilent]);
    assert!(world.write(40.0).await.is_ok());
    assert_eq!(world.effects(), 1);
    let world = World::new(&[Manner::LosesIt]);
    assert!(world.write(40.0).await.is_ok(), "issued again once");
    assert_eq!(world.effects(), 1);
    let world = World::new(&[Manner::LosesIt, Manner::LosesIt]);
    assert!(matches!(world.write(40.0).await, Err(TaskError::Unknown(_))));
    assert_eq!((world.effects(), world.notebook.tickets.lock().expect("not poisoned").len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_may_still_be_on_its_way_is_waited_for() {
    let mut world = World::new(&[Manner::DoesItLater]);
    world.valve.settle = Duration::from_secs(2);
    assert!(world.write(40.0).await.is_ok());
    tokio::time::sleep(Duration::from_secs(5)).await;
    world.valve.read().await.expect("answers");
    assert_eq!(world.effects(), 1, "no second command");
    let mut world = World::new(&[Manner::LosesIt]);
    world.valve.settle = Duration::from_secs(2);
    assert!(world.write(40.0).await.is_ok(), "it is lost, and issued again once");
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn a_device_that_does_something_else_is_a_persons_matter() {
    let world = World::new(&[Manner::DoesSomethingElse]);
    assert!(matches!(world.write(40.0).await, Err(TaskError::Unknown(_))));
    assert!(matches!(world.outcome(), Some(WriteOutcome::Unknown { .. })));
}

#[tokio::test]
async fn refused_and_unreachable_are_told_apart() {
    let world = World::new(&[Manner::Refuses]);
    assert!(matches!(world.write(40.0).await, Err(TaskError::Fatal(_))));
    let world = World::new(&[Manner::CannotBeReached]);
    assert!(matches!(world.write(40.0).await, Err(TaskError::Retry { class: "network", .. })));
    assert!(world.write(40.0).await.is_ok(), "nothing was sent, so it may be tried again");
    assert_eq!(world.effects(), 1);
}

#[tokio::test]
async fn limits_and_modes_keep_the_device_untouched() {
    for value in [-1.0, 100.5, f64::NAN, f64::INFINITY] {
        let world = World::new(&[]);
        assert!(matches!(world.write(value).await, Err(TaskError::Fatal(_))), "{value}");
        assert_eq!(world.effects(), 0);
    }
    for mode in [Mode::DryRun, Mode::Shadow] {
        let world = World { mode, ..World::new(&[]) };
        assert!(world.write(40.0).await.is_ok());
        assert_eq!(world.effects(), 0);
        assert!(matches!(world.outcome(), Some(WriteOutcome::Skipped { .. })));
    }
}

#[tokio::test]
async fn a_point_that_was_just_written_is_waited_for_within_the_deadline() {
    // Free at 5 s, looked at again then: written. At 12 s only: late, not sent.
    for (comes_back_s, effects) in [(5, 1), (12, 0)] {
        let world = World::new(&[]);
        *world.notebook.taken_until.lock().expect("not poisoned") = 5_000_000;
        let Ok(TaskStep::Wait(WaitFor::Until(until), data)) = world.write(40.0).await else {
            panic!("does not wait")
        };
        assert_eq!((until, world.effects(), world.outcome()), (Time(5_000_000), 0, None));
        *world.clock.0.lock().expect("not poisoned") = comes_back_s * 1_000_000;
        let written = world.write_after(40.0, Some(&data)).await;
        assert_eq!((written.is_ok(), world.effects()), (effects == 1, effects), "{written:?}");
    }
    let world = World::new(&[]);
    *world.notebook.taken_until.lock().expect("not poisoned") = 10_000_000;
    assert!(matches!(world.write(40.0).await, Err(TaskError::Fatal(_))), "its turn is after its deadline");
    assert!(matches!(world.outcome(), Some(WriteOutcome::Refused { .. })));
    assert!(matches!(world.write_after(40.0, Some(&[1])).await, Err(TaskError::Fatal(_))));
    assert_eq!(world.effects(), 0);
}

/// A crash at each call of the journal, then a restart after `later_s`.
#[tokio::test]
async fn after_a_crash_never_twice_and_never_late() {
    for calls in 0..3 {
        for later_s in [0, 9, 11] {
            for manner in [Manner::Does, Manner::DoesAndIsSilent, Manner::LosesIt] {
                let world = World::new(&[manner]);
                *world.notebook.calls_left.lock().expect("not poisoned") = calls;
                let first = world.write(40.0).await;
                let effects_before = world.effects();
                let crashed = matches!(&first, Err(TaskError::Fatal(message)) if message == "crash");
                if !crashed {
                    assert_eq!(world.effects(), 1);
                    continue;
                }
                *world.clock.0.lock().expect("not poisoned") = later_s * 1_000_000;
                *world.notebook.calls_left.lock().expect("not poisoned") = 100;
                let intent_was_open = world.notebook.intent.lock().expect("not poisoned").is_some();
                let second = world.write(40.0).await;
                assert!(world.effects() <= 1, "{calls} {later_s} {manner:?}: twice");
                if later_s > 10 && intent_was_open {
                    assert_eq!(world.effects(), effects_before, "{calls} {later_s} {manner:?}: late");
                }
                assert!(world.outcome().is_some(), "{calls} {later_s} {manner:?}: {second:?}");
            }
        }
    }
}
