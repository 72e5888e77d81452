//! What a person says about a device write of which nobody knows whether it
//! happened: kept with who and when, once, before the run hears of it.

use rusqlite::{OptionalExtension, params};

use super::restore::word;
use super::{Journal, JournalError};
use crate::flow::run::RunEvent;
use crate::flow::state::{Resolution, TaskState};
use crate::time::Time;

/// What a person has said about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The task's id.
    pub task: String,
    /// What became of it.
    pub resolution: Resolution,
    /// Who said so.
    pub who: String,
    /// When (wall clock).
    pub at: Time,
}

impl From<Resolved> for RunEvent {
    fn from(said: Resolved) -> RunEvent {
        RunEvent::Resolved { task: said.task, resolution: said.resolution, who: said.who }
    }
}

impl Journal {
    /// Keeps what a person says about an unknown task, durable when it
    /// answers, and closes its ticket. The first word counts.
    ///
    /// # Errors
    /// The disk has failed; within, why the word is not taken.
    pub async fn resolve(&self, run: i64, said: Resolved) -> Result<Result<(), String>, JournalError> {
        self.write(move |writing| {
            let Resolved { task, resolution, who, at } = &said;
            let state = "SELECT tasks.state FROM tasks JOIN runs ON runs.id = tasks.run_id
                         WHERE run_id = ?1 AND task = ?2 AND ended_at IS NULL";
            let state = writing
                .sql
                .prepare_cached(state)?
                .query_row(params![run, task], |row| word(row, 0, TaskState::parse))
                .optional()?;
            match state {
                Some(TaskState::Unknown) => {}
                Some(state) => return Ok(Err(format!("task {task} is {state} and not unknown"))),
                None => return Ok(Err(format!("no open run of this number has begun a task {task}"))),
            }
            let insert =
                "INSERT INTO resolutions (run_id, task, resolution, who, at) VALUES (?1, ?2, ?3, ?4, ?5)
                          ON CONFLICT DO NOTHING";
            let inserted = writing.sql.prepare_cached(insert)?.execute(params![
                run,
                task,
                resolution.word(),
                who,
                at.0
            ])?;
            if inserted == 0 {
                return Ok(Err(format!("task {task} has been resolved already")));
            }
            let close =
                "UPDATE tickets SET state = 'closed' WHERE run_id = ?1 AND substr(key, -length(?2)) = ?2";
            writing.sql.prepare_cached(close)?.execute(params![run, format!("-{task}/unknown")])?;
            Ok(Ok(()))
        })
        .await
    }

    /// What people have said about tasks of a run.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn resolutions(&self, run: i64) -> Result<Vec<Resolved>, JournalError> {
        self.read(|sql| {
            let query = "SELECT task, resolution, who, at FROM resolutions WHERE run_id = ?1 ORDER BY at";
            let mut statement = sql.prepare_cached(query)?;
            let rows = statement.query_map([run], |row| {
                Ok(Resolved {
                    task: row.get(0)?,
                    resolution: word(row, 1, Resolution::parse)?,
                    who: row.get(2)?,
                    at: Time(row.get(3)?),
                })
            })?;
            rows.collect()
        })
    }
}
