//! Tables in SQLite files. The file is opened for reading only, for each look.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, SchemaRef};
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Number, Value};
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::table::TablePart;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::sql_table::quote;
use crate::table::database::{DATABASE_KEYS, Database, check_size, part};

/// How long a look waits for a writer of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const KEYS: &[Key] = &[required("path", Kind::Text, "the SQLite file")];

/// `[table.x] type = "sqlite"`
pub(crate) const ROW: Row<BuildTable> = Row {
    name: "sqlite",
    summary: "rows of a table or query of an SQLite file, for joins and for queries of flows",
    keys: &[KEYS, DATABASE_KEYS],
    example: r#"[table.presses]
type   = "sqlite"
path   = "plant.db"
table  = "presses"
schema = { device = "string", limit = "float64" }
every  = "10s"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, _inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let shown = config.table.str("path").unwrap_or_default().to_owned();
    let path = context.path(&shown);
    if !path.exists() {
        let missing = Diagnostic::error("TG-C009", format!("there is no file `{shown}`"));
        let help = format!("it was looked for in {}", context.base_dir.display());
        return Err(missing.at(config.table.span_of("path")).help(help).into());
    }
    let built = part(config, Sqlite { path, shown })?;
    let broken = |reason: String| Diagnostic::error("TG-C037", reason).at(config.table.span_of("path"));
    built.table.rows().map_err(broken)?;
    Ok(built)
}

#[derive(Debug)]
struct Sqlite {
    path: PathBuf,
    shown: String,
}

impl Database for Sqlite {
    fn column(&self, field: &Field, _counts: bool) -> String {
        quote(field.name())
    }

    fn json_lines(&self, query: &str, columns: &SchemaRef) -> Result<Vec<u8>, String> {
        let failed = |error: rusqlite::Error| format!("{}: {error}", self.shown);
        let connection = open_to_read(&self.path, BUSY_TIMEOUT).map_err(failed)?;
        let mut statement = connection.prepare(query).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut object = serde_json::Map::new();
            for (index, field) in columns.fields().iter().enumerate() {
                let value = row.get_ref(index).map_err(failed)?;
                object.insert(field.name().clone(), json(value, field.data_type()));
            }
            serde_json::to_writer(&mut lines, &object).map_err(|error| error.to_string())?;
            lines.push(b'\n');
            check_size(lines.len()).map_err(|reason| format!("{}: {reason}", self.shown))?;
        }
        Ok(lines)
    }
}

/// The file, for reading only. A name in double quotes is one of a column and never
/// text, or a column that is not there would be its own name in every row.
pub(crate) fn open_to_read(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    Ok(connection)
}

/// SQLite has no type for what is true or false.
pub(crate) fn json(value: ValueRef<'_>, data_type: &DataType) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number @ (0 | 1)) if data_type == &DataType::Boolean => Value::Bool(number == 1),
        ValueRef::Integer(number) => Value::Number(number.into()),
        ValueRef::Real(number) => Number::from_f64(number).map_or(Value::Null, Value::Number),
        ValueRef::Text(text) | ValueRef::Blob(text) => {
            Value::String(String::from_utf8_lossy(text).into_owned())
        }
    }
}
