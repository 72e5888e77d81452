//! The journal for those who only look: the command line and the daemon's
//! pages. Works beside a running daemon.

use std::path::Path;

use rusqlite::{Connection, Row};

use super::restore::word;
use super::{Journal, JournalError, open_reader, tables};
use crate::flow::state::{Outcome, RunState, TaskState};
use crate::task::WriteOutcome;
use crate::time::Time;

/// A journal opened for reading only.
pub struct JournalReader {
    connection: Connection,
    file: String,
}

/// A run, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct RunLine {
    /// Its number; `key::run_id_text` writes it.
    pub id: i64,
    /// The topology.
    pub topology: String,
    /// The flow.
    pub flow: String,
    /// The trigger that started it.
    pub trigger: String,
    /// Value of `one_per`; empty if there is none.
    pub group: String,
    /// Where it stands.
    pub state: RunState,
    /// Why, for a person.
    pub reason: String,
    /// When the trigger fired (event time).
    pub fired_at: Time,
    /// When it was recorded.
    pub recorded_at: Time,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub ended_at: Option<Time>,
}

/// A task of a run, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskLine {
    /// The task's id.
    pub task: String,
    /// Where it stands.
    pub state: TaskState,
    /// Attempts so far.
    pub attempt: u32,
    /// When it goes on by itself.
    pub wait_until: Option<Time>,
    /// Why, for a person.
    pub reason: String,
}

/// A ticket, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct TicketLine {
    /// Its number, from 1.
    pub id: i64,
    /// The topology.
    pub topology: String,
    /// The flow.
    pub flow: String,
    /// The run that opened it.
    pub run: i64,
    /// When.
    pub opened_at: Time,
    /// `open` or `closed`.
    pub state: String,
    /// `low`, `medium`, `high` or `critical`.
    pub severity: String,
    /// One line.
    pub title: String,
    /// More text.
    pub body: String,
}

/// A device write, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct WriteLine {
    /// The run.
    pub run: i64,
    /// The point.
    pub target: String,
    /// The value to be written.
    pub value: String,
    /// The value before.
    pub before: String,
    /// When the intent was recorded.
    pub recorded_at: Time,
    /// How it ended; `None` while nobody knows.
    pub outcome: Option<WriteOutcome>,
}

/// An alert or an `emit`, for a list.
#[derive(Clone, Debug, PartialEq)]
pub struct NoticeLine {
    /// The run.
    pub run: i64,
    /// When.
    pub recorded_at: Time,
    /// `alert`, or the name of an `emit`.
    pub kind: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened.
    pub text: String,
}

/// How many of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Firings by trigger and outcome.
    pub firings: Vec<(String, Outcome, u64)>,
    /// Runs by flow and state.
    pub runs: Vec<(String, RunState, u64)>,
}

impl JournalReader {
    /// Opens a journal for reading.
    ///
    /// # Errors
    /// There is none, it cannot be read, or a newer version wrote it.
    pub fn open(path: &Path) -> Result<JournalReader, JournalError> {
        let file = path.display().to_string();
        if !path.exists() {
            return Err(JournalError(format!("there is no journal at {file}; has this topology ever run?")));
        }
        let connection = open_reader(path).map_err(|error| JournalError::new(&file, &error))?;
        tables::check_version(&connection, &file)?;
        Ok(JournalReader { connection, file })
    }

    pub(super) fn look<T>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, JournalError> {
        look(&self.connection).map_err(|error| JournalError::new(&self.file, &error))
    }

