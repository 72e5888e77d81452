//! What a node says about its rows: columns with their types and places, the
//! time column, and what to do with a row that does not fit. Messages carry
//! the place in the file; nothing here reads a row.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::schema::{RECEIVED_AT, TYPE_NAMES, parse_type, type_name};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::NodeConfig;
use tidegate_engine::topology::value::{Entry, Table};

use crate::format::instant::Unit;

/// Most columns a row may declare.
const COLUMNS_MAX: usize = 4_096;
/// Deepest `from = "a.b.c"` in parts.
const PATH_PARTS_MAX: usize = 8;

/// The rows of a source, as declared.
#[derive(Clone, Debug)]
pub(crate) struct RowSpec {
    pub(crate) columns: Vec<ColumnSpec>,
    /// Arrow's view of `columns`.
    pub(crate) schema: SchemaRef,
    /// Index of the time column.
    pub(crate) time: Option<usize>,
    pub(crate) missing_rejects: bool,
    pub(crate) extra_rejects: bool,
    pub(crate) mistyped: Mistyped,
    pub(crate) payload_bytes_max: usize,
}

/// One column.
#[derive(Clone, Debug)]
pub(crate) struct ColumnSpec {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    /// Where the value stands in a JSON row: one part for a plain field.
    pub(crate) path: Vec<String>,
    /// What numbers in a timestamp column count; `None`: RFC 3339 text.
    pub(crate) unit: Option<Unit>,
    /// Whether anybody reads it; others are checked as these are, and NULL in
    /// every batch.
    pub(crate) kept: bool,
    time: bool,
}

/// What happens to a value that has not its column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistyped {
    /// The row goes to `rejects`.
    Reject,
    /// The value becomes NULL (never a time).
    Null,
    /// Read across types where nothing is lost (`"5"` as 5), else rejected.
    Coerce,
}

impl RowSpec {
    /// Name of a column.
    pub(crate) fn name(&self, index: usize) -> &str {
        self.columns.get(index).map_or("", |column| &column.name)
    }

    /// Keeps only the values of these columns and of the time column from now on.
    pub(crate) fn keep(&mut self, names: &[&str]) {
        for column in &mut self.columns {
            column.kept = column.time || names.contains(&column.name.as_str());
        }
    }

    /// Reads the declared rows of a node. `default` is the schema where the
    /// node has none.
    pub(crate) fn from_config(
        config: &NodeConfig,
        default: &[(&str, DataType)],
        out: &mut Vec<Diagnostic>,
    ) -> RowSpec {
        let table = &config.table;
        let mut columns = declared_columns(table, out);
        if table.table("schema").is_none() {
            columns = default.iter().map(|(name, kind)| ColumnSpec::plain(name, kind.clone())).collect();
        }
        set_time(table, &mut columns, out);
        let fields: Vec<Field> = columns.iter().map(ColumnSpec::field).collect();
        let mistyped = match table.str("mistyped") {
            Some("null") => Mistyped::Null,
            Some("coerce") => Mistyped::Coerce,
            Some(_) | None => Mistyped::Reject,
        };
        let payload_bytes = table.size("payload_max").and_then(|bytes| usize::try_from(bytes).ok());
        RowSpec {
            time: columns.iter().position(|column| column.time),
            columns,
            schema: Arc::new(Schema::new(fields)),
            missing_rejects: table.str("missing") == Some("reject"),
            extra_rejects: table.str("extra") == Some("reject"),
            mistyped,
            payload_bytes_max: payload_bytes.unwrap_or(super::PAYLOAD_BYTES_MAX),
        }
    }
}

impl ColumnSpec {
    pub(crate) fn plain(name: &str, data_type: DataType) -> ColumnSpec {
        ColumnSpec {
            name: name.into(),
            data_type,
            path: vec![name.into()],
            unit: None,
            kept: true,
            time: false,
        }
    }

    /// The column in Arrow's words; an event time is never NULL.
    fn field(&self) -> Field {
        Field::new(&self.name, self.data_type.clone(), !self.time)
    }
}

