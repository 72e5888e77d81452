//! A node's configuration as text, without places: state written by another
//! one is refused.

use crate::operator::Input;
use crate::topology::node::NodeConfig;
use crate::topology::value::{Data, Table, Value};

/// The configuration as text, without places: what state depends on.
pub(super) fn fingerprint(node: &NodeConfig, inputs: &[Input]) -> String {
    let mut text = format!("{} {}", node.section.word(), table_text(&node.table));
    for input in inputs {
        for field in input.stream.columns.fields() {
            text.push_str(&format!(" {}:{}", field.name(), crate::schema::type_name(field.data_type())));
        }
    }
    text
}

pub(crate) fn table_text(table: &Table) -> String {
    let mut entries: Vec<String> =
        table.entries.iter().map(|entry| format!("{}={}", entry.key, value_text(&entry.value))).collect();
    entries.sort();
    format!("{{{}}}", entries.join(","))
}

fn value_text(value: &Value) -> String {
    match &value.data {
        Data::Text(text) => format!("{:?}", text.value),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => number.to_string(),
        Data::Bool(flag) => flag.to_string(),
        Data::Datetime => "datetime".into(),
        Data::List(items) => format!("[{}]", items.iter().map(value_text).collect::<Vec<_>>().join(",")),
        Data::Table(table) => table_text(table),
    }
}
