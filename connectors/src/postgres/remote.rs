//! Rows and the marker of their epoch in one transaction of PostgreSQL. The
//! marker's row is locked first: a transaction of ours that an earlier process
//! left under way ends before its marker is read.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::compute::{filter_record_batch, not};
use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::server::{Server, with_cause};
use super::text::{copy_text, last_of_each_key, type_of};
use crate::net_changes::{Net, with_null};
use crate::sink_log::{Remote, RemoteError};
use crate::sql_table::{SqlTable, names, quote};

/// Bytes that are handed to a COPY at a time.
const COPY_BYTES: usize = 256 << 10;

/// Names the lock of whoever makes tables.
const MAKING: i64 = 0x7469_6465_6761_7465;

/// The remote side.
pub(super) struct Postgres {
    server: Server,
    table: SqlTable,
    client: Option<Client>,
    /// Types of the table's columns, as a cast names them.
    types: HashMap<String, String>,
}

impl Postgres {
    pub(super) fn new(server: Server, table: SqlTable) -> Postgres {
        Postgres { server, table, client: None, types: HashMap::new() }
    }

    fn client(&self) -> Result<&Client, RemoteError> {
        let client = self.client.as_ref().filter(|client| !client.is_closed());
        client.ok_or_else(|| RemoteError::Lost("the connection has ended".into()))
    }

    /// Makes the tables that are missing. Where they are there, no right to make
    /// any is needed.
    async fn prepare(&mut self) -> Result<(), RemoteError> {
        let (name, markers) = (self.table.quoted(), self.table.markers());
        let client = self.client()?;
        // What was committed is let go of here: a server that may forget it is asked not to.
        client
            .batch_execute(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
            )
            .await
            .map_err(lost)?;
        if !exists(client, &markers).await? {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {markers} (sink text PRIMARY KEY, epoch bigint NOT NULL)"
            );
            make(client, &create).await?;
        }
        // Where the row is there, it is not touched: whoever has it would be waited for.
        let first = format!(
            "INSERT INTO {markers} (sink, epoch) SELECT $1::text, 0 \
             WHERE NOT EXISTS (SELECT 1 FROM {markers} WHERE sink = $1) ON CONFLICT DO NOTHING"
        );
        client.execute(&first, &[&self.table.sink]).await.map_err(lost)?;
        if !exists(client, &name).await? {
            if !self.table.create {
                return Err(RemoteError::Lost(format!("there is no table {name}, and `create` is false")));
            }
            make(client, &self.table.create_statement(type_of)).await?;
        }
        let query = "SELECT attname::text, format_type(atttypid, -1) FROM pg_attribute \
                     WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";
        let rows = client.query(query, &[&name]).await.map_err(lost)?;
        let of = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        self.types = rows.iter().map(of).collect::<Result<_, _>>().map_err(lost)?;
        Ok(())
    }

    async fn marker(&self, lock: &str) -> Result<u64, RemoteError> {
        let query = format!("SELECT epoch FROM {} WHERE sink = $1{lock}", self.table.markers());
        let row = self.client()?.query_opt(&query, &[&self.table.sink]).await.map_err(lost)?;
        // Without its row nothing could be locked.
        let row = row.ok_or_else(|| RemoteError::Lost("the marker's row has been removed".into()))?;
        let marker: i64 = row.try_get(0).map_err(lost)?;
        u64::try_from(marker).map_err(|_| RemoteError::Fatal(format!("the marker is {marker}")))
    }

    async fn copy(&self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let statement = format!("COPY {} ({}) FROM STDIN", self.table.quoted(), names(&columns_of(rows)));
        let mut text = Bytes::from(copy_text(rows).map_err(RemoteError::Refused)?);
        let sink = self.client()?.copy_in::<_, Bytes>(&statement).await.map_err(|error| judge(&error))?;
        let mut sink = Box::pin(sink);
        while !text.is_empty() {
            let part = text.split_to(COPY_BYTES.min(text.len()));
            sink.send(part).await.map_err(|error| judge(&error))?;
        }
        sink.as_mut().finish().await.map_err(|error| judge(&error)).map(drop)
    }

    /// Puts rows in, in the place of those that are there; changes may take some out.
    async fn upsert(&self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let Net { given, taken } = self.table.changes(rows).map_err(RemoteError::Refused)?;
        if let Some(keys) = taken {
            self.delete(&keys).await?;
        }
        if given.num_rows() == 0 {
            return Ok(());
        }
        let columns = columns_of(&given);
        let (casts, unnest) = self.as_texts(&columns)?;
        let statement = format!(
            "INSERT INTO {} ({}) SELECT {} FROM {unnest}{}",
            self.table.quoted(),
            names(&columns),
            casts.join(", "),
            self.table.on_conflict(&columns)
        );
        self.with_texts(&statement, &given).await
    }

    /// Takes the rows of these keys out.
    async fn delete(&self, keys: &RecordBatch) -> Result<(), RemoteError> {
        let (casts, unnest) = self.as_texts(&self.table.key)?;
        for (keys, equals) in by_comparison(keys).map_err(RemoteError::Refused)? {
            if keys.num_rows() == 0 {
                continue;
            }
            let equal = self.table.key.iter().zip(&casts);
            let equal: Vec<String> =
                equal.map(|(name, cast)| format!("t.{} {equals} {cast}", quote(name))).collect();
            let (table, equal) = (self.table.quoted(), equal.join(" AND "));
            self.with_texts(&format!("DELETE FROM {table} AS t USING {unnest} WHERE {equal}"), &keys).await?;
        }
        Ok(())
    }

    /// Columns of rows that come as arrays of texts: how each is cast, and the
    /// rows themselves.
    fn as_texts(&self, columns: &[String]) -> Result<(Vec<String>, String), RemoteError> {
        let (mut casts, mut places, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
        for (index, column) in columns.iter().enumerate() {
            let Some(name) = self.types.get(column) else {
                let (table, column) = (self.table.quoted(), quote(column));
                return Err(RemoteError::Lost(format!("the table {table} has no column {column}")));
            };
            casts.push(format!("u.c{index}::{name}"));
            places.push(format!("${}::text[]", index + 1));
            aliases.push(format!("c{index}"));
        }
        Ok((casts, format!("unnest({}) AS u({})", places.join(", "), aliases.join(", "))))
    }

    /// Runs a statement over these rows, the last of each key.
    async fn with_texts(&self, statement: &str, rows: &RecordBatch) -> Result<(), RemoteError> {
        let values = last_of_each_key(rows, &self.table.key).map_err(RemoteError::Refused)?;
        let client = self.client()?;
        let prepared = client.prepare(statement).await.map_err(|error| judge(&error))?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        client.execute(&prepared, &parameters).await.map_err(|error| judge(&error)).map(drop)
    }
}

