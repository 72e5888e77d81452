//! Look-ups in PostgreSQL: many keys are one query, which the server runs for
//! each of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::lookup::{Answers, Lookup, LookupError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::template::display;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{CancelToken, Client, NoTls, Statement};

use super::server::{Server, with_cause};
use super::text::type_of;
use crate::format::RowFormat;
use crate::lookup::{Built, Collected, Question};
use crate::sink_log::RemoteError;
use crate::sql_table::quote;

/// Keys of one request.
const KEYS_MAX: usize = 256;
/// Requests at a time, each on a connection of its own.
const AT_ONCE: usize = 4;
/// Longest time to tell the server that a query is to end.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn lookup(question: &Question<'_>) -> Result<Built, ConfigError> {
    let url = SecretRef::new(question.table.str("postgres").unwrap_or_default());
    if !url.is_reference()
        && let Err(reason) = url.resolve().and_then(|url| Server::parse(&url).map(drop))
    {
        let diagnostic = Diagnostic::error("TG-D004", reason);
        return Err(diagnostic.at(question.table.span_of("postgres")).into());
    }
    let password = question.table.str("password").map(SecretRef::new);
    let (template, query) = question.query(|index| format!("tidegate_keys.p{index}"))?;
    let format = question.format(None)?;
    let columns = Arc::clone(format.decoder().schema());
    let column = |name: &String, data_type: &DataType| {
        let (is_time, quoted) = (matches!(data_type, DataType::Timestamp(..)), quote(name));
        // Times are those of UTC where the column has no zone.
        if is_time && !question.counts(name) { format!("{quoted}::timestamptz AS {quoted}") } else { quoted }
    };
    let names: Vec<String> =
        columns.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
    let keys = template.expressions();
    let arrays = keys.iter().enumerate();
    let arrays: Vec<String> = arrays
        .map(|(index, key)| format!("${}::text[]::{}[]", index + 1, type_of(key.data_type())))
        .collect();
    let parameters: Vec<String> = (0..keys.len()).map(|index| format!("p{index}")).collect();
    let query = format!(
        "SELECT tidegate_keys.n, to_json(tidegate_rows)::text \
         FROM unnest({}) WITH ORDINALITY AS tidegate_keys({}, n), \
         LATERAL (SELECT {} FROM ({query}\n) AS tidegate_query) AS tidegate_rows ORDER BY 1",
        arrays.join(", "),
        parameters.join(", "),
        names.join(", ")
    );
    let server = Server { url, password };
    Ok((Arc::new(PostgresLookup { server, query, format, lines: Mutex::default() }), keys, columns))
}

type Line = (Client, Statement);

struct PostgresLookup {
    server: Server,
    query: String,
    format: RowFormat,
    /// Connections that nobody uses now. One that is lost, or whose request is given
    /// up, does not come back.
    lines: Mutex<Vec<Line>>,
}

#[async_trait]
impl Lookup for PostgresLookup {
    fn keys_max(&self) -> usize {
        KEYS_MAX
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }

    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let never = |error: &dyn std::fmt::Display| LookupError::Never(error.to_string());
        let mut arrays: Vec<Vec<Option<String>>> = Vec::new();
        for column in keys.columns() {
            let text = |row: usize| match column.is_null(row) {
                true => Ok(None),
                false => display(column, row).map(Some),
            };
            let texts = (0..keys.num_rows()).map(text).collect::<Result<_, _>>();
            arrays.push(texts.map_err(|error| never(&error))?);
        }
        let parameters: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(|array| array as _).collect();
        let line = self.line().await?;
        let asking = Asking(Some(line.0.cancel_token()));
        let rows = line.0.query(&line.1, &parameters).await;
        asking.done();
        // Who refuses a question answers the next one.
        if rows.as_ref().map_or_else(|error| error.as_db_error().is_some(), |_| true) {
            self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        let rows = rows.map_err(|error| failed(&error))?;
        let mut collected = Collected::new(&self.format);
        for row in rows {
            let (number, text): (i64, &str) = match (row.try_get(0), row.try_get(1)) {
                (Ok(number), Ok(text)) => (number, text),
                (Err(error), _) | (_, Err(error)) => return Err(never(&error)),
            };
            let key = usize::try_from(number - 1).map_err(|error| never(&error))?;
            collected.add(key, text.as_bytes());
        }
        Ok(collected.finish())
    }
}

impl PostgresLookup {
    async fn line(&self) -> Result<Line, LookupError> {
        let known = self.lines.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(line) = known.filter(|line| !line.0.is_closed()) {
            return Ok(line);
        }
        let client = self.server.connect().await.map_err(|error| match error {
            RemoteError::Lost(reason) | RemoteError::Refused(reason) => LookupError::Later(reason),
            RemoteError::Fatal(reason) => LookupError::Never(reason),
        })?;
        let settings = "SET TIME ZONE 'UTC'; SET default_transaction_read_only = on";
        client.batch_execute(settings).await.map_err(|error| failed(&error))?;
        let statement = client.prepare(&self.query).await.map_err(|error| failed(&error))?;
        Ok((client, statement))
    }
}

/// A query that the server is told to end when nobody waits for it any more.
struct Asking(Option<CancelToken>);

impl Asking {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let (Some(token), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let told = timeout(CANCEL_TIMEOUT, token.cancel_query(NoTls)).await;
                tracing::debug!(?told, "PostgreSQL was told to end a query that took too long");
            });
        }
    }
}

/// Whether another attempt may have an answer: not where the server says that
/// the question is wrong.
fn failed(error: &tokio_postgres::Error) -> LookupError {
    let reason = with_cause(error);
    let passing = ["08", "40", "53", "55", "57", "58"];
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some(code) if !passing.iter().any(|class| code.starts_with(class)) => LookupError::Never(reason),
        Some(_) | None => LookupError::Later(reason),
    }
}
