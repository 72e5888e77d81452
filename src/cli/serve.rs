//! `tidegate serve`: the daemon.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tidegate_engine::runtime::job::Allowed;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::check::topology_files;
use super::logging;
use super::run::stop_signal;
use crate::api::{Seat, Shown, install_metrics, serve};
use crate::config::DaemonConfig;
use crate::daemon::Runtimes;
use crate::exit::{CONFIG, FAILED, Failure, IO};
use crate::supervise::Charge;
use crate::topology::{LoadOptions, Topology, load_and_report};

#[derive(Args)]
pub(crate) struct Serve {
    /// The daemon's configuration
    #[arg(long, default_value = "/etc/tidegate/tidegate.toml", value_name = "FILE")]
    config: PathBuf,
    /// Throw the saved state of a node away, once
    #[arg(long, value_name = "TOPOLOGY/NODE", value_parser = place)]
    reset_state: Vec<(String, String)>,
    /// Go on from a source's saved position although the file calls what it reads by another name
    #[arg(long, value_name = "TOPOLOGY/NODE", value_parser = place)]
    keep_position: Vec<(String, String)>,
    /// Begin a topology without any state, once, if no checkpoint of it can be read
    #[arg(long, value_name = "TOPOLOGY")]
    accept_loss: Vec<String>,
    /// Go on where a sink of a topology has rows later than its saved state: they may be there twice
    #[arg(long, value_name = "TOPOLOGY")]
    accept_duplicates: Vec<String>,
    /// Log as text instead of JSON lines
    #[arg(long)]
    text: bool,
}

fn place(text: &str) -> Result<(String, String), String> {
    let (topology, node) = text.split_once('/').ok_or_else(|| format!("{text:?} has no `/`"))?;
    Ok((topology.to_owned(), node.to_owned()))
}

impl Serve {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let config = DaemonConfig::open(&self.config)?;
        logging::start(!self.text, "info");
        let metrics = install_metrics()?;
        let charges = self.load_all(&config)?;
        let runtimes = Runtimes::start()?;
        let compute = runtimes.compute.handle().clone();
        runtimes.io.block_on(async {
            // Heard from the first moment on: a signal during the start is a stop, not a crash.
            let signal = stop_signal()?;
            let seats: Vec<Arc<Seat>> = charges.iter().map(|(charge, _)| Arc::clone(&charge.seat)).collect();
            let shown = Shown { metrics, topologies: Arc::new(seats) };
            let address = serve(config.listen, shown).await?;
            tracing::info!("running {} topologies; the API is at http://{address}", charges.len());
            let (stop, stopped) = watch::channel(false);
            let (ended, mut endings) = mpsc::channel(charges.len());
            let count = charges.len();
            let mut lives = JoinSet::new();
            for (charge, topology) in charges {
                lives.spawn(charge.run(topology, compute.clone(), ended.clone(), stopped.clone()));
            }
            tokio::select! {
                () = signal => {}
                // One that has failed keeps the daemon up, so that it is seen.
                () = async { for _ in 0..count { endings.recv().await; } } => {}
            }
            stop.send_replace(true);
            // A second signal ends at once; the next start goes on as after a crash.
            let stopping = async {
                let mut codes = Vec::new();
                while let Some(life) = lives.join_next().await {
                    codes.extend(life.unwrap_or(Err(FAILED)).err());
                }
                codes
            };
            tokio::select! {
                codes = stopping => match codes.as_slice() {
                    [] => Ok(()),
                    // The disk alone is to blame.
                    codes if codes.iter().all(|code| *code == IO) => {
                        Err(Failure::new(IO, "a topology could not be written to its disk"))
                    }
                    _ => Err(Failure::new(FAILED, "a topology has failed")),
                },
                () = stop_signal()? => Err(Failure::new(FAILED, "stopped at once by a second signal")),
            }
        })
    }

    /// Every topology of the daemon's folder; the mistakes of all are told, and
    /// then nothing starts.
    fn load_all(&self, config: &DaemonConfig) -> Result<Vec<(Charge, Topology)>, Failure> {
        let mut charges: Vec<(Charge, Topology)> = Vec::new();
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
                Ok((file, topology)) => {
                    let name = topology.context.topology.as_str();
                    if charges.iter().any(|(charge, _)| charge.seat.name() == name) {
                        let message =
                            format!("{}: there is another topology called `{name}`", path.display());
                        wrong.push(Failure::new(CONFIG, message));
                    }
                    let charge = Charge { file, options, allowed: self.allowed(name), seat: Seat::new(name) };
                    charges.push((charge, topology));
                }
                Err(failure) => wrong.push(failure),
            }
        }
        match wrong.len() {
            0 => self.check_names(&charges).map(|()| charges),
            1 => Err(wrong.remove(0)),
            count => {
                let message = format!("{count} of {} topologies are wrong; nothing was started", files.len());
                // Files that cannot be read now are no mistakes.
                let code = if wrong.iter().all(|failure| failure.code == IO) { IO } else { CONFIG };
                Err(Failure::new(code, message))
            }
        }
    }

    fn allowed(&self, topology: &str) -> Allowed {
        let of = |places: &[(String, String)]| {
            let here = places.iter().filter(|(name, _)| name == topology);
            here.map(|(_, node)| node.clone()).collect()
        };
        Allowed {
            reset_state: of(&self.reset_state),
            keep_position: of(&self.keep_position),
            accept_loss: self.accept_loss.iter().any(|name| name == topology),
            accept_duplicates: self.accept_duplicates.iter().any(|name| name == topology),
        }
    }

    /// A topology on the command line that is not there is a slip.
    fn check_names(&self, charges: &[(Charge, Topology)]) -> Result<(), Failure> {
        let known: BTreeSet<&str> = charges.iter().map(|(charge, _)| charge.seat.name()).collect();
        let places = self.reset_state.iter().chain(&self.keep_position).map(|(topology, _)| topology);
        let mut named = places.chain(&self.accept_loss).chain(&self.accept_duplicates);
        match named.find(|topology| !known.contains(topology.as_str())) {
            Some(topology) => Err(Failure::new(CONFIG, format!("there is no topology `{topology}`"))),
            None => Ok(()),
        }
    }
}
