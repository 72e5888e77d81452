//! `tidegate runs`: runs of flows, read from the journal.

use std::path::PathBuf;

use clap::Args;
use tidegate_engine::flow::journal::JournalReader;
use tidegate_engine::flow::key::run_id_text;
use tidegate_engine::flow::state::{RunState, TaskState};
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
    pub(super) fn new(file: Option<PathBuf>, data_dir: Option<PathBuf>) -> Where {
        Where { file, data_dir }
    }

    /// The folder of the state.
    pub(super) fn data_dir(&self) -> Result<PathBuf, Failure> {
        match (&self.data_dir, &self.file) {
            (Some(data_dir), _) => Ok(data_dir.clone()),
            (None, Some(file)) => Ok(load_and_report(file, &LoadOptions::default())?.1.context.data_dir),
            (None, None) => Err(Failure::new(2, "name a topology file, or a folder with --data-dir")),
        }
    }

    pub(super) fn open(&self) -> Result<JournalReader, Failure> {
        let path = journal_path(&self.data_dir()?);
        JournalReader::open(&path).map_err(|error| Failure::new(IO, error))
    }
}

/// A state that a run, or a task of an open run, may have.
fn state(word: &str) -> Result<String, String> {
    let runs = RunState::ALL.iter().map(|state| state.word());
    let tasks = TaskState::ALL.iter().map(|state| state.word());
    let mut words: Vec<&str> = runs.chain(tasks).collect();
    words.sort_unstable();
    words.dedup();
    if words.contains(&word) {
        Ok(word.to_owned())
    } else {
        Err(format!("the states are {}", words.join(", ")))
    }
}

#[derive(Args)]
pub(crate) struct Runs {
    #[command(flatten)]
    place: Where,
    /// Only runs in this state, or with a task in it, e.g. `unknown`
    #[arg(long, value_parser = state)]
    state: Option<String>,
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
        let runs = match &self.state {
            Some(state) => journal.runs_in(state, self.limit),
            None => journal.runs(self.limit),
        };
        for run in runs.map_err(failed)? {
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