#[async_trait]
impl Remote for Postgres {
    fn upserts(&self) -> bool {
        !self.table.key.is_empty()
    }

    async fn connect(&mut self) -> Result<u64, RemoteError> {
        self.client = None;
        self.client = Some(self.server.connect().await?);
        self.prepare().await?;
        self.marker("").await
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        // A constraint that is judged late would refuse the marker with the rows.
        self.client()?.batch_execute("BEGIN; SET CONSTRAINTS ALL IMMEDIATE").await.map_err(lost)?;
        self.marker(" FOR UPDATE").await
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        self.client()?.batch_execute("SAVEPOINT rows").await.map_err(lost)?;
        let inserted =
            if self.table.key.is_empty() { self.copy(rows).await } else { self.upsert(rows).await };
        let end = match &inserted {
            Ok(()) => "RELEASE SAVEPOINT rows",
            Err(RemoteError::Refused(_)) => "ROLLBACK TO SAVEPOINT rows; RELEASE SAVEPOINT rows",
            Err(RemoteError::Lost(_) | RemoteError::Fatal(_)) => return inserted,
        };
        self.client()?.batch_execute(end).await.map_err(lost)?;
        inserted
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        let update = format!("UPDATE {} SET epoch = $2 WHERE sink = $1", self.table.markers());
        let epoch = i64::try_from(epoch).map_err(|error| RemoteError::Fatal(error.to_string()))?;
        let client = self.client()?;
        client.execute(&update, &[&self.table.sink, &epoch]).await.map_err(lost)?;
        client.batch_execute("COMMIT").await.map_err(lost)
    }
}

/// Makes a table; two sinks that make the same one would disturb each other.
async fn make(client: &Client, create: &str) -> Result<(), RemoteError> {
    let statements = format!("BEGIN; SELECT pg_advisory_xact_lock({MAKING}); {create}; COMMIT");
    client.batch_execute(&statements).await.map_err(lost)
}

/// Keys and how they are compared: only `=` finds rows by an index, and NULL is
/// equal to nothing.
fn by_comparison(keys: &RecordBatch) -> Result<[(RecordBatch, &'static str); 2], String> {
    let with_null = with_null(keys.columns());
    let failed = |error: arrow::error::ArrowError| error.to_string();
    let without = filter_record_batch(keys, &not(&with_null).map_err(failed)?).map_err(failed)?;
    let with = filter_record_batch(keys, &with_null).map_err(failed)?;
    Ok([(without, "="), (with, "IS NOT DISTINCT FROM")])
}

fn columns_of(rows: &RecordBatch) -> Vec<String> {
    rows.schema().fields().iter().map(|field| field.name().clone()).collect()
}

async fn exists(client: &Client, name: &str) -> Result<bool, RemoteError> {
    let row = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await.map_err(lost)?;
    row.try_get(0).map_err(lost)
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err calls it")]
fn lost(error: tokio_postgres::Error) -> RemoteError {
    RemoteError::Lost(with_cause(&error))
}

/// Whether rows themselves are at fault: data that a type or a constraint does
/// not take, a trigger that raises, an index entry that is too large.
fn judge(error: &tokio_postgres::Error) -> RemoteError {
    let class = error.code().map(|code| code.code().chars().take(2).collect::<String>());
    match class.as_deref() {
        Some("22" | "23" | "44" | "54" | "P0") => RemoteError::Refused(with_cause(error)),
        _ => RemoteError::Lost(with_cause(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, StringArray};

    use super::*;

    #[test]
    fn keys_without_null_are_found_by_an_index() {
        let column = |values: [Option<&str>; 3]| Arc::new(StringArray::from(values.to_vec())) as ArrayRef;
        let keys = [("a", column([Some("x"), None, Some("z")])), ("b", column([Some("1"), Some("2"), None]))];
        let parts = by_comparison(&RecordBatch::try_from_iter(keys).expect("columns")).expect("splits");
        let second = |part: usize| -> Vec<Option<&str>> {
            parts[part].0.column(1).as_string::<i32>().iter().collect()
        };
        assert_eq!((parts[0].1, second(0)), ("=", vec![Some("1")]));
        assert_eq!((parts[1].1, second(1)), ("IS NOT DISTINCT FROM", vec![Some("2"), None]));
    }
}
