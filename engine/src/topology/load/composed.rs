//! Operators that are made of others, such as queries: what they read is told by
//! their own keys, and each operator inside is a node of the plan.

use super::Builder;
use crate::catalog::{Catalog, Composed, Feed, InnerPart, Row, find};
use crate::diagnostic::Diagnostic;
use crate::operator::Input;
use crate::topology::check::own_and;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::parallel::composed_copies;
use crate::topology::plan::{OperatorNode, PortRef};
use crate::topology::sections::OPERATOR_KEYS;
use crate::topology::value::{Data, Entry, Text, Value};

/// The nodes, with a `from` for those that tell otherwise what they read.
pub(super) fn with_inputs(
    nodes: &[NodeConfig],
    catalog: &Catalog,
    out: &mut Vec<Diagnostic>,
) -> Vec<NodeConfig> {
    let mut nodes = nodes.to_vec();
    for node in nodes.iter_mut().filter(|node| node.section == Section::Operator) {
        let Some(row) = find(catalog.composed, &node.kind.value) else { continue };
        match (row.build.reads)(node) {
            Ok(texts) => node.table.entries.push(from(texts, node)),
            Err(error) => out.extend(error.0),
        }
    }
    nodes
}

fn from(texts: Vec<Text>, node: &NodeConfig) -> Entry {
    let span = texts.first().map_or_else(|| node.name_span.clone(), |text| text.span.clone());
    let items = texts.into_iter().map(|text| Value { span: text.span.clone(), data: Data::Text(text) });
    let value = Value { span: span.clone(), data: Data::List(items.collect()) };
    Entry { key: "from".into(), key_span: span, value }
}

impl Builder<'_> {
    pub(super) fn composed(&mut self, node: &NodeConfig, row: &Row<Composed>) {
        let Some((inputs, outside)) = self.inputs(node) else { return };
        let (parts, copies) = match composed_copies(node, || (row.build.build)(node, self.context, &inputs)) {
            Ok(built) => built,
            Err(error) => return self.diagnostics.extend(error.0),
        };
        let state_max = node.table.size("state_max").or(self.context.state_max);
        let last = parts.len().saturating_sub(1);
        let name_of = |index: usize| {
            if index == last { node.name.clone() } else { format!("{}.{}", node.name, index + 1) }
        };
        let (mut said, mut ports) = (Vec::new(), Vec::new());
        for ((index, built), copies) in parts.into_iter().enumerate().zip(copies) {
            let InnerPart { config, keys, part, inputs } = built;
            let feeds = inputs.iter().filter_map(|(feed, _)| match feed {
                Feed::Outside(index) => outside.get(*index).cloned(),
                Feed::Inside(index) => Some(PortRef { node: name_of(*index), port: 0 }),
            });
            let feeds = feeds.collect();
            let inputs: Vec<Input> = inputs.into_iter().map(|(_, input)| input).collect();
            for (port, stream) in part.ports.iter().enumerate() {
                // Between parts only the main port is read.
                if port > 0 || index == last {
                    ports.push((index, port, stream.clone()));
                }
            }
            // What it says itself: the rest of the query may change.
            let (reads, keys) = (part.operator.reads(), own_and(OPERATOR_KEYS, keys));
            let fingerprint = Fingerprint::of_state(&config, &inputs, reads.as_deref(), &keys, &self.file);
            let name = name_of(index);
            let operator = OperatorNode { name, part, copies, state_max, inputs: feeds, fingerprint };
            self.loaded.plan.operators.push(operator);
            said.push(config);
        }
        self.loaded.composed.push((node.name.clone(), said));
        ports.sort_by_key(|(_, port, _)| *port > 0);
        let mut streams = Vec::new();
        for (index, port, found) in &ports {
            // `late`, or `late_2` where several parts have one.
            let is_one = ports.iter().filter(|(_, _, other)| other.name == found.name).count() == 1;
            let name = if is_one { found.name.clone() } else { format!("{}_{}", found.name, index + 1) };
            let at = PortRef { node: name_of(*index), port: *port };
            self.inside.insert((node.name.clone(), streams.len()), at);
            streams.push((name, found.stream.clone()));
        }
        self.streams.insert(node.name.clone(), streams);
    }
}
