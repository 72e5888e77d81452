//! A journal in memory, and a task that writes to a device: what the flow
//! engine does around a device write, without a flow.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, RecordBatch};
use async_trait::async_trait;
use tidegate_connectors::TASKS;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::expression::Scope;
use tidegate_engine::task::{
    EffectLedger, Mode, Notice, TaskContext, TaskPart, TaskScope, TaskStep, Ticket, WriteIntent,
    WriteOutcome, WriteRule,
};
use tidegate_engine::time::{Clock, SystemClock, Time};
use tidegate_engine::topology::node::BuildContext;

use crate::topology;

/// What was recorded, in order.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Vec<(WriteIntent, Option<WriteOutcome>)>>, Mutex<Vec<String>>);

impl Ledger {
    pub(crate) fn writes(&self) -> Vec<(WriteIntent, Option<WriteOutcome>)> {
        self.0.lock().expect("no panic").clone()
    }

    pub(crate) fn tickets(&self) -> Vec<String> {
        self.1.lock().expect("no panic").clone()
    }
}

#[async_trait]
impl EffectLedger for Ledger {
    async fn intent(&self, _: &str, intent: &WriteIntent, _: Duration) -> Result<Option<Time>, TaskError> {
        self.0.lock().expect("no panic").push((intent.clone(), None));
        Ok(None)
    }

    async fn writes(&self, _: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError> {
        Ok(Ledger::writes(self))
    }

    async fn outcome(&self, _: &str, outcome: &WriteOutcome) -> Result<(), TaskError> {
        for (_, open) in self.0.lock().expect("no panic").iter_mut().filter(|(_, open)| open.is_none()) {
            *open = Some(outcome.clone());
        }
        Ok(())
    }

    async fn not_sent(&self, _: &str, intent: &WriteIntent, outcome: &WriteOutcome) -> Result<(), TaskError> {
        self.0.lock().expect("no panic").push((intent.clone(), Some(outcome.clone())));
        Ok(())
    }

    async fn open_ticket(&self, _: &str, ticket: &Ticket) -> Result<i64, TaskError> {
        self.1.lock().expect("no panic").push(ticket.body.clone());
        Ok(1)
    }

    async fn notify(&self, _: &str, _: &Notice) -> Result<(), TaskError> {
        Ok(())
    }
}

/// Builds a task that writes; `value` in its keys is the column `wanted`.
pub(crate) fn build(kind: &str, keys: &str, context: &BuildContext) -> Result<TaskPart, ConfigError> {
    let node = topology::node(&format!("[sink.task]\ntype = \"{kind}\"\nvalue = \"wanted\"\n{keys}\n"));
    let row = TASKS.iter().find(|row| row.name == kind).expect("a row");
    let scope = TaskScope {
        values: Scope::of(&values(0.0).schema()),
        trigger: None,
        results: Vec::new(),
        tables: Vec::new(),
    };
    (row.build)(&node, context, &scope)
}

/// A context that lets this point be written.
pub(crate) fn allowing(target: &str) -> BuildContext {
    let rule = WriteRule { target: target.to_owned(), min: -1e12, max: 1e12, every_min: Duration::ZERO };
    let mut context = topology::build_context();
    context.writes = Arc::new(vec![rule]);
    context
}

fn values(wanted: f64) -> RecordBatch {
    let column: ArrayRef = Arc::new(Float64Array::from(vec![wanted]));
    RecordBatch::try_from_iter([("wanted", column)]).expect("one column")
}

/// Starts the task once with this value.
pub(crate) async fn start(part: &TaskPart, wanted: f64, ledger: &Arc<Ledger>) -> Result<TaskStep, TaskError> {
    let clock = Arc::new(SystemClock);
    let context = TaskContext {
        values: values(wanted),
        trigger_rows: Vec::new(),
        results: Vec::new(),
        run_id: "run".into(),
        flow: "flow".into(),
        task_id: "set".into(),
        attempt: 1,
        idempotency_key: "key".into(),
        fired_at: clock.now(),
        deadline: clock.now().plus(Duration::from_secs(30)),
        mode: Mode::Armed,
        clock,
        ledger: Arc::clone(ledger) as Arc<dyn EffectLedger>,
    };
    let started = tokio::time::timeout(Duration::from_secs(60), part.task.start(&context)).await;
    started.expect("the task ends in time")
}
