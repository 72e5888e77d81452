//! `tidegate flow`: runs of flows, and a person's word about a device write of
//! which nobody knows whether it happened.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use tidegate_engine::flow::journal::{Journal, Resolved};
use tidegate_engine::flow::key::parse_run_id;
use tidegate_engine::flow::state::Resolution;
use tidegate_engine::storage::files::DirLock;
use tidegate_engine::time::{Clock, SystemClock};

use super::print::say;
use super::runs::{Runs, Where};
use super::status::ask;
use crate::api::{RESOLVE, Word};
use crate::daemon::journal_path;
use crate::exit::{FAILED, Failure, IO};

#[derive(Args)]
pub(crate) struct Flow {
    #[command(subcommand)]
    command: FlowCommand,
}

#[derive(Subcommand)]
enum FlowCommand {
    /// Runs, newest first; `--state unknown`: those that wait for your word
    Runs(Runs),
    /// Say whether an unknown device write happened; its run goes on
    Resolve(Resolve),
}

impl Flow {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.command {
            FlowCommand::Runs(command) => command.run(),
            FlowCommand::Resolve(command) => command.run(),
        }
    }
}

/// What became of the write.
#[derive(Clone, Copy, ValueEnum)]
enum As {
    /// It happened: later tasks run
    Done,
    /// It did not happen: the task has failed
    Failed,
}

#[derive(Args)]
struct Resolve {
    /// The run, as `flow runs` shows it
    run: String,
    /// The task whose write is unknown
    task: String,
    /// What became of the write
    #[arg(long = "as", value_name = "WHAT")]
    resolution: As,
    /// Who says so, kept in the journal; the user's name if left out
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// The topology file, if nothing runs it now; else the daemon is asked
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// The folder of the state, as --topology
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the daemon's API
    #[arg(long, default_value = "127.0.0.1:7450")]
    api: String,
}

impl Resolve {
    fn run(self) -> Result<(), Failure> {
        let run = parse_run_id(&self.run)
            .ok_or_else(|| Failure::new(2, format!("{:?} is no number of a run", self.run)))?;
        let resolution = match self.resolution {
            As::Done => Resolution::Done,
            As::Failed => Resolution::Failed,
        };
        let by = self.by.or_else(|| std::env::var("USER").ok());
        let by = by.ok_or_else(|| Failure::new(2, "nobody knows who you are; say it with --by NAME"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(FAILED, error))?;
        if self.topology.is_none() && self.data_dir.is_none() {
            let word = Word { run: self.run, task: self.task, resolution: resolution.word().into(), by };
            let body = serde_json::to_string(&word).map_err(|error| Failure::new(FAILED, error))?;
            say!("{}", runtime.block_on(ask(&self.api, "POST", RESOLVE, Some(&body)))?.trim_end());
            return Ok(());
        }
        let data_dir = Where::new(self.topology, self.data_dir).data_dir()?;
        let path = journal_path(&data_dir);
        if !path.exists() {
            return Err(Failure::new(IO, format!("there is no journal at {}", path.display())));
        }
        let _lock = DirLock::take(&data_dir).map_err(|message| {
            Failure::new(IO, format!("{message}; leave --topology out to ask its daemon, or stop it first"))
        })?;
        let journal = Journal::open(&path).map_err(|error| Failure::new(IO, error))?;
        let said = Resolved { task: self.task, resolution, who: by, at: SystemClock.now() };
        let taken = runtime.block_on(journal.resolve(run, said)).map_err(|error| Failure::new(IO, error))?;
        taken.map_err(|reason| Failure::new(FAILED, reason))?;
        say!("kept; the run goes on when its topology runs");
        Ok(())
    }
}
