//! A running topology: its parts, its epochs, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

pub use super::allowed::Allowed;
use super::allowed::give_up;
use super::anew;
use super::build::{Built, build};
use super::checkpoint::Checkpoint;
use super::checkpoint_store::CheckpointStore;
use super::edits;
use super::ledger::{Complete, Ledger};
use super::parallel;
use super::parts::{Command, FromPart, Word};
use super::stats::NodeStats;
use crate::event::Barrier;
use crate::planted;
use crate::sink::EPOCHS_IN_DOUBT;
use crate::storage::blocking::blocking;
use crate::storage::log::LogLimits;
use crate::storage::vfs::Vfs;
use crate::time::Clock;
use crate::topology::plan::Plan;

/// Words of parts that may wait for the job.
pub(super) const WORDS_MAX: usize = 1024;

/// A light barrier follows rows whose acknowledgement the peer waits for
/// within this time.
const QUICK_COMMIT: Duration = Duration::from_millis(10);

/// What a job needs besides its plan.
#[derive(Clone)]
pub struct JobConfig {
    /// Where checkpoints and ingress logs are kept.
    pub data_dir: PathBuf,
    /// The disk they are on.
    pub vfs: Arc<dyn Vfs>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The runtime whose threads compute; drivers run on the caller's.
    pub compute: Handle,
    /// What a person allows this start.
    pub allowed: Allowed,
    /// How ingress logs are kept.
    pub log_limits: LogLimits,
}

/// Why a topology has ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A node cannot go on.
    #[error("`{node}` failed: {message}")]
    Failed {
        /// The node.
        node: String,
        /// Why.
        message: String,
    },
    /// Its state cannot be read, or belongs to another configuration.
    #[error("{0}")]
    State(String),
    /// The disk does not give or take what it must, it may be full; nothing is
    /// lost, and another start goes on from the last checkpoint.
    #[error("{0}")]
    Storage(String),
    /// An fsync has failed: nobody knows what is on the disk, and only another
    /// start finds out.
    #[error("{0}; nobody knows what is on the disk: the next start goes on from what it finds")]
    Disk(String),
}

/// A handle on a running topology.
pub struct Job {
    /// The topology's name.
    pub name: String,
    /// Counters of every node.
    pub stats: Vec<Arc<NodeStats>>,
    control: mpsc::Sender<Control>,
    done: JoinHandle<Result<(), JobError>>,
    /// How it ended, once that was asked.
    ended: Option<Result<(), JobError>>,
    checkpoints: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum Control {
    Stop,
    Drain,
}

impl Job {
    /// Restores the newest checkpoint and starts every part.
    ///
    /// # Errors
    /// The state cannot be read or does not fit the plan; nothing has started.
    pub fn start(mut plan: Plan, config: &JobConfig) -> Result<Job, JobError> {
        let store = CheckpointStore::new(Arc::clone(&config.vfs), config.data_dir.join("checkpoints"));
        store.look().map_err(JobError::Storage)?;
        let restored = store.read_newest().or_else(|reason| give_up(&plan, &store, config, reason));
        let (mut checkpoint, damaged) = restored.map_err(JobError::State)?.unwrap_or_default();
        for file in damaged {
            tracing::error!(topology = %plan.name, "damaged checkpoint, an older one is used: {file}");
        }
        for note in edits::check(&plan, &checkpoint, config).map_err(JobError::State)? {
            tracing::warn!(topology = %plan.name, "{note}");
        }
        anew::begin(&plan, &mut checkpoint, &store, config)?;
        parallel::reshare(&plan, &mut checkpoint, &store)?;
        plan.keep_what_is_read();
        let name = plan.name.clone();
        let interval = plan.checkpoint_interval;
        // Rows that were acknowledged after the checkpoint are not to be forgotten.
        let acknowledged = store.acknowledged_after().map_err(JobError::State)?;
        let acknowledged = acknowledged.filter(|after| *after >= checkpoint.epoch);
        let epoch = acknowledged.map_or(checkpoint.epoch, |after| after + 1);
        let epoch = epoch.saturating_sub(u64::from(planted!(EpochReused)));
        // None of its epochs may be one that a remote side has already.
        let doubt = if config.allowed.accept_duplicates { EPOCHS_IN_DOUBT } else { 0 };
        let begins = epoch + doubt;
        let mut built = build(plan, checkpoint, epoch, begins, config)?;
        store.go_on(&built.restored, std::mem::take(&mut built.compactions));
        let stats = built.stats.clone();
        let (control, controls) = mpsc::channel(4);
        let disk = Arc::clone(&config.vfs);
        let coordinator = Coordinator::new(built, store, Arc::clone(&disk), begins, interval);
        let checkpoints = Arc::clone(&coordinator.checkpoints);
        let (nodes, topology) = (stats.clone(), name.clone());
        let done = tokio::spawn(async move {
            let result = coordinator.run(controls).await;
            let result = result.map_err(|error| disk.failed_sync().map_or(error, JobError::Disk));
            if let Err(error @ (JobError::Disk(_) | JobError::State(_) | JobError::Storage(_))) = &result {
                nodes.iter().for_each(|stats| stats.set_state(format!("failed: {error}")));
            }
            if let Err(JobError::Failed { node, message }) = &result {
                let others = format!("stopped: `{node}` of {topology} has failed");
                for stats in &nodes {
                    stats.set_state(if stats.name == *node {
                        format!("failed: {message}")
                    } else {
                        others.clone()
                    });
                }
            }
            result
        });
        Ok(Job { name, stats, control, done, ended: None, checkpoints })
    }

