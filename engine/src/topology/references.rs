//! Third layer: do the names mean nodes, and is there an order in which each
//! node comes after those it reads?

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::value::Text;

/// Third layer: a name means one node.
pub(super) fn check_names(nodes: &[NodeConfig], out: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, &NodeConfig> = BTreeMap::new();
    for node in nodes {
        // A flow's name is only used by `start`, a table's by SQL.
        if node.section == Section::Table && node.name == "trigger" {
            let message = "a table cannot be called `trigger`: queries name the rows that fired by it";
            out.push(Diagnostic::error("TG-T003", message).at(node.name_span.clone()));
        }
        if matches!(node.section, Section::Flow | Section::Table) {
            continue;
        }
        if let Some(first) = seen.insert(&node.name, node) {
            let message = format!(
                "two nodes are called `{0}`: [{1}.{0}] and [{2}.{0}]",
                node.name,
                first.section.word(),
                node.section.word()
            );
            let diagnostic = Diagnostic::error("TG-T003", message).at(node.name_span.clone());
            out.push(diagnostic.label("the second one").help("names are how nodes refer to each other"));
        }
    }
}

/// The node and port that a `from` means.
pub(super) fn split_port(reference: &str) -> (&str, &str) {
    reference.split_once('.').unwrap_or((reference, ""))
}

/// Operators whose `from` may name a table.
const READERS_OF_TABLES: &[&str] = &["join", "sql"];

/// Whether a node may read versions of a table.
fn reads_tables(node: &NodeConfig) -> bool {
    node.section == Section::Operator && READERS_OF_TABLES.contains(&node.kind.value.as_str())
}

/// Nodes in an order in which each comes after those it reads.
pub(super) fn order(nodes: &[NodeConfig], out: &mut Vec<Diagnostic>) -> Vec<usize> {
    let named = |wanted: &[Section]| -> BTreeMap<&str, usize> {
        let found = nodes.iter().enumerate().filter(|(_, node)| wanted.contains(&node.section));
        found.map(|(index, node)| (node.name.as_str(), index)).collect()
    };
    let readable = named(&[Section::Source, Section::Operator]);
    // What a trigger gives starts flows; its other ports, such as `late`, give rows.
    let triggers = named(&[Section::Trigger]);
    let tables = named(&[Section::Table]);
    let mut waits_for: Vec<BTreeSet<usize>> = Vec::new();
    for node in nodes {
        let mut wanted = BTreeSet::new();
        if node.table.get("from").is_some() && node.table.texts("from").is_empty() {
            let message = format!("`from` of `{}` is empty", node.name);
            out.push(Diagnostic::error("TG-C006", message).at(node.table.span_of("from")));
        }
        for text in node.table.texts("from") {
            let (name, port) = split_port(&text.value);
            let of_trigger = triggers.get(name).filter(|_| !port.is_empty());
            let of_table = tables.get(name).filter(|_| port.is_empty() && reads_tables(node));
            match readable.get(name).or(of_trigger).or(of_table) {
                Some(index) => {
                    wanted.insert(*index);
                }
                None => out.push(unknown_reference(node, text, name, nodes, &readable)),
            }
        }
        waits_for.push(wanted);
    }
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    while order.len() < nodes.len() {
        let ready = waits_for
            .iter()
            .enumerate()
            .find(|(index, wanted)| !done.contains(index) && wanted.iter().all(|want| done.contains(want)));
        let Some((index, _)) = ready else { break };
        done.insert(index);
        order.push(index);
    }
    if order.len() < nodes.len() && out.is_empty() {
        out.push(cycle(nodes, &waits_for, &done));
    }
    order
}

fn unknown_reference(
    node: &NodeConfig,
    text: &Text,
    name: &str,
    nodes: &[NodeConfig],
    readable: &BTreeMap<&str, usize>,
) -> Diagnostic {
    let other = nodes.iter().find(|other| other.name == name);
    let message = match other {
        Some(other) => format!("`{}` reads `{name}`, but that is a {}", node.name, other.section.word()),
        None => format!("`{}` reads `{name}`, which does not exist", node.name),
    };
    let names: Vec<&str> = readable.keys().copied().collect();
    Diagnostic::error("TG-T001", message)
        .at(text.span_of(0..name.len()))
        .help(format!("the nodes that give rows are {}", names.join(", ")))
        .suggest(name, names.iter().copied())
}

fn cycle(nodes: &[NodeConfig], waits_for: &[BTreeSet<usize>], done: &BTreeSet<usize>) -> Diagnostic {
    // From any node that is left, following what it waits for leads into a cycle.
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..nodes.len()).find(|index| !done.contains(index));
    while let Some(index) = at {
        if let Some(start) = path.iter().position(|seen| *seen == index) {
            path.drain(..start);
            break;
        }
        path.push(index);
        at = waits_for.get(index).and_then(|wanted| wanted.iter().find(|want| !done.contains(want)).copied());
    }
    let names: Vec<&str> =
        path.iter().rev().filter_map(|index| nodes.get(*index)).map(|node| node.name.as_str()).collect();
    let first = path.last().and_then(|index| nodes.get(*index));
    let mut message = names.join("` → `");
    if let Some(name) = names.first() {
        message = format!("rows would go round for ever: `{message}` → `{name}`");
    }
    let diagnostic = Diagnostic::error("TG-T002", message);
    let diagnostic = diagnostic.help("a topology is a graph without cycles; remove one `from`");
    match first {
        Some(node) => diagnostic.at(node.table.span_of("from")),
        None => diagnostic,
    }
}
