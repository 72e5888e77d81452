//! `tidegate serve`: the daemon.

use std::path::PathBuf;

use clap::Args;

use super::check::topology_files;
use super::logging;
use super::run::stop_signal;
use crate::api::{Shown, install_metrics, serve};
use crate::config::DaemonConfig;
use crate::daemon::{Running, Runtimes};
use crate::exit::{FAILED, Failure};
use crate::topology::{LoadOptions, load_and_report};

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
        let mut topologies = Vec::new();
        // Everything is checked before anything starts.
        for path in topology_files(std::slice::from_ref(&config.topologies))? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("topology").to_owned();
            let options = LoadOptions {
                data_dir: Some(config.data_dir.join(&stem)),
                writes: config.writes.clone(),
                ..LoadOptions::default()
            };
            topologies.push(load_and_report(&path, &options)?.1);
        }
        let runtimes = Runtimes::start()?;
        let compute = runtimes.compute.handle().clone();
        runtimes.io.block_on(async {
            let mut running = Vec::new();
            for topology in topologies {
                running.push(Running::start(topology, compute.clone(), &[])?);
            }
            let shown = running.iter().map(|running| (running.job.name.clone(), running.job.stats.clone()));
            let shown = Shown { metrics, topologies: std::sync::Arc::new(shown.collect()) };
            let address = serve(config.listen, shown).await?;
            tracing::info!("running {} topologies; the API is at http://{address}", running.len());
            let mut failed = false;
            tokio::select! {
                () = stop_signal()? => {}
                () = any_failure(&mut running) => failed = true,
            }
            // A second signal ends at once; the next start goes on as after a crash.
            let stopping = async {
                for running in &mut running {
                    running.stop(false).await?;
                }
                Ok(())
            };
            tokio::select! {
                result = stopping => if failed { Err(Failure::new(FAILED, "a topology has failed")) } else { result },
                () = stop_signal()? => Err(Failure::new(FAILED, "stopped at once by a second signal")),
            }
        })
    }
}

/// Resolves when every topology has ended; one that fails is told and the
/// others go on.
async fn any_failure(running: &mut [Running]) {
    let mut ended = 0;
    let count = running.len();
    let waits = running.iter_mut().map(|running| async {
        let name = running.job.name.clone();
        (name, running.wait().await)
    });
    let mut waits: futures::stream::FuturesUnordered<_> = waits.collect();
    while let Some((name, result)) = futures::StreamExt::next(&mut waits).await {
        ended += 1;
        match result {
            Ok(()) => tracing::info!(topology = %name, "has ended"),
            Err(failure) => tracing::error!(topology = %name, "{}", failure.message),
        }
    }
    tracing::info!("all {ended} of {count} topologies have ended");
}
