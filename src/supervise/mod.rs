//! A topology of the daemon through its failures: started again from its
//! checkpoint after a growing wait, or left stopped when that does not help. It
//! never starts a second life while anything of the first one still runs, and
//! never stops another topology.

mod failures;

use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_engine::flow::journal::Journal;
use tidegate_engine::runtime::job::Allowed;
use tidegate_engine::storage::files::DirLock;
use tidegate_engine::storage::watched::DiskWatch;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::failures::{Failures, Next};
use crate::api::Seat;
use crate::daemon::{NotStarted, Running};
use crate::exit::{FAILED, Failure, Retry};
use crate::topology::{LoadOptions, Topology, TopologyFile};

/// How long parts of a life that has failed may take to let go of their files.
const LET_GO: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A topology and how it is loaded again.
pub(crate) struct Charge {
    pub(crate) file: TopologyFile,
    pub(crate) options: LoadOptions,
    /// What a person allows, until it has been done.
    pub(crate) allowed: Allowed,
    /// What it shows of itself.
    pub(crate) seat: Arc<Seat>,
}

/// How one life of a topology has ended.
enum End {
    /// The streams have ended, or it was stopped; and how.
    Over(Result<(), Failure>),
    Failed {
        failure: Failure,
        ran: Duration,
        checkpoints: u64,
    },
}

impl Charge {
    /// Runs until it is stopped; tells `ended` when its streams have ended by
    /// themselves. Answers the exit code if not all went well.
    pub(crate) async fn run(
        mut self,
        first: Topology,
        compute: Handle,
        ended: mpsc::Sender<()>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), u8> {
        let mut failures = Failures::default();
        let mut next = Ok(first);
        loop {
            let end = match next {
                Ok(topology) => self.live(topology, compute.clone(), &ended, &mut stop).await,
                Err(failure) => End::Failed { failure, ran: Duration::ZERO, checkpoints: 0 },
            };
            let (failure, what) = match end {
                End::Over(Ok(())) => return Ok(()),
                End::Over(Err(failure)) => {
                    tracing::error!(topology = %self.seat.name(), "{}", failure.message);
                    return Err(failure.code);
                }
                End::Failed { failure, ran, checkpoints } => {
                    let what = match failure.retry {
                        Retry::Never => Next::SafeMode,
                        Retry::Always => failures.on_passing(ran),
                        Retry::Counted => failures.on_failure(ran, checkpoints),
                    };
                    (failure, what)
                }
            };
            match what {
                Next::SafeMode => {
                    self.seat.set_state("safe mode", &failure.message);
                    tracing::error!(
                        topology = %self.seat.name(),
                        "safe mode: it stays stopped, its sources are not read, until the daemon is started again: {}",
                        failure.message
                    );
                    wait_for(&mut stop).await;
                    return Err(failure.code);
                }
                Next::Again(wait) => {
                    self.seat.set_state("waiting", &failure.message);
                    tracing::error!(
                        topology = %self.seat.name(),
                        "has failed, and starts again from its checkpoint in {wait:?}: {}",
                        failure.message
                    );
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = wait_for(&mut stop) => return Err(failure.code),
                    }
                }
            }
            metrics::counter!("tidegate_topology_restarts_total", "topology" => self.seat.name().to_owned())
                .increment(1);
            // The same text was right before: it is a file beside it that is being replaced.
            next = self.file.load(&self.options).map_err(|error| Failure::passing(FAILED, error));
        }
    }

    /// One life. When it answers nothing of it runs any more.
    async fn live(
        &mut self,
        topology: Topology,
        compute: Handle,
        ended: &mpsc::Sender<()>,
        stop: &mut watch::Receiver<bool>,
    ) -> End {
        let began = Instant::now();
        let disk = topology.disk.clone();
        self.seat.set_state("starting", "");
        let mut running = match Running::start(topology, compute, self.allowed.clone()).await {
            Ok(running) => running,
            Err(NotStarted { failure, journal, lock }) => {
                let failure = let_go(failure, lock, disk, journal).await;
                return End::Failed { failure, ran: Duration::ZERO, checkpoints: 0 };
            }
        };
        // What else a person allows has been done, durably: it is not for later starts.
        // A sink's peer may be away through many of them, and be ahead all the same.
        let accept_duplicates = self.allowed.accept_duplicates;
        self.allowed = Allowed { accept_duplicates, ..Allowed::default() };
        self.seat.show(&running);
        let result = tokio::select! {
            result = running.wait() => result,
            () = wait_for(stop) => return End::Over(self.stop(running).await),
        };
        let Err(failure) = result else {
            self.seat.set_state("ended", "");
            tracing::info!(topology = %self.seat.name(), "has ended");
            // Its flows go on as long as the daemon does.
            if ended.send(()).await.is_ok() {
                wait_for(stop).await;
            }
            return End::Over(self.stop(running).await);
        };
        let (ran, checkpoints) = (began.elapsed(), running.job.checkpoints());
        running.stop_flows().await;
        let journal = running.scheduler.as_ref().map(|flows| Arc::downgrade(flows.journal()));
        self.seat.set_state("failed", &failure.message);
        let lock = running.let_go();
        let failure = let_go(failure, Some(lock), disk, journal.unwrap_or_default()).await;
        End::Failed { failure, ran, checkpoints }
    }

    async fn stop(&self, mut running: Running) -> Result<(), Failure> {
        let stopped = running.stop(false).await;
        self.seat.set_state("stopped", "");
        stopped
    }
}

/// Resolves when the daemon stops.
async fn wait_for(stop: &mut watch::Receiver<bool>) {
    // Without a sender it stops too.
    drop(stop.wait_for(|stop| *stop).await);
}

/// The failure, once nothing of its life runs any more; if that does not happen,
/// there is no other life.
async fn let_go(failure: Failure, lock: Option<DirLock>, disk: DiskWatch, journal: Weak<Journal>) -> Failure {
    if gone(disk, journal).await {
        return failure;
    }
    // For good: two lives never write one log.
    Box::leak(Box::new(lock));
    Failure::hopeless(format!("{} (parts of it do not let go of their files)", failure.message))
}

/// Waits until nobody holds the disk or the journal of a life that has failed.
async fn gone(disk: DiskWatch, journal: Weak<Journal>) -> bool {
    let until = Instant::now() + LET_GO;
    while !disk.is_free() || journal.strong_count() > 0 {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}
