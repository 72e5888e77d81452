//! `--replay NODE=FILE`: a source's stream from a recorded file instead of its
//! device, with the same columns, so that a topology is tried without a plant.

use std::path::Path;

use crate::schema::{StreamSchema, type_name};
use crate::topology::node::NodeConfig;
use crate::topology::value::{Data, Entry, Table, Text, Value};

/// The node of a `file` source that gives the columns of `stream`.
pub(super) fn file_node(node: &NodeConfig, stream: &StreamSchema, path: &Path) -> NodeConfig {
    let columns = stream.columns.fields().iter();
    let columns = columns.map(|field| (field.name().clone(), text(&type_name(field.data_type()))));
    let mut entries = vec![
        ("path".to_owned(), text(&path.display().to_string())),
        ("format".to_owned(), text("json")),
        ("schema".to_owned(), table(columns)),
    ];
    if let Some(time) = stream.time_name() {
        let time = [("column".to_owned(), text(time)), ("format".to_owned(), text("rfc3339"))];
        entries.push(("time".to_owned(), table(time)));
    }
    let Data::Table(table) = table(entries).data else { return node.clone() };
    NodeConfig { kind: Text::loose("file"), table, ..node.clone() }
}

/// The node as what it is while the file stands in for it.
pub(super) fn standing_in(node: &NodeConfig, path: &Path) -> NodeConfig {
    let mut standing_in = node.clone();
    standing_in.table.entries = vec![Entry {
        key: "type".into(),
        key_span: node.kind.span.clone(),
        value: Value {
            span: node.kind.span.clone(),
            data: Data::Text(Text::loose(format!("--replay {}", path.display()))),
        },
    }];
    standing_in
}

fn text(value: &str) -> Value {
    Value { span: 0..0, data: Data::Text(Text::loose(value)) }
}

fn table(entries: impl IntoIterator<Item = (String, Value)>) -> Value {
    let entries = entries.into_iter().map(|(key, value)| Entry { key, key_span: 0..0, value });
    Value { span: 0..0, data: Data::Table(Table { span: 0..0, entries: entries.collect() }) }
}
