//! Exactly once to a remote side that has transactions. A flush makes rows
//! durable in a log of ours and never waits for the remote side; a committed
//! epoch is delivered by a task, its rows and a marker in one transaction. An
//! epoch at or below the marker is never sent again.

mod ahead;
mod deliver;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::dead_letters::DeadLetters;
use tidegate_engine::error::ConnectorError;
use tidegate_engine::sink::{self, Sink, SinkPart};
use tidegate_engine::storage::blocking::blocking;
use tidegate_engine::storage::epoch_log::EpochLog;
use tidegate_engine::storage::log::LogError;
use tidegate_engine::storage::vfs::Vfs;
use tidegate_engine::topology::delivery::log_bytes;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use deliver::{Delivery, Orders, Progress};

/// A full log makes a flush wait for this long before it looks again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a stop waits for what is committed to be delivered.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// With `--once`: how long it waits without any progress.
const STALL_WAIT: Duration = Duration::from_secs(15);
/// All segments of one log, unless nothing can be delivered before more is taken.
const LOG_BYTES_MAX: u64 = 10 << 30;
/// A round of deliveries begins by reading a segment.
const SEGMENT_BYTES: u64 = 4 << 20;

/// One step of a transaction, unless the remote side knows better.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Why the remote side did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RemoteError {
    /// It is away, or cannot take any rows now: connect and try again.
    Lost(String),
    /// These rows themselves were refused. None of them is in the transaction,
    /// which is as it was before.
    Refused(String),
    /// No further attempt would be right: the topology fails.
    Fatal(String),
}

/// A place outside that takes rows and a marker in one transaction.
#[async_trait]
pub(crate) trait Remote: Send + 'static {
    /// Looks at the marker, if that is possible before `connect` keeps another
    /// writer out: one that is ahead of us must not be stopped for nothing.
    async fn look(&mut self) -> Result<Option<u64>, RemoteError> {
        Ok(None)
    }

    /// What a person removes to have the marker begin anew.
    fn marker_place(&self) -> String {
        "this sink's row from _tidegate_epochs".to_owned()
    }

    /// Connects anew, makes what is missing, and answers the marker: the last
    /// epoch that was committed there, 0 if none.
    async fn connect(&mut self) -> Result<u64, RemoteError>;

    /// Begins a transaction that keeps every other writer of the marker out,
    /// and answers the marker as it is now.
    async fn begin(&mut self) -> Result<u64, RemoteError>;

    /// Adds all of these rows to the transaction, or none.
    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError>;

    /// Sets the marker and commits, durably.
    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError>;

    /// As `Sink::upserts`.
    fn upserts(&self) -> bool {
        false
    }

    /// How long a transaction is kept open for further epochs; `None`: it ends
    /// with what is there now.
    fn roll(&self) -> Option<Roll> {
        None
    }

    /// Bytes in the transaction under way, as `roll` counts them.
    fn bytes(&self) -> u64 {
        0
    }

    /// The epoch that the next transaction has to end with, because one from
    /// the marker to there may be visible already. Known after `connect`.
    fn announced(&self) -> Option<u64> {
        None
    }

    /// How long a step may take; a dead network says nothing by itself.
    fn step_timeout(&self) -> Duration {
        STEP_TIMEOUT
    }
}

/// When a transaction that takes further epochs is committed: at the first of
/// these, at a stop, and when the log needs its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Roll {
    /// It has this many bytes.
    pub(crate) bytes: u64,
    /// Its first row has waited for so long.
    pub(crate) age: Duration,
}

/// Where and how a sink's log is kept.
pub(crate) struct Settings {
    node: String,
    folder: PathBuf,
    vfs: Arc<dyn Vfs>,
    bytes_max: u64,
    /// A stop waits as long as there is progress.
    once: bool,
    close_wait: Duration,
    /// Whether a person accepts that rows come twice.
    accepts_duplicates: bool,
}

