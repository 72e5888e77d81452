//! How a run goes on: states of the run and its tasks, attempts, results. The
//! end of a run and the start of the one that waited for it are one change.

use rusqlite::{OptionalExtension, params};

use super::effects::give_up_writes;
use super::writer::Writing;
use super::{Journal, JournalError};
use crate::flow::state::{RunState, TaskState};
use crate::planted;
use crate::time::Time;

/// One line about a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The run's own state.
    Run {
        /// Where it stands.
        state: RunState,
        /// Why, for a person; may be empty.
        reason: String,
        /// How it will end and why, once only `finally` tasks are left.
        closing: Option<(RunState, String)>,
    },
    /// Where a task stands; replaces what stood there.
    Task {
        /// The task's id.
        task: String,
        /// Where it stands.
        state: TaskState,
        /// The attempt that is under way or was the last; 0 before the first.
        attempt: u32,
        /// Attempts that failed and count against `retry.times`.
        failures: u32,
        /// When it goes on by itself.
        wait_until: Option<Time>,
        /// What `Task::resume` gets.
        wait_data: Option<Vec<u8>>,
        /// Why, for a person; may be empty.
        reason: String,
        /// Its result, as IPC bytes, once it has succeeded.
        result: Option<Vec<u8>>,
    },
    /// An attempt that has ended.
    Attempt {
        /// The task's id.
        task: String,
        /// Which attempt, from 1.
        attempt: u32,
        /// When it began.
        started_at: Time,
        /// `done`, `waits`, `lost` or the class of the error.
        outcome: String,
        /// The error; empty if there was none.
        error: String,
    },
}

/// What followed from a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// A run that waited for this one and may start now.
    pub start: Option<i64>,
}

impl Journal {
    /// Records what happened to a run, durable when it answers.
    ///
    /// # Errors
    /// Nothing was recorded, or the disk has failed.
    pub async fn advance(&self, run: i64, records: Vec<Record>, now: Time) -> Result<Advanced, JournalError> {
        self.write(move |writing| advance(writing, run, &records, now)).await
    }

    /// As `advance`, without waiting for the disk: for what a restart would
    /// find out by itself.
    ///
    /// # Errors
    /// The disk has failed before.
    pub async fn note(&self, run: i64, records: Vec<Record>, now: Time) -> Result<(), JournalError> {
        self.post(move |writing| advance(writing, run, &records, now).map(|_| ())).await
    }

    /// Ends a run that has not begun: its firing is too old for it.
    ///
    /// # Errors
    /// Nothing was recorded, or the disk has failed.
    pub async fn expire(&self, run: i64, reason: String, now: Time) -> Result<Advanced, JournalError> {
        self.write(move |writing| {
            writing
                .sql
                .prepare_cached("UPDATE firings SET outcome = 'expired', reason = ?2 WHERE run_id = ?1")?
                .execute((run, &reason))?;
            let reason = format!("expired: {reason}");
            advance(writing, run, &[Record::Run { state: RunState::Cancelled, reason, closing: None }], now)
        })
        .await
    }

    /// Remembers that a run must stop, so that a restart stops it too. One
    /// that waits for another run ends at once.
    ///
    /// # Errors
    /// Nothing was recorded, or the disk has failed.
    pub async fn ask_to_stop(&self, run: i64, reason: String, now: Time) -> Result<(), JournalError> {
        self.write(move |writing| {
            let held = "UPDATE runs SET state = 'cancelled', reason = ?2, ended_at = ?3
                        WHERE id = ?1 AND ended_at IS NULL AND held";
            writing.sql.prepare_cached(held)?.execute((run, &reason, now.0))?;
            let open = "UPDATE runs SET stop = ?2 WHERE id = ?1 AND ended_at IS NULL";
            writing.sql.prepare_cached(open)?.execute((run, &reason)).map(|_| ())
        })
        .await
    }
}

fn advance(writing: &Writing<'_>, run: i64, records: &[Record], now: Time) -> rusqlite::Result<Advanced> {
    let mut advanced = Advanced::default();
    for record in records {
        match record {
            Record::Run { state, reason, closing } => {
                set_run(writing, run, *state, reason, closing.as_ref(), now)?;
                if state.is_final() {
                    if !planted!(OpenWriteForgotten) {
                        give_up_writes(writing, run, now)?;
                    }
                    advanced.start = release_next(writing, run)?;
                }
            }
            Record::Task { .. } => set_task(writing, run, record, now)?,
            Record::Attempt { task, attempt, started_at, outcome, error } => {
                writing
                    .sql
                    .prepare_cached(
                        "INSERT OR REPLACE INTO attempts (run_id, task, attempt, started_at, ended_at, outcome, error)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    )?
                    .execute(params![run, task, attempt, started_at.0, now.0, outcome, error])?;
            }
        }
    }
    Ok(advanced)
}

fn set_run(
    writing: &Writing<'_>,
    run: i64,
    state: RunState,
    reason: &str,
    closing: Option<&(RunState, String)>,
    now: Time,
) -> rusqlite::Result<()> {
    let ended_at = state.is_final().then_some(now.0);
    // A run that has ended never changes: the last guard of that promise.
    let mut statement = writing.sql.prepare_cached(
        "UPDATE runs SET state = ?2, reason = ?3, ended_at = ?4, started_at = ifnull(started_at, ?5),
             closing = ?6, closing_reason = ?7
         WHERE id = ?1 AND ended_at IS NULL",
    )?;
    let (closing, why) = closing.map(|(state, why)| (state.word(), why)).unzip();
    statement.execute(params![run, state.word(), reason, ended_at, now.0, closing, why])?;
    Ok(())
}

fn set_task(writing: &Writing<'_>, run: i64, record: &Record, now: Time) -> rusqlite::Result<()> {
    let Record::Task { task, state, attempt, failures, wait_until, wait_data, reason, result } = record
    else {
        return Ok(());
    };
    let mut statement = writing.sql.prepare_cached(
        "INSERT INTO tasks (run_id, task, state, attempt, failures, updated_at, wait_until, wait_data, reason, result)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
         ON CONFLICT DO UPDATE SET state = excluded.state, attempt = excluded.attempt,
             failures = excluded.failures, updated_at = excluded.updated_at, wait_until = excluded.wait_until,
             wait_data = excluded.wait_data, reason = excluded.reason, result = excluded.result",
    )?;
    statement.execute(params![
        run,
        task,
        state.word(),
        attempt,
        failures,
        now.0,
        wait_until.map(|time| time.0),
        wait_data,
        reason,
        result,
    ])?;
    Ok(())
}

/// Lets the oldest waiting run of the group go, unless another one is open.
fn release_next(writing: &Writing<'_>, ended: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = writing.sql.prepare_cached(
        "UPDATE runs SET held = 0, reason = '' WHERE id = (
             SELECT next.id FROM runs AS ended JOIN runs AS next INDEXED BY runs_open
               ON next.topology = ended.topology AND next.flow = ended.flow AND next.group_key = ended.group_key
             WHERE ended.id = ?1 AND next.ended_at IS NULL AND next.held = 1
             ORDER BY next.id LIMIT 1)
           AND NOT EXISTS (
             SELECT 1 FROM runs AS ended JOIN runs AS open INDEXED BY runs_open
               ON open.topology = ended.topology AND open.flow = ended.flow AND open.group_key = ended.group_key
             WHERE ended.id = ?1 AND open.ended_at IS NULL AND open.held = 0)
         RETURNING id",
    )?;
    statement.query_row([ended], |row| row.get(0)).optional()
}
