//! The sink `sqlite`: rows to a table of an SQLite file, exactly once. Rows and
//! the marker of their epoch are committed together and synced before the log
//! lets go of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use arrow::util::display::FormatOptions;
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::net_changes::Net;
use crate::sink_log::{Remote, RemoteError, part};
use crate::sql_table::{SqlTable, TABLE_KEYS, Texts, names, quote};

const KEYS: &[Key] = &[required("path", Kind::Text, "the file, made if it is not there").outside()];

/// `[sink.x] type = "sqlite"`
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "sqlite",
    summary: "rows to a table of an SQLite file, exactly once",
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
type  = "sqlite"
from  = "rows"
path  = "readings.db"
table = "latest"
mode  = "upsert"
key   = ["device"]
"#,
    build,
};

/// How long a statement waits for another writer of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

fn build(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let mut problems = Vec::new();
    let table = SqlTable::from_config(config, &context.topology, &input.stream, false, &mut problems);
    let path = context.path(config.table.str("path").unwrap_or_default());
    if path.is_dir() || path.file_name().is_none() {
        let message = format!("`{}` is a folder and not a file", path.display());
        problems.push(Diagnostic::error("TG-C032", message).at(config.table.span_of("path")));
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(part(config, context, Box::new(Sqlite { path, table, connection: None })))
}

struct Sqlite {
    path: PathBuf,
    table: SqlTable,
    /// Lent to a thread that may block while a step is under way.
    connection: Option<Connection>,
}

impl Sqlite {
    /// Does one step where blocking is allowed. What fails or is given up leaves
    /// no connection behind, so that a transaction under way is rolled back;
    /// refused rows leave it.
    async fn step<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection, &SqlTable) -> Result<T, RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let Some(mut connection) = self.connection.take() else {
            return Err(RemoteError::Lost("the file is not open".into()));
        };
        let table = self.table.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let done = work(&mut connection, &table);
            (connection, done)
        });
        let (connection, done) = worked.await.map_err(|error| RemoteError::Lost(error.to_string()))?;
        if !matches!(done, Err(RemoteError::Lost(_) | RemoteError::Fatal(_))) {
            self.connection = Some(connection);
        }
        done
    }
}

#[async_trait]
impl Remote for Sqlite {
    fn upserts(&self) -> bool {
        !self.table.key.is_empty()
    }

    async fn connect(&mut self) -> Result<u64, RemoteError> {
        self.connection = None;
        let path = self.path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&path));
        let opened = opened.await.map_err(|error| RemoteError::Lost(error.to_string()))?;
        self.connection = Some(opened?);
        self.step(|connection, table| prepare(connection, table)).await
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        self.step(|connection, table| {
            connection.execute_batch("BEGIN IMMEDIATE").map_err(lost)?;
            marker(connection, table)
        })
        .await
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let rows = rows.clone();
        self.step(move |connection, table| {
            connection.execute_batch("SAVEPOINT rows").map_err(lost)?;
            match apply(connection, table, &rows) {
                Ok(()) => connection.execute_batch("RELEASE rows").map_err(lost),
                Err(refused) => {
                    connection.execute_batch("ROLLBACK TO rows; RELEASE rows").map_err(lost)?;
                    Err(refused)
                }
            }
        })
        .await
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        self.step(move |connection, table| {
            let statement = format!("UPDATE {} SET epoch = ?2 WHERE sink = ?1", table.markers());
            let epoch = i64::try_from(epoch).map_err(|error| RemoteError::Fatal(error.to_string()))?;
            connection.execute(&statement, (&table.sink, epoch)).map_err(lost)?;
            connection.execute_batch("COMMIT").map_err(lost)
        })
        .await
    }
}

fn open(path: &Path) -> Result<Connection, RemoteError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| RemoteError::Lost(format!("{}: {error}", folder.display())))?;
    }
    let named = |error: rusqlite::Error| RemoteError::Lost(format!("{}: {error}", path.display()));
    let connection = Connection::open(path).map_err(named)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(named)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(named)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(named)?;
    Ok(connection)
}

/// Makes the tables that are missing, and answers the marker.
fn prepare(connection: &Connection, table: &SqlTable) -> Result<u64, RemoteError> {
    let markers = table.markers();
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {markers} (sink text PRIMARY KEY, epoch integer NOT NULL)"
        ))
        .map_err(lost)?;
    let first = format!("INSERT OR IGNORE INTO {markers} (sink, epoch) VALUES (?1, 0)");
    connection.execute(&first, [&table.sink]).map_err(lost)?;
    if table.create {
        connection.execute_batch(&table.create_statement(sqlite_type)).map_err(lost)?;
    }
    marker(connection, table)
}

