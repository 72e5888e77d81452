//! Operators that are made of others, such as queries: what they read is told by
//! their own keys, and each operator inside is a node of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Builder;
use crate::catalog::{Catalog, Composed, Feed, InnerPart, Row, find};
use crate::diagnostic::Diagnostic;
use crate::operator::Input;
use crate::topology::check::own_and;
use crate::topology::fingerprint::{Fingerprint, SourceText, table_text};
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

/// What each part says itself: the rest of the query may change. Parts that say the
/// same are told apart by what comes to them, so that none gets another's state.
fn fingerprints(parts: &[InnerPart], file: &Arc<SourceText>) -> Vec<Fingerprint> {
    let of = |part: &InnerPart, upstream: Option<String>| {
        let InnerPart { config, keys, part, inputs } = part;
        let mut config = config.clone();
        if let Some(upstream) = upstream {
            let span = config.name_span.clone();
            let text = Text { span: span.clone(), ..Text::loose(upstream) };
            let value = Value { span: span.clone(), data: Data::Text(text) };
            config.table.entries.push(Entry { key: "upstream".into(), key_span: span, value });
        }
        let inputs: Vec<Input> = inputs.iter().map(|(_, input)| input.clone()).collect();
        let keys = own_and(OPERATOR_KEYS, keys);
        Fingerprint::of_state(&config, &inputs, part.operator.reads().as_deref(), &keys, file)
    };
    let own: Vec<Fingerprint> = parts.iter().map(|part| of(part, None)).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for fingerprint in &own {
        *counts.entry(fingerprint.text().to_owned()).or_default() += 1;
    }
    let with_upstream = parts.iter().zip(own).enumerate().map(|(index, (part, own))| {
        let is_one = counts.get(own.text()).is_none_or(|count| *count == 1);
        if is_one { own } else { of(part, Some(upstream(parts, index))) }
    });
    with_upstream.collect()
}

/// Every part before this one, in order, each with what it reads: a stream by its name,
/// another part by its number among these.
fn upstream(parts: &[InnerPart], index: usize) -> String {
    let mut before = BTreeSet::new();
    let mut left = vec![index];
    while let Some(part) = left.pop().and_then(|at| parts.get(at)) {
        for (feed, _) in &part.inputs {
            if let Feed::Inside(at) = feed
                && before.insert(*at)
            {
                left.push(*at);
            }
        }
    }
    let reads = |part: &InnerPart| {
        let names = part.inputs.iter().map(|(feed, input)| match feed {
            Feed::Outside(_) => input.name.clone(),
            Feed::Inside(at) => format!("#{}", before.range(..=at).count()),
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let mut said = Vec::new();
    for part in before.iter().filter_map(|at| parts.get(*at)) {
        let mut table = part.config.table.clone();
        table.entries.retain(|entry| entry.key != "from");
        said.push(format!("{} of {}", table_text(&table), reads(part)));
    }
    said.extend(parts.get(index).map(|part| format!("of {}", reads(part))));
    said.join("; ")
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
        let fingerprints = fingerprints(&parts, &self.file);
        let (mut said, mut ports) = (Vec::new(), Vec::new());
        for (((index, built), copies), fingerprint) in
            parts.into_iter().enumerate().zip(copies).zip(fingerprints)
        {
            let InnerPart { config, part, inputs, .. } = built;
            let feeds = inputs.iter().filter_map(|(feed, _)| match feed {
                Feed::Outside(index) => outside.get(*index).cloned(),
                Feed::Inside(index) => Some(PortRef { node: name_of(*index), port: 0 }),
            });
            let feeds = feeds.collect();
            for (port, stream) in part.ports.iter().enumerate() {
                // Between parts only the main port is read.
                if port > 0 || index == last {
                    ports.push((index, port, stream.clone()));
                }
            }
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
