//! Look-ups in SQLite files, on a thread that may block. The file is opened for
//! reading only.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef};
use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, InterruptHandle, params_from_iter};
use tidegate_engine::error::ConfigError;
use tidegate_engine::lookup::{Answers, Lookup, LookupError};
use tidegate_engine::template::display;

use crate::format::RowFormat;
use crate::lookup::{Built, Collected, Question};
use crate::sql_table::quote;
use crate::sqlite_table::{json, open_to_read};

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
    connection: Mutex<Option<Opened>>,
}

struct Opened {
    connection: Connection,
    /// Device and number of the file: another one may have its name by now.
    inode: Option<(u64, u64)>,
}

/// A question that may be given up: its query ends then.
#[derive(Default)]
struct Asking {
    is_over: AtomicBool,
    handle: Mutex<Option<InterruptHandle>>,
}

impl Asking {
    /// From now on this connection is asked.
    fn on(&self, connection: &Connection) -> Result<(), LookupError> {
        let handle = connection.get_interrupt_handle();
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        self.check()
    }

    fn check(&self) -> Result<(), LookupError> {
        let is_over = self.is_over.load(Ordering::SeqCst);
        if is_over { Err(LookupError::Later("nobody waits for the answer any more".into())) } else { Ok(()) }
    }

    /// The connection is asked for others from now on.
    fn done(&self) {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Gives the question up when it is dropped.
struct GivesUp(Arc<Asking>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        if let Some(handle) = self.0.handle.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            handle.interrupt();
        }
    }
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
        let asking = Arc::new(Asking::default());
        let _gives_up = GivesUp(Arc::clone(&asking));
        let asked = tokio::task::spawn_blocking(move || file.ask(&keys, &asking)).await;
        asked.map_err(|error| LookupError::Later(error.to_string()))?
    }
}

impl File {
    fn ask(&self, keys: &RecordBatch, asking: &Asking) -> Result<Answers, LookupError> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        asking.check()?;
        let inode = inode(&self.path);
        let opened = match kept.take().filter(|opened| opened.inode == inode && inode.is_some()) {
            Some(opened) => opened,
            None => {
                let connection = open_to_read(&self.path, BUSY_TIMEOUT).map_err(|error| failed(&error))?;
                Opened { connection, inode }
            }
        };
        asking.on(&opened.connection)?;
        let answers = self.ask_on(&opened.connection, keys, asking);
        asking.done();
        let answers = answers?;
        *kept = Some(opened);
        Ok(answers)
    }

    fn ask_on(
        &self,
        connection: &Connection,
        keys: &RecordBatch,
        asking: &Asking,
    ) -> Result<Answers, LookupError> {
        let mut statement = connection.prepare_cached(&self.query).map_err(|error| failed(&error))?;
        let mut collected = Collected::new(&self.format);
        for key in 0..keys.num_rows() {
            asking.check()?;
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

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|known| (known.dev(), known.ino()))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "all others are text")]
fn parameter(column: &ArrayRef, row: usize) -> Result<Value, LookupError> {
    let never = |error: &dyn std::fmt::Display| LookupError::Never(error.to_string());
    let one = column.slice(row, 1);
    if one.is_null(0) {
        return Ok(Value::Null);
    }
    // A number that SQLite does not have is no other number.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let to =
        |data_type: DataType| cast_with_options(&one, &data_type, &options).map_err(|error| never(&error));
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
                | ErrorCode::OperationInterrupted
        )
    );
    if may_pass { LookupError::Later(error.to_string()) } else { LookupError::Never(error.to_string()) }
}

#[cfg(test)]
mod tests;
