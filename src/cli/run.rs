//! `tidegate run FILE`: one topology in the foreground.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidegate_engine::flow::key::run_id_text;
use tidegate_engine::runtime::job::Allowed;
use tidegate_engine::topology::value::parse_duration;
use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use crate::config::DaemonConfig;
use crate::daemon::{Running, Runtimes};
use crate::exit::{FAILED, Failure, IO};
use crate::topology::{LoadOptions, load_and_report};

#[derive(Args)]
pub(crate) struct Run {
    /// The topology file
    file: PathBuf,
    /// Sources end at what is there now; drain and exit
    #[arg(long)]
    once: bool,
    /// Stop after this time, e.g. 30s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    for_time: Option<Duration>,
    /// Where state is kept; `.tidegate/NAME` beside the file if left out
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The daemon's configuration, for its [writes]; without it no device is written
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Throw the saved state of a node away
    #[arg(long, value_name = "NODE")]
    reset_state: Vec<String>,
    /// Go on from a source's saved position although the file calls what it reads by another name
    #[arg(long, value_name = "NODE")]
    keep_position: Vec<String>,
    /// Begin without any state if no checkpoint can be read
    #[arg(long)]
    accept_loss: bool,
    /// Go on where a sink has rows later than the saved state: they may be there twice
    #[arg(long)]
    accept_duplicates: bool,
    /// Give `${NAME}` a value
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Read a source's rows from a recorded file of JSON lines instead of its device
    #[arg(long, value_name = "NODE=FILE", value_parser = pair)]
    replay: Vec<(String, String)>,
    /// Log as JSON lines
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} has no `=`"))?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| format!("{text:?} is no time; write e.g. 30s, 5m or 2h"))
}

/// What ended the wait for a topology.
enum Ending {
    ByItself(Result<(), Failure>),
    TimeOver,
    Signal,
}

impl Run {
    pub(crate) fn run(self) -> Result<(), Failure> {
        logging::start(self.json, "info");
        let options = LoadOptions {
            data_dir: self.data_dir.clone(),
            once: self.once,
            variables: self.set.iter().cloned().collect(),
            replay: self.replay()?,
            writes: self
                .config
                .as_deref()
                .map(DaemonConfig::open)
                .transpose()?
                .map(|config| config.writes)
                .unwrap_or_default(),
        };
        let (_, topology) = load_and_report(&self.file, &options)?;
        let runtimes = Runtimes::start()?;
        let compute = runtimes.compute.handle().clone();
        runtimes.io.block_on(async {
            // Heard from the first moment on: a signal during the start is a stop, not a crash.
            let stop = stop_signal()?;
            let mut running = Running::start(topology, compute, self.allowed()).await?;
            let ending = tokio::select! {
                ended = running.wait() => Ending::ByItself(ended),
                () = wait(self.for_time) => Ending::TimeOver,
                () = stop => Ending::Signal,
            };
            let result = match ending {
                // What became of the disk decides; its runs go on after the next start.
                Ending::ByItself(Err(failure)) if failure.code == IO => Err(failure),
                Ending::ByItself(result) => {
                    for run in running.wait_for_runs().await.waiting {
                        let id = run_id_text(run.id);
                        tracing::info!(flow = %run.flow, run = %id, "run is {} {}", run.state, run.reason);
                    }
                    running.stop_flows().await;
                    result
                }
                // The author asked for an end: results of open windows are wanted.
                Ending::TimeOver => running.stop(self.once).await,
                Ending::Signal => {
                    // Whoever is in a hurry says so again: as safe as a crash.
                    let again = stop_signal()?;
                    tokio::select! {
                        stopped = running.stop(false) => stopped,
                        () = again => return Err(Failure::new(FAILED, "stopped at once by a second signal")),
                    }
                }
            };
            summary(&running);
            result
        })
    }
}

impl Run {
    fn allowed(&self) -> Allowed {
        Allowed {
            reset_state: self.reset_state.clone(),
            keep_position: self.keep_position.clone(),
            accept_loss: self.accept_loss,
            accept_duplicates: self.accept_duplicates,
        }
    }

    /// Recorded files by node; paths start at the current folder.
    fn replay(&self) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let mut replay = BTreeMap::new();
        for (node, path) in &self.replay {
            let path = std::path::absolute(path);
            let path =
                path.map_err(|error| Failure::new(IO, format!("cannot find the current folder: {error}")))?;
            replay.insert(node.clone(), path);
        }
        Ok(replay)
    }
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Resolves at SIGINT or SIGTERM.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new(FAILED, format!("cannot hear signals: {error}")));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn summary(running: &Running) {
    for node in running.job.stats.iter().map(|stats| stats.read()) {
        let ports: Vec<String> = node
            .rows_out
            .iter()
            .filter(|(port, rows)| *rows > 0 || port.is_empty())
            .map(
                |(port, rows)| if port.is_empty() { format!("{rows} out") } else { format!("{rows} {port}") },
            )
            .collect();
        tracing::info!(node = %node.name, "{} in, {}", node.rows_in, ports.join(", "));
    }
}
