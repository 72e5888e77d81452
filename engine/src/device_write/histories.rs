//! Every place to die, twice, times every mishap of a device, and random
//! histories with more of both: what must hold whatever happens. The device and
//! the journal outlive the daemon.

use std::collections::HashMap;
use std::sync::Mutex as StdMutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::task::{EffectLedger, Notice};
use crate::testing::seed::Seed;
use crate::time::Clock;

#[derive(Debug, Default)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::SeqCst))
    }
}

/// Where a life ends: at which step, before or after it.
type Death = Option<(usize, bool)>;

/// Counts what the daemon does to the world, and ends its life there.
#[derive(Debug, Default)]
struct Doom {
    steps: AtomicUsize,
    at: StdMutex<Death>,
    died: Notify,
}

impl Doom {
    async fn step(&self, after: bool) {
        let begun = if after { 0 } else { 1 };
        let step = self.steps.fetch_add(begun, Ordering::SeqCst) + begun;
        let dies = *self.at.lock().expect("not poisoned") == Some((step, after));
        if dies {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
    }

    fn arm(&self, at: Death) {
        self.steps.store(0, Ordering::SeqCst);
        *self.at.lock().expect("not poisoned") = at;
    }
}

type Writes = HashMap<String, Vec<(WriteIntent, Option<WriteOutcome>)>>;

/// What is durable: it survives when the daemon dies.
#[derive(Debug, Default)]
struct MemoryLedger {
    doom: Arc<Doom>,
    writes: StdMutex<Writes>,
    tickets: StdMutex<Vec<String>>,
}

#[async_trait]
impl EffectLedger for MemoryLedger {
    async fn intent(&self, key: &str, intent: &WriteIntent, _: Duration) -> Result<Option<Time>, TaskError> {
        self.doom.step(false).await;
        self.writes.lock().expect("not poisoned").entry(key.into()).or_default().push((intent.clone(), None));
        self.doom.step(true).await;
        Ok(None)
    }

    async fn writes(&self, key: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError> {
        Ok(self.writes.lock().expect("not poisoned").get(key).cloned().unwrap_or_default())
    }

    async fn outcome(&self, key: &str, outcome: &WriteOutcome) -> Result<(), TaskError> {
        self.doom.step(false).await;
        for (_, open) in self.writes.lock().expect("not poisoned").entry(key.into()).or_default() {
            open.get_or_insert_with(|| outcome.clone());
        }
        self.doom.step(true).await;
        Ok(())
    }

    async fn not_sent(&self, _: &str, _: &WriteIntent, _: &WriteOutcome) -> Result<(), TaskError> {
        Ok(())
    }

    async fn open_ticket(&self, key: &str, _: &Ticket) -> Result<i64, TaskError> {
        self.doom.step(false).await;
        let mut tickets = self.tickets.lock().expect("not poisoned");
        if !tickets.iter().any(|known| known == key) {
            tickets.push(key.into());
        }
        Ok(1)
    }

    async fn notify(&self, _: &str, _: &Notice) -> Result<(), TaskError> {
        Ok(())
    }
}

/// What the device does with its next writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mishap {
    Fine,
    NotSent,
    Refused,
    /// Executed, but the answer is lost.
    AnswerLost,
    /// Lost on the way there.
    CommandLost,
    /// Executed, and the device then answers nothing, not even a read.
    Silent,
}

const MISHAPS: [Mishap; 6] =
    [Mishap::Fine, Mishap::NotSent, Mishap::Refused, Mishap::AnswerLost, Mishap::CommandLost, Mishap::Silent];

#[derive(Debug)]
struct PlcState {
    value: f64,
    /// Value and instant of every command that was executed.
    effects: Vec<(f64, Time)>,
    /// Commands that may have been executed, as far as the daemon knows.
    commands: usize,
    mishaps: Vec<Mishap>,
    silent: bool,
}

struct Plc {
    doom: Arc<Doom>,
    clock: Arc<TestClock>,
    state: StdMutex<PlcState>,
}

impl Plc {
    fn state(&self) -> std::sync::MutexGuard<'_, PlcState> {
        self.state.lock().expect("not poisoned")
    }
}

