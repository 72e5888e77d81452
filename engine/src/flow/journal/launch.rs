//! Firings into the journal: found again or new, what becomes of each, and the
//! run it starts, all in one transaction.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::writer::Writing;
use super::{Answer, Journal, JournalError};
use crate::flow::admission::{Overlap, Seen, Verdict, admit};
use crate::flow::key::RunKey;
use crate::flow::state::Outcome;
use crate::planted;
use crate::time::{Time, micros};

/// What a trigger says about its firings.
#[derive(Clone, Debug)]
pub struct LaunchRules {
    /// The topology's name.
    pub topology: String,
    /// The trigger's name.
    pub trigger: String,
    /// The flow it starts.
    pub flow: String,
    /// Revision of the flow's text.
    pub revision: String,
    /// Word of the flow's `mode`, for the run.
    pub mode: &'static str,
    /// What a firing does while a run of its group is open.
    pub overlap: Overlap,
    /// After a start, the same key starts nothing for so long (event time).
    pub cooldown: Duration,
    /// At most so many starts in this time (wall clock).
    pub starts_max: Option<(u32, Duration)>,
}

/// A firing on its way into the journal.
#[derive(Clone, Debug)]
pub struct NewFiring {
    /// Its name for ever.
    pub run_key: RunKey,
    /// The trigger's key.
    pub key: String,
    /// Event time.
    pub fired_at: Time,
    /// Distinguishes firings of one key at one time.
    pub ordinal: i64,
    /// The rows that fired, as IPC bytes.
    pub rows: Arc<[u8]>,
    /// What it would start.
    pub offer: Offer,
}

/// What a firing would start.
#[derive(Clone, Debug)]
pub enum Offer {
    /// A run with these parameters (IPC bytes of one row) in this group.
    Run {
        /// The parameters.
        params: Arc<[u8]>,
        /// Value of the flow's `one_per`.
        group: String,
    },
    /// Nothing, for a reason that is known already.
    Nothing(Outcome, String),
}

/// What became of a firing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The outcome, now or when the firing came first.
    pub outcome: Outcome,
    /// Whether the firing is new.
    pub fresh: bool,
    /// A run that may start at once.
    pub start: Option<i64>,
    /// Open runs that must stop because this one replaces them, and why.
    pub stop: Vec<(i64, String)>,
}

impl Journal {
    /// Records firings in order and decides about each. Durable when it
    /// answers, in one fsync for all; a firing that is known already changes
    /// nothing.
    ///
    /// # Errors
    /// Nothing was recorded, or the disk has failed.
    pub async fn launch(
        &self,
        rules: Arc<LaunchRules>,
        firings: Arc<[NewFiring]>,
        now: Time,
    ) -> Result<Vec<Launched>, JournalError> {
        let answer = self.begin_launch(rules, firings, now).await?;
        answer.wait().await
    }

    /// Hands firings over as `launch` does; they are durable when the answer
    /// is there. What is handed over meanwhile shares its fsync.
    ///
    /// # Errors
    /// The disk has failed before.
    pub(in crate::flow) async fn begin_launch(
        &self,
        rules: Arc<LaunchRules>,
        firings: Arc<[NewFiring]>,
        now: Time,
    ) -> Result<Answer<Vec<Launched>>, JournalError> {
        self.begin(move |writing| {
            firings.iter().map(|firing| launch_one(writing, &rules, firing, now)).collect()
        })
        .await
    }
}

