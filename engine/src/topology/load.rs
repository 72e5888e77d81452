//! A topology file to a plan, layer by layer: syntax, keys, references, parts.
//! A layer is reported whole; the next one is looked at only when it is right.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::catalog::{Catalog, find, names};
use crate::diagnostic::{Diagnostic, Severity};
use crate::error::ConfigError;
use crate::operator::Input;
use crate::schema::{StreamSchema, rejects_schema};
use crate::topology::key::{Key, Kind, optional, required};
use crate::topology::keys::check_keys;
use crate::topology::node::{BuildContext, NodeConfig, Section};
use crate::topology::parse::{Parsed, parse};
use crate::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};
use crate::topology::value::{Data, Table, Text, Value};

/// Keys of `[topology]`.
pub const TOPOLOGY_KEYS: &[Key] = &[
    optional("name", Kind::Text, "the topology's name; the file's name if left out"),
    optional("checkpoint_interval", Kind::Duration, "time between two checkpoints, \"5s\" if left out"),
];
/// Keys that every source has.
pub const SOURCE_KEYS: &[Key] = &[required("type", Kind::Text, "which kind of source")];
/// Keys that every operator has.
pub const OPERATOR_KEYS: &[Key] = &[
    required("type", Kind::Text, "which kind of operator"),
    required(
        "from",
        Kind::List(&Kind::Text),
        "where rows come from: a node, or a node's port such as \"x.late\"",
    ),
];
/// Keys that every sink has.
pub const SINK_KEYS: &[Key] = &[
    required("type", Kind::Text, "which kind of sink"),
    required(
        "from",
        Kind::List(&Kind::Text),
        "where rows come from: a node, or a node's port such as \"x.late\"",
    ),
];

/// Checkpoints are this far apart unless the file says otherwise.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);
/// Most nodes in one file.
const NODES_MAX: usize = 1_000;

/// A topology that is right as far as the engine can tell.
pub struct Loaded {
    /// Sources, operators (those of triggers too) and sinks, but for the sinks
    /// that start flows.
    pub plan: Plan,
    /// Each trigger with the firings its operator gives.
    pub triggers: Vec<(NodeConfig, Input)>,
    /// Flows, keys not yet checked.
    pub flows: Vec<NodeConfig>,
    /// Reference tables, keys not yet checked.
    pub tables: Vec<NodeConfig>,
    /// What the author should know.
    pub warnings: Vec<Diagnostic>,
}

/// The first pass and the topology's own name, which decides where its state
/// is kept.
///
/// # Errors
/// Everything wrong with the syntax.
pub fn read(text: &str, file_stem: &str) -> Result<(Parsed, String), ConfigError> {
    let (parsed, mut diagnostics) = parse(text);
    check_keys(&parsed.topology, &[TOPOLOGY_KEYS], "[topology]", &parsed.topology.span, &mut diagnostics);
    if parsed.nodes.len() > NODES_MAX {
        let message = format!("{} nodes; a topology may have {NODES_MAX}", parsed.nodes.len());
        diagnostics.push(Diagnostic::error("TG-C013", message));
    }
    let name = parsed.topology.str("name").unwrap_or(file_stem).to_owned();
    if !super::parse::is_name(&name) {
        let message = format!("`{name}` cannot be the name of a topology");
        let help = "a name begins with a letter and holds letters, digits, `_` and `-`, at most 64";
        diagnostics
            .push(Diagnostic::error("TG-C012", message).at(parsed.topology.span_of("name")).help(help));
    }
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(ConfigError(diagnostics));
    }
    Ok((parsed, name))
}

/// Checks and builds everything of a parsed file.
///
/// # Errors
/// Everything wrong with the first layer that is wrong.
pub fn load(parsed: &Parsed, catalog: &Catalog, context: &BuildContext) -> Result<Loaded, ConfigError> {
    let mut diagnostics = Vec::new();
    for node in &parsed.nodes {
        check_node(node, catalog, &mut diagnostics);
    }
    stop_on_errors(&mut diagnostics)?;
    check_names(&parsed.nodes, &mut diagnostics);
    let order = order(&parsed.nodes, &mut diagnostics);
    stop_on_errors(&mut diagnostics)?;
    let interval = parsed.topology.duration("checkpoint_interval").unwrap_or(CHECKPOINT_INTERVAL);
    let mut builder = Builder {
        catalog,
        context,
        streams: BTreeMap::new(),
        read: BTreeSet::new(),
        diagnostics,
        loaded: Loaded {
            plan: Plan {
                name: context.topology.clone(),
                checkpoint_interval: interval.max(Duration::from_millis(10)),
                sources: Vec::new(),
                operators: Vec::new(),
                sinks: Vec::new(),
            },
            triggers: Vec::new(),
            flows: Vec::new(),
            tables: Vec::new(),
            warnings: Vec::new(),
        },
    };
    for index in order {
        if let Some(node) = parsed.nodes.get(index) {
            builder.node(node);
        }
    }
    builder.warn_unread(&parsed.nodes);
    stop_on_errors(&mut builder.diagnostics)?;
    builder.loaded.warnings = builder.diagnostics;
    Ok(builder.loaded)
}