#[async_trait]
impl Device for Plc {
    async fn read(&self) -> Result<f64, TaskError> {
        self.doom.step(false).await;
        let state = self.state();
        if state.silent { Err(TaskError::retry("network", "no answer")) } else { Ok(state.value) }
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        self.doom.step(false).await;
        let mishap = self.state().mishaps.pop().unwrap_or(Mishap::Fine);
        self.state().commands += usize::from(!matches!(mishap, Mishap::NotSent | Mishap::Refused));
        match mishap {
            Mishap::NotSent => return Err(NotWritten::NotSent("no route".into())),
            Mishap::Refused => return Err(NotWritten::Refused("exception 02".into())),
            Mishap::CommandLost => return Err(NotWritten::Unknown("no answer".into())),
            Mishap::Fine | Mishap::AnswerLost | Mishap::Silent => {}
        }
        {
            let mut state = self.state();
            state.value = value;
            state.effects.push((value, self.clock.now()));
            state.silent = mishap == Mishap::Silent;
        }
        self.doom.step(true).await;
        if mishap == Mishap::Fine { Ok(()) } else { Err(NotWritten::Unknown("no answer".into())) }
    }
}

const TARGET: &str = "tcp://plc:502/1/holding:40";

struct World {
    doom: Arc<Doom>,
    clock: Arc<TestClock>,
    ledger: Arc<MemoryLedger>,
    plc: Plc,
}

impl World {
    fn new(mishaps: &[Mishap]) -> World {
        let doom = Arc::new(Doom::default());
        let clock = Arc::new(TestClock::default());
        let ledger = Arc::new(MemoryLedger { doom: Arc::clone(&doom), ..MemoryLedger::default() });
        let mishaps = mishaps.iter().rev().copied().collect();
        let state =
            StdMutex::new(PlcState { value: 7.0, effects: Vec::new(), commands: 0, mishaps, silent: false });
        let plc = Plc { doom: Arc::clone(&doom), clock: Arc::clone(&clock), state };
        World { doom, clock, ledger, plc }
    }

    /// One life of the daemon: `None` if it died.
    async fn live(&self, death: Death) -> Option<Result<TaskStep, TaskError>> {
        self.doom.arm(death);
        let context = TaskContext {
            values: RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::empty())),
            trigger_rows: Vec::new(),
            results: Vec::new(),
            run_id: "1".into(),
            flow: "f".into(),
            task_id: "open".into(),
            attempt: 1,
            idempotency_key: "k-open".into(),
            fired_at: Time(0),
            deadline: Time::MAX,
            mode: Mode::Armed,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            ledger: Arc::clone(&self.ledger) as Arc<dyn EffectLedger>,
        };
        let rules = [WriteRule { target: TARGET.into(), min: 0.0, max: 2_000.0, every_min: Duration::ZERO }];
        let wanted =
            Wanted { target: TARGET, value: 1_800.0, deadline: Duration::from_secs(10), waited: None };
        let gate = WriteGate::default();
        tokio::select! {
            result = write(&context, &self.plc, &wanted, &rules, &gate) => Some(result),
            () = self.doom.died.notified() => None,
        }
    }

    /// What must hold whatever happened.
    fn judge(&self, what: &str) -> usize {
        let state = self.plc.state();
        let effects = &state.effects;
        assert!(state.commands <= 2, "{what}: {} commands", state.commands);
        assert!(effects.len() <= 1, "{what}: executed twice: {effects:?}");
        let writes = self.ledger.writes.lock().expect("not poisoned");
        let latest = writes.values().flatten().map(|(intent, _)| Time(intent.deadline)).max();
        for (value, at) in effects {
            assert_eq!(*value, 1_800.0, "{what}");
            assert!(Some(*at) < latest, "{what}: late");
        }
        assert!(writes.values().flatten().all(|(_, outcome)| outcome.is_some()), "{what}: left open");
        effects.len()
    }
}

