//! The part of the journal that tasks write: device writes, tickets, notices.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{OptionalExtension, params};

use super::writer::Writing;
use super::{Journal, JournalError};
use crate::error::TaskError;
use crate::flow::events::{FlowEvent, FlowEvents, What};
use crate::task::{EffectLedger, Notice, Ticket, WriteIntent, WriteOutcome};
use crate::time::{Clock, Time};

/// After this time a write looks again whether the one before it has ended.
const BUSY_LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Which run writes.
#[derive(Clone, Debug)]
pub struct EffectScope {
    /// The topology.
    pub topology: String,
    /// The flow.
    pub flow: String,
    /// The run.
    pub run: i64,
}

/// The journal as the tasks of one run see it.
pub struct RunLedger {
    journal: Arc<Journal>,
    events: FlowEvents,
    clock: Arc<dyn Clock>,
    scope: Arc<EffectScope>,
}

impl RunLedger {
    /// The ledger of one run.
    #[must_use]
    pub fn new(
        journal: Arc<Journal>,
        events: FlowEvents,
        clock: Arc<dyn Clock>,
        scope: EffectScope,
    ) -> RunLedger {
        RunLedger { journal, events, clock, scope: Arc::new(scope) }
    }

    fn say(&self, what: What) {
        let scope = &self.scope;
        self.events.say(FlowEvent {
            at: self.clock.now(),
            topology: scope.topology.clone(),
            flow: scope.flow.clone(),
            run: Some(scope.run),
            what,
        });
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing<'_>, &EffectScope, Time) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, TaskError> {
        let (scope, now) = (Arc::clone(&self.scope), self.clock.now());
        self.journal.write(move |writing| work(writing, &scope, now)).await.map_err(fatal)
    }
}

fn insert_write(
    writing: &mut Writing<'_>,
    scope: &EffectScope,
    (key, intent): (&str, &WriteIntent),
    outcome: Option<&str>,
    now: Time,
) -> rusqlite::Result<()> {
    let id = writing.next_id(now);
    let mut statement = writing.sql.prepare_cached(
        "INSERT INTO writes (id, key, run_id, target, value, before, deadline, recorded_at, outcome, ended_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, CASE WHEN ?9 IS NULL THEN NULL ELSE ?8 END)",
    )?;
    let WriteIntent { target, value, before, deadline } = intent;
    statement.execute(params![id, key, scope.run, target, value, before, deadline, now.0, outcome])?;
    Ok(())
}

/// When another key may write the point, if not now: a write to it is under
/// way, or the last one that may have had an effect was less than `every_min`
/// ago. Read from the journal, so that a restart forgets nothing.
fn busy_until(
    writing: &Writing<'_>,
    key: &str,
    target: &str,
    every_min: Duration,
    now: Time,
) -> rusqlite::Result<Option<Time>> {
    let mut statement = writing.sql.prepare_cached(
        "SELECT count(*) FROM writes WHERE target = ?1 AND key <> ?2 AND outcome IS NULL AND deadline > ?3",
    )?;
    let open: i64 = statement.query_row(params![target, key, now.0], |row| row.get(0))?;
    if open > 0 {
        // As a rule it ends long before its deadline.
        return Ok(Some(now.plus(BUSY_LOOK_AGAIN)));
    }
    let mut statement = writing.sql.prepare_cached(
        "SELECT max(recorded_at) FROM writes WHERE target = ?1 AND key <> ?2
         AND (outcome IS NULL OR outcome NOT LIKE '{\"Skipped%' AND outcome NOT LIKE '{\"Refused%')",
    )?;
    let last: Option<i64> = statement.query_row(params![target, key], |row| row.get(0))?;
    Ok(last.map(|last| Time(last).plus(every_min)).filter(|next| *next > now))
}

