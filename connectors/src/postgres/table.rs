//! Tables in PostgreSQL: a connection for each look, on a thread of its own.

use std::time::Duration;

use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::StreamExt;
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::table::TablePart;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio_postgres::SimpleQueryMessage;

use super::server::{Server, with_cause};
use super::{KEYS, server};
use crate::sink_log::RemoteError;
use crate::sql_table::quote;
use crate::table::database::{DATABASE_KEYS, Database, check_size, part};

/// Longest time for one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// `[table.x] type = "postgres"`
pub(crate) const ROW: Row<BuildTable> = Row {
    name: "postgres",
    summary: "rows of a table or query of PostgreSQL, for joins and for queries of flows",
    keys: &[KEYS, DATABASE_KEYS],
    example: r#"[table.presses]
type   = "postgres"
url    = "postgresql://tidegate@localhost/plant"
query  = "SELECT device, max_load FROM presses WHERE active"
schema = { device = "string", max_load = "float64" }
every  = "1m"
"#,
    build,
};

fn build(config: &NodeConfig, _context: &BuildContext, _inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let mut problems = Vec::new();
    let server = server(config, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    part(config, Postgres { server })
}

#[derive(Debug)]
struct Postgres {
    server: Server,
}

impl Database for Postgres {
    /// Times are those of UTC where the column has no zone.
    fn column(&self, field: &Field, counts: bool) -> String {
        let name = quote(field.name());
        let is_time = matches!(field.data_type(), DataType::Timestamp(..));
        if is_time && !counts { format!("{name}::timestamptz") } else { name }
    }

    fn json_lines(&self, query: &str, _columns: &SchemaRef) -> Result<Vec<u8>, String> {
        let query = format!("SELECT to_json(tidegate_json)::text FROM ({query}) AS tidegate_json");
        let ask = async {
            let asked = tokio::time::timeout(LOOK_TIMEOUT, lines(&self.server, &query)).await;
            asked.unwrap_or_else(|_| Err(format!("no answer within {} s", LOOK_TIMEOUT.as_secs())))
        };
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(ask)
        };
        // A runtime of its own: whoever looks may be inside of another one.
        let asked = std::thread::scope(|scope| scope.spawn(work).join());
        asked.unwrap_or_else(|_| Err("the thread that asked has died".into()))
    }
}

async fn lines(server: &Server, query: &str) -> Result<Vec<u8>, String> {
    let client = server.connect().await.map_err(|error| match error {
        RemoteError::Lost(reason) | RemoteError::Refused(reason) | RemoteError::Fatal(reason) => reason,
    })?;
    let failed = |error: tokio_postgres::Error| with_cause(&error);
    client
        .batch_execute("SET TIME ZONE 'UTC'; SET default_transaction_read_only = on")
        .await
        .map_err(failed)?;
    let mut lines = Vec::new();
    let mut messages = std::pin::pin!(client.simple_query_raw(query).await.map_err(failed)?);
    while let Some(message) = messages.next().await {
        if let SimpleQueryMessage::Row(row) = message.map_err(failed)? {
            lines.extend_from_slice(row.get(0).unwrap_or_default().as_bytes());
            lines.push(b'\n');
            check_size(lines.len())?;
        }
    }
    Ok(lines)
}
