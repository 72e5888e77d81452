//! What is forgotten: ended runs with all that belongs to them, and firings
//! that started nothing. In small steps, so that nobody waits for it.
//!
//! A firing's name is what keeps a replay from starting it twice, so it stays
//! until the stream cannot give it again: until every checkpoint that the
//! topology could go on from was made after it (`settle`). Tickets are never
//! removed here: they belong to people.

use rusqlite::{Connection, params};

use super::writer::Writing;
use super::{Journal, JournalError, JournalReader};
use crate::flow::key::RunKey;
use crate::time::Time;
use crate::topology::load::Retention;

/// What may be forgotten in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldRows {
    /// Ended runs with the names of their firings.
    pub runs: Vec<(i64, RunKey)>,
    /// Firings without a run that cannot come again.
    pub firings: Vec<i64>,
}

impl OldRows {
    /// Whether there is nothing to forget.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.firings.is_empty()
    }
}

impl JournalReader {
    /// How many firings there are with a run, and how many without.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn firing_counts(&self) -> Result<(u64, u64), JournalError> {
        self.look(|sql| {
            // Each is read from an index, never from the rows.
            let with_run = "SELECT count(*) FROM firings INDEXED BY firings_by_run WHERE run_id IS NOT NULL";
            let all = "SELECT count(*) FROM firings INDEXED BY firings_once";
            let number = |query| sql.query_row(query, (), |row| row.get::<_, i64>(0));
            let (with_run, all) = (number(with_run)?, number(all)?);
            let positive = |count| u64::try_from(count).unwrap_or(0);
            Ok((positive(with_run), positive(all.saturating_sub(with_run))))
        })
    }

    /// At most `limit` of the oldest ended runs, and of the oldest firings
    /// without a run, that are beyond the retention. `counts` are those of
    /// `firing_counts`, less what was forgotten since.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn old_rows(
        &self,
        retention: Retention,
        counts: (u64, u64),
        limit: usize,
        now: Time,
    ) -> Result<OldRows, JournalError> {
        let cut = now.minus(retention.age);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let excess = |count: u64| i64::try_from(count.saturating_sub(retention.runs_max)).unwrap_or(i64::MAX);
        self.look(|sql| {
            Ok(OldRows {
                runs: old_runs(sql, cut, excess(counts.0), limit)?,
                firings: old_firings(sql, cut, excess(counts.1), limit)?,
            })
        })
    }
}

/// The oldest ended runs, as far as they are too old or too many: numbers grow
/// with time, so the first one that may stay ends the look.
fn old_runs(sql: &Connection, cut: Time, excess: i64, limit: i64) -> rusqlite::Result<Vec<(i64, RunKey)>> {
    let query = "SELECT id, run_key, ended_at FROM runs WHERE ended_at IS NOT NULL ORDER BY id LIMIT ?1";
    let mut statement = sql.prepare_cached(query)?;
    let rows =
        statement.query_map([limit], |row| Ok((row.get(0)?, RunKey(row.get(1)?), row.get::<_, i64>(2)?)))?;
    let mut old = Vec::new();
    for (place, row) in (0_i64..).zip(rows) {
        let (id, key, ended_at) = row?;
        if ended_at >= cut.0 && place >= excess {
            break;
        }
        old.push((id, key));
    }
    Ok(old)
}

fn old_firings(sql: &Connection, cut: Time, excess: i64, limit: i64) -> rusqlite::Result<Vec<i64>> {
    // Without an excess only what is older than the cut is looked at.
    let until = if excess > 0 { i64::MAX } else { cut.0 };
    let query = "SELECT f.id, f.id < ?1 FROM firings AS f JOIN settled AS s
                   ON s.topology = f.topology AND s.trigger = f.trigger AND f.recorded_at <= s.until
                 WHERE f.run_id IS NULL AND f.id < ?2 ORDER BY f.id LIMIT ?3";
    let mut statement = sql.prepare_cached(query)?;
    let rows = statement.query_map(params![cut.0, until, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut old = Vec::new();
    for (place, row) in (0_i64..).zip(rows) {
        let (id, too_old): (i64, bool) = row?;
        if !too_old && place >= excess {
            break;
        }
        old.push(id);
    }
    Ok(old)
}

impl Journal {
    /// Forgets runs and firings, and answers when that is durable.
    ///
    /// # Errors
    /// Nothing was removed, or the disk has failed.
    pub async fn forget(&self, old: OldRows) -> Result<(), JournalError> {
        self.write(move |writing| {
            old.runs.iter().try_for_each(|(run, key)| forget_run(writing, *run, *key))?;
            let mut statement = writing.sql.prepare_cached("DELETE FROM firings WHERE id = ?1")?;
            old.firings.iter().try_for_each(|id| statement.execute([id]).map(|_| ()))
        })
        .await
    }

    /// No firing of the trigger that was recorded until then can come again:
    /// every checkpoint that the topology may go on from is younger.
    ///
    /// # Errors
    /// The disk has failed before.
    pub async fn settle(&self, topology: String, trigger: String, until: Time) -> Result<(), JournalError> {
        self.post(move |writing| {
            let upsert = "INSERT INTO settled (topology, trigger, until) VALUES (?1, ?2, ?3)
                          ON CONFLICT DO UPDATE SET until = excluded.until";
            writing.sql.prepare_cached(upsert)?.execute((topology, trigger, until.0)).map(|_| ())
        })
        .await
    }
}

fn forget_run(writing: &Writing<'_>, run: i64, key: RunKey) -> rusqlite::Result<()> {
    let sql = writing.sql;
    for delete in [
        "DELETE FROM tasks WHERE run_id = ?1",
        "DELETE FROM attempts WHERE run_id = ?1",
        "DELETE FROM resolutions WHERE run_id = ?1",
        "DELETE FROM firings WHERE run_id = ?1 AND recorded_at <= (
             SELECT until FROM settled WHERE topology = firings.topology AND trigger = firings.trigger)",
        // It may come again: its name stays, its rows go.
        "UPDATE firings SET run_id = NULL, rows = x'' WHERE run_id = ?1",
        "DELETE FROM runs WHERE id = ?1 AND ended_at IS NOT NULL",
    ] {
        sql.prepare_cached(delete)?.execute([run])?;
    }
    // Keys of effects begin with the run's; `.` is the character after `-`.
    let (from, to) = (format!("{key}-"), format!("{key}."));
    sql.prepare_cached("DELETE FROM notices WHERE key >= ?1 AND key < ?2")?.execute((&from, &to))?;
    // The last write to a point says when it may be written again.
    let writes = "DELETE FROM writes WHERE key >= ?1 AND key < ?2 AND EXISTS (
                      SELECT 1 FROM writes AS later WHERE later.target = writes.target
                      AND later.recorded_at > writes.recorded_at)";
    sql.prepare_cached(writes)?.execute((&from, &to)).map(|_| ())
}
