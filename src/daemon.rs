//! Two runtimes and the topologies that run on them: connectors, drivers and
//! flows wait on the one, operators compute on the other, so that a slow
//! operator never delays a poll or a keep-alive.

use std::time::Duration;

use tidegate_engine::runtime::job::{Job, JobConfig};
use tidegate_engine::storage::files::DirLock;
use tokio::runtime::{Builder, Runtime};

use crate::exit::{FAILED, Failure, IO};
use crate::topology::Topology;

/// How long a topology may take to stop in good order.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(25);

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

/// A running topology with its data directory.
pub(crate) struct Running {
    pub(crate) job: Job,
    _lock: DirLock,
}

impl Running {
    /// Starts a loaded topology; must be called on the I/O runtime.
    pub(crate) fn start(
        topology: Topology,
        compute: tokio::runtime::Handle,
        reset_state: &[String],
    ) -> Result<Running, Failure> {
        let Topology { loaded, context } = topology;
        let lock = DirLock::take(&context.data_dir).map_err(|message| Failure::new(IO, message))?;
        let config = JobConfig {
            data_dir: context.data_dir.clone(),
            clock: context.clock,
            compute,
            reset_state: reset_state.to_vec(),
        };
        let job = Job::start(loaded.plan, &config).map_err(|error| Failure::new(FAILED, error))?;
        Ok(Running { job, _lock: lock })
    }

    /// Waits for the end and answers how it ended.
    pub(crate) async fn wait(&mut self) -> Result<(), Failure> {
        self.job.wait().await.map_err(|error| Failure::new(FAILED, error))
    }

    /// Stops with a checkpoint (`drain`: as if the inputs had ended), and by
    /// force when that takes too long: then the next start goes on from the
    /// last checkpoint, as after a crash.
    pub(crate) async fn stop(&mut self, drain: bool) -> Result<(), Failure> {
        if drain {
            self.job.drain().await;
        } else {
            self.job.stop().await;
        }
        if let Ok(ended) = tokio::time::timeout(STOP_GRACE, self.wait()).await {
            return ended;
        }
        self.job.abort();
        tracing::warn!(topology = %self.job.name, "did not stop within {STOP_GRACE:?}; stopped by force");
        Ok(())
    }
}