/// A sink over this remote side, its log below the topology's state.
pub(crate) fn part(config: &NodeConfig, context: &BuildContext, remote: Box<dyn Remote>) -> SinkPart {
    let settings = Settings {
        node: config.name.clone(),
        folder: context.data_dir.join("egress").join(&config.name),
        vfs: Arc::clone(&context.disk),
        bytes_max: log_bytes(config).unwrap_or(LOG_BYTES_MAX),
        once: context.once,
        close_wait: if context.once { STALL_WAIT } else { CLOSE_WAIT },
        accepts_duplicates: false,
    };
    SinkPart { sink: Box::new(SinkLog::new(settings, remote)) }
}

/// A sink over this remote side on any disk.
#[cfg(test)]
pub(crate) fn over(
    folder: &std::path::Path,
    vfs: Arc<dyn Vfs>,
    bytes_max: u64,
    remote: impl Remote,
) -> impl Sink {
    let settings = Settings {
        node: "out".into(),
        folder: folder.into(),
        vfs,
        bytes_max,
        once: false,
        close_wait: CLOSE_WAIT,
        accepts_duplicates: false,
    };
    SinkLog::new(settings, Box::new(remote))
}

struct SinkLog {
    settings: Settings,
    /// The remote side, until the task has it.
    remote: Option<Box<dyn Remote>>,
    running: Option<Running>,
    pending: Vec<RecordBatch>,
    /// The epoch that the topology goes on from.
    resumed: Option<u64>,
    /// Whether epochs after it are forgotten.
    is_forgotten: bool,
    /// Where rows go that the remote side refuses.
    dead: Option<DeadLetters>,
}

struct Running {
    shelf: Arc<Mutex<EpochLog>>,
    orders: watch::Sender<Orders>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl SinkLog {
    fn new(settings: Settings, remote: Box<dyn Remote>) -> SinkLog {
        SinkLog {
            settings,
            remote: Some(remote),
            running: None,
            pending: Vec::new(),
            resumed: None,
            is_forgotten: false,
            dead: None,
        }
    }

    fn running(&self) -> Result<&Running, ConnectorError> {
        let running = self.running.as_ref();
        running.ok_or_else(|| ConnectorError::Lost("the sink's log is not open".into()))
    }

    /// Forgets, once, what comes again.
    async fn forget(&mut self) -> Result<(), ConnectorError> {
        let (Some(epoch), false) = (self.resumed, self.is_forgotten) else { return Ok(()) };
        let forgotten = with_shelf(&self.running()?.shelf, move |shelf| shelf.forget_after(epoch)).await;
        forgotten.map_err(|error| refusal(&error))?;
        self.is_forgotten = true;
        Ok(())
    }
}

impl Running {
    /// Waits while the log is full and something in it can be delivered. Without
    /// that no wait would end, because a checkpoint waits for this flush.
    async fn room(&self, settings: &Settings) -> Result<(), ConnectorError> {
        let mut progress = self.progress.clone();
        let mut is_told = false;
        loop {
            let bytes = with_shelf(&self.shelf, |shelf| shelf.bytes()).await;
            let delivered = progress.borrow_and_update().committed;
            if bytes < settings.bytes_max || delivered >= self.orders.borrow().committed {
                return Ok(());
            }
            self.check()?;
            if !std::mem::replace(&mut is_told, true) {
                metrics::counter!("tidegate_log_stalls_total").increment(1);
                let folder = settings.folder.display();
                tracing::error!(node = %settings.node, "no room for the log {folder}: {bytes} bytes wait to be delivered, and its sink waits");
            }
            // Whatever it answers, the next look decides.
            drop(tokio::time::timeout(RETRY, progress.changed()).await);
        }
    }

    /// What the task cannot get over fails the topology.
    fn check(&self) -> Result<(), ConnectorError> {
        let fatal = self.progress.borrow().fatal.clone();
        fatal.map_or(Ok(()), |message| Err(ConnectorError::Fatal(message)))
    }
}

/// A full disk is waited for.
fn refusal(error: &LogError) -> ConnectorError {
    match error {
        LogError::Full(_) => ConnectorError::Lost(error.to_string()),
        LogError::Broken(_) | LogError::Unreadable(_) => ConnectorError::Fatal(error.to_string()),
    }
}

/// Works with the log on a thread that may block.
async fn with_shelf<T: Send + 'static>(
    shelf: &Arc<Mutex<EpochLog>>,
    work: impl FnOnce(&mut EpochLog) -> T + Send + 'static,
) -> T {
    let shelf = Arc::clone(shelf);
    blocking(move || work(&mut shelf.lock().unwrap_or_else(PoisonError::into_inner))).await
}

