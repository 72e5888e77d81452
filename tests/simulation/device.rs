//! A valve that flows write: it loses requests and replies, executes late,
//! refuses, does something else. It remembers every command it executed.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use tidegate_engine::device_write::{
    Device as Writable, NotWritten, Wanted, WriteGate, result_schema, write,
};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::expression::Expression;
use tidegate_engine::task::{Effect as Effects, Task, TaskContext, TaskPart, TaskScope, TaskStep, WriteRule};
use tidegate_engine::time::Clock;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::world::World;

/// The point's name in the journal.
pub(crate) const TARGET: &str = "simulated/valve";
/// What the daemon's configuration allows.
pub(crate) const LIMITS: (f64, f64) = (0.0, 100.0);
/// A command is not sent later than this.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) const KEYS: &[Key] = &[required("value", Kind::Expression, "the value to set")];

/// What the device has and did.
#[derive(Debug, Default)]
pub(crate) struct Device {
    value: f64,
    /// Commands that it will execute by itself, and when.
    coming: Vec<(i64, Effect)>,
    pub(crate) effects: Vec<Effect>,
}

/// A command that was executed.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) key: String,
    /// What was asked for, and what was set.
    pub(crate) wanted: f64,
    pub(crate) value: f64,
    /// When it was sent, by the wall clock.
    pub(crate) sent_us: i64,
    /// It took its time.
    pub(crate) is_late: bool,
}

impl Effect {
    /// Executed at once and as it was told.
    pub(crate) fn is_plain(&self) -> bool {
        !self.is_late && self.value == self.wanted
    }
}

impl Device {
    fn execute(&mut self, effect: Effect) {
        self.value = effect.value;
        self.effects.push(effect);
    }

    /// What has become due by itself.
    fn pass(&mut self, now_us: i64) {
        let (due, later): (Vec<_>, Vec<_>) = self.coming.drain(..).partition(|(at, _)| *at <= now_us);
        self.coming = later;
        due.into_iter().for_each(|(_, effect)| self.execute(effect));
    }
}

/// The limits as the daemon's configuration gives them.
pub(crate) fn rules(every_min: Duration) -> Vec<WriteRule> {
    vec![WriteRule { target: TARGET.into(), min: LIMITS.0, max: LIMITS.1, every_min }]
}

pub(crate) fn task(
    node: &NodeConfig,
    context: &BuildContext,
    scope: &TaskScope,
) -> Result<TaskPart, ConfigError> {
    let text = node.table.text("value").expect("is required");
    let task = SimWrite {
        world: crate::life::world(context),
        value: context.expressions.compile(text, &scope.values)?,
        rules: Arc::clone(&context.writes),
        gate: context.shared.get_or_insert(TARGET, WriteGate::default),
    };
    Ok(TaskPart { task: Box::new(task), result: result_schema() })
}

struct SimWrite {
    world: Arc<World>,
    value: Arc<dyn Expression>,
    rules: Arc<Vec<WriteRule>>,
    gate: Arc<WriteGate>,
}

impl SimWrite {
    async fn go(&self, context: &TaskContext, waited: Option<&[u8]>) -> Result<TaskStep, TaskError> {
        let value = self.value.evaluate(&context.values).expect("a parameter");
        let value = value.as_primitive::<Int64Type>().value(0) as f64;
        let wanted = Wanted { target: TARGET, value, deadline: DEADLINE, waited };
        let line = Line {
            world: Arc::clone(&self.world),
            key: context.idempotency_key.clone(),
            clock: Arc::clone(&context.clock),
        };
        write(context, &line, &wanted, &self.rules, &self.gate).await
    }
}

#[async_trait]
impl Task for SimWrite {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        self.go(context, None).await
    }

    async fn resume(&self, context: &TaskContext, data: &[u8]) -> Result<TaskStep, TaskError> {
        self.go(context, Some(data)).await
    }

    fn effect(&self) -> Effects {
        Effects::Device
    }
}

/// The line to the device, for one task of one run.
struct Line {
    world: Arc<World>,
    key: String,
    clock: Arc<dyn Clock>,
}

impl Line {
    async fn pause(&self, from_ms: usize, to_ms: usize) {
        let pause = from_ms + self.world.lock().seed.below(to_ms - from_ms);
        tokio::time::sleep(Duration::from_millis(pause as u64)).await;
    }

    /// The device executes a command by itself after a while.
    fn take_time(&self, effect: Effect, now_us: i64) {
        let mut state = self.world.lock();
        let at_us = now_us + state.seed.below(6_000_000) as i64;
        state.device.coming.push((at_us, effect));
    }

    /// The device executes a command now.
    fn execute(&self, effect: Effect) {
        let mut state = self.world.lock();
        state.note(format!("the valve is set to {} by {}", effect.value, effect.key));
        state.device.execute(effect);
    }
}

#[async_trait]
impl Writable for Line {
    async fn read(&self) -> Result<f64, TaskError> {
        self.pause(0, 50).await;
        let now_us = self.world.true_us();
        let mut state = self.world.lock();
        state.device.pass(now_us);
        if state.fault(5) {
            return Err(TaskError::retry("network", "no answer"));
        }
        Ok(state.device.value)
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        let sent_us = self.clock.now().0;
        let effect = Effect { key: self.key.clone(), wanted: value, value, sent_us, is_late: false };
        let now_us = self.world.true_us();
        let fate = {
            let mut state = self.world.lock();
            state.note(format!("a command for {value} of {}", self.key));
            state.device.pass(now_us);
            if state.fault(40) { state.seed.below(7) } else { usize::MAX }
        };
        let unknown = || Err(NotWritten::Unknown("no answer".into()));
        match fate {
            0 => return Err(NotWritten::NotSent("no route".into())),
            1 => {
                self.pause(0, 200).await;
                return Err(NotWritten::Refused("exception 02".into()));
            }
            // The request is lost.
            2 => {
                self.pause(1_000, 3_000).await;
                return unknown();
            }
            // The reply is lost.
            3 | 4 => {
                self.pause(0, 200).await;
                self.execute(effect);
                self.pause(1_000, 3_000).await;
                return unknown();
            }
            // It takes its time.
            5 => {
                self.take_time(Effect { is_late: true, ..effect }, now_us);
                self.pause(1_000, 3_000).await;
                return unknown();
            }
            // It does something else.
            6 => {
                self.execute(Effect { value: value + 1.0, ..effect });
                self.pause(0, 200).await;
                return unknown();
            }
            _ => {}
        }
        self.pause(0, 200).await;
        self.execute(effect);
        self.pause(0, 200).await;
        Ok(())
    }
}