fn launch_one(
    writing: &mut Writing<'_>,
    rules: &LaunchRules,
    firing: &NewFiring,
    now: Time,
) -> rusqlite::Result<Launched> {
    if planted!(FiringStartedAgain) {
        writing.sql.execute("DELETE FROM firings WHERE run_key = ?1", [firing.run_key.0])?;
    }
    if let Some(outcome) = known(writing, firing)? {
        return Ok(Launched { outcome, fresh: false, start: None, stop: Vec::new() });
    }
    let (params, group) = match &firing.offer {
        Offer::Nothing(outcome, reason) => {
            insert_firing(writing, rules, firing, now, (*outcome, reason, None))?;
            return Ok(Launched { outcome: *outcome, fresh: true, start: None, stop: Vec::new() });
        }
        Offer::Run { params, group } => (params, group),
    };
    let (seen, open) = look(writing, rules, firing, group, now)?;
    let verdict = admit(rules.overlap, seen);
    let (outcome, reason) = (verdict.outcome(), verdict.reason());
    let mut launched = Launched { outcome, fresh: true, start: None, stop: Vec::new() };
    let run_id = match verdict {
        Verdict::Start => {
            let id = insert_run(writing, rules, firing, (params, group, false), now)?;
            launched.start = Some(id);
            Some(id)
        }
        Verdict::Queue => Some(insert_run(writing, rules, firing, (params, group, true), now)?),
        Verdict::Replace => {
            let id = insert_run(writing, rules, firing, (params, group, true), now)?;
            launched.stop = replace(writing, rules, group, id, now)?;
            Some(id)
        }
        Verdict::Join => {
            join(writing, firing, params, open.held)?;
            open.held
        }
        Verdict::Skip | Verdict::Cool | Verdict::Limit => None,
    };
    insert_firing(writing, rules, firing, now, (outcome, reason, run_id))?;
    if run_id.is_some() && !rules.cooldown.is_zero() {
        remember(writing, rules, firing)?;
    }
    Ok(launched)
}

fn known(writing: &Writing<'_>, firing: &NewFiring) -> rusqlite::Result<Option<Outcome>> {
    let mut statement =
        writing.sql.prepare_cached("SELECT outcome FROM firings WHERE fired_at = ?1 AND run_key = ?2")?;
    let word: Option<String> =
        statement.query_row((firing.fired_at.0, firing.run_key.0), |row| row.get(0)).optional()?;
    Ok(word.map(|word| Outcome::parse(&word).unwrap_or(Outcome::Started)))
}

struct OpenGroup {
    held: Option<i64>,
}

fn look(
    writing: &Writing<'_>,
    rules: &LaunchRules,
    firing: &NewFiring,
    group: &str,
    now: Time,
) -> rusqlite::Result<(Seen, OpenGroup)> {
    let sql = writing.sql;
    let mut seen = Seen { open: false, held: false, cooling: false, limited: false };
    let mut open = OpenGroup { held: None };
    if rules.overlap != Overlap::Allow {
        let newest = |held: bool| {
            let mut statement = sql.prepare_cached(
                "SELECT max(id) FROM runs INDEXED BY runs_open WHERE topology = ?1 AND flow = ?2
                 AND group_key = ?3 AND held = ?4 AND ended_at IS NULL",
            )?;
            statement
                .query_row((&rules.topology, &rules.flow, group, held), |row| row.get::<_, Option<i64>>(0))
        };
        open.held = newest(true)?;
        seen.held = open.held.is_some();
        seen.open = (seen.held || newest(false)?.is_some()) && !planted!(OverlapIgnored);
    }
    if !rules.cooldown.is_zero() {
        let mut statement = sql.prepare_cached(
            "SELECT cooldown_end > ?4 FROM trigger_memory WHERE topology = ?1 AND trigger = ?2 AND key = ?3",
        )?;
        let key = (&rules.topology, &rules.trigger, &firing.key, firing.fired_at.0);
        seen.cooling = statement.query_row(key, |row| row.get(0)).optional()?.unwrap_or(false);
    }
    if let Some((starts_max, per)) = rules.starts_max {
        // Numbers are times of recording, so the newest firings are at the end.
        let mut statement = sql.prepare_cached(
            "SELECT count(*) FROM firings WHERE id > ?3 AND topology = ?1 AND trigger = ?2 AND run_id IS NOT NULL",
        )?;
        let since = now.minus(per).0;
        let starts: i64 = statement.query_row((&rules.topology, &rules.trigger, since), |row| row.get(0))?;
        seen.limited = starts >= i64::from(starts_max);
    }
    Ok((seen, open))
}

