//! Tables in files and databases: reference tables that queries of flows name
//! and streams are joined with. A file is read again at each look, so a changed
//! file is seen by the next run; a row that does not fit fails the look and is
//! never left out in silence.

pub(crate) mod database;
mod infer;
pub(crate) mod parquet;
pub(crate) mod recorded;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use tidegate_engine::catalog::{BuildTable, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Data, Entry, Text, Value};

use crate::format::{COLUMN_KEYS, RowFormat};

/// Largest file of a table: it is read whole at each look.
const FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Most bytes of rows of a table, in memory.
const ROWS_BYTES_MAX: usize = 1 << 30;
/// How often a file is looked at for a change: its time and size, not its rows.
const LOOK_EVERY: Duration = Duration::from_secs(1);

const PATH: Key = required(
    "path",
    Kind::Text,
    "the file; it is read again whenever a query needs it, and for joins when it has changed",
);
const KEY: Key = optional("key", Kind::List(&Kind::Text), "columns whose values no two rows may share");
/// As in `schema` of a source.
const COLUMNS: Kind = Kind::Map(&Kind::AnyOf(&[Kind::Text, Kind::Table(COLUMN_KEYS)]));

const CSV_KEYS: &[Key] = &[
    PATH,
    KEY,
    optional(
        "schema",
        COLUMNS,
        "columns and their types; if left out, the header names them and the values tell the types",
    ),
    optional("delimiter", Kind::Text, "the character between cells, default \",\""),
    optional("header", Kind::Bool, "whether the first line names the columns, default true"),
];

const JSON_KEYS: &[Key] = &[PATH, KEY, required("schema", COLUMNS, "columns and their types")];

/// `[table.x] type = "csv"`
pub(crate) const CSV: Row<BuildTable> = Row {
    name: "csv",
    summary: "rows of a CSV file, for joins and for queries of flows",
    keys: &[CSV_KEYS],
    example: r#"[table.presses]
type = "csv"
path = "presses.csv"
key  = "device"
"#,
    build,
};

/// `[table.x] type = "json"`
pub(crate) const JSON: Row<BuildTable> = Row {
    name: "json",
    summary: "rows of a file of JSON lines, for joins and for queries of flows",
    keys: &[JSON_KEYS],
    example: r#"[table.presses]
type   = "json"
path   = "presses.jsonl"
schema = { device = "string", limit = "float64" }
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, _inputs: &[Input]) -> Result<TablePart, ConfigError> {
    let at = |key: &str| config.table.span_of(key);
    let file = TableFile::named(config, context)?;
    let broken = |message: String| Diagnostic::error("TG-C037", message).at(at("path"));
    let mut config = config.clone();
    let format = Text::loose(config.kind.value.clone());
    set(&mut config, "format", Data::Text(format));
    if config.kind.value == "csv" && config.table.get("schema").is_none() {
        if config.table.bool("header") == Some(false) {
            let help = "name its columns: schema = { id = \"int64\", at = \"timestamp\" }";
            let message = format!("table `{}` has neither a header nor a `schema`", config.name);
            return Err(Diagnostic::error("TG-C030", message).at(at("header")).help(help).into());
        }
        let bytes = file.bytes().map_err(broken)?;
        let schema = infer::schema(&config, &bytes);
        let schema = schema.map_err(|reason| broken(format!("{}: {reason}", file.shown)))?;
        set(&mut config, "schema", schema);
    }
    let format = RowFormat::from_config(&config, Vec::new())?;
    let columns = Arc::clone(format.stream_decoder().schema());
    let key = key(&config, &columns)?;
    let table = FileTable { file, format, key };
    table.rows().map_err(broken)?;
    Ok(TablePart { table: Arc::new(table), columns, recorder: None, sink: None })
}

/// The columns that `key` names.
fn key(config: &NodeConfig, columns: &SchemaRef) -> Result<Vec<usize>, Diagnostic> {
    let mut key = Vec::new();
    for name in config.table.texts("key") {
        let found = columns.index_of(&name.value).map_err(|_| {
            let names = || columns.fields().iter().map(|field| field.name().as_str());
            Diagnostic::error("TG-X002", format!("table `{}` has no column `{}`", config.name, name.value))
                .at(name.span.clone())
                .help(format!("its columns are {}", names().collect::<Vec<_>>().join(", ")))
                .suggest(&name.value, names())
        })?;
        key.push(found);
    }
    Ok(key)
}

