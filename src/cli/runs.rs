//! `tidegate runs`: runs of flows, read from the journal.

use std::path::PathBuf;

use clap::Args;
use tidegate_engine::flow::journal::JournalReader;
use tidegate_engine::flow::key::run_id_text;
use tidegate_engine::time::Time;

use super::print::{plain, say};
use crate::daemon::journal_path;
use crate::exit::{Failure, IO};
use crate::topology::{LoadOptions, load_and_report};

/// Where a journal is.
#[derive(Args)]
pub(super) struct Where {
    /// The topology file whose state is meant
    file: Option<PathBuf>,
    /// The folder of the state, if it is not beside the file
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Where {
    pub(super) fn open(&self) -> Result<JournalReader, Failure> {
        let data_dir = self.data_dir()?;
        JournalReader::open(&journal_path(&data_dir)).map_err(|error| Failure::new(IO, error))
    }

    /// Where the topology keeps its state.
    pub(super) fn data_dir(&self) -> Result<PathBuf, Failure> {
        let data_dir = match (&self.data_dir, &self.file) {
            (Some(data_dir), _) => data_dir.clone(),
            (None, Some(file)) => load_and_report(file, &LoadOptions::default())?.1.context.data_dir,
            (None, None) => return Err(Failure::new(2, "name a topology file, or a folder with --data-dir")),
        };
        Ok(data_dir)
    }
}

#[derive(Args)]
pub(crate) struct Runs {
    #[command(flatten)]
    place: Where,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

impl Runs {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let journal = self.place.open()?;
        let failed = |error| Failure::new(IO, error);
        for run in journal.runs(self.limit).map_err(failed)? {
            let id = run_id_text(run.id);
            let tasks = journal.tasks(run.id).map_err(failed)?;
            if self.json {
                let tasks: Vec<_> = tasks
                    .iter()
                    .map(|task| serde_json::json!({"task": task.task, "state": task.state.to_string(), "attempts": task.attempt, "reason": task.reason}))
                    .collect();
                let line = serde_json::json!({
                    "run": id, "topology": run.topology, "flow": run.flow, "trigger": run.trigger, "key": run.group,
                    "state": run.state.to_string(), "reason": run.reason, "fired_at": run.fired_at.to_string(),
                    "started_at": run.started_at.map(|at| at.to_string()), "ended_at": run.ended_at.map(|at| at.to_string()),
                    "tasks": tasks,
                });
                say!("{line}");
                continue;
            }
            say!(
                "{id}  {:<10} {:<16} {} {}",
                run.state.to_string(),
                run.flow,
                short(run.recorded_at),
                plain(&run.reason)
            );
            for task in tasks {
                say!("    {:<16} {:<10} {}", task.task, task.state.to_string(), plain(&task.reason));
            }
        }
        Ok(())
    }
}

/// A time without its fraction.
pub(super) fn short(time: Time) -> String {
    time.to_string().chars().take(19).collect()
}