fn insert_firing(
    writing: &mut Writing<'_>,
    rules: &LaunchRules,
    firing: &NewFiring,
    now: Time,
    (outcome, reason, run_id): (Outcome, &str, Option<i64>),
) -> rusqlite::Result<()> {
    let id = writing.next_id(now);
    let mut statement = writing.sql.prepare_cached(
        "INSERT INTO firings (id, run_key, topology, trigger, key, fired_at, ordinal, recorded_at, outcome,
                              reason, run_id, rows)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    statement.execute(params![
        id,
        firing.run_key.0,
        rules.topology,
        rules.trigger,
        firing.key,
        firing.fired_at.0,
        firing.ordinal,
        now.0,
        outcome.word(),
        reason,
        run_id,
        &*firing.rows,
    ])?;
    Ok(())
}

fn insert_run(
    writing: &mut Writing<'_>,
    rules: &LaunchRules,
    firing: &NewFiring,
    (run_params, group, held): (&[u8], &str, bool),
    now: Time,
) -> rusqlite::Result<i64> {
    let id = writing.next_id(now);
    let mut statement = writing.sql.prepare_cached(
        "INSERT INTO runs (id, run_key, topology, flow, trigger, revision, group_key, held, state, mode, params,
                           fired_at, recorded_at, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'queued', ?9, ?10, ?11, ?12, ?13)",
    )?;
    statement.execute(params![
        id,
        firing.run_key.0,
        rules.topology,
        rules.flow,
        rules.trigger,
        rules.revision,
        group,
        held,
        rules.mode,
        run_params,
        firing.fired_at.0,
        now.0,
        if held { "waits for the open run of its group" } else { "" },
    ])?;
    Ok(id)
}

/// The waiting run takes the newest firing's values.
fn join(
    writing: &Writing<'_>,
    firing: &NewFiring,
    run_params: &[u8],
    held: Option<i64>,
) -> rusqlite::Result<()> {
    let mut statement = writing
        .sql
        .prepare_cached("UPDATE runs SET params = ?2, fired_at = ?3, run_key = ?4 WHERE id = ?1")?;
    statement.execute(params![held, run_params, firing.fired_at.0, firing.run_key.0])?;
    Ok(())
}

/// Ends the waiting runs of the group and asks the open one to stop.
fn replace(
    writing: &Writing<'_>,
    rules: &LaunchRules,
    group: &str,
    by: i64,
    now: Time,
) -> rusqlite::Result<Vec<(i64, String)>> {
    let group = (&rules.topology, &rules.flow, group, by);
    let reason = format!("replaced by run {}", crate::flow::key::run_id_text(by));
    writing
        .sql
        .prepare_cached(
            "UPDATE runs SET state = 'cancelled', ended_at = ?5, reason = ?6
             WHERE topology = ?1 AND flow = ?2 AND group_key = ?3 AND id <> ?4 AND ended_at IS NULL AND held",
        )?
        .execute(params![group.0, group.1, group.2, group.3, now.0, reason])?;
    let mut statement = writing.sql.prepare_cached(
        "UPDATE runs SET stop = ?5
         WHERE topology = ?1 AND flow = ?2 AND group_key = ?3 AND id <> ?4 AND ended_at IS NULL RETURNING id",
    )?;
    let rows = statement.query_map(params![group.0, group.1, group.2, group.3, reason], |row| {
        Ok((row.get(0)?, reason.clone()))
    })?;
    rows.collect()
}

fn remember(writing: &Writing<'_>, rules: &LaunchRules, firing: &NewFiring) -> rusqlite::Result<()> {
    let mut statement = writing.sql.prepare_cached(
        "INSERT INTO trigger_memory (topology, trigger, key, fired_at, ordinal, cooldown_end)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET fired_at = excluded.fired_at, ordinal = excluded.ordinal,
                                   cooldown_end = excluded.cooldown_end
         WHERE excluded.fired_at >= trigger_memory.fired_at",
    )?;
    let cooldown_end = firing.fired_at.0.saturating_add(micros(rules.cooldown));
    statement.execute(params![
        rules.topology,
        rules.trigger,
        firing.key,
        firing.fired_at.0,
        firing.ordinal,
        cooldown_end,
    ])?;
    Ok(())
}
