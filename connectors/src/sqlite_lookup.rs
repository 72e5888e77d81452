//! Look-ups in SQLite files, on a thread that may block. The file is opened for
//! reading only.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OpenFlags, params_from_iter};
use tidegate_engine::error::ConfigError;
use tidegate_engine::lookup::{Answers, Lookup, LookupError};
use tidegate_engine::template::display;

use crate::format::RowFormat;
use crate::lookup::{Built, Collected, Question};
use crate::sql_table::quote;
use crate::sqlite_table::json;

/// Keys of one request.
const KEYS_MAX: usize = 256;
/// How long a request waits for a writer of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn lookup(question: &Question<'_>) -> Result<Built, ConfigError> {
    let (template, query) = question.query(|index| format!("?{}", index + 1))?;
    let format = question.format(None)?;
    let columns = Arc::clone(format.decoder().schema());
    let names: Vec<String> = columns.fields().iter().map(|field| quote(field.name())).collect();
    let query = format!("SELECT {} FROM ({query}\n)", names.join(", "));
    let path = question.context.path(question.table.str("sqlite").unwrap_or_default());
    let file = File { path, query, format, columns: Arc::clone(&columns), connection: Mutex::default() };
    Ok((Arc::new(SqliteLookup(Arc::new(file))), template.expressions(), columns))
}

struct SqliteLookup(Arc<File>);

struct File {
    path: PathBuf,
    query: String,
    format: RowFormat,
    columns: SchemaRef,
    /// One at a time asks; whoever fails leaves none behind.
    connection: Mutex<Option<Connection>>,
}

#[async_trait]
impl Lookup for SqliteLookup {
    fn keys_max(&self) -> usize {
        KEYS_MAX
    }

    fn at_once(&self) -> usize {
        1
    }

    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let (file, keys) = (Arc::clone(&self.0), keys.clone());
        let asked = tokio::task::spawn_blocking(move || file.ask(&keys)).await;
        asked.map_err(|error| LookupError::Later(error.to_string()))?
    }
}

impl File {
    fn ask(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match kept.take() {
            Some(connection) => connection,
            None => open(&self.path).map_err(|error| failed(&error))?,
        };
        let answers = self.ask_on(&connection, keys)?;
        *kept = Some(connection);
        Ok(answers)
    }

    fn ask_on(&self, connection: &Connection, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let mut statement = connection.prepare_cached(&self.query).map_err(|error| failed(&error))?;
        let mut collected = Collected::new(&self.format);
        for key in 0..keys.num_rows() {
            let values =
                keys.columns().iter().map(|column| parameter(column, key)).collect::<Result<Vec<_>, _>>()?;
            let mut rows = statement.query(params_from_iter(values)).map_err(|error| failed(&error))?;
            while let Some(row) = rows.next().map_err(|error| failed(&error))? {
                let mut object = serde_json::Map::new();
                for (index, field) in self.columns.fields().iter().enumerate() {
                    let value = row.get_ref(index).map_err(|error| failed(&error))?;
                    object.insert(field.name().clone(), json(value, field.data_type()));
                }
                let text =
                    serde_json::to_vec(&object).map_err(|error| LookupError::Never(error.to_string()))?;
                collected.add(key, &text);
            }
        }
        Ok(collected.finish())
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "all others are text")]
fn parameter(column: &ArrayRef, row: usize) -> Result<Value, LookupError> {
    let never = |error: &dyn std::fmt::Display| LookupError::Never(error.to_string());
    let one = column.slice(row, 1);
    if one.is_null(0) {
        return Ok(Value::Null);
    }
    let to = |data_type: DataType| cast(&one, &data_type).map_err(|error| never(&error));
    Ok(match column.data_type() {
        DataType::Boolean => Value::Integer(to(DataType::Int64)?.as_primitive::<Int64Type>().value(0)),
        data_type if data_type.is_integer() => {
            Value::Integer(to(DataType::Int64)?.as_primitive::<Int64Type>().value(0))
        }
        data_type if data_type.is_floating() => {
            Value::Real(to(DataType::Float64)?.as_primitive::<Float64Type>().value(0))
        }
        _ => Value::Text(display(&one, 0).map_err(|error| never(&error))?),
    })
}

/// Whether another attempt may have an answer.
fn failed(error: &rusqlite::Error) -> LookupError {
    let may_pass = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::SystemIoFailure
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::SchemaChanged
        )
    );
    if may_pass { LookupError::Later(error.to_string()) } else { LookupError::Never(error.to_string()) }
}