    /// The newest runs first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunLine>, JournalError> {
        self.look(|sql| runs(sql, limit))
    }

    /// The newest runs first that are in the state of this word, and open ones
    /// with a task in it.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn runs_in(&self, state: &str, limit: usize) -> Result<Vec<RunLine>, JournalError> {
        self.look(|sql| {
            let query = format!(
                "{RUN_COLUMNS} WHERE state = ?1 OR ended_at IS NULL AND EXISTS (
                     SELECT 1 FROM tasks WHERE tasks.run_id = runs.id AND tasks.state = ?1)
                 ORDER BY id DESC LIMIT ?2"
            );
            let mut statement = sql.prepare_cached(&query)?;
            let rows = statement.query_map((state, at_most(limit)), run_line)?;
            rows.collect()
        })
    }

    /// Tasks of a run, in no order that matters.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn tasks(&self, run: i64) -> Result<Vec<TaskLine>, JournalError> {
        self.look(|sql| tasks(sql, run))
    }

    /// The newest tickets first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn tickets(&self, limit: usize) -> Result<Vec<TicketLine>, JournalError> {
        self.look(|sql| tickets(sql, limit))
    }

    /// The newest device writes first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn writes(&self, limit: usize) -> Result<Vec<WriteLine>, JournalError> {
        self.look(|sql| writes(sql, limit))
    }

    /// The newest notices first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn notices(&self, limit: usize) -> Result<Vec<NoticeLine>, JournalError> {
        self.look(|sql| notices(sql, limit))
    }

    /// How many firings and runs there are of each kind.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn counts(&self) -> Result<Counts, JournalError> {
        self.look(counts)
    }
}

impl Journal {
    /// As `JournalReader::runs`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunLine>, JournalError> {
        self.read(|sql| runs(sql, limit))
    }

    /// As `JournalReader::tasks`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn tasks(&self, run: i64) -> Result<Vec<TaskLine>, JournalError> {
        self.read(|sql| tasks(sql, run))
    }

    /// As `JournalReader::tickets`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn tickets(&self, limit: usize) -> Result<Vec<TicketLine>, JournalError> {
        self.read(|sql| tickets(sql, limit))
    }

    /// As `JournalReader::writes`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn writes(&self, limit: usize) -> Result<Vec<WriteLine>, JournalError> {
        self.read(|sql| writes(sql, limit))
    }

    /// As `JournalReader::notices`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn notices(&self, limit: usize) -> Result<Vec<NoticeLine>, JournalError> {
        self.read(|sql| notices(sql, limit))
    }

    /// As `JournalReader::counts`.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn counts(&self) -> Result<Counts, JournalError> {
        self.read(counts)
    }

    /// Runs of a topology that have not ended, oldest first.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn unfinished(&self, topology: &str) -> Result<Vec<RunLine>, JournalError> {
        self.read(|sql| {
            let query = format!(
                "{RUN_COLUMNS} INDEXED BY runs_open WHERE topology = ?1 AND ended_at IS NULL ORDER BY id"
            );
            let mut statement = sql.prepare_cached(&query)?;
            let rows = statement.query_map([topology], run_line)?;
            rows.collect()
        })
    }

    /// Runs that have not ended, those that wait for another one included.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn open_count(&self, topology: &str) -> Result<u64, JournalError> {
        self.read(|sql| {
            let query =
                "SELECT count(*) FROM runs INDEXED BY runs_open WHERE topology = ?1 AND ended_at IS NULL";
            sql.prepare_cached(query)?.query_row([topology], count)
        })
    }
}

fn list<T>(
    sql: &Connection,
    query: &str,
    argument: i64,
    make: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let mut statement = sql.prepare_cached(query)?;
    let rows = statement.query_map([argument], make)?;
    rows.collect()
}

fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

const RUN_COLUMNS: &str =
    "SELECT id, topology, flow, trigger, group_key, state, reason, fired_at, recorded_at,
                                  started_at, ended_at FROM runs";

fn runs(sql: &Connection, limit: usize) -> rusqlite::Result<Vec<RunLine>> {
    list(sql, &format!("{RUN_COLUMNS} ORDER BY id DESC LIMIT ?1"), at_most(limit), run_line)
}

