//! The journal's tables and their version. A newer version is refused, never
//! guessed at.

use rusqlite::Connection;

use super::JournalError;

/// Version of the tables below, in SQLite's `user_version`.
const VERSION: i64 = 3;

/// Keys are integers that grow with time, or begin with one, so that inserts
/// touch the last pages only. Times are microseconds since 1970.
const TABLES: &str = "
CREATE TABLE firings (
    id          INTEGER PRIMARY KEY,
    run_key     BLOB NOT NULL,
    topology    TEXT NOT NULL,
    trigger     TEXT NOT NULL,
    key         TEXT NOT NULL,
    fired_at    INTEGER NOT NULL,
    ordinal     INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    outcome     TEXT NOT NULL,
    reason      TEXT NOT NULL,
    run_id      INTEGER,
    rows        BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX firings_once ON firings (fired_at, run_key);
CREATE INDEX firings_by_run ON firings (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE runs (
    id          INTEGER PRIMARY KEY,
    run_key     BLOB NOT NULL,
    topology    TEXT NOT NULL,
    flow        TEXT NOT NULL,
    trigger     TEXT NOT NULL,
    revision    TEXT NOT NULL,
    group_key   TEXT NOT NULL,
    held        INTEGER NOT NULL,
    state       TEXT NOT NULL,
    mode        TEXT NOT NULL,
    params      BLOB NOT NULL,
    fired_at    INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    started_at  INTEGER,
    ended_at    INTEGER,
    reason      TEXT NOT NULL,
    closing     TEXT,
    closing_reason TEXT,
    stop        TEXT
) STRICT;
CREATE INDEX runs_open ON runs (topology, flow, group_key) WHERE ended_at IS NULL;

CREATE TABLE tasks (
    run_id     INTEGER NOT NULL,
    task       TEXT NOT NULL,
    state      TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    failures   INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    wait_until INTEGER,
    wait_data  BLOB,
    reason     TEXT NOT NULL,
    result     BLOB,
    PRIMARY KEY (run_id, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    run_id     INTEGER NOT NULL,
    task       TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER NOT NULL,
    outcome    TEXT NOT NULL,
    error      TEXT NOT NULL,
    PRIMARY KEY (run_id, task, attempt)
) STRICT, WITHOUT ROWID;

CREATE TABLE writes (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL,
    run_id      INTEGER NOT NULL,
    target      TEXT NOT NULL,
    value       TEXT NOT NULL,
    before      TEXT NOT NULL,
    deadline    INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    ended_at    INTEGER,
    outcome     TEXT
) STRICT;
CREATE INDEX writes_by_key ON writes (key);
CREATE INDEX writes_by_target ON writes (target, recorded_at);

CREATE TABLE tickets (
    id        INTEGER PRIMARY KEY,
    key       TEXT NOT NULL UNIQUE,
    topology  TEXT NOT NULL,
    flow      TEXT NOT NULL,
    run_id    INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    state     TEXT NOT NULL,
    severity  TEXT NOT NULL,
    title     TEXT NOT NULL,
    body      TEXT NOT NULL
) STRICT;

CREATE TABLE notices (
    id          INTEGER PRIMARY KEY,
    key         TEXT NOT NULL UNIQUE,
    topology    TEXT NOT NULL,
    flow        TEXT NOT NULL,
    run_id      INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    severity    TEXT NOT NULL,
    text        TEXT NOT NULL
) STRICT;

CREATE TABLE trigger_memory (
    topology     TEXT NOT NULL,
    trigger      TEXT NOT NULL,
    key          TEXT NOT NULL,
    fired_at     INTEGER NOT NULL,
    ordinal      INTEGER NOT NULL,
    cooldown_end INTEGER NOT NULL,
    PRIMARY KEY (topology, trigger, key)
) STRICT, WITHOUT ROWID;
";

/// What version 2 has more than version 1.
const TABLES_2: &str = "
-- With `held`, so that a group of thousands of runs is never walked.
DROP INDEX runs_open;
CREATE INDEX runs_open ON runs (topology, flow, group_key, held) WHERE ended_at IS NULL;

CREATE TABLE revisions (
    topology   TEXT NOT NULL,
    flow       TEXT NOT NULL,
    revision   TEXT NOT NULL,
    seen_at    INTEGER NOT NULL,
    text       TEXT NOT NULL,
    PRIMARY KEY (topology, flow, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE settled (
    topology TEXT NOT NULL,
    trigger  TEXT NOT NULL,
    until    INTEGER NOT NULL,
    PRIMARY KEY (topology, trigger)
) STRICT, WITHOUT ROWID;
";

/// What version 3 has more than version 2.
const TABLES_3: &str = "
CREATE TABLE resolutions (
    run_id     INTEGER NOT NULL,
    task       TEXT NOT NULL,
    resolution TEXT NOT NULL,
    who        TEXT NOT NULL,
    at         INTEGER NOT NULL,
    PRIMARY KEY (run_id, task)
) STRICT, WITHOUT ROWID;
";

/// Makes the tables in a new file; checks the version of an old one.
pub(super) fn prepare(connection: &mut Connection, file: &str) -> Result<(), JournalError> {
    let failed = |error: rusqlite::Error| JournalError::new(file, &error);
    let found = check_version(connection, file)?;
    if found < VERSION {
        let transaction = connection.transaction().map_err(failed)?;
        if found == 0 {
            transaction.execute_batch(TABLES).map_err(failed)?;
        }
        if found < 2 {
            transaction.execute_batch(TABLES_2).map_err(failed)?;
        }
        transaction.execute_batch(TABLES_3).map_err(failed)?;
        transaction.pragma_update(None, "user_version", VERSION).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// The file's version, unless it is one that this program does not know.
pub(super) fn check_version(connection: &Connection, file: &str) -> Result<i64, JournalError> {
    let found = connection
        .query_row("PRAGMA user_version", (), |row| row.get::<_, i64>(0))
        .map_err(|error| JournalError::new(file, &error))?;
    if found > VERSION {
        return Err(JournalError(format!(
            "the journal {file} has version {found}, but this tidegate knows versions up to {VERSION}; use a newer tidegate"
        )));
    }
    let tables = |names: &str| {
        let query = format!("SELECT count(*) FROM sqlite_schema WHERE type = 'table' {names}");
        let count = connection.query_row(&query, (), |row| row.get::<_, i64>(0));
        count.map_err(|error| JournalError::new(file, &error))
    };
    // An empty file is a new journal; a file of somebody else's is left alone.
    let ours =
        if found == 0 { tables("")? == 0 } else { tables("AND name IN ('firings', 'runs', 'tasks')")? == 3 };
    if !ours {
        return Err(JournalError(format!("{file} is no journal of tidegate; it is left as it is")));
    }
    Ok(found)
}
