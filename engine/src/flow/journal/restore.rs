//! Runs that have not ended, as a restart needs them: everything a run knew is
//! in the journal.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Row, params};

use super::{Journal, JournalError};
use crate::flow::key::RunKey;
use crate::flow::state::{RunState, TaskState};
use crate::time::Time;

/// A run that has not ended.
#[derive(Clone, Debug)]
pub struct OpenRun {
    /// Its number.
    pub id: i64,
    /// Name of the firing that started it.
    pub run_key: RunKey,
    /// The flow.
    pub flow: String,
    /// The revision of the flow that it began with.
    pub revision: String,
    /// The trigger.
    pub trigger: String,
    /// Where it stood.
    pub state: RunState,
    /// When the trigger fired (event time).
    pub fired_at: Time,
    /// When the firing was recorded (wall clock).
    pub recorded_at: Time,
    /// When it began, if it has (wall clock).
    pub started_at: Option<Time>,
    /// Its parameters, as IPC bytes.
    pub params: Vec<u8>,
    /// The rows that fired, as IPC bytes.
    pub rows: Vec<u8>,
    /// How it was about to end, and why.
    pub closing: Option<(RunState, String)>,
    /// Why it must stop, if it must.
    pub stop: Option<String>,
    /// Its tasks, as far as they have a line.
    pub tasks: Vec<SavedTask>,
}

/// A task of an open run.
#[derive(Clone, Debug)]
pub struct SavedTask {
    /// The task's id.
    pub task: String,
    /// Where it stood.
    pub state: TaskState,
    /// The last attempt.
    pub attempt: u32,
    /// Failed attempts that count.
    pub failures: u32,
    /// When it goes on by itself.
    pub wait_until: Option<Time>,
    /// What `Task::resume` gets.
    pub wait_data: Option<Vec<u8>>,
    /// Why, for a person.
    pub reason: String,
    /// Its result, as IPC bytes.
    pub result: Option<Vec<u8>>,
}

impl Journal {
    /// Numbers of runs of a topology that have not ended and wait for no other
    /// run, oldest first, from `after` on.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn open_runs(&self, topology: &str, after: i64, limit: usize) -> Result<Vec<i64>, JournalError> {
        self.read(|sql| {
            let mut statement = sql.prepare_cached(
                "SELECT id FROM runs INDEXED BY runs_open
                 WHERE topology = ?1 AND ended_at IS NULL AND NOT held AND id > ?2 ORDER BY id LIMIT ?3",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map((topology, after, limit), |row| row.get(0))?;
            rows.collect()
        })
    }

    /// Everything about one open run; `None` if it has ended.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn open_run(&self, id: i64) -> Result<Option<OpenRun>, JournalError> {
        self.read(|sql| {
            let mut statement = sql.prepare_cached(
                "SELECT id, run_key, flow, trigger, state, fired_at, recorded_at, started_at, params, stop,
                        ifnull((SELECT f.rows FROM firings AS f WHERE f.fired_at = runs.fired_at AND f.run_key = runs.run_key), x''),
                        closing, closing_reason, revision
                 FROM runs WHERE id = ?1 AND ended_at IS NULL",
            )?;
            let Some(mut run) = statement.query_row([id], open_run).optional()? else { return Ok(None) };
            let mut statement = sql.prepare_cached(
                "SELECT task, state, attempt, failures, wait_until, wait_data, reason, result FROM tasks WHERE run_id = ?1",
            )?;
            run.tasks = statement.query_map([id], saved_task)?.collect::<rusqlite::Result<_>>()?;
            Ok(Some(run))
        })
    }
}

impl Journal {
    /// Keeps the text of the file for these flows and their revisions, before
    /// anything that is written later, and forgets those that neither this
    /// file nor an open run has.
    ///
    /// # Errors
    /// The disk has failed before.
    pub fn keep_revisions(
        &self,
        topology: &str,
        flows: Vec<(String, String)>,
        text: Arc<str>,
        now: Time,
    ) -> Result<(), JournalError> {
        let topology = topology.to_owned();
        self.post_now(move |writing| {
            let insert = "INSERT INTO revisions (topology, flow, revision, seen_at, text)
                          VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET seen_at = excluded.seen_at";
            let mut statement = writing.sql.prepare_cached(insert)?;
            for (flow, revision) in &flows {
                statement.execute(params![topology, flow, revision, now.0, &*text])?;
            }
            let delete = "DELETE FROM revisions WHERE topology = ?1 AND seen_at < ?2 AND NOT EXISTS (
                              SELECT 1 FROM runs INDEXED BY runs_open WHERE runs.topology = revisions.topology
                              AND runs.flow = revisions.flow AND runs.revision = revisions.revision
                              AND runs.ended_at IS NULL)";
            writing.sql.prepare_cached(delete)?.execute(params![topology, now.0]).map(|_| ())
        })
    }

    /// The file that had this revision of a flow; `None` if it is not kept.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn revision_text(
        &self,
        topology: &str,
        flow: &str,
        revision: &str,
    ) -> Result<Option<String>, JournalError> {
        self.read(|sql| {
            let query = "SELECT text FROM revisions WHERE topology = ?1 AND flow = ?2 AND revision = ?3";
            let mut statement = sql.prepare_cached(query)?;
            statement.query_row((topology, flow, revision), |row| row.get(0)).optional()
        })
    }
}

fn open_run(row: &Row<'_>) -> rusqlite::Result<OpenRun> {
    Ok(OpenRun {
        id: row.get(0)?,
        run_key: RunKey(row.get(1)?),
        flow: row.get(2)?,
        revision: row.get(13)?,
        trigger: row.get(3)?,
        state: word(row, 4, RunState::parse)?,
        fired_at: Time(row.get(5)?),
        recorded_at: Time(row.get(6)?),
        started_at: row.get::<_, Option<i64>>(7)?.map(Time),
        params: row.get(8)?,
        stop: row.get(9)?,
        rows: row.get(10)?,
        closing: match row.get::<_, Option<String>>(11)? {
            Some(_) => Some((word(row, 11, RunState::parse)?, row.get(12)?)),
            None => None,
        },
        tasks: Vec::new(),
    })
}

fn saved_task(row: &Row<'_>) -> rusqlite::Result<SavedTask> {
    Ok(SavedTask {
        task: row.get(0)?,
        state: word(row, 1, TaskState::parse)?,
        attempt: row.get(2)?,
        failures: row.get(3)?,
        wait_until: row.get::<_, Option<i64>>(4)?.map(Time),
        wait_data: row.get(5)?,
        reason: row.get(6)?,
        result: row.get(7)?,
    })
}

/// A stored word; one that this program does not know is damage.
pub(super) fn word<T>(row: &Row<'_>, index: usize, parse: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    parse(&text).ok_or_else(|| {
        let error = format!("unknown word `{text}`");
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, error.into())
    })
}
