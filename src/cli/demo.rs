//! `tidegate demo`: a simulated plant in this process, and three topologies
//! that run on it over real sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tidegate_engine::flow::events::{FlowEvent, What};
use tidegate_engine::flow::journal::JournalReader;
use tidegate_engine::flow::key::run_id_text;
use tidegate_engine::runtime::job::Allowed;
use tidegate_engine::runtime::stats::NodeStatus;
use tidegate_engine::task::WriteRule;
use tidegate_engine::time::{Clock, SystemClock, Time};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use super::logging;
use super::print::say;
use super::run::{duration, stop_signal};
use crate::daemon::{Running, Runtimes, journal_path};
use crate::demo::{Plant, TOPOLOGIES};
use crate::exit::{CONFIG, FAILED, Failure, IO};
use crate::topology::{LoadOptions, TopologyFile};

#[derive(Args)]
pub(crate) struct Demo {
    /// End after this time, e.g. 20s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    for_time: Option<Duration>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
    /// Keep the state here instead of in a folder that is removed
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Lines that wait for the screen.
const LINES_MAX: usize = 1_024;
/// How often the nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the rows are told.
const TELL_ROWS_EVERY: u32 = 50;

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        logging::start(self.json, "error");
        let runtimes = Runtimes::start()?;
        let compute = runtimes.compute.handle().clone();
        let (folder, is_temporary) = self.folder()?;
        let result = runtimes.io.block_on(self.play(&folder, compute));
        // Servers of the plant may be in the middle of something.
        runtimes.io.shutdown_timeout(Duration::from_secs(1));
        if is_temporary && let Err(error) = std::fs::remove_dir_all(&folder) {
            eprintln!("cannot remove {}: {error}", folder.display());
        }
        result
    }

    fn folder(&self) -> Result<(PathBuf, bool), Failure> {
        match &self.data_dir {
            Some(folder) => Ok((folder.clone(), false)),
            None => {
                let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
                std::fs::create_dir_all(&folder).map_err(|error| {
                    Failure::new(IO, format!("cannot make {}: {error}", folder.display()))
                })?;
                Ok((folder, true))
            }
        }
    }

    async fn play(&self, folder: &std::path::Path, compute: tokio::runtime::Handle) -> Result<(), Failure> {
        let started = SystemClock.now();
        let teller = Teller { json: self.json, started };
        let stop = stop_signal()?;
        let plant = Plant::start().await?;
        teller.line(
            "demo",
            "plant",
            "started",
            "a simulated plant: Modbus, OPC UA, MQTT, Kafka on loopback sockets",
        );
        let mut running = Vec::new();
        for (name, text) in TOPOLOGIES {
            running.push(start(name, text, folder, &plant, compute.clone()).await?);
        }
        let (lines, mut told) = mpsc::channel(LINES_MAX);
        for topology in &running {
            let events = topology.events.listen();
            tokio::spawn(forward(events, lines.clone()));
        }
        let watching = watch(&running, &teller, &mut told);
        tokio::select! {
            () = watching => {}
            () = stop => {}
            () = wait(self.for_time) => {}
        }
        let mut summary = Summary::default();
        for topology in &mut running {
            let stopped = topology.stop(false).await;
            summary.add(topology)?;
            stopped?;
        }
        summary.print(&teller);
        drop(plant);
        Ok(())
    }
}

async fn start(
    name: &str,
    text: &str,
    folder: &std::path::Path,
    plant: &Plant,
    compute: tokio::runtime::Handle,
) -> Result<Running, Failure> {
    let file = TopologyFile { path: PathBuf::from(format!("{name}.toml")), text: text.to_owned() };
    let variables = plant.variables();
    let options = LoadOptions {
        data_dir: Some(folder.join(name)),
        writes: Arc::new(writes(&variables)),
        variables,
        ..LoadOptions::default()
    };
    let topology = file.load(&options).map_err(|error| {
        eprintln!("{}", file.render(&error.0));
        Failure::new(CONFIG, format!("the demo's topology {name} is wrong"))
    })?;
    Ok(Running::start(topology, compute, Allowed::default()).await?)
}

/// The demo's own `[writes]`: one valve and the turbines' power limits.
fn writes(variables: &BTreeMap<String, String>) -> Vec<WriteRule> {
    let of = |name: &str| variables.get(name).cloned().unwrap_or_default();
    let valve = WriteRule {
        target: format!("{}/1/holding:40", of("PLC")),
        min: 0.0,
        max: 1_800.0,
        every_min: Duration::from_secs(1),
    };
    let limits = ["WTG01", "WTG02", "WTG03"].map(|turbine| WriteRule {
        target: format!("{} nsu=urn:tidegate:wind-farm;s={turbine}.PowerLimit", of("SCADA")),
        min: 20.0,
        max: 100.0,
        every_min: Duration::from_secs(1),
    });
    limits.into_iter().chain([valve]).collect()
}

