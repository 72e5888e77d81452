//! The life of a write to a device: INTENT, write, read-back, DONE. Never
//! twice, never late, never outside its limits; where nobody can tell, a
//! person is asked. What is known of earlier attempts comes from the journal
//! alone: a restart forgets nothing.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::error::TaskError;
use crate::planted;
use crate::schema::StreamSchema;
use crate::task::{Mode, TaskContext, TaskStep, Ticket, WaitFor, WriteIntent, WriteOutcome, WriteRule};
use crate::time::Time;

/// A point of a device that is set to a value and can be read back.
#[async_trait]
pub trait Device: Send + Sync {
    /// The value the point has now.
    ///
    /// # Errors
    /// `Retry`, if the device cannot be asked; reading has no effect.
    async fn read(&self) -> Result<f64, TaskError>;

    /// Sets the point, once.
    ///
    /// # Errors
    /// Says what is known of the effect.
    async fn write(&self, value: f64) -> Result<(), NotWritten>;

    /// How much longer a command that nobody answered may be on its way, as far
    /// as the line can know: a second one is not sent before that. A device that
    /// keeps a command for longer executes both; they set the same value.
    fn settle(&self) -> Duration {
        Duration::ZERO
    }
}

/// Why a write did not succeed, and what is known of its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// It never left this machine: it may be tried again.
    NotSent(String),
    /// The device answered that it did not do it.
    Refused(String),
    /// It was sent and not answered: it may have happened.
    Unknown(String),
}

/// A write that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The point's name in the journal and in `[writes]`.
    pub target: &'a str,
    /// The value.
    pub value: f64,
    /// How long after the attempt's start it may still be sent.
    pub deadline: Duration,
    /// What the wait for its turn left behind, if it has waited: its deadline
    /// goes on from there.
    pub waited: Option<&'a [u8]>,
}

/// One write in flight for each device.
#[derive(Debug, Default)]
pub struct WriteGate(Mutex<()>);

/// The read-back is tried this often, for devices that take a moment.
const READ_BACK_ATTEMPTS: u32 = 5;
/// With this much time in between.
const READ_BACK_WAIT: Duration = Duration::from_millis(50);
/// Values that differ by less than this part are equal: a device may keep
/// single precision.
const RELATIVE_TOLERANCE: f64 = 1e-6;

/// Columns of a write's result: `target`, `value`, `before`, `read_back`,
/// `state` (`done` or `skipped`).
#[must_use]
pub fn result_schema() -> StreamSchema {
    StreamSchema::new(
        vec![
            Field::new("target", DataType::Utf8, false),
            Field::new("value", DataType::Float64, false),
            Field::new("before", DataType::Float64, true),
            Field::new("read_back", DataType::Float64, true),
            Field::new("state", DataType::Utf8, false),
        ],
        None,
    )
}

/// The result of a write that a person calls done.
///
/// # Errors
/// The journal's line is damaged.
pub fn result_of(intent: &WriteIntent) -> Result<RecordBatch, TaskError> {
    result(&intent.target, number(&intent.value)?, number(&intent.before).ok(), None, "done")
}