fn stop_on_errors(diagnostics: &mut Vec<Diagnostic>) -> Result<(), ConfigError> {
    if diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(ConfigError(std::mem::take(diagnostics)));
    }
    Ok(())
}

/// Second layer: the type exists, and the keys are its keys.
fn check_node(node: &NodeConfig, catalog: &Catalog, out: &mut Vec<Diagnostic>) {
    let kind = node.kind.value.as_str();
    let word = node.section.word();
    let keys: Option<(&[Key], &[&[Key]])> = match node.section {
        Section::Source => find(catalog.sources, kind).map(|row| (SOURCE_KEYS, row.keys)),
        Section::Operator => find(catalog.operators, kind).map(|row| (OPERATOR_KEYS, row.keys)),
        Section::Sink => find(catalog.sinks, kind).map(|row| (SINK_KEYS, row.keys)),
        Section::Trigger => Some((&[], catalog.trigger.keys)),
        // Their keys are checked by those who build them.
        Section::Flow | Section::Table => return,
    };
    let Some((common, own)) = keys else {
        let known: Vec<&str> = match node.section {
            Section::Source => names(catalog.sources).collect(),
            Section::Operator => names(catalog.operators).collect(),
            Section::Sink => names(catalog.sinks).collect(),
            Section::Trigger | Section::Flow | Section::Table => Vec::new(),
        };
        out.push(
            Diagnostic::error("TG-C007", format!("there is no {word} of type `{kind}`"))
                .at(node.kind.span.clone())
                .help(format!("the types are {}", known.join(", ")))
                .suggest(kind, known.iter().copied()),
        );
        return;
    };
    let what = match node.section {
        Section::Trigger => format!("trigger `{}`", node.name),
        Section::Source | Section::Operator | Section::Sink | Section::Flow | Section::Table => {
            format!("{word} `{}` (type `{kind}`)", node.name)
        }
    };
    let tables: Vec<&[Key]> = std::iter::once(common).chain(own.iter().copied()).collect();
    check_keys(&node.table, &tables, &what, &node.name_span, out);
}

