//! Two runtimes and the topologies that run on them: connectors, drivers and
//! flows wait on the one, operators compute on the other, so that a slow
//! operator never delays a poll or a keep-alive.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_engine::flow::events::FlowEvents;
use tidegate_engine::flow::journal::Journal;
use tidegate_engine::flow::launcher::Launcher;
use tidegate_engine::flow::scheduler::{self, ACTIVE_MAX, Idle, SchedulerConfig, SchedulerHandle};
use tidegate_engine::runtime::job::{Allowed, Job, JobConfig, JobError};
use tidegate_engine::storage::files::DirLock;
use tokio::runtime::{Builder, Runtime};

use crate::exit::{FAILED, Failure, IO};
use crate::topology::Topology;

/// How long a topology may take to stop in good order.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(25);

/// How often it is looked whether the journal can still be written.
const LOOK_AT_JOURNAL: Duration = Duration::from_millis(250);

/// The two runtimes.
pub(crate) struct Runtimes {
    pub(crate) io: Runtime,
    pub(crate) compute: Runtime,
}

impl Runtimes {
    pub(crate) fn start() -> Result<Runtimes, Failure> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let failed = |error: std::io::Error| Failure::new(FAILED, format!("cannot start threads: {error}"));
        let io =
            Builder::new_multi_thread().worker_threads(threads.min(4)).thread_name("io").enable_all().build();
        let compute =
            Builder::new_multi_thread().worker_threads(threads).thread_name("compute").enable_time().build();
        Ok(Runtimes { io: io.map_err(failed)?, compute: compute.map_err(failed)? })
    }
}

/// The journal of the topology whose state is kept here.
pub(crate) fn journal_path(data_dir: &Path) -> PathBuf {
    data_dir.join("journal.db")
}

/// Resolves when the journal cannot be written any more; nothing of it may
/// happen after that.
async fn poisoned(flows: Option<SchedulerHandle>) -> String {
    let Some(flows) = flows else { return std::future::pending().await };
    loop {
        if let Some(error) = flows.journal().poisoned() {
            return error.to_string();
        }
        tokio::time::sleep(LOOK_AT_JOURNAL).await;
    }
}

/// A topology that was not started, and what may still run of it.
pub(crate) struct NotStarted {
    pub(crate) failure: Failure,
    /// Runs of flows write it until they are gone.
    pub(crate) journal: Weak<Journal>,
    pub(crate) lock: Option<DirLock>,
}

impl From<Failure> for NotStarted {
    fn from(failure: Failure) -> NotStarted {
        NotStarted { failure, journal: Weak::new(), lock: None }
    }
}

impl From<NotStarted> for Failure {
    fn from(not_started: NotStarted) -> Failure {
        not_started.failure
    }
}

/// State that cannot be used stays so until a person does something. A disk that
/// failed at the end may do so again: each attempt gives rows to the sinks.
fn failure_of(error: &JobError) -> Failure {
    match error {
        JobError::State(_) => Failure::hopeless(error),
        JobError::Failed { .. } => Failure::new(FAILED, error),
        JobError::Disk(_) | JobError::Storage(_) => Failure::new(IO, error),
    }
}

/// A running topology with its flows and its data directory.
pub(crate) struct Running {
    pub(crate) job: Job,
    pub(crate) events: FlowEvents,
    pub(crate) data_dir: PathBuf,
    /// There is one if the topology has flows, or had some.
    pub(crate) scheduler: Option<SchedulerHandle>,
    lock: DirLock,
}

impl Running {
    /// Ends what still runs, at once, and keeps the data directory.
    pub(crate) fn let_go(self) -> DirLock {
        self.job.abort();
        self.lock
    }