/// One history: lives that may end early, each with the pause after it, then
/// one that does not. An attempt that may be repeated is repeated in the next
/// life. Answers whether it ended with a ticket.
async fn history(mishaps: &[Mishap], lives: &[(Death, i64)]) -> bool {
    let what = format!("{mishaps:?} {lives:?}");
    let world = World::new(mishaps);
    let mut last = None;
    for (death, pause_us) in lives.iter().copied().chain([(None, 0)]) {
        last = world.live(death).await;
        world.clock.0.fetch_add(1_000 + pause_us, Ordering::SeqCst);
        world.plc.state().silent = false;
        if !matches!(last, None | Some(Err(TaskError::Retry { .. }))) {
            break;
        }
    }
    let effects = world.judge(&what);
    let tickets = world.ledger.tickets.lock().expect("not poisoned").len();
    // The result may be lost too: the same is asked again after a restart.
    let ended = last.expect("the last life does not die");
    match &ended {
        Ok(_) => assert_eq!(effects, 1, "{what}: said done"),
        Err(TaskError::Unknown(_)) => assert_eq!(tickets, 1, "{what}: nobody was told"),
        Err(TaskError::Retry { .. } | TaskError::Fatal(_)) => assert_eq!(effects, 0, "{what}: said not done"),
    }
    if !matches!(ended, Err(TaskError::Retry { .. } | TaskError::Fatal(_))) {
        let again = world.live(None).await;
        world.judge(&format!("{what}, asked again after {again:?}"));
    }
    tickets > 0
}

fn deaths() -> Vec<[Death; 2]> {
    let mut points: Vec<Death> = vec![None];
    points.extend((1..=9).flat_map(|step| [Some((step, false)), Some((step, true))]));
    let pairs = points.iter().flat_map(|first| points.iter().map(|second| [*first, *second]));
    pairs.filter(|pair| pair[0].is_some() || pair[1].is_none()).collect()
}

#[tokio::test]
async fn no_crash_and_no_mishap_executes_a_command_twice_or_late_or_loses_it() {
    let mut histories = Vec::new();
    for first in MISHAPS {
        for second in [Mishap::Fine, Mishap::AnswerLost, Mishap::CommandLost] {
            for deaths in deaths() {
                histories.extend([0, 6_000_000, 60_000_000].map(|pause| async move {
                    history(&[first, second], &deaths.map(|death| (death, pause))).await
                }));
            }
        }
    }
    let count = histories.len();
    let all = futures::future::join_all(histories);
    let ended = tokio::time::timeout(Duration::from_secs(60), all).await.expect("in time");
    let tickets = ended.into_iter().filter(|ticket| *ticket).count();
    println!("{count} histories, {tickets} of them ended with a ticket");
    assert!(tickets > 0 && tickets < count / 2, "{tickets} of {count}");
}

/// Random histories in an ordinary run.
const HISTORIES: u64 = 200_000;

/// `TIDEGATE_HISTORIES=2000000` runs more of them.
#[tokio::test(start_paused = true)]
async fn random_histories_with_more_lives_and_mishaps_hold_too() {
    let count =
        std::env::var("TIDEGATE_HISTORIES").map_or(HISTORIES, |count| count.parse().expect("a number"));
    let mut tickets = 0;
    for number in 0..count {
        let mut seed = Seed::new(number);
        let mishaps: Vec<Mishap> = (0..seed.below(6)).map(|_| MISHAPS[seed.below(MISHAPS.len())]).collect();
        let lives: Vec<(Death, i64)> = (0..seed.below(6))
            .map(|_| {
                let death = seed.chance(80).then(|| (1 + seed.below(14), seed.chance(50)));
                let longest = [1_000, 1_000_000, 12_000_000, 100_000_000][seed.below(4)];
                (death, i64::try_from(seed.below(longest)).expect("is small"))
            })
            .collect();
        let held = tokio::time::timeout(Duration::from_secs(600), history(&mishaps, &lives)).await;
        tickets += u64::from(held.expect("does not hang"));
    }
    println!("{count} random histories, {tickets} of them ended with a ticket");
    assert!(tickets > count / 100 && tickets < count / 2, "{tickets} of {count}");
}