/// Third layer: a name means one node.
fn check_names(nodes: &[NodeConfig], out: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<&str, &NodeConfig> = BTreeMap::new();
    for node in nodes {
        // A flow's name is only used by `start`, a table's by SQL.
        if matches!(node.section, Section::Flow | Section::Table) {
            continue;
        }
        if let Some(first) = seen.insert(&node.name, node) {
            let message = format!(
                "two nodes are called `{}`: a {} and a {}",
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
fn split_port(reference: &str) -> (&str, &str) {
    reference.split_once('.').unwrap_or((reference, ""))
}

/// Nodes in an order in which each comes after those it reads.
fn order(nodes: &[NodeConfig], out: &mut Vec<Diagnostic>) -> Vec<usize> {
    let readable: BTreeMap<&str, usize> = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| matches!(node.section, Section::Source | Section::Operator))
        .map(|(index, node)| (node.name.as_str(), index))
        .collect();
    let mut waits_for: Vec<BTreeSet<usize>> = Vec::new();
    for node in nodes {
        let mut wanted = BTreeSet::new();
        for text in node.table.texts("from") {
            let (name, _) = split_port(&text.value);
            match readable.get(name) {
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

struct Builder<'a> {
    catalog: &'a Catalog,
    context: &'a BuildContext,
    /// Ports of the nodes that were built.
    streams: BTreeMap<String, Vec<(String, StreamSchema)>>,
    read: BTreeSet<String>,
    diagnostics: Vec<Diagnostic>,
    loaded: Loaded,
}

impl Builder<'_> {
    fn node(&mut self, node: &NodeConfig) {
        match node.section {
            Section::Source => self.source(node),
            Section::Operator => self.operator(node),
            Section::Trigger => self.trigger(node),
            Section::Sink => self.sink(node),
            Section::Flow => self.loaded.flows.push(node.clone()),
            Section::Table => self.loaded.tables.push(node.clone()),
        }
    }

    fn source(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.sources, &node.kind.value) else { return };
        match (row.build)(node, self.context) {
            Ok(part) => {
                let ports = vec![(String::new(), part.stream.clone()), ("rejects".into(), rejects_schema())];
                self.streams.insert(node.name.clone(), ports);
                self.loaded.plan.sources.push(SourceNode { name: node.name.clone(), part });
            }
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    fn operator(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.operators, &node.kind.value) else { return };
        self.build_operator(node, row.build);
    }

    fn trigger(&mut self, node: &NodeConfig) {
        if let Some(stream) = self.build_operator(node, self.catalog.trigger.build) {
            let input = Input { name: node.name.clone(), stream };
            self.loaded.triggers.push((node.clone(), input));
        }
    }

    /// Builds an operator and answers its main stream.
    fn build_operator(
        &mut self,
        node: &NodeConfig,
        build: crate::catalog::BuildOperator,
    ) -> Option<StreamSchema> {
        let (inputs, ports) = self.inputs(node)?;
        match build(node, self.context, &inputs) {
            Ok(part) => {
                let streams: Vec<_> =
                    part.ports.iter().map(|port| (port.name.clone(), port.stream.clone())).collect();
                let main = streams.first().map(|(_, stream)| stream.clone());
                self.streams.insert(node.name.clone(), streams);
                let fingerprint = fingerprint(node, &inputs);
                let operator = OperatorNode { name: node.name.clone(), part, inputs: ports, fingerprint };
                self.loaded.plan.operators.push(operator);
                main
            }
            Err(error) => {
                self.diagnostics.extend(error.0);
                None
            }
        }
    }

    fn sink(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.sinks, &node.kind.value) else { return };
        let Some((inputs, ports)) = self.inputs(node) else { return };
        let joined = if inputs.len() > 1 {
            self.join(node, &inputs, ports)
        } else {
            inputs.into_iter().zip(ports).next()
        };
        let Some((input, port)) = joined else { return };
        match (row.build)(node, self.context, &input) {
            Ok(part) => self.loaded.plan.sinks.push(SinkNode { name: node.name.clone(), part, input: port }),
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    /// A sink that reads several streams reads their union.
    fn join(&mut self, node: &NodeConfig, inputs: &[Input], ports: Vec<PortRef>) -> Option<(Input, PortRef)> {
        let row = find(self.catalog.operators, "union")?;
        let name = format!("{}.from", node.name);
        match (row.build)(node, self.context, inputs) {
            Ok(part) => {
                let stream = part.ports.first()?.stream.clone();
                let operator =
                    OperatorNode { name: name.clone(), part, inputs: ports, fingerprint: String::new() };
                self.loaded.plan.operators.push(operator);
                Some((Input { name: name.clone(), stream }, PortRef { node: name, port: 0 }))
            }
            Err(error) => {
                self.diagnostics.extend(error.0);
                None
            }
        }
    }

    /// The streams a node reads; `None` if one of them could not be built,
    /// which has been reported already.
    fn inputs(&mut self, node: &NodeConfig) -> Option<(Vec<Input>, Vec<PortRef>)> {
        let mut inputs = Vec::new();
        let mut ports = Vec::new();
        for text in node.table.texts("from") {
            let (name, port_name) = split_port(&text.value);
            self.read.insert(name.to_owned());
            let streams = self.streams.get(name)?;
            let found = streams.iter().enumerate().find(|(_, (port, _))| port == port_name);
            let Some((port, (_, stream))) = found else {
                let named: Vec<&str> =
                    streams.iter().map(|(port, _)| port.as_str()).filter(|port| !port.is_empty()).collect();
                let message = format!("`{name}` has no port `{port_name}`");
                self.diagnostics.push(
                    Diagnostic::error("TG-T004", message)
                        .at(text.span_of(name.len() + 1..text.value.len()))
                        .help(format!("its ports are {}", named.join(", ")))
                        .suggest(port_name, named.iter().copied()),
                );
                return None;
            };
            inputs.push(Input { name: text.value.clone(), stream: stream.clone() });
            ports.push(PortRef { node: name.to_owned(), port });
        }
        Some((inputs, ports))
    }

    fn warn_unread(&mut self, nodes: &[NodeConfig]) {
        for node in nodes {
            let gives_rows = matches!(node.section, Section::Source | Section::Operator);
            if gives_rows && !self.read.contains(&node.name) {
                let message = format!("nobody reads `{}`", node.name);
                let diagnostic = Diagnostic::warning("TG-T006", message).at(node.name_span.clone());
                self.diagnostics.push(diagnostic.help("add a sink with `from`, or remove the node"));
            }
        }
    }
}

/// The configuration as text, without places: what state depends on.
fn fingerprint(node: &NodeConfig, inputs: &[Input]) -> String {
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
