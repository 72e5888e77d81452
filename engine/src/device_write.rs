//! The life of a write to a device: INTENT, write, read-back, DONE. Never
//! twice, never late, never outside its limits; where nobody can tell, a
//! person is asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::error::TaskError;
use crate::schema::StreamSchema;
use crate::task::{Mode, TaskContext, TaskStep, Ticket, WriteIntent, WriteOutcome, WriteRule};
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
}

/// One write in flight for each device, and when each point was last written.
#[derive(Debug, Default)]
pub struct WriteGate {
    last: Mutex<HashMap<String, Time>>,
}

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

/// Writes once, as the journal and the limits allow.
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
    let mut last = gate.last.lock().await;
    let key = context.idempotency_key.as_str();
    let writer = Writer { context, device, wanted, key };
    if let Some(intent) = context.ledger.open_intent(key).await? {
        return writer.after_crash(&intent).await;
    }
    writer.check(rules, &last).await?;
    let Some(before) = writer.before().await? else {
        let mode = if context.mode == Mode::Shadow { "shadow" } else { "dry-run" };
        let outcome = WriteOutcome::Skipped { mode: mode.into() };
        context.ledger.not_sent(key, &writer.unsent(), &outcome).await?;
        return done(wanted, None, None, "skipped");
    };
    // From here on a crash leaves an intent behind.
    let deadline = context.clock.now().plus(wanted.deadline);
    let intent = WriteIntent {
        target: wanted.target.to_owned(),
        value: wanted.value.to_string(),
        before: before.to_string(),
        deadline: deadline.0,
    };
    context.ledger.intent(key, &intent).await?;
    last.insert(wanted.target.to_owned(), context.clock.now());
    writer.send(before, deadline, true).await
}

struct Writer<'a> {
    context: &'a TaskContext,
    device: &'a dyn Device,
    wanted: &'a Wanted<'a>,
    key: &'a str,
}

impl Writer<'_> {
    /// Whether the daemon's configuration allows it.
    async fn check(&self, rules: &[WriteRule], last: &HashMap<String, Time>) -> Result<(), TaskError> {
        let Wanted { target, value, .. } = self.wanted;
        if self.context.mode != Mode::Armed {
            return Ok(());
        }
        let Some(rule) = rules.iter().find(|rule| rule.target == *target) else {
            let message = format!("{target} is not in the daemon's [writes], so it is not written");
            return Err(self.forbid(message).await);
        };
        if !(rule.min..=rule.max).contains(value) {
            let message =
                format!("{value} is outside of the limits of {target}, {} to {}", rule.min, rule.max);
            return Err(self.forbid(message).await);
        }
        let now = self.context.clock.now();
        if let Some(last) = last.get(*target).filter(|last| now < last.plus(rule.every_min)) {
            let not_before = Some(last.plus(rule.every_min));
            let message = format!("{target} was written less than {:?} ago", rule.every_min);
            return Err(TaskError::Retry { class: "rate", message, not_before });
        }
        Ok(())
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

    /// The value before; `None` where nothing may be sent.
    async fn before(&self) -> Result<Option<f64>, TaskError> {
        if self.context.mode == Mode::Armed { self.device.read().await.map(Some) } else { Ok(None) }
    }

    /// Sends and reads back. `may_repeat`: it has been sent once at most.
    async fn send(&self, before: f64, deadline: Time, may_repeat: bool) -> Result<TaskStep, TaskError> {
        let now = self.context.clock.now();
        if now >= deadline {
            return Err(self
                .refuse(format!("the deadline of {} has passed; not sent", self.wanted.target))
                .await);
        }
        let sent = tokio::time::timeout(deadline.since(now), self.device.write(self.wanted.value)).await;
        match sent.unwrap_or_else(|_| Err(NotWritten::Unknown("no answer before the deadline".into()))) {
            Ok(()) => self.read_back(before, deadline, None, false).await,
            Err(NotWritten::NotSent(reason)) => {
                self.context
                    .ledger
                    .outcome(self.key, &WriteOutcome::Refused { reason: reason.clone() })
                    .await?;
                Err(TaskError::retry("network", reason))
            }
            Err(NotWritten::Refused(reason)) => Err(self.refuse(reason).await),
            Err(NotWritten::Unknown(reason)) => {
                self.read_back(before, deadline, Some(reason), may_repeat).await
            }
        }
    }

    /// What the device says decides. `doubt`: why the write itself is uncertain.
    async fn read_back(
        &self,
        before: f64,
        deadline: Time,
        doubt: Option<String>,
        may_repeat: bool,
    ) -> Result<TaskStep, TaskError> {
        let mut found = None;
        for attempt in 0..READ_BACK_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(READ_BACK_WAIT).await;
            }
            found = self.device.read().await.ok();
            if found.is_some_and(|found| equal(found, self.wanted.value)) {
                break;
            }
        }
        match found {
            Some(found) if equal(found, self.wanted.value) => self.finish(before, found).await,
            Some(found) if equal(found, before) && may_repeat && self.context.clock.now() < deadline => {
                // It did not happen, and setting the same value again is the same effect.
                Box::pin(self.send(before, deadline, false)).await
            }
            Some(found) => {
                let reason = doubt.unwrap_or_else(|| "the device took it".into());
                Err(self
                    .unknown(format!(
                        "{reason}, but {} reads {found} and not {}",
                        self.wanted.target, self.wanted.value
                    ))
                    .await)
            }
            None => {
                let reason = doubt.unwrap_or_else(|| "the device took it".into());
                Err(self.unknown(format!("{reason}, and {} cannot be read back", self.wanted.target)).await)
            }
        }
    }

    /// An earlier process recorded an intent and no result.
    async fn after_crash(&self, intent: &WriteIntent) -> Result<TaskStep, TaskError> {
        let parse = |text: &str| {
            text.parse::<f64>().map_err(|_| TaskError::Fatal(format!("a damaged intent: {text:?}")))
        };
        let (value, before) = (parse(&intent.value)?, parse(&intent.before)?);
        let now = self.context.clock.now();
        match self.device.read().await {
            Ok(found) if equal(found, value) => self.finish(before, found).await,
            Ok(found) if equal(found, before) && now < Time(intent.deadline) => {
                self.send(before, Time(intent.deadline), false).await
            }
            Ok(found) => {
                let message = format!("interrupted while writing {}; it reads {found}", self.wanted.target);
                Err(self.unknown(message).await)
            }
            Err(error) if now < Time(intent.deadline) => Err(error),
            Err(_) => Err(self
                .unknown(format!("interrupted while writing {}; it cannot be read", self.wanted.target))
                .await),
        }
    }

    async fn finish(&self, before: f64, read_back: f64) -> Result<TaskStep, TaskError> {
        let outcome = WriteOutcome::Done { read_back: read_back.to_string() };
        self.context.ledger.outcome(self.key, &outcome).await?;
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
            self.context.ledger.outcome(self.key, &outcome).await?;
            self.context.ledger.open_ticket(&format!("{}/unknown", self.key), &ticket).await
        };
        match told.await {
            Ok(_) => TaskError::Unknown(reason),
            Err(error) => error,
        }
    }
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
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![wanted.target])),
        Arc::new(Float64Array::from(vec![wanted.value])),
        Arc::new(Float64Array::from(vec![before])),
        Arc::new(Float64Array::from(vec![read_back])),
        Arc::new(StringArray::from(vec![state])),
    ];
    let batch = RecordBatch::try_new(result_schema().columns, columns);
    batch.map(|batch| TaskStep::Done(vec![batch])).map_err(|error| TaskError::Fatal(error.to_string()))
}

#[cfg(test)]
mod tests;
