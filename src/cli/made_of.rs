//! `tidegate check --explain`: what each node is, and the operators that a query
//! becomes, as a file could say them.

use tidegate_engine::topology::load::Loaded;
use tidegate_engine::topology::node::{NodeConfig, Section};
use tidegate_engine::topology::parse::parse;
use tidegate_engine::topology::value::{Data, Table, Value};

use super::print::say;

/// A line for each node of the file; those that are made of others in full.
pub(super) fn print(file: &str, text: &str, loaded: &Loaded, json: bool) {
    for node in parse(text).0.nodes {
        let inner =
            loaded.composed.iter().find(|(name, _)| node.section == Section::Operator && *name == node.name);
        let inner = inner.map(|(_, parts)| parts.iter().map(written).collect::<Vec<_>>());
        if json {
            let section = node.section.word();
            let from = texts(&node.table, "from");
            say!(
                "{}",
                serde_json::json!({ "file": file, "section": section, "node": node.name, "type": node.kind.value, "from": from, "made_of": inner })
            );
            continue;
        }
        say!("# {}", line(&node));
        for part in inner.iter().flatten() {
            say!("{part}");
        }
    }
}

/// `operator.hot (filter) reads rows`
fn line(node: &NodeConfig) -> String {
    let from = texts(&node.table, "from");
    let reads = if from.is_empty() { String::new() } else { format!(" reads {}", from.join(", ")) };
    match node.section {
        Section::Trigger | Section::Flow => format!("{}.{}{reads}", node.section.word(), node.name),
        Section::Source | Section::Operator | Section::Table | Section::Sink => {
            format!("{}.{} ({}){reads}", node.section.word(), node.name, node.kind.value)
        }
    }
}

fn texts(table: &Table, key: &str) -> Vec<String> {
    table.texts(key).into_iter().map(|text| text.value.clone()).collect()
}

/// The node as a table of a file. A dot in a name is the engine's own.
fn written(node: &NodeConfig) -> String {
    let mut lines = vec![format!("[operator.{}]", node.name.replace('.', "_"))];
    for entry in &node.table.entries {
        let value = match &entry.value.data {
            // One node is named as most files do.
            Data::List(items) if entry.key == "from" && items.len() == 1 => items.iter().map(value).collect(),
            Data::Text(_)
            | Data::Int(_)
            | Data::Float(_)
            | Data::Bool(_)
            | Data::Datetime
            | Data::List(_)
            | Data::Table(_) => value(&entry.value),
        };
        lines.push(format!("{} = {value}", entry.key));
    }
    lines.join("\n") + "\n"
}

fn value(value: &Value) -> String {
    match &value.data {
        // JSON's strings are TOML's too.
        Data::Text(text) => serde_json::Value::from(text.value.as_str()).to_string(),
        Data::Int(number) => number.to_string(),
        Data::Float(number) => format!("{number:?}"),
        Data::Bool(flag) => flag.to_string(),
        Data::Datetime => String::new(),
        Data::List(items) => format!("[{}]", items.iter().map(self::value).collect::<Vec<_>>().join(", ")),
        Data::Table(table) => {
            let entries =
                table.entries.iter().map(|entry| format!("{} = {}", entry.key, self::value(&entry.value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}