fn marker(connection: &Connection, table: &SqlTable) -> Result<u64, RemoteError> {
    let query = format!("SELECT epoch FROM {} WHERE sink = ?1", table.markers());
    let marker: Option<i64> =
        connection.query_row(&query, [&table.sink], |row| row.get(0)).optional().map_err(lost)?;
    // Without its row the marker could not be moved.
    let marker = marker.ok_or_else(|| RemoteError::Lost("the marker's row has been removed".into()))?;
    u64::try_from(marker).map_err(|_| RemoteError::Fatal(format!("the marker is {marker}")))
}

/// Does with rows what they say: most are put in, changes may take out.
fn apply(connection: &Connection, table: &SqlTable, rows: &RecordBatch) -> Result<(), RemoteError> {
    let Net { given, taken } = table.changes(rows).map_err(RemoteError::Refused)?;
    if let Some(keys) = taken {
        let equal: Vec<String> = table.key.iter().map(|name| format!("{} IS ?", quote(name))).collect();
        let statement = format!("DELETE FROM {} WHERE {}", table.quoted(), equal.join(" AND "));
        each_row(connection, &statement, &keys)?;
    }
    insert(connection, table, &given)
}

fn insert(connection: &Connection, table: &SqlTable, rows: &RecordBatch) -> Result<(), RemoteError> {
    let schema = rows.schema();
    let columns: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let places = vec!["?"; columns.len()].join(", ");
    let statement = format!(
        "INSERT INTO {} ({}) VALUES ({places}){}",
        table.quoted(),
        names(&columns),
        table.on_conflict(&columns)
    );
    each_row(connection, &statement, rows)
}

/// Runs a statement with the values of each row.
fn each_row(connection: &Connection, statement: &str, rows: &RecordBatch) -> Result<(), RemoteError> {
    let mut statement = connection.prepare_cached(statement).map_err(lost)?;
    let unprintable = |reason: String| RemoteError::Refused(reason);
    let arrays = rows.columns().iter().map(simplify).collect::<Result<Vec<_>, _>>().map_err(unprintable)?;
    let options = FormatOptions::default();
    let values = arrays.iter().map(|array| Values::new(array, &options)).collect::<Result<Vec<_>, _>>();
    let values = values.map_err(unprintable)?;
    for row in 0..rows.num_rows() {
        for (index, values) in values.iter().enumerate() {
            let value = values.value(row).map_err(unprintable)?;
            statement.raw_bind_parameter(index + 1, value).map_err(refused)?;
        }
        statement.raw_execute().map_err(refused)?;
    }
    Ok(())
}

/// The same values in one of few types.
#[allow(clippy::wildcard_enum_match_arm, reason = "all others are printed as they are")]
fn simplify(column: &ArrayRef) -> Result<ArrayRef, String> {
    let to = match column.data_type() {
        data_type if data_type.is_integer() => DataType::Int64,
        DataType::Boolean => DataType::Int64,
        DataType::Float32 => DataType::Float64,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Timestamp(unit, Some(_)) if *unit != TimeUnit::Microsecond => time_type(),
        _ => return Ok(ArrayRef::clone(column)),
    };
    // A value beyond 63 bits is refused, and no NULL is made of it.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, &to, &options).map_err(|error| error.to_string())
}