fn run_line(row: &Row<'_>) -> rusqlite::Result<RunLine> {
    Ok(RunLine {
        id: row.get(0)?,
        topology: row.get(1)?,
        flow: row.get(2)?,
        trigger: row.get(3)?,
        group: row.get(4)?,
        state: word(row, 5, RunState::parse)?,
        reason: row.get(6)?,
        fired_at: Time(row.get(7)?),
        recorded_at: Time(row.get(8)?),
        started_at: row.get::<_, Option<i64>>(9)?.map(Time),
        ended_at: row.get::<_, Option<i64>>(10)?.map(Time),
    })
}

fn tasks(sql: &Connection, run: i64) -> rusqlite::Result<Vec<TaskLine>> {
    let query =
        "SELECT task, state, attempt, wait_until, reason FROM tasks WHERE run_id = ?1 ORDER BY updated_at";
    list(sql, query, run, |row| {
        Ok(TaskLine {
            task: row.get(0)?,
            state: word(row, 1, TaskState::parse)?,
            attempt: row.get(2)?,
            wait_until: row.get::<_, Option<i64>>(3)?.map(Time),
            reason: row.get(4)?,
        })
    })
}

fn tickets(sql: &Connection, limit: usize) -> rusqlite::Result<Vec<TicketLine>> {
    let query = "SELECT id, topology, flow, run_id, opened_at, state, severity, title, body
                 FROM tickets ORDER BY id DESC LIMIT ?1";
    list(sql, query, at_most(limit), |row| {
        Ok(TicketLine {
            id: row.get(0)?,
            topology: row.get(1)?,
            flow: row.get(2)?,
            run: row.get(3)?,
            opened_at: Time(row.get(4)?),
            state: row.get(5)?,
            severity: row.get(6)?,
            title: row.get(7)?,
            body: row.get(8)?,
        })
    })
}

fn writes(sql: &Connection, limit: usize) -> rusqlite::Result<Vec<WriteLine>> {
    let query =
        "SELECT run_id, target, value, before, recorded_at, outcome FROM writes ORDER BY id DESC LIMIT ?1";
    list(sql, query, at_most(limit), |row| {
        let outcome: Option<String> = row.get(5)?;
        Ok(WriteLine {
            run: row.get(0)?,
            target: row.get(1)?,
            value: row.get(2)?,
            before: row.get(3)?,
            recorded_at: Time(row.get(4)?),
            outcome: outcome.and_then(|text| serde_json::from_str(&text).ok()),
        })
    })
}

fn notices(sql: &Connection, limit: usize) -> rusqlite::Result<Vec<NoticeLine>> {
    let query = "SELECT run_id, recorded_at, kind, severity, text FROM notices ORDER BY id DESC LIMIT ?1";
    list(sql, query, at_most(limit), |row| {
        Ok(NoticeLine {
            run: row.get(0)?,
            recorded_at: Time(row.get(1)?),
            kind: row.get(2)?,
            severity: row.get(3)?,
            text: row.get(4)?,
        })
    })
}

fn counts(sql: &Connection) -> rusqlite::Result<Counts> {
    let mut statement = sql.prepare_cached("SELECT trigger, outcome, count(*) FROM firings GROUP BY 1, 2")?;
    let firings =
        statement.query_map((), |row| Ok((row.get(0)?, word(row, 1, Outcome::parse)?, count_at(row, 2)?)))?;
    let firings = firings.collect::<rusqlite::Result<_>>()?;
    let mut statement = sql.prepare_cached("SELECT flow, state, count(*) FROM runs GROUP BY 1, 2")?;
    let runs = statement
        .query_map((), |row| Ok((row.get(0)?, word(row, 1, RunState::parse)?, count_at(row, 2)?)))?;
    Ok(Counts { firings, runs: runs.collect::<rusqlite::Result<_>>()? })
}

fn count(row: &Row<'_>) -> rusqlite::Result<u64> {
    count_at(row, 0)
}

fn count_at(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    Ok(u64::try_from(row.get::<_, i64>(index)?).unwrap_or(0))
}