#[async_trait]
impl Sink for SinkLog {
    fn upserts(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.upserts())
    }

    fn delivery(&self) -> sink::Delivery {
        sink::Delivery::ExactlyOnce
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.pending.clear();
        if let Some(running) = &self.running {
            return running.check();
        }
        let (vfs, folder) = (Arc::clone(&self.settings.vfs), self.settings.folder.clone());
        let segment_bytes = SEGMENT_BYTES.min(self.settings.bytes_max / 4);
        let opened = blocking(move || EpochLog::open(vfs, &folder, segment_bytes)).await;
        let shelf = opened.map_err(|error| refusal(&error))?;
        let Some(remote) = self.remote.take() else {
            return Err(ConnectorError::Fatal("a sink was opened twice".into()));
        };
        let shelf = Arc::new(Mutex::new(shelf));
        let (orders, ordered) = watch::channel(Orders::default());
        let (told, progress) = watch::channel(Progress::default());
        let delivery = Delivery::new(&self.settings, remote, Arc::clone(&shelf), told, self.dead.clone());
        let task = tokio::spawn(delivery.run(ordered));
        self.running = Some(Running { shelf, orders, progress, task });
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
        let running = self.running()?;
        running.room(&self.settings).await?;
        let shelf = Arc::clone(&running.shelf);
        let batches = std::mem::take(&mut self.pending);
        let appended = with_shelf(&shelf, move |shelf| shelf.append(epoch, &batches, 0)).await;
        let too_large = appended.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        if too_large > 0 {
            deliver::refused(&self.settings.node, too_large, "too large for the sink's log");
        }
        loop {
            match with_shelf(&shelf, EpochLog::sync).await {
                Ok(()) => return Ok(()),
                Err(LogError::Full(reason)) => {
                    metrics::counter!("tidegate_log_stalls_total").increment(1);
                    tracing::error!(node = %self.settings.node, "no room for the log {reason}; its sink waits");
                    tokio::time::sleep(RETRY).await;
                }
                // Nobody knows what is on the disk. A start from the checkpoint
                // does: it forgets what comes again.
                Err(error @ (LogError::Broken(_) | LogError::Unreadable(_))) => {
                    return Err(ConnectorError::Fatal(error.to_string()));
                }
            }
        }
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let resumed = *self.resumed.get_or_insert(epoch);
        self.forget().await?;
        let running = self.running()?;
        running.orders.send_modify(|orders| {
            orders.resumed = resumed;
            orders.committed = orders.committed.max(Some(epoch));
        });
        Ok(())
    }

    fn accept_duplicates(&mut self) {
        self.settings.accepts_duplicates = true;
    }

    fn set_dead_letters(&mut self, dead: DeadLetters) {
        self.dead = Some(dead);
    }

    fn trouble(&self) -> Option<String> {
        self.running.as_ref().and_then(|running| {
            running.progress.borrow().lost.as_ref().map(|message| format!("lost: {message}"))
        })
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.orders.send_modify(|orders| orders.is_closing = true);
        loop {
            let steps = running.progress.borrow().steps;
            match tokio::time::timeout(self.settings.close_wait, &mut running.task).await {
                Ok(_) => return running.check(),
                Err(_) if self.settings.once && running.progress.borrow().steps != steps => {}
                Err(_) => break,
            }
        }
        running.task.abort();
        let bytes = with_shelf(&running.shelf, |shelf| shelf.bytes()).await;
        Err(ConnectorError::Lost(format!(
            "the remote side has not taken everything; {bytes} bytes wait in {} for the next start",
            self.settings.folder.display()
        )))
    }
}

impl Drop for SinkLog {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
    }
}