/// A run has ended: of a write of it that is still open nobody will ever know
/// by itself. It is called unknown, and a person is told.
pub(super) fn give_up_writes(writing: &Writing<'_>, run: i64, now: Time) -> rusqlite::Result<()> {
    let reason = "the run ended before anybody knew";
    let outcome = WriteOutcome::Unknown { reason: reason.into() };
    let outcome = serde_json::to_string(&outcome).map_err(|error| damaged(&error))?;
    // Keys of effects begin with the run's; `.` is the character after `-`.
    let mut open = writing.sql.prepare_cached(
        "UPDATE writes SET outcome = ?2, ended_at = ?3 WHERE outcome IS NULL
         AND key >= (SELECT lower(hex(run_key)) || '-' FROM runs WHERE id = ?1)
         AND key < (SELECT lower(hex(run_key)) || '.' FROM runs WHERE id = ?1)
         RETURNING key, target, value",
    )?;
    let open =
        open.query_map(params![run, outcome, now.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let open: Vec<(String, String, String)> = open.collect::<rusqlite::Result<_>>()?;
    for (key, target, value) in open {
        let insert =
            "INSERT INTO tickets (key, topology, flow, run_id, opened_at, state, severity, title, body)
                      SELECT ?2, topology, flow, id, ?3, 'open', 'high', ?4, ?5 FROM runs WHERE id = ?1
                      ON CONFLICT (key) DO NOTHING";
        let title = format!("Check {target}: was {value} written?");
        let body = format!("Run {}: {reason}.", crate::flow::key::run_id_text(run));
        let ticket = params![run, format!("{key}/unknown"), now.0, title, body];
        writing.sql.prepare_cached(insert)?.execute(ticket)?;
    }
    Ok(())
}

fn damaged(error: &serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.to_string().into())
}

/// A task cannot go on without the journal: nothing may be sent.
fn fatal(error: JournalError) -> TaskError {
    TaskError::Fatal(error.0)
}

#[async_trait]
impl EffectLedger for RunLedger {
    async fn intent(
        &self,
        key: &str,
        intent: &WriteIntent,
        every_min: Duration,
    ) -> Result<Option<Time>, TaskError> {
        let (key, intent) = (key.to_owned(), intent.clone());
        self.write(move |writing, scope, now| {
            if let Some(until) = busy_until(writing, &key, &intent.target, every_min, now)? {
                return Ok(Some(until));
            }
            insert_write(writing, scope, (&key, &intent), None, now)?;
            Ok(None)
        })
        .await
    }

    async fn writes(&self, key: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError> {
        let key = key.to_owned();
        // Through the writer, so that an intent of a moment ago is seen.
        self.write(move |writing, _, _| {
            let query =
                "SELECT target, value, before, deadline, outcome FROM writes WHERE key = ?1 ORDER BY id";
            let mut statement = writing.sql.prepare_cached(query)?;
            let rows = statement.query_map([key], |row| {
                let intent = WriteIntent {
                    target: row.get(0)?,
                    value: row.get(1)?,
                    before: row.get(2)?,
                    deadline: row.get(3)?,
                };
                let outcome: Option<String> = row.get(4)?;
                let outcome = outcome.map(|text| serde_json::from_str(&text));
                Ok((intent, outcome.transpose().map_err(|error| damaged(&error))?))
            })?;
            rows.collect()
        })
        .await
    }

    async fn outcome(&self, key: &str, outcome: &WriteOutcome) -> Result<(), TaskError> {
        let text = serde_json::to_string(outcome).map_err(|error| TaskError::Fatal(error.to_string()))?;
        let key = key.to_owned();
        let written = self
            .write(move |writing, _, now| {
                writing
                    .sql
                    .prepare_cached(
                        "UPDATE writes SET outcome = ?2, ended_at = ?3 WHERE key = ?1 AND outcome IS NULL
                         RETURNING target, before, value",
                    )?
                    .query_row(params![key, text, now.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                    .optional()
            })
            .await?;
        if let Some((target, before, value)) = written {
            self.say(What::Write { target, before, value, outcome: outcome.clone() });
        }
        Ok(())
    }

    async fn not_sent(
        &self,
        key: &str,
        intent: &WriteIntent,
        outcome: &WriteOutcome,
    ) -> Result<(), TaskError> {
        let text = serde_json::to_string(outcome).map_err(|error| TaskError::Fatal(error.to_string()))?;
        let (key, wanted) = (key.to_owned(), intent.clone());
        self.write(move |writing, scope, now| {
            insert_write(writing, scope, (&key, &wanted), Some(&text), now)
        })
        .await?;
        let (target, before, value) = (intent.target.clone(), intent.before.clone(), intent.value.clone());
        self.say(What::Write { target, before, value, outcome: outcome.clone() });
        Ok(())
    }

    async fn open_ticket(&self, key: &str, ticket: &Ticket) -> Result<i64, TaskError> {
        let (owned, wanted) = (key.to_owned(), ticket.clone());
        let (id, fresh) = self
            .write(move |writing, scope, now| {
                let known = "SELECT id FROM tickets WHERE key = ?1";
                let known: Option<i64> =
                    writing.sql.prepare_cached(known)?.query_row([&owned], |row| row.get(0)).optional()?;
                if let Some(id) = known {
                    return Ok((id, false));
                }
                writing
                    .sql
                    .prepare_cached(
                        "INSERT INTO tickets (key, topology, flow, run_id, opened_at, state, severity, title, body)
                         VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8)",
                    )?
                    .execute(params![
                        owned,
                        scope.topology,
                        scope.flow,
                        scope.run,
                        now.0,
                        wanted.severity,
                        wanted.title,
                        wanted.body
                    ])?;
                Ok((writing.sql.last_insert_rowid(), true))
            })
            .await?;
        if fresh {
            self.say(What::Ticket {
                number: id,
                severity: ticket.severity.clone(),
                title: ticket.title.clone(),
            });
        }
        Ok(id)
    }

    async fn notify(&self, key: &str, notice: &Notice) -> Result<(), TaskError> {
        let (key, wanted) = (key.to_owned(), notice.clone());
        let fresh = self
            .write(move |writing, scope, now| {
                let id = writing.next_id(now);
                let inserted = writing
                    .sql
                    .prepare_cached(
                        "INSERT INTO notices (id, key, topology, flow, run_id, recorded_at, kind, severity, text)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (key) DO NOTHING",
                    )?
                    .execute(params![
                        id,
                        key,
                        scope.topology,
                        scope.flow,
                        scope.run,
                        now.0,
                        wanted.kind,
                        wanted.severity,
                        wanted.text
                    ])?;
                Ok(inserted > 0)
            })
            .await?;
        if fresh {
            self.say(What::Notice(notice.clone()));
        }
        Ok(())
    }
}