/// Writes once, as the journal and the limits allow. While the point may not
/// be written yet it answers `Wait`: hand the data back as `Wanted::waited`.
///
/// # Errors
/// `Fatal` if it must not be written, `Retry` if nothing was sent, `Unknown`
/// if nobody can tell (a ticket is open then).
pub async fn write(
    context: &TaskContext,
    device: &dyn Device,
    wanted: &Wanted<'_>,
    rules: &[WriteRule],
    gate: &WriteGate,
) -> Result<TaskStep, TaskError> {
    // Waiting for the gate counts: a command is not sent later because others were before it.
    let deadline = match wanted.waited {
        Some(data) => deadline_of(data)?,
        None => context.clock.now().plus(wanted.deadline).min(context.deadline),
    };
    let _turn = gate.0.lock().await;
    let key = context.idempotency_key.as_str();
    let writer = Writer { context, device, wanted, key };
    let earlier = context.ledger.writes(key).await?;
    let open: Vec<&WriteIntent> =
        earlier.iter().filter(|(_, outcome)| outcome.is_none()).map(|(intent, _)| intent).collect();
    if let Some(intent) = open.last() {
        return writer.after_crash(intent, open.len() == 1).await;
    }
    match earlier.last() {
        // Only the task's result was lost.
        Some((intent, Some(WriteOutcome::Done { read_back }))) => {
            return done(wanted, number(&intent.before).ok(), number(read_back).ok(), "done");
        }
        Some((intent, Some(WriteOutcome::Unknown { .. }))) => return writer.after_unknown(intent).await,
        // Nothing was sent.
        Some((_, Some(WriteOutcome::Refused { .. } | WriteOutcome::Skipped { .. }) | None)) | None => {}
    }
    if context.mode != Mode::Armed {
        return writer.skip().await;
    }
    let rule = writer.allowed(rules).await?;
    let before = device.read().await?;
    let intent = WriteIntent {
        target: wanted.target.to_owned(),
        value: wanted.value.to_string(),
        before: before.to_string(),
        deadline: deadline.0,
    };
    // From here on a crash leaves an intent behind.
    if planted!(IntentAfterWrite) {
        device.write(wanted.value).await.ok();
    }
    if let Some(until) = context.ledger.intent(key, &intent, rule.every_min).await? {
        return writer.wait_for_turn(until, deadline).await;
    }
    if planted!(IntentAfterWrite) {
        return writer.finish(before, wanted.value).await;
    }
    writer.send(&intent, true).await
}

struct Writer<'a> {
    context: &'a TaskContext,
    device: &'a dyn Device,
    wanted: &'a Wanted<'a>,
    key: &'a str,
}