async fn wait(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

async fn forward(mut events: tokio::sync::broadcast::Receiver<FlowEvent>, lines: mpsc::Sender<FlowEvent>) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if lines.send(event).await.is_err() {
                    return;
                }
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!("{missed} lines were too fast for the screen"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Tells what happens until the topologies end.
async fn watch(running: &[Running], teller: &Teller, told: &mut mpsc::Receiver<FlowEvent>) {
    let mut states: BTreeMap<(String, String), String> = BTreeMap::new();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let mut count = 0_u32;
    loop {
        tokio::select! {
            Some(event) = told.recv() => teller.event(&event),
            _ = looks.tick() => {
                count += 1;
                for topology in running {
                    let nodes: Vec<NodeStatus> = topology.job.stats.iter().map(|node| node.read()).collect();
                    for node in nodes.iter().filter(|node| node.kind != "operator") {
                        let key = (topology.job.name.clone(), node.name.clone());
                        if states.insert(key, node.state.clone()).as_ref() != Some(&node.state) {
                            teller.line(&topology.job.name, &node.name, node.kind, &node.state);
                        }
                    }
                    if count.is_multiple_of(TELL_ROWS_EVERY) {
                        let rows: u64 = nodes.iter().filter(|node| node.kind == "source").map(|node| node.rows_in).sum();
                        teller.line(&topology.job.name, "", "rows", &format!("{rows} rows so far"));
                    }
                }
            }
        }
    }
}

/// Prints lines for a person or a script.
struct Teller {
    json: bool,
    started: Time,
}

impl Teller {
    fn line(&self, topology: &str, node: &str, kind: &str, text: &str) {
        let now = SystemClock.now();
        if self.json {
            let line = serde_json::json!({"time": now.to_string(), "topology": topology, "node": node, "kind": kind, "text": text});
            say!("{line}");
        } else {
            let seconds = now.since(self.started).as_secs_f64();
            let node = if node.is_empty() { String::new() } else { format!(" {node}") };
            say!("{seconds:7.2}s  {topology:<10} {kind:<8}{node}  {text}");
        }
    }

    fn event(&self, event: &FlowEvent) {
        let kind = match &event.what {
            What::Firing { .. } => "firing",
            What::RunStarted { .. } | What::Run { .. } => "run",
            What::TaskStarted { .. } => return,
            What::Task { .. } => "task",
            What::Ticket { .. } => "ticket",
            What::Notice(_) => "alert",
            What::Write { .. } => "write",
        };
        if !self.json {
            self.line(&event.topology, "", kind, &event.to_string());
            return;
        }
        let mut line = serde_json::json!({
            "time": event.at.to_string(), "topology": event.topology, "node": event.flow, "kind": kind,
            "run": event.run.map(run_id_text), "text": event.what.to_string(),
        });
        if let (What::Write { target, before, value, outcome }, Some(object)) =
            (&event.what, line.as_object_mut())
        {
            object.insert("address".into(), target.as_str().into());
            object.insert("before".into(), before.as_str().into());
            object.insert("value".into(), value.as_str().into());
            let read_back = match outcome {
                tidegate_engine::task::WriteOutcome::Done { read_back } => Some(read_back.as_str()),
                tidegate_engine::task::WriteOutcome::Refused { .. }
                | tidegate_engine::task::WriteOutcome::Unknown { .. }
                | tidegate_engine::task::WriteOutcome::Skipped { .. } => None,
            };
            object.insert("read_back".into(), read_back.into());
        }
        say!("{line}");
    }
}

/// What the demo came to.
#[derive(Default)]
struct Summary {
    rows: u64,
    windows: u64,
    firings: u64,
    runs: u64,
    tickets: usize,
    writes: usize,
}

impl Summary {
    fn add(&mut self, topology: &Running) -> Result<(), Failure> {
        for node in topology.job.stats.iter().map(|node| node.read()) {
            match node.name.as_str() {
                _ if node.kind == "source" => self.rows += node.rows_in,
                "features" | "soil_now" => self.windows += node.rows_out.first().map_or(0, |(_, rows)| *rows),
                _ => {}
            }
        }
        let failed = |error| Failure::new(FAILED, error);
        let journal = JournalReader::open(&journal_path(&topology.data_dir)).map_err(failed)?;
        let counts = journal.counts().map_err(failed)?;
        self.firings += counts.firings.iter().map(|(_, _, count)| count).sum::<u64>();
        self.runs += counts.runs.iter().map(|(_, _, count)| count).sum::<u64>();
        self.tickets += journal.tickets(usize::MAX).map_err(failed)?.len();
        self.writes += journal.writes(usize::MAX).map_err(failed)?.len();
        Ok(())
    }

    fn print(&self, teller: &Teller) {
        let Summary { rows, windows, firings, runs, tickets, writes } = self;
        if teller.json {
            let line = serde_json::json!({
                "time": SystemClock.now().to_string(), "topology": "demo", "node": "", "kind": "summary", "rows": rows,
                "windows": windows, "firings": firings, "runs": runs, "tickets": tickets, "writes": writes,
            });
            say!("{line}");
        } else {
            say!(
                "\n{rows} rows, {windows} windows, {firings} firings, {runs} runs, {tickets} tickets, {writes} device writes"
            );
        }
    }
}
