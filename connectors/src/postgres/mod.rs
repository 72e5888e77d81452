//! PostgreSQL: tables that are read, and the sink `postgres`: rows to a table,
//! exactly once. Rows and
//! the marker of their epoch are committed together. This folder is the only
//! place that names the client library.

use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::secret::SecretRef;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::sink_log::part;
use crate::sql_table::{SqlTable, TABLE_KEYS};
pub(crate) use lookup::lookup;
pub(crate) use table::ROW as TABLE;

use remote::Postgres;
use server::Server;

mod lookup;
mod remote;
mod server;
mod table;
mod text;

const KEYS: &[Key] = &[
    required(
        "url",
        Kind::Text,
        "postgresql://user@host:5432/database, or a secret:// reference to it; without TLS",
    ),
    optional("password", Kind::Secret, "the user's password, if the url has none"),
];

/// `[sink.x] type = "postgres"`
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "postgres",
    summary: "rows to a table of PostgreSQL, exactly once",
    keys: &[KEYS, TABLE_KEYS],
    example: r#"[topology]
name = "readings"

[source.rows]
type   = "file"
path   = "rows.jsonl"
format = "json"
schema = { device = "string", ts = "timestamp", value = "float64" }
time   = { column = "ts", unit = "ms" }

[sink.out]
type     = "postgres"
from     = "rows"
url      = "postgresql://tidegate@localhost/plant"
password = "secret://env/PLANT_PASSWORD"
table    = "public.readings"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let mut problems = Vec::new();
    let table = SqlTable::from_config(config, &context.topology, &input.stream, true, &mut problems);
    let server = server(config, &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(part(config, context, Box::new(Postgres::new(server, table))))
}

/// Where the server is.
fn server(config: &NodeConfig, problems: &mut Vec<Diagnostic>) -> Server {
    let url = SecretRef::new(config.table.str("url").unwrap_or_default());
    let checked = if url.is_reference() {
        url.check().map_err(|reason| ("TG-C014", reason))
    } else {
        url.resolve().and_then(|url| Server::parse(&url).map(drop)).map_err(|reason| ("TG-D004", reason))
    };
    if let Err((code, reason)) = checked {
        problems.push(Diagnostic::error(code, reason).at(config.table.span_of("url")));
    }
    Server { url, password: config.table.str("password").map(SecretRef::new) }
}