impl Writer<'_> {
    /// Nothing is sent; the journal says what would have been.
    async fn skip(&self) -> Result<TaskStep, TaskError> {
        let mode = if self.context.mode == Mode::Shadow { "shadow" } else { "dry-run" };
        let outcome = WriteOutcome::Skipped { mode: mode.into() };
        self.context.ledger.not_sent(self.key, &self.unsent(), &outcome).await?;
        done(self.wanted, None, None, "skipped")
    }

    /// The rule of the daemon's configuration that allows it.
    async fn allowed<'r>(&self, rules: &'r [WriteRule]) -> Result<&'r WriteRule, TaskError> {
        let Wanted { target, value, .. } = self.wanted;
        let Some(rule) = rules.iter().find(|rule| rule.target == *target) else {
            let message = format!("{target} is not in the daemon's [writes], so it is not written");
            return Err(self.forbid(message).await);
        };
        if !(rule.min..=rule.max).contains(value) && !planted!(LimitsIgnored) {
            let message =
                format!("{value} is outside of the limits of {target}, {} to {}", rule.min, rule.max);
            return Err(self.forbid(message).await);
        }
        Ok(rule)
    }

    /// Another write to the point was too short ago, or is under way. The wait
    /// is no attempt, and ends where the write would be late.
    async fn wait_for_turn(&self, until: Time, deadline: Time) -> Result<TaskStep, TaskError> {
        if until >= deadline {
            let target = self.wanted.target;
            let reason =
                format!("{target} may not be written before {until}, and the deadline is {deadline}");
            return Err(self.forbid(reason).await);
        }
        Ok(TaskStep::Wait(WaitFor::Until(until), deadline.0.to_le_bytes().to_vec()))
    }

    /// What stands in the journal for a write of which nothing was sent.
    fn unsent(&self) -> WriteIntent {
        let (target, value) = (self.wanted.target.to_owned(), self.wanted.value.to_string());
        WriteIntent { target, value, before: String::new(), deadline: 0 }
    }

    async fn forbid(&self, reason: String) -> TaskError {
        let outcome = WriteOutcome::Refused { reason: reason.clone() };
        match self.context.ledger.not_sent(self.key, &self.unsent(), &outcome).await {
            Ok(()) => TaskError::Fatal(reason),
            Err(error) => error,
        }
    }

    async fn refuse(&self, reason: String) -> TaskError {
        let outcome = WriteOutcome::Refused { reason: reason.clone() };
        match self.context.ledger.outcome(self.key, &outcome).await {
            Ok(()) => TaskError::Fatal(reason),
            Err(error) => error,
        }
    }

    /// Sends and reads back. `may_repeat`: it has been sent once at most.
    async fn send(&self, intent: &WriteIntent, may_repeat: bool) -> Result<TaskStep, TaskError> {
        let (now, deadline) = (self.context.clock.now(), Time(intent.deadline));
        if now >= deadline && !planted!(DeadlineIgnored) {
            let reason = format!("the deadline of {} has passed; not sent", self.wanted.target);
            return Err(if may_repeat { self.refuse(reason).await } else { self.unknown(reason).await });
        }
        // What was intended counts, not what an expression gives today.
        let value = number(&intent.value)?;
        let sent = tokio::time::timeout(deadline.since(now), self.device.write(value)).await;
        match sent.unwrap_or_else(|_| Err(NotWritten::Unknown("no answer before the deadline".into()))) {
            Ok(()) => self.read_back(intent, None, false).await,
            // It stood in the place of one that was sent: a further attempt would
            // be a third command.
            Err(NotWritten::NotSent(reason) | NotWritten::Refused(reason)) if !may_repeat => {
                Err(self.unknown(format!("{reason}, after a command that has done nothing")).await)
            }
            Err(NotWritten::NotSent(reason)) => {
                let outcome = WriteOutcome::Refused { reason: reason.clone() };
                self.context.ledger.outcome(self.key, &outcome).await?;
                Err(TaskError::retry("network", reason))
            }
            Err(NotWritten::Refused(reason)) => Err(self.refuse(reason).await),
            Err(NotWritten::Unknown(reason)) if planted!(UnknownSentAgain) && may_repeat => {
                self.repeat(intent, &reason).await
            }
            Err(NotWritten::Unknown(reason)) => self.read_back(intent, Some(reason), may_repeat).await,
        }
    }

    /// What the device says decides. `doubt`: why the write itself is uncertain.
    async fn read_back(
        &self,
        intent: &WriteIntent,
        doubt: Option<String>,
        may_repeat: bool,
    ) -> Result<TaskStep, TaskError> {
        let (value, before) = (number(&intent.value)?, number(&intent.before)?);
        let mut found = self.look_for(value).await;
        let settle = self.device.settle();
        if may_repeat && !settle.is_zero() && found.is_some_and(|found| !equal(found, value)) {
            tokio::time::sleep(settle).await;
            found = self.look_for(value).await;
        }
        let target = self.wanted.target;
        let reason = doubt.unwrap_or_else(|| "the device took it".into());
        match found {
            Some(found) if equal(found, value) => self.finish(before, found).await,
            Some(found) if equal(found, before) && may_repeat => self.repeat(intent, &reason).await,
            Some(found) => {
                Err(self.unknown(format!("{reason}, but {target} reads {found} and not {value}")).await)
            }
            None => Err(self.unknown(format!("{reason}, and {target} cannot be read back")).await),
        }
    }

    /// What the device reads: the value, as soon as it does.
    async fn look_for(&self, value: f64) -> Option<f64> {
        let mut found = None;
        for attempt in 0..READ_BACK_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(READ_BACK_WAIT).await;
            }
            found = self.device.read().await.ok();
            if found.is_some_and(|found| equal(found, value)) {
                break;
            }
        }
        found
    }

    /// It did not happen, and setting the same value again is the same effect:
    /// one more command, if there is time. A second line in the journal says,
    /// after a crash too, that there will be no third.
    async fn repeat(&self, intent: &WriteIntent, reason: &str) -> Result<TaskStep, TaskError> {
        if self.context.clock.now() >= Time(intent.deadline) && !planted!(DeadlineIgnored) {
            let message = format!("{reason}; {} reads what it was before", self.wanted.target);
            return Err(self.unknown(message).await);
        }
        if self.context.ledger.intent(self.key, intent, Duration::ZERO).await?.is_some() {
            return Err(self.unknown(format!("{reason}, and another write has begun")).await);
        }
        Box::pin(self.send(intent, false)).await
    }

    /// An earlier process recorded an intent and no result.
    async fn after_crash(&self, intent: &WriteIntent, may_repeat: bool) -> Result<TaskStep, TaskError> {
        let reason = format!("interrupted while writing {}", self.wanted.target);
        if planted!(CrashSentAgain) {
            return self.send(intent, may_repeat).await;
        }
        match self.device.read().await {
            Ok(_) => self.read_back(intent, Some(reason), may_repeat).await,
            // The device may be back before the deadline.
            Err(error) if self.context.clock.now() < Time(intent.deadline) => Err(error),
            Err(_) => Err(self.unknown(format!("{reason}; it cannot be read")).await),
        }
    }

    /// A person lets the run go on: nothing is sent, the device says what it has.
    async fn after_unknown(&self, intent: &WriteIntent) -> Result<TaskStep, TaskError> {
        let found = self.device.read().await?;
        if equal(found, number(&intent.value)?) {
            return done(self.wanted, number(&intent.before).ok(), Some(found), "done");
        }
        Err(TaskError::Unknown(format!("{} reads {found} and not {}", self.wanted.target, intent.value)))
    }

    async fn finish(&self, before: f64, read_back: f64) -> Result<TaskStep, TaskError> {
        let outcome = WriteOutcome::Done { read_back: read_back.to_string() };
        if !planted!(OutcomeForgotten) {
            self.context.ledger.outcome(self.key, &outcome).await?;
        }
        done(self.wanted, Some(before), Some(read_back), "done")
    }

    /// Nobody can tell: a person decides.
    async fn unknown(&self, reason: String) -> TaskError {
        let ticket = Ticket {
            title: format!("Check {}: was {} written?", self.wanted.target, self.wanted.value),
            severity: "high".into(),
            body: format!("Run {}, task {}: {reason}.", self.context.run_id, self.context.task_id),
        };
        let outcome = WriteOutcome::Unknown { reason: reason.clone() };
        let told = async {
            // The ticket first: with the outcome first, a crash in between would lose it.
            if !planted!(TicketForgotten) {
                self.context.ledger.open_ticket(&format!("{}/unknown", self.key), &ticket).await?;
            }
            self.context.ledger.outcome(self.key, &outcome).await
        };
        match told.await {
            Ok(()) => TaskError::Unknown(reason),
            Err(error) => error,
        }
    }
}

