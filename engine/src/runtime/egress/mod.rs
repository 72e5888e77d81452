//! A queue on disk in front of a sink: rows are durable when the sink's peer
//! may still be away. A task delivers them in order, at least once; whatever
//! the peer does, checkpoints, stops and other branches go on.

pub(crate) mod cursor;
mod deliver;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::deliver::{Delivery, Orders, Progress};
use super::stats::NodeStats;
use crate::dead_letters::DeadLetters;
use crate::error::ConnectorError;
use crate::sink::Sink;
use crate::storage::blocking::blocking;
use crate::storage::epoch_log::EpochLog;
use crate::storage::log::LogError;
use crate::storage::vfs::Vfs;
use crate::time::Clock;
use crate::topology::delivery::{Queue, RetryPolicy, WhenFull};

/// A full queue or disk is looked at again after this time.
const RETRY: Duration = Duration::from_millis(500);
/// How long a stop waits for what is queued; with `--once` as long as there is
/// progress.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Segments are removed, and dropped, as a whole.
const SEGMENT_BYTES: u64 = 4 << 20;
/// One line at most in this time about rows that are dropped.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What a queue needs.
pub(super) struct Settings {
    pub(super) node: String,
    pub(super) folder: PathBuf,
    pub(super) vfs: Arc<dyn Vfs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Queue,
    pub(super) retry: RetryPolicy,
    pub(super) stats: Arc<NodeStats>,
    pub(super) dead: DeadLetters,
}

/// A sink behind its queue.
pub(super) struct QueuedSink {
    settings: Arc<Settings>,
    /// The sink itself, until the task has it.
    inner: Option<Box<dyn Sink>>,
    running: Option<Running>,
    pending: Vec<RecordBatch>,
    /// The epoch that the topology goes on from.
    resumed: Option<u64>,
    is_forgotten: bool,
    told_at: Option<Instant>,
}

struct Running {
    log: SharedLog,
    orders: watch::Sender<Orders>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

type SharedLog = Arc<Mutex<EpochLog>>;

impl QueuedSink {
    /// Puts a queue in front of a sink.
    pub(super) fn new(inner: Box<dyn Sink>, settings: Settings) -> QueuedSink {
        QueuedSink {
            settings: Arc::new(settings),
            inner: Some(inner),
            running: None,
            pending: Vec::new(),
            resumed: None,
            is_forgotten: false,
            told_at: None,
        }
    }

    fn running(&self) -> Result<&Running, ConnectorError> {
        self.running.as_ref().ok_or_else(|| ConnectorError::Lost("the queue is not open".into()))
    }

    /// Forgets, once, what comes again.
    async fn forget(&mut self) -> Result<(), ConnectorError> {
        let (Some(epoch), false) = (self.resumed, self.is_forgotten) else { return Ok(()) };
        let forgotten = with_log(&self.running()?.log, move |log| log.forget_after(epoch)).await;
        forgotten.map_err(|error| refusal(&error))?;
        self.is_forgotten = true;
        Ok(())
    }

    /// Makes room for what is pending, as the file says; answers whether there is any.
    async fn room(&mut self) -> Result<bool, ConnectorError> {
        let Queue { bytes_max, when_full, .. } = self.settings.queue;
        let mut is_told = false;
        loop {
            let running = self.running()?;
            running.check()?;
            if with_log(&running.log, |log| log.bytes()).await < bytes_max {
                return Ok(true);
            }
            match when_full {
                WhenFull::Block => {
                    if !std::mem::replace(&mut is_told, true) {
                        metrics::counter!("tidegate_log_stalls_total").increment(1);
                        tracing::error!(node = %self.settings.node, "the queue is full ({bytes_max} bytes); its sources wait");
                    }
                    let mut progress = running.progress.clone();
                    // What it has told before is no news.
                    progress.mark_unchanged();
                    // Whatever it answers, the next look decides.
                    drop(tokio::time::timeout(RETRY, progress.changed()).await);
                }
                WhenFull::DropNewest => return Ok(false),
                WhenFull::DropOldest => {
                    let delivered = running.progress.borrow().delivered;
                    let dropped =
                        with_log(&running.log, move |log| deliver::drop_oldest(log, delivered)).await;
                    match dropped.map_err(|error| refusal(&error))? {
                        // All of it is in one segment: the newest are the oldest.
                        None => return Ok(false),
                        Some(rows) => self.tell_dropped(rows, "the oldest"),
                    }
                }
            }
        }
    }

    fn tell_dropped(&mut self, rows: usize, which: &str) {
        let node = &self.settings.node;
        metrics::counter!("tidegate_queue_dropped_rows_total", "node" => node.clone(), "reason" => "full")
            .increment(rows as u64);
        self.settings.stats.errors(rows);
        if rows > 0 && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.told_at = Some(Instant::now());
            tracing::error!(%node, rows, "the queue is full, and {which} rows are dropped, as `when_full` says");
        }
    }
}

