//! One attempt of a task: called, timed out, its answer turned into an event.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::error::TaskError;
use crate::flow::run::{Failure, FailureKind};
use crate::flow::spec::Flow;
use crate::task::{Effect, RESULT_BYTES_MAX, TaskContext, TaskStep, WaitFor};
use crate::time::Time;

/// A device write ends by its own deadline; after this much more it is given up.
const DEVICE_GRACE: Duration = Duration::from_secs(15);
/// Most bytes that a waiting task may leave in the journal.
const WAIT_BYTES_MAX: usize = 1024 * 1024;

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Answer {
    /// Its result, as rows and as bytes for the journal.
    Done(Vec<RecordBatch>, Vec<u8>),
    /// It goes on at a time.
    Wait(Time, Vec<u8>),
    /// It failed.
    Failed(Failure),
}

/// Makes one attempt of the task with this index.
pub(super) async fn attempt(
    flow: Arc<Flow>,
    index: usize,
    context: TaskContext,
    resume: Option<Vec<u8>>,
) -> Answer {
    let Some(task) = flow.tasks.get(index) else {
        return failed(FailureKind::Fatal, "config", "the flow has no such task");
    };
    let work = async {
        match resume {
            None => task.task.start(&context).await,
            Some(data) => task.task.resume(&context, &data).await,
        }
    };
    let device = task.task.effect() == Effect::Device;
    let limit = if device { task.timeout + DEVICE_GRACE } else { task.timeout };
    match tokio::time::timeout(limit, work).await {
        Ok(Ok(TaskStep::Done(rows))) => done(rows),
        Ok(Ok(TaskStep::Wait(WaitFor::Until(until), data))) if data.len() <= WAIT_BYTES_MAX => {
            Answer::Wait(until, data)
        }
        Ok(Ok(TaskStep::Wait(_, data))) => {
            let message = format!("leaves {} bytes for its wait; at most {WAIT_BYTES_MAX}", data.len());
            failed(FailureKind::Fatal, "size", &message)
        }
        Ok(Err(TaskError::Retry { class, message, not_before })) => {
            failed(FailureKind::Transient(not_before), class, &message)
        }
        Ok(Err(TaskError::Fatal(message))) => failed(FailureKind::Fatal, "fatal", &message),
        Ok(Err(TaskError::Unknown(message))) => failed(FailureKind::Unknown, "unknown", &message),
        Err(_) if device => failed(FailureKind::Unknown, "unknown", "the device write did not end in time"),
        Err(_) => failed(FailureKind::TimedOut, "timeout", &format!("took longer than {limit:?}")),
    }
}

fn done(rows: Vec<RecordBatch>) -> Answer {
    match crate::flow::rows::to_bytes(&rows) {
        Ok(bytes) if bytes.len() <= RESULT_BYTES_MAX => Answer::Done(rows, bytes),
        Ok(bytes) => {
            let message = format!("its result has {} bytes; at most {RESULT_BYTES_MAX}", bytes.len());
            failed(FailureKind::Fatal, "size", &message)
        }
        Err(error) => failed(FailureKind::Fatal, "result", &format!("its result cannot be kept: {error}")),
    }
}

fn failed(kind: FailureKind, class: &str, message: &str) -> Answer {
    Answer::Failed(Failure { kind, class: class.to_owned(), message: message.to_owned() })
}
