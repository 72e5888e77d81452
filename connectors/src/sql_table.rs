//! What sinks to tables of databases share: their keys, the checks when a file
//! is loaded, names in quotes, and values as text that any database reads.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_engine::changelog::CHANGE;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::schema::{StreamSchema, type_name};
use tidegate_engine::time::Time;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::NodeConfig;
use tidegate_engine::topology::value::Text;

use crate::net_changes::{Net, image_of, net};

/// Keys of a sink to a table.
pub(crate) const TABLE_KEYS: &[Key] = &[
    required("table", Kind::Text, "the table; each column of the stream goes to the column of its name"),
    optional(
        "mode",
        Kind::Word(&["append", "upsert"]),
        "append: a row for each row; upsert: the last row of each `key` stays; default \"append\"",
    ),
    optional("key", Kind::List(&Kind::Text), "upsert: the columns of a primary key or unique constraint"),
    optional("create", Kind::Bool, "whether a missing table is made from the stream's columns; default true"),
];

/// The table that holds the marker of each sink.
pub(crate) const MARKERS: &str = "_tidegate_epochs";

/// A table as its file says it.
#[derive(Clone, Debug)]
pub(crate) struct SqlTable {
    /// The schema before the dot, if one is named.
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    /// Columns of an upsert's key; empty if rows are appended.
    pub(crate) key: Vec<String>,
    pub(crate) create: bool,
    /// Columns of the stream; of a changelog that is applied, those of its images.
    pub(crate) columns: SchemaRef,
    /// Rows are changes to be applied, not rows to be kept.
    pub(crate) applies: bool,
    /// Names the sink in the table of markers.
    pub(crate) sink: String,
}

impl SqlTable {
    /// Reads and checks the keys; `schemas` says whether `schema.table` is a
    /// name with two parts.
    pub(crate) fn from_config(
        config: &NodeConfig,
        topology: &str,
        stream: &StreamSchema,
        schemas: bool,
        problems: &mut Vec<Diagnostic>,
    ) -> SqlTable {
        let table = &config.table;
        let applies = stream.change().is_some() && table.str("mode") == Some("upsert");
        let columns = if applies { &image_of(&stream.columns) } else { &stream.columns };
        let full = table.str("table").unwrap_or_default();
        let (schema, name) = match full.split_once('.').filter(|_| schemas) {
            Some((schema, name)) => (Some(schema), name),
            None => (None, full),
        };
        let is_bad = |part: &str| part.is_empty() || part.contains('\0') || (schemas && part.contains('.'));
        if is_bad(name) || schema.is_some_and(is_bad) || name == MARKERS {
            let problem = Diagnostic::error("TG-D001", format!("`{full}` cannot be the table of a sink"));
            problems.push(problem.at(table.span_of("table")));
        }
        check_columns(config, columns, problems);
        SqlTable {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
            key: key(config, columns, problems),
            create: table.bool("create").unwrap_or(true),
            columns: columns.clone(),
            applies,
            sink: format!("{topology}/{}", config.name),
        }
    }

    /// The table's name for a statement.
    pub(crate) fn quoted(&self) -> String {
        self.beside(&self.name)
    }

    /// The name of the table of markers, which lies in the same schema.
    pub(crate) fn markers(&self) -> String {
        self.beside(MARKERS)
    }

    fn beside(&self, name: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(name)),
            None => quote(name),
        }
    }

    /// `CREATE TABLE` with these types.
    pub(crate) fn create_statement(&self, type_of: impl Fn(&DataType) -> String) -> String {
        let mut parts: Vec<String> = Vec::new();
        for field in self.columns.fields() {
            let not_null = if self.key.contains(field.name()) { " NOT NULL" } else { "" };
            parts.push(format!("{} {}{not_null}", quote(field.name()), type_of(field.data_type())));
        }
        if !self.key.is_empty() {
            parts.push(format!("PRIMARY KEY ({})", names(&self.key)));
        }
        format!("CREATE TABLE IF NOT EXISTS {} ({})", self.quoted(), parts.join(", "))
    }

    /// What is to be done with rows of the stream.
    ///
    /// # Errors
    /// Changes of a key that cannot be compared.
    pub(crate) fn changes(&self, rows: &RecordBatch) -> Result<Net, String> {
        if self.applies && rows.column_by_name(CHANGE).is_some() {
            net(rows, &self.key)
        } else {
            Ok(Net { given: rows.clone(), taken: None })
        }
    }

    /// The end of an insert of these columns: what is done with a row whose key
    /// is there.
    pub(crate) fn on_conflict(&self, columns: &[String]) -> String {
        if self.key.is_empty() {
            return String::new();
        }
        let others = columns.iter().filter(|column| !self.key.contains(column));
        let set: Vec<String> = others.map(|column| format!("{0} = excluded.{0}", quote(column))).collect();
        let action =
            if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!(" ON CONFLICT ({}) DO {action}", names(&self.key))
    }
}