    /// Starts a loaded topology; must be called on the I/O runtime.
    pub(crate) async fn start(
        topology: Topology,
        compute: tokio::runtime::Handle,
        allowed: Allowed,
    ) -> Result<Running, NotStarted> {
        let Topology { loaded, flows, context, .. } = topology;
        let lock = DirLock::take(&context.data_dir).map_err(|message| Failure::new(IO, message))?;
        let events = FlowEvents::default();
        let mut plan = loaded.plan;
        let mut scheduler = None;
        let path = journal_path(&context.data_dir);
        // Runs of flows that are no longer in the file go on all the same.
        if !flows.flows.is_empty() || path.exists() {
            let failed = |error: tidegate_engine::flow::journal::JournalError| Failure::new(IO, error);
            let journal = Journal::open(&path).map_err(failed)?;
            let config = SchedulerConfig {
                journal,
                clock: Arc::clone(&context.clock),
                events: events.clone(),
                active_max: ACTIVE_MAX,
                retention: loaded.retention,
            };
            let flows = Arc::new(flows);
            let handle = scheduler::start(Arc::clone(&flows), config).map_err(failed)?;
            plan.sinks.extend(flows.links.iter().map(|link| Launcher::node(link.clone(), handle.clone())));
            scheduler = Some(handle);
        }
        let config = JobConfig {
            vfs: context.disk,
            data_dir: context.data_dir.clone(),
            clock: context.clock,
            compute,
            allowed,
            log_limits: tidegate_engine::storage::log::LogLimits::default(),
        };
        let started = Job::start(plan, &config);
        // Whoever waits for its disk to be free waits for the last holder.
        drop(config);
        let job = match started {
            Ok(job) => job,
            Err(error) => {
                let journal = scheduler.as_ref().map(|flows| Arc::downgrade(flows.journal()));
                if let Some(flows) = scheduler {
                    flows.stop().await;
                }
                let failure = match &error {
                    // No row has moved, and a disk that has no room has some again one day.
                    JobError::Storage(_) => Failure::passing(IO, &error),
                    JobError::Failed { .. } | JobError::State(_) | JobError::Disk(_) => failure_of(&error),
                };
                return Err(NotStarted { failure, journal: journal.unwrap_or_default(), lock: Some(lock) });
            }
        };
        Ok(Running { job, events, data_dir: context.data_dir, scheduler, lock })
    }

    /// Waits for the end of the streams and answers how they ended.
    pub(crate) async fn wait(&mut self) -> Result<(), Failure> {
        let broken = poisoned(self.scheduler.clone());
        let ended = tokio::select! {
            ended = self.job.wait() => ended.map_err(|error| failure_of(&error)),
            message = broken => Err(Failure::new(IO, message)),
        };
        // Whoever met it first: it is the disk.
        let journal = self.scheduler.as_ref().map(SchedulerHandle::journal);
        let poison = journal.and_then(|journal| journal.poisoned()).map(ToString::to_string);
        ended.map_err(|failure| match poison {
            Some(message) if failure.code == FAILED => Failure::new(IO, message),
            Some(_) | None => failure,
        })
    }

    /// Waits until every run is final or waits for a person or a time, and
    /// answers those.
    pub(crate) async fn wait_for_runs(&self) -> Idle {
        match &self.scheduler {
            Some(scheduler) => scheduler.wait_idle().await,
            None => Idle::default(),
        }
    }

    /// Stops the streams with a checkpoint (`drain`: as if the inputs had
    /// ended), and by force when that takes too long: then the next start goes
    /// on from the last checkpoint, as after a crash. Runs go on at the next
    /// start.
    pub(crate) async fn stop(&mut self, drain: bool) -> Result<(), Failure> {
        if drain {
            self.job.drain().await;
        } else {
            self.job.stop().await;
        }
        let ended = tokio::time::timeout(STOP_GRACE, self.wait()).await;
        self.stop_flows().await;
        if let Ok(ended) = ended {
            return ended;
        }
        self.job.abort();
        tracing::warn!(topology = %self.job.name, "did not stop within {STOP_GRACE:?}; stopped by force");
        Ok(())
    }

    /// Stops the flows; open runs go on at the next start.
    pub(crate) async fn stop_flows(&self) {
        if let Some(scheduler) = &self.scheduler {
            scheduler.stop().await;
        }
    }
}