/// The deadline that `wait_for_turn` left behind.
fn deadline_of(data: &[u8]) -> Result<Time, TaskError> {
    let micros = data.try_into().map(i64::from_le_bytes);
    micros.map(Time).map_err(|_| TaskError::Fatal(format!("a damaged wait in the journal: {data:?}")))
}

/// A value of the journal.
fn number(text: &str) -> Result<f64, TaskError> {
    text.parse().map_err(|_| TaskError::Fatal(format!("a damaged line in the journal: {text:?}")))
}

fn equal(left: f64, right: f64) -> bool {
    (left - right).abs() <= RELATIVE_TOLERANCE * left.abs().max(right.abs()).max(1.0)
}

fn done(
    wanted: &Wanted<'_>,
    before: Option<f64>,
    read_back: Option<f64>,
    state: &str,
) -> Result<TaskStep, TaskError> {
    result(wanted.target, wanted.value, before, read_back, state).map(|rows| TaskStep::Done(vec![rows]))
}

fn result(
    target: &str,
    value: f64,
    before: Option<f64>,
    read_back: Option<f64>,
    state: &str,
) -> Result<RecordBatch, TaskError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![target])),
        Arc::new(Float64Array::from(vec![value])),
        Arc::new(Float64Array::from(vec![before])),
        Arc::new(Float64Array::from(vec![read_back])),
        Arc::new(StringArray::from(vec![state])),
    ];
    let batch = RecordBatch::try_new(result_schema().columns, columns);
    batch.map_err(|error| TaskError::Fatal(error.to_string()))
}

#[cfg(test)]
mod histories;
#[cfg(test)]
mod tests;