    /// Stops with a checkpoint: windows stay open and go on after a restart.
    pub async fn stop(&self) {
        self.say(Control::Stop).await;
    }

    /// Ends as if the inputs had ended: windows close, sinks are flushed.
    pub async fn drain(&self) {
        self.say(Control::Drain).await;
    }

    async fn say(&self, control: Control) {
        if self.control.send(control).await.is_err() {
            tracing::debug!(topology = %self.name, "has ended already");
        }
    }

    /// Waits for the end; may be asked again.
    ///
    /// # Errors
    /// The node that failed.
    pub async fn wait(&mut self) -> Result<(), JobError> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let ended = match (&mut self.done).await {
            Ok(result) => result,
            Err(error) => Err(JobError::Failed { node: self.name.clone(), message: error.to_string() }),
        };
        self.ended.insert(ended).clone()
    }

    /// Checkpoints that have become durable since the start.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.checkpoints.load(Ordering::Acquire)
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.done.is_finished()
    }

    /// Ends at once, as a crash would.
    pub fn abort(&self) {
        self.done.abort();
    }
}

/// Opens epochs, gathers reports, makes checkpoints, tells the parts.
struct Coordinator {
    tasks: JoinSet<String>,
    words: mpsc::Receiver<FromPart>,
    sources: Vec<mpsc::Sender<Command>>,
    /// Those of them that read tables: they end when nobody is left to join.
    tables: Vec<mpsc::Sender<Command>>,
    /// The others that have not ended.
    streams: BTreeSet<String>,
    sinks: Vec<mpsc::Sender<Command>>,
    fingerprints: BTreeMap<String, String>,
    outsides: BTreeMap<String, String>,
    ledger: Ledger,
    store: CheckpointStore,
    disk: Arc<dyn Vfs>,
    interval: Duration,
    stopping: bool,
    stop_epoch: Option<u64>,
    commit_wanted_since: Option<Instant>,
    /// The last checkpoint whose barrier has passed every sink, durable or not:
    /// what they flush between checkpoints belongs to the epoch behind it.
    barrier: u64,
    /// Whether rows after it have been acknowledged.
    acknowledged: bool,
    /// How many have become durable.
    checkpoints: Arc<AtomicU64>,
}

impl Coordinator {
    fn new(
        built: Built,
        store: CheckpointStore,
        disk: Arc<dyn Vfs>,
        epoch: u64,
        interval: Duration,
    ) -> Coordinator {
        Coordinator {
            ledger: Ledger::new(built.parts, epoch),
            tasks: built.tasks,
            words: built.words,
            sources: built.sources,
            tables: built.tables,
            streams: built.streams,
            sinks: built.sinks,
            fingerprints: built.fingerprints,
            outsides: built.outsides,
            store,
            disk,
            interval,
            stopping: false,
            stop_epoch: None,
            commit_wanted_since: None,
            barrier: epoch,
            acknowledged: false,
            checkpoints: Arc::default(),
        }
    }

