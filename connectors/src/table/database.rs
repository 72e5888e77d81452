//! Tables in databases: the answer to a query, asked for again at an interval.
//! The columns stand in the topology, so that it is checked without the server;
//! a value that does not fit its column fails the look.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, SchemaRef};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::schema::type_name;
use tidegate_engine::table::{ReferenceTable, TablePart};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::NodeConfig;
use tidegate_engine::topology::value::{Data, Text};

use super::{COLUMNS, KEY, check_key, decode, key, set};
use crate::format::RowFormat;
use crate::sql_table::quote;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// They are asked no more often.
const EVERY_MIN: Duration = Duration::from_millis(100);

/// Most bytes of the answer as JSON.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// Refuses an answer that is too large, while it comes.
///
/// # Errors
/// So many bytes are too many.
pub(crate) fn check_size(bytes: usize) -> Result<(), String> {
    if bytes <= ANSWER_BYTES_MAX {
        return Ok(());
    }
    Err(format!(
        "the answer has more than {ANSWER_BYTES_MAX} bytes; let a `query` give fewer rows or columns"
    ))
}

/// Keys of a table in a database.
pub(crate) const DATABASE_KEYS: &[Key] = &[
    optional("table", Kind::Text, "the table or view that is read; or write a `query`"),
    optional("query", Kind::Text, "the query whose rows are the table"),
    required("schema", COLUMNS, "the columns that are read, and their types"),
    KEY,
    optional("every", Kind::Duration, "how often it is asked for changes, for joins; \"1m\" if left out"),
];

/// A database that answers queries with rows as JSON objects, one a line.
pub(crate) trait Database: Send + Sync + Debug {
    /// The expression that reads a column, as JSON has it; `counts` says whether
    /// its values are numbers that count a unit of time.
    fn column(&self, field: &Field, counts: bool) -> String;

    /// The rows of a query that gives exactly these columns. May wait.
    fn json_lines(&self, query: &str, columns: &SchemaRef) -> Result<Vec<u8>, String>;
}

/// Reads the keys of a table in a database.
pub(crate) fn part(config: &NodeConfig, database: impl Database + 'static) -> Result<TablePart, ConfigError> {
    let from = match (config.table.str("table"), config.table.str("query")) {
        (Some(table), None) => table.split('.').map(quote).collect::<Vec<_>>().join("."),
        (None, Some(query)) => format!("({}\n) AS tidegate_rows", query.trim().trim_end_matches(';')),
        (_, second) => {
            let message = match second {
                Some(_) => format!("table `{}` has both `table` and `query`", config.name),
                None => format!("table `{}` says neither which `table` nor which `query`", config.name),
            };
            let help = "write table = \"presses\", or query = \"SELECT …\"";
            return Err(Diagnostic::error("TG-C006", message).at(config.name_span.clone()).help(help).into());
        }
    };
    let every = config.table.duration("every").unwrap_or(EVERY).max(EVERY_MIN);
    let mut as_json = config.clone();
    set(&mut as_json, "format", Data::Text(Text::loose("json")));
    let format = RowFormat::from_config(&as_json, Vec::new())?;
    let columns = Arc::clone(format.stream_decoder().schema());
    for field in columns.fields() {
        if field.data_type() == &DataType::Binary {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            let message =
                format!("the column `{name}` is of the type {data_type}, which no table is read with");
            let diagnostic = Diagnostic::error("TG-D003", message).at(config.table.span_of("schema"));
            return Err(diagnostic.help("let a `query` make text of it, e.g. with encode(…, 'hex')").into());
        }
    }
    let key = key(config, &columns)?;
    let names = columns.fields().iter().map(|field| {
        let counts = config.table.table("schema").and_then(|schema| schema.table(field.name()));
        let counts = counts.is_some_and(|column| column.get("unit").is_some());
        let (expression, name) = (database.column(field, counts), quote(field.name()));
        if expression == name { name } else { format!("{expression} AS {name}") }
    });
    let query = format!("SELECT {} FROM {from}", names.collect::<Vec<_>>().join(", "));
    let table = DatabaseTable { database, query, format, key, every };
    Ok(TablePart { table: Arc::new(table), columns, recorder: None, sink: None })
}

#[derive(Debug)]
struct DatabaseTable<D> {
    database: D,
    query: String,
    format: RowFormat,
    /// Columns whose values no two rows may share.
    key: Vec<usize>,
    every: Duration,
}

impl<D: Database> ReferenceTable for DatabaseTable<D> {
    fn rows(&self) -> Result<Vec<RecordBatch>, String> {
        let columns = Arc::clone(self.format.stream_decoder().schema());
        let lines = self.database.json_lines(&self.query, &columns)?;
        let rows = decode(&self.format, &lines).map_err(|reason| format!("row {reason}"))?;
        check_key(&self.key, &rows)?;
        Ok(vec![rows])
    }

    fn reload_every(&self) -> Option<Duration> {
        Some(self.every)
    }
}