fn key(config: &NodeConfig, columns: &SchemaRef, problems: &mut Vec<Diagnostic>) -> Vec<String> {
    let table = &config.table;
    let texts = table.texts("key");
    let is_upsert = table.str("mode") == Some("upsert");
    match (is_upsert, table.entry("key")) {
        (true, None) => {
            let problem =
                Diagnostic::error("TG-D002", "an upsert needs the columns that make a row the same row");
            problems.push(problem.at(table.span_of("mode")).help("add a `key`, such as key = [\"device\"]"));
        }
        (true, Some(entry)) if texts.is_empty() => {
            let problem = Diagnostic::error("TG-D002", "`key` names no column");
            problems.push(problem.at(entry.value.span.clone()));
        }
        (false, Some(entry)) => {
            let problem = Diagnostic::error("TG-D002", "`key` has a meaning for mode = \"upsert\" only");
            problems.push(problem.at(entry.key_span.clone()));
        }
        (true, Some(_)) | (false, None) => {}
    }
    for text in &texts {
        if columns.column_with_name(&text.value).is_none() {
            problems.push(unknown(text, columns));
        }
    }
    texts.into_iter().map(|text| text.value.clone()).collect()
}

fn unknown(text: &Text, columns: &SchemaRef) -> Diagnostic {
    let problem = Diagnostic::error("TG-X002", format!("no column is called `{}`", text.value));
    let names = columns.fields().iter().map(|field| field.name().as_str());
    problem.at(text.span.clone()).suggest(&text.value, names)
}

fn check_columns(config: &NodeConfig, columns: &SchemaRef, problems: &mut Vec<Diagnostic>) {
    for field in columns.fields() {
        if !is_supported(field.data_type()) || field.name().contains('\0') {
            let (name, data_type) = (field.name(), type_name(field.data_type()));
            let message = format!("the column `{name}` is of the type {data_type}, which no table takes");
            let problem = Diagnostic::error("TG-D003", message).at(config.table.span_of("from"));
            problems.push(problem.help("leave it out or change its type with a `project` before the sink"));
        }
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "Arrow's list of types is open; the rest is not supported")]
fn is_supported(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Date32 | DataType::Timestamp(..) | DataType::Decimal128(..) => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        other => other.is_integer() || matches!(other, DataType::Float32 | DataType::Float64),
    }
}

/// A name for a statement.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Names for a statement, with commas.
pub(crate) fn names(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}

/// Values of a column as text.
pub(crate) struct Texts<'a> {
    column: &'a ArrayRef,
    kind: TextKind<'a>,
}

enum TextKind<'a> {
    Text,
    Times,
    Bytes(ArrayFormatter<'a>),
    Other(ArrayFormatter<'a>),
}

impl<'a> Texts<'a> {
    /// The texts of a column whose values are UTF-8 of 32-bit length, times in
    /// microseconds, or anything that Arrow prints.
    ///
    /// # Errors
    /// A type that cannot be printed.
    pub(crate) fn new(column: &'a ArrayRef, options: &'a FormatOptions<'a>) -> Result<Texts<'a>, String> {
        let formatter =
            || ArrayFormatter::try_new(column.as_ref(), options).map_err(|error| error.to_string());
        let kind = if column.as_string_opt::<i32>().is_some() {
            TextKind::Text
        } else if column.as_primitive_opt::<TimestampMicrosecondType>().is_some() {
            TextKind::Times
        } else if matches!(
            column.data_type(),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView
        ) {
            TextKind::Bytes(formatter()?)
        } else {
            TextKind::Other(formatter()?)
        };
        Ok(Texts { column, kind })
    }

    /// Appends a row's text; answers whether there is a value.
    ///
    /// # Errors
    /// A value that cannot be printed.
    pub(crate) fn append(&self, row: usize, to: &mut String) -> Result<bool, String> {
        use std::fmt::Write;
        if self.column.is_null(row) || self.column.data_type() == &DataType::Null {
            return Ok(false);
        }
        let written = match &self.kind {
            TextKind::Text => {
                to.push_str(self.column.as_string::<i32>().value(row));
                Ok(())
            }
            TextKind::Times => {
                let times = self.column.as_primitive::<TimestampMicrosecondType>();
                write!(to, "{}", Time(times.value(row)))
            }
            TextKind::Bytes(formatter) => write!(to, "\\x{}", formatter.value(row)),
            TextKind::Other(formatter) => write!(to, "{}", formatter.value(row)),
        };
        written.map(|()| true).map_err(|_| "a value that cannot be printed".to_owned())
    }
}