    async fn run(mut self, mut controls: mpsc::Receiver<Control>) -> Result<(), JobError> {
        let mut ticks = tokio::time::interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // While an epoch is open the wish waits for it: asking again and again would burn a core.
            self.check_disk()?;
            let wanted = self.commit_wanted_since.filter(|_| self.ledger.may_begin());
            let quick_at = wanted.map(|since| since + QUICK_COMMIT);
            let finished = tokio::select! {
                biased;
                Some(word) = self.words.recv() => self.on_word(word).await?,
                Some(joined) = self.tasks.join_next() => { on_joined(joined)?; false }
                Some(control) = controls.recv() => self.on_control(control).await,
                _ = ticks.tick(), if !self.stopping => { self.begin(false, false).await; false }
                () = wait_until(quick_at), if !self.stopping => { self.begin(true, false).await; false }
            };
            if finished {
                break;
            }
        }
        // Without commands sources and sinks let go of their peers.
        self.sources.clear();
        self.sinks.clear();
        while let Some(joined) = self.tasks.join_next().await {
            on_joined(joined)?;
        }
        // Letting go may fail for good, too; whoever waits for the end is told.
        while let Ok(from) = self.words.try_recv() {
            if let Word::Failed(message) = from.word {
                return Err(JobError::Failed { node: parallel::node_of(&from.part).to_owned(), message });
            }
        }
        self.check_disk()
    }

    /// After an fsync that failed nothing may be acknowledged any more.
    fn check_disk(&self) -> Result<(), JobError> {
        self.disk.failed_sync().map_or(Ok(()), |failed| Err(JobError::Disk(failed)))
    }

    async fn on_control(&mut self, control: Control) -> bool {
        match control {
            Control::Stop => {
                self.stopping = true;
                self.begin(false, true).await;
                self.ledger.all_ended()
            }
            Control::Drain => {
                self.stopping = true;
                tell(&self.sources, Command::Drain).await;
                false
            }
        }
    }

    /// Opens the next epoch, unless one is open; a stop is repeated when that
    /// one is complete.
    async fn begin(&mut self, light: bool, then_stop: bool) {
        let Some(epoch) = self.ledger.begin(light) else { return };
        self.commit_wanted_since = None;
        if then_stop {
            self.stop_epoch = Some(epoch);
        }
        tell(&self.sources, Command::Barrier(Barrier { epoch, then_stop, light })).await;
    }

    async fn on_word(&mut self, from: FromPart) -> Result<bool, JobError> {
        let complete = match from.word {
            Word::Report(epoch, report) => self.ledger.report(&from.part, epoch, report),
            Word::Ended(report) => {
                if self.streams.remove(from.part.as_ref()) && self.streams.is_empty() {
                    tell(&self.tables, Command::Drain).await;
                }
                self.ledger.ended(&from.part, report)
            }
            Word::WantsCommit => {
                self.commit_wanted_since.get_or_insert_with(Instant::now);
                None
            }
            Word::Failed(message) => {
                return Err(JobError::Failed { node: parallel::node_of(&from.part).to_owned(), message });
            }
        };
        match complete {
            Some(complete) => self.on_complete(complete).await,
            None => Ok(false),
        }
    }

    /// Makes the epoch durable, then tells sinks and sources. Answers whether
    /// it was the last one.
    async fn on_complete(&mut self, complete: Complete) -> Result<bool, JobError> {
        let epoch = complete.epoch;
        if complete.light {
            self.acknowledge(epoch).await;
        } else {
            if planted!(SinkCommittedBeforeManifest) {
                tell(&self.sinks, Command::Commit(epoch)).await;
            }
            if planted!(SourceCommittedBeforeManifest) {
                tell(&self.sources, Command::Commit(epoch)).await;
                tokio::task::yield_now().await;
            }
            let checkpoint = Checkpoint::of(epoch, complete.reports, &self.fingerprints, &self.outsides);
            // A mark from before it names another epoch.
            (self.barrier, self.acknowledged) = (epoch, false);
            let store = self.store.clone();
            let written = blocking(move || store.write(checkpoint)).await;
            if let Err(error) = written {
                // Nothing was acknowledged, so nothing is lost; the next epoch tries again.
                metrics::counter!("tidegate_checkpoints_failed_total").increment(1);
                tracing::error!("checkpoint {epoch} failed: {error}");
                if self.stop_epoch == Some(epoch) || self.ledger.all_ended() {
                    return Err(error.into());
                }
                return Ok(false);
            }
            metrics::counter!("tidegate_checkpoints_total").increment(1);
            self.checkpoints.fetch_add(1, Ordering::Release);
            tell(&self.sinks, Command::Commit(epoch)).await;
            tell(&self.sources, Command::Commit(epoch)).await;
        }
        if self.stop_epoch == Some(epoch) || self.ledger.all_ended() {
            return Ok(true);
        }
        if self.stopping {
            self.begin(false, true).await;
        }
        Ok(false)
    }
}

impl Coordinator {
    /// Tells the sources that rows are safe which sinks have made durable and no
    /// checkpoint holds yet; before the first of them that is remembered.
    async fn acknowledge(&mut self, epoch: u64) {
        if !self.acknowledged {
            let (store, after) = (self.store.clone(), self.barrier);
            let marked = blocking(move || store.mark_acknowledged(after)).await;
            if let Err(message) = marked {
                // Not acknowledged: the peers send again.
                tracing::error!("cannot acknowledge: {message}");
                return;
            }
            self.acknowledged = true;
        }
        tell(&self.sources, Command::Acknowledge(epoch)).await;
    }
}

fn on_joined(joined: Result<String, tokio::task::JoinError>) -> Result<(), JobError> {
    match joined {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("a part has panicked: {error}");
            Err(JobError::Failed { node: "a part".into(), message })
        }
    }
}

async fn tell(parts: &[mpsc::Sender<Command>], command: Command) {
    for part in parts {
        if part.send(command).await.is_err() {
            tracing::trace!("a part has ended already");
        }
    }
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