impl Running {
    /// What the sink cannot get over fails the topology.
    fn check(&self) -> Result<(), ConnectorError> {
        let fatal = self.progress.borrow().fatal.clone();
        fatal.map_or(Ok(()), |message| Err(ConnectorError::Fatal(message)))
    }
}

/// Works with the log on a thread that may block.
async fn with_log<T: Send + 'static>(
    log: &SharedLog,
    work: impl FnOnce(&mut EpochLog) -> T + Send + 'static,
) -> T {
    let log = Arc::clone(log);
    blocking(move || work(&mut log.lock().unwrap_or_else(PoisonError::into_inner))).await
}

fn refusal(error: &LogError) -> ConnectorError {
    match error {
        LogError::Full(_) => ConnectorError::Lost(error.to_string()),
        // Nobody knows what is on the disk. A start from the checkpoint does.
        LogError::Broken(_) | LogError::Unreadable(_) => ConnectorError::Fatal(error.to_string()),
    }
}

#[async_trait]
impl Sink for QueuedSink {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.pending.clear();
        if let Some(running) = &self.running {
            return running.check();
        }
        let settings = Arc::clone(&self.settings);
        let opened = blocking(move || {
            let log = EpochLog::open(Arc::clone(&settings.vfs), &settings.folder, SEGMENT_BYTES)
                .map_err(|error| refusal(&error))?;
            let delivered = cursor::read(settings.vfs.as_ref(), &settings.folder);
            delivered.map(|delivered| (log, delivered)).map_err(ConnectorError::Fatal)
        });
        let (log, delivered) = opened.await?;
        let Some(inner) = self.inner.take() else {
            return Err(ConnectorError::Fatal("a queue was opened twice".into()));
        };
        let log = Arc::new(Mutex::new(log));
        let (orders, ordered) = watch::channel(Orders::default());
        let (told, progress) = watch::channel(Progress { delivered, ..Progress::default() });
        let delivery = Delivery::new(Arc::clone(&self.settings), inner, Arc::clone(&log), told);
        let task = tokio::spawn(delivery.run(ordered));
        self.running = Some(Running { log, orders, progress, task });
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.pending.push(batch.clone());
        Ok(())
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        self.running()?.check()?;
        if self.pending.is_empty() {
            return Ok(());
        }
        self.forget().await?;
        if !self.room().await? {
            let rows = self.pending.iter().map(RecordBatch::num_rows).sum();
            self.pending.clear();
            self.tell_dropped(rows, "the newest");
            return Ok(());
        }
        let (now, batches) = (self.settings.clock.now().0, std::mem::take(&mut self.pending));
        let log = Arc::clone(&self.running()?.log);
        let appended = with_log(&log, move |log| log.append(epoch, &batches, now)).await;
        let too_large = appended.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        if too_large > 0 {
            self.settings.stats.errors(too_large);
            tracing::error!(node = %self.settings.node, rows = too_large, "rows are too large for the queue, and lost");
        }
        loop {
            match with_log(&log, EpochLog::sync).await {
                Ok(()) => break,
                Err(LogError::Full(reason)) => {
                    metrics::counter!("tidegate_log_stalls_total").increment(1);
                    tracing::error!(node = %self.settings.node, "no room for the queue {reason}; its sink waits");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(refusal(&error)),
            }
        }
        self.running()?.orders.send_modify(|orders| orders.news += 1);
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let resumed = *self.resumed.get_or_insert(epoch);
        self.forget().await?;
        self.running()?.orders.send_if_modified(|orders| {
            let is_first = orders.resumed.is_none();
            orders.resumed = Some(resumed);
            is_first
        });
        Ok(())
    }

    fn trouble(&self) -> Option<String> {
        self.running.as_ref().and_then(|running| running.progress.borrow().trouble.clone())
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.orders.send_modify(|orders| orders.is_closing = true);
        loop {
            let delivered = running.progress.borrow().delivered;
            match tokio::time::timeout(CLOSE_WAIT, &mut running.task).await {
                Ok(_) => return running.check(),
                Err(_) if self.settings.queue.drains && running.progress.borrow().delivered != delivered => {}
                Err(_) => break,
            }
        }
        running.task.abort();
        let bytes = with_log(&running.log, |log| log.bytes()).await;
        Err(ConnectorError::Lost(format!(
            "its peer has not taken everything; {bytes} bytes wait in {} for the next start",
            self.settings.folder.display()
        )))
    }
}

impl Drop for QueuedSink {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
    }
}
