//! `tidegate serve`: the daemon.

use std::path::PathBuf;

use clap::Args;
use futures::future::join_all;
use tidegate_engine::runtime::job::Allowed;

use super::check::topology_files;
use super::logging;
use super::run::stop_signal;
use crate::api::{Shown, install_metrics, serve};
use crate::config::DaemonConfig;
use crate::daemon::{Running, Runtimes};
use crate::exit::{CONFIG, FAILED, Failure};
use crate::topology::{LoadOptions, Topology, load_and_report};

#[derive(Args)]
pub(crate) struct Serve {
    /// The daemon's configuration
    #[arg(long, default_value = "/etc/tidegate/tidegate.toml", value_name = "FILE")]
    config: PathBuf,
    /// Log as text instead of JSON lines
    #[arg(long)]
    text: bool,
}

impl Serve {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let config = DaemonConfig::open(&self.config)?;
        logging::start(!self.text, "info");
        let metrics = install_metrics()?;
        let topologies = load_all(&config)?;
        let runtimes = Runtimes::start()?;
        let compute = runtimes.compute.handle().clone();
        runtimes.io.block_on(async {
            // Heard from the first moment on: a signal during the start is a stop, not a crash.
            let stop = stop_signal()?;
            let mut running = Vec::new();
            for topology in topologies {
                running.push(Running::start(topology, compute.clone(), Allowed::default())?);
            }
            let shown = running.iter().map(|running| (running.job.name.clone(), running.job.stats.clone()));
            let flows = running.iter().filter_map(|running| running.scheduler.clone()).collect();
            let shown = Shown {
                metrics,
                topologies: std::sync::Arc::new(shown.collect()),
                flows: std::sync::Arc::new(flows),
            };
            let address = serve(config.listen, shown).await?;
            tracing::info!("running {} topologies; the API is at http://{address}", running.len());
            let mut all_well = true;
            tokio::select! {
                () = stop => {}
                result = all_ended(&mut running) => all_well = result,
            }
            // A second signal ends at once; the next start goes on as after a crash.
            let stopping = join_all(running.iter_mut().map(|running| running.stop(false)));
            tokio::select! {
                results = stopping => results.into_iter().collect::<Result<(), Failure>>()?,
                () = stop_signal()? => return Err(Failure::new(FAILED, "stopped at once by a second signal")),
            }
            if all_well { Ok(()) } else { Err(Failure::new(FAILED, "a topology has failed")) }
        })
    }
}

/// Every topology of the daemon's folder; the mistakes of all are told, and
/// then nothing starts.
fn load_all(config: &DaemonConfig) -> Result<Vec<Topology>, Failure> {
    let mut topologies = Vec::new();
    let mut wrong = Vec::new();
    let files = topology_files(std::slice::from_ref(&config.topologies))?;
    for path in &files {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("topology");
        let options = LoadOptions {
            data_dir: Some(config.data_dir.join(stem)),
            writes: config.writes.clone(),
            ..LoadOptions::default()
        };
        match load_and_report(path, &options) {
            Ok((_, topology)) => {
                let name = &topology.context.topology;
                if topologies.iter().any(|other: &Topology| other.context.topology == *name) {
                    let message = format!("{}: there is another topology called `{name}`", path.display());
                    wrong.push(Failure::new(CONFIG, message));
                }
                topologies.push(topology);
            }
            Err(failure) => wrong.push(failure),
        }
    }
    match wrong.len() {
        0 => Ok(topologies),
        1 => Err(wrong.remove(0)),
        count => {
            let message = format!("{count} of {} topologies are wrong; nothing was started", files.len());
            Err(Failure::new(CONFIG, message))
        }
    }
}

/// Waits until every topology has ended by itself; one that fails is told and
/// the others go on. Answers whether all ended well.
async fn all_ended(running: &mut [Running]) -> bool {
    let waits = running.iter_mut().map(|running| async {
        let result = running.wait().await;
        match &result {
            Ok(()) => tracing::info!(topology = %running.job.name, "has ended"),
            Err(failure) => tracing::error!(topology = %running.job.name, "{}", failure.message),
        }
        result.is_ok()
    });
    join_all(waits).await.into_iter().all(|well| well)
}