/// Gives a key of a node another value.
pub(crate) fn set(config: &mut NodeConfig, key: &str, data: Data) {
    let span = config.kind.span.clone();
    config.table.entries.retain(|entry| entry.key != key);
    let value = Value { span: span.clone(), data };
    config.table.entries.push(Entry { key: key.to_owned(), key_span: span, value });
}

/// The file, and its name as the author wrote it.
#[derive(Debug)]
struct TableFile {
    path: PathBuf,
    shown: String,
}

impl TableFile {
    fn named(config: &NodeConfig, context: &BuildContext) -> Result<TableFile, Diagnostic> {
        let shown = config.table.str("path").unwrap_or_default().to_owned();
        let file = TableFile { path: context.path(&shown), shown };
        if file.path.exists() {
            return Ok(file);
        }
        let help = format!("it was looked for in {}", context.base_dir.display());
        let missing = Diagnostic::error("TG-C009", format!("there is no file `{}`", file.shown));
        Err(missing.at(config.table.span_of("path")).help(help))
    }

    /// Whatever changes when the file does.
    fn stamp(&self) -> Option<String> {
        let known = std::fs::metadata(&self.path).ok()?;
        Some(format!("{} {}.{} {}", known.ino(), known.mtime(), known.mtime_nsec(), known.len()))
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| format!("cannot read {}: {error}", self.shown);
        let mut bytes = Vec::new();
        let file = File::open(&self.path).map_err(failed)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", self.shown));
        }
        Ok(bytes)
    }
}

#[derive(Debug)]
struct FileTable {
    file: TableFile,
    format: RowFormat,
    /// Columns whose values no two rows may share.
    key: Vec<usize>,
}

impl ReferenceTable for FileTable {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let name = &self.file.shown;
        let rows = decode(&self.format, &self.file.bytes()?).map_err(|reason| format!("{name}:{reason}"))?;
        check_key(&self.key, &rows).map_err(|reason| format!("{name}: {reason}"))?;
        Ok(vec![rows])
    }

    fn reload_every(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }

    fn stamp(&self) -> Option<String> {
        self.file.stamp()
    }
}

/// Refuses two rows with the same values in these columns.
fn check_key(key: &[usize], rows: &RecordBatch) -> Result<(), String> {
    if key.is_empty() {
        return Ok(());
    }
    let failed = |error: arrow::error::ArrowError| error.to_string();
    let columns: Vec<ArrayRef> = key.iter().filter_map(|index| rows.columns().get(*index).cloned()).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns));
    let keys = keys.map_err(failed)?;
    let mut seen = HashSet::new();
    for (row, key) in keys.iter().enumerate() {
        if !seen.insert(key) {
            let shown = columns.iter().map(|column| tidegate_engine::template::display(column, row));
            let shown: Result<Vec<String>, _> = shown.collect();
            let shown = shown.map_err(|error| error.to_string())?.join(", ");
            return Err(format!("two rows have the key {shown}"));
        }
    }
    Ok(())
}

/// Every row of a file, or the line of the first that is wrong and why.
pub(crate) fn decode(format: &RowFormat, bytes: &[u8]) -> Result<RecordBatch, String> {
    let mut decoder = format.stream_decoder();
    let mut rest = bytes;
    let mut first_line = 1;
    if decoder.wants_header() {
        let length = decoder.first_row(bytes).unwrap_or(bytes.len());
        let (header, rows) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
        decoder.set_header(header).map_err(|reason| format!("1: {reason}"))?;
        first_line += header.iter().filter(|byte| **byte == b'\n').count();
        rest = rows;
    }
    decoder.decode(rest, &|line| (first_line + line).to_string());
    let decoded = decoder.finish();
    match decoded.bad.first() {
        None => Ok(decoded.batch),
        Some(bad) => Err(format!("{}: {}", bad.position, bad.reason)),
    }
}