fn declared_columns(table: &Table, out: &mut Vec<Diagnostic>) -> Vec<ColumnSpec> {
    let Some(schema) = table.table("schema") else { return Vec::new() };
    if schema.entries.is_empty() || schema.entries.len() > COLUMNS_MAX {
        let message =
            format!("`schema` declares {} columns; it takes 1 to {COLUMNS_MAX}", schema.entries.len());
        out.push(Diagnostic::error("TG-C030", message).at(schema.span.clone()));
    }
    let mut columns: Vec<ColumnSpec> = Vec::new();
    for entry in &schema.entries {
        if let Some(column) = declared_column(entry, out) {
            let clash = columns.iter().find(|other| paths_clash(&other.path, &column.path));
            if let Some(other) = clash {
                let message = format!("columns `{}` and `{}` read the same place", other.name, column.name);
                out.push(Diagnostic::error("TG-C030", message).at(entry.key_span.clone()));
            }
            columns.push(column);
        }
    }
    columns
}

/// Whether one place contains the other.
fn paths_clash(a: &[String], b: &[String]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

fn declared_column(entry: &Entry, out: &mut Vec<Diagnostic>) -> Option<ColumnSpec> {
    let name = &entry.key;
    if name == RECEIVED_AT {
        let message = format!("column `{RECEIVED_AT}` is the time of receipt, which the engine adds itself");
        out.push(
            Diagnostic::error("TG-C030", message).at(entry.key_span.clone()).help("give it another name"),
        );
    }
    let details = entry.value.as_table();
    let kind = match details {
        Some(details) => details.text("type"),
        None => entry.value.as_text(),
    }?;
    let Some(data_type) = parse_type(&kind.value) else {
        let message = format!("column `{name}` has the unknown type `{}`", kind.value);
        let known = format!("the types are {}", TYPE_NAMES.join(", "));
        let diagnostic = Diagnostic::error("TG-C030", message).at(kind.span.clone()).help(known);
        out.push(diagnostic.suggest(&kind.value, TYPE_NAMES.iter().copied()));
        return None;
    };
    let mut column = ColumnSpec::plain(name, data_type);
    let Some(details) = details else { return Some(column) };
    if let Some(from) = details.text("from") {
        column.path = from.value.split('.').map(str::to_owned).collect();
        if column.path.len() > PATH_PARTS_MAX || column.path.iter().any(String::is_empty) {
            let message = format!("`from` of column `{name}` is no path of 1 to {PATH_PARTS_MAX} parts");
            out.push(
                Diagnostic::error("TG-C030", message).at(from.span.clone()).help("write \"outer.inner\""),
            );
        }
    }
    column.unit = details.str("unit").and_then(Unit::parse);
    if column.unit.is_some() && column.data_type != time_type() {
        let message = format!("column `{name}` has a `unit` but is {}", type_name(&column.data_type));
        let help = "only a timestamp counts in a unit of time";
        out.push(Diagnostic::error("TG-C030", message).at(details.span_of("unit")).help(help));
    }
    Some(column)
}

/// Marks the column that `time` names. A column of the connector's own may be
/// the time too; the caller looks for it.
fn set_time(table: &Table, columns: &mut [ColumnSpec], out: &mut Vec<Diagnostic>) {
    let Some(time) = table.table("time") else { return };
    let Some(name) = time.text("column") else { return };
    let Some(column) = columns.iter_mut().find(|column| column.name == name.value) else { return };
    column.time = true;
    if column.data_type != time_type() {
        let message = format!("time column `{}` is declared {}", name.value, type_name(&column.data_type));
        let help = format!("declare it `{} = \"timestamp\"`; `unit` says how it is written", name.value);
        out.push(Diagnostic::error("TG-C031", message).at(name.span.clone()).help(help));
    }
    let unit = time.str("unit").and_then(Unit::parse);
    if unit.is_some() && time.get("format").is_some() {
        let message = "`time` has both `unit` and `format`";
        let help = "`unit` is for numbers, `format` for text";
        out.push(Diagnostic::error("TG-C031", message).at(time.span_of("format")).help(help));
    }
    if unit.is_some() {
        column.unit = unit;
    }
}
