//! Reads a source ahead into the log, so that one fsync covers what came during
//! the one before it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::payload::encode;
use super::silence::Waiting;
use super::unique::Unique;
use crate::error::ConnectorError;
use crate::source::{Polled, Rows, Source};
use crate::storage::group::{GroupLog, Ticket};
use crate::time::{Clock, Time};

/// Reads that are on their way to be durable.
const ARRIVALS_MAX: usize = 32;

/// Rows on their way to be durable.
pub(super) struct Logged {
    pub(super) rows: Rows,
    pub(super) received: Time,
    pub(super) ticket: Ticket,
}

/// A read, in order.
pub(super) enum Arrival {
    /// Rows.
    Rows(Logged),
    /// What passes as it is.
    Other(Polled),
    /// The source cannot go on; the last word.
    Failed(ConnectorError),
}

/// What a pump needs besides its source.
pub(super) struct Line {
    pub(super) node: String,
    pub(super) log: GroupLog,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) unique: Arc<Mutex<Unique>>,
    /// Whether the source wants its position back after a crash.
    pub(super) remembers: bool,
}

/// A source that is being read.
pub(super) struct Pump {
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Box<dyn Source>>,
}

impl Pump {
    /// Starts to read an open source.
    pub(super) fn start(source: Box<dyn Source>, line: Line) -> Pump {
        let (sender, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(pump(source, line, sender, stopped));
        Pump { arrivals, stop, task }
    }

    /// Stops reading; `arrivals` ends after what was read already.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Gives the source back.
    pub(super) async fn source(mut self) -> Result<Box<dyn Source>, ConnectorError> {
        self.arrivals.close();
        self.task.await.map_err(|error| ConnectorError::Fatal(format!("the source's task has died: {error}")))
    }
}

async fn pump(
    mut source: Box<dyn Source>,
    line: Line,
    arrivals: mpsc::Sender<Arrival>,
    mut stop: watch::Receiver<bool>,
) -> Box<dyn Source> {
    loop {
        let polled = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return source,
            polled = source.next() => polled,
        };
        line.waiting.add();
        let arrival = match polled {
            Ok(Polled::Rows(rows)) => logged(rows, &line).await,
            Ok(other) => Arrival::Other(other),
            Err(error) => Arrival::Failed(error),
        };
        let is_last = matches!(arrival, Arrival::Failed(_) | Arrival::Other(Polled::End));
        if arrivals.send(arrival).await.is_err() || is_last {
            return source;
        }
    }
}

async fn logged(mut rows: Rows, line: &Line) -> Arrival {
    let now = line.clock.now();
    // Rows that are left out are acknowledged with a record of none: what came
    // first is in the log before it.
    let only_new = line.unique.lock().unwrap_or_else(PoisonError::into_inner).only_new(rows.batch);
    match only_new {
        Ok((batch, repeated)) => {
            rows.batch = batch;
            if repeated > 0 {
                metrics::counter!("tidegate_source_repeated_rows_total", "node" => line.node.clone())
                    .increment(repeated as u64);
            }
        }
        Err(error) => return Arrival::Failed(ConnectorError::Fatal(format!("cannot compare rows: {error}"))),
    }
    let position = line.remembers.then_some(&rows.position);
    let encoded = encode(rows.partition, &rows.batch, rows.rejects.as_ref(), position);
    let bytes = match encoded {
        Ok(bytes) => bytes,
        Err(error) => return Arrival::Failed(ConnectorError::Fatal(format!("cannot log rows: {error}"))),
    };
    match line.log.append(now.0, bytes).await {
        Ok(ticket) => Arrival::Rows(Logged { rows, received: now, ticket }),
        Err(error) => Arrival::Failed(ConnectorError::Fatal(error.to_string())),
    }
}