enum Values<'a> {
    Ints(&'a ArrayRef),
    Floats(&'a ArrayRef),
    Bytes(&'a ArrayRef),
    Texts(Texts<'a>),
}

impl<'a> Values<'a> {
    #[allow(clippy::wildcard_enum_match_arm, reason = "all others are text")]
    fn new(column: &'a ArrayRef, options: &'a FormatOptions<'a>) -> Result<Values<'a>, String> {
        Ok(match column.data_type() {
            DataType::Int64 => Values::Ints(column),
            DataType::Float64 => Values::Floats(column),
            DataType::Binary => Values::Bytes(column),
            _ => Values::Texts(Texts::new(column, options)?),
        })
    }

    fn value(&self, row: usize) -> Result<Value, String> {
        let (Values::Ints(column) | Values::Floats(column) | Values::Bytes(column)) = self else {
            return self.text(row);
        };
        if column.is_null(row) {
            return Ok(Value::Null);
        }
        Ok(match self {
            Values::Ints(column) => Value::Integer(column.as_primitive::<Int64Type>().value(row)),
            Values::Floats(column) => Value::Real(column.as_primitive::<Float64Type>().value(row)),
            Values::Bytes(column) => Value::Blob(column.as_binary::<i32>().value(row).to_vec()),
            Values::Texts(_) => Value::Null,
        })
    }

    fn text(&self, row: usize) -> Result<Value, String> {
        let Values::Texts(texts) = self else { return Ok(Value::Null) };
        let mut text = String::new();
        Ok(if texts.append(row, &mut text)? { Value::Text(text) } else { Value::Null })
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "Arrow's list of types is open; the rest is printed")]
fn sqlite_type(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Boolean => "INTEGER",
        DataType::Float32 | DataType::Float64 => "REAL",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "BLOB",
        other if other.is_integer() => "INTEGER",
        _ => "TEXT",
    };
    name.to_owned()
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err calls it")]
fn lost(error: rusqlite::Error) -> RemoteError {
    RemoteError::Lost(error.to_string())
}

/// Whether a row itself is at fault.
#[allow(clippy::needless_pass_by_value, reason = "as map_err calls it")]
fn refused(error: rusqlite::Error) -> RemoteError {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            RemoteError::Refused(error.to_string())
        }
        _ => RemoteError::Lost(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, UInt64Array};
    use std::sync::Arc;

    fn remote(folder: &Path) -> Sqlite {
        let columns = batch(&[]).schema();
        let table = SqlTable {
            schema: None,
            name: "out".into(),
            key: Vec::new(),
            create: true,
            columns,
            applies: false,
            sink: "test/out".into(),
        };
        Sqlite { path: folder.join("out.db"), table, connection: None }
    }

    fn batch(ids: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
        RecordBatch::try_from_iter([("id", column)]).expect("a batch")
    }

    fn seen(folder: &Path) -> (i64, i64) {
        let other = Connection::open(folder.join("out.db")).expect("opens");
        let query = "SELECT (SELECT count(*) FROM out), (SELECT epoch FROM _tidegate_epochs)";
        other.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("answers")
    }

    #[tokio::test]
    async fn rows_and_marker_are_there_together_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut remote = remote(folder.path());
        assert_eq!(remote.connect().await, Ok(0));
        assert_eq!(remote.begin().await, Ok(0));
        remote.insert(&batch(&[1, 2])).await.expect("taken");
        assert_eq!(seen(folder.path()), (0, 0));
        assert_eq!(remote.connect().await, Ok(0));
        assert_eq!(seen(folder.path()), (0, 0), "what was not committed is rolled back");

        let other = Connection::open(folder.path().join("out.db")).expect("opens");
        let refuse =
            "CREATE TRIGGER no BEFORE UPDATE ON _tidegate_epochs BEGIN SELECT RAISE(ABORT, 'no'); END";
        other.execute_batch(refuse).expect("a trigger");
        assert_eq!(remote.begin().await, Ok(0));
        remote.insert(&batch(&[1, 2])).await.expect("taken");
        assert!(matches!(remote.commit(3).await, Err(RemoteError::Lost(_))));
        assert_eq!(seen(folder.path()), (0, 0), "no rows without their marker");

        other.execute_batch("DROP TRIGGER no").expect("dropped");
        assert_eq!(remote.connect().await, Ok(0));
        assert_eq!(remote.begin().await, Ok(0));
        remote.insert(&batch(&[1, 2])).await.expect("taken");
        remote.commit(3).await.expect("committed");
        assert_eq!(seen(folder.path()), (2, 3));
        assert_eq!(remote.begin().await, Ok(3));
    }

    #[tokio::test]
    async fn refused_rows_leave_the_transaction_as_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut remote = remote(folder.path());
        let other = Connection::open(folder.path().join("out.db")).expect("opens");
        other.execute_batch("CREATE TABLE out (id INTEGER PRIMARY KEY)").expect("a table");
        remote.connect().await.expect("connects");
        remote.begin().await.expect("begins");
        remote.insert(&batch(&[1])).await.expect("taken");
        assert!(matches!(remote.insert(&batch(&[2, 1])).await, Err(RemoteError::Refused(_))));
        let large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let large = RecordBatch::try_from_iter([("id", large)]).expect("a batch");
        assert!(matches!(remote.insert(&large).await, Err(RemoteError::Refused(_))));
        remote.commit(1).await.expect("committed");
        assert_eq!(seen(folder.path()), (1, 1));
    }
}
