//! A topology file to a plan, layer by layer: syntax, keys, references, parts.
//! A layer is reported whole; the next one is looked at only when it is right.

mod composed;
mod made;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{BuildOperator, Catalog, Row, find};
use crate::diagnostic::{Diagnostic, Severity};
use crate::error::ConfigError;
use crate::operator::Input;
use crate::schema::{RECEIVED, StreamSchema, received_stream, rejects_schema};
use crate::source::{SourcePart, WatermarkPolicy};
use crate::table::NamedTable;
use crate::topology::check::{check_node, own_and};
use crate::topology::delivery;
use crate::topology::fingerprint::{Fingerprint, SourceText};
use crate::topology::key::Key;
use crate::topology::keys::check_keys;
use crate::topology::node::{BuildContext, NodeConfig, Section};
use crate::topology::parallel::copies;
use crate::topology::parse::{Parsed, parse_with};
use crate::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};
use crate::topology::references::{check_names, order, split_port};
pub use crate::topology::retention::Retention;
use crate::topology::sections::{OPERATOR_KEYS, SINK_KEYS, SOURCE_KEYS, TOPOLOGY_KEYS};
use crate::topology::unique::unique;
use made::clock_name;

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
    /// What operators that are made of others consist of, by node.
    pub composed: Vec<(String, Vec<NodeConfig>)>,
    /// Reference tables.
    pub tables: Vec<NamedTable>,
    /// Which ended runs are kept.
    pub retention: Retention,
    /// What the author should know.
    pub warnings: Vec<Diagnostic>,
}

/// The first pass and the topology's own name, which decides where its state
/// is kept.
///
/// # Errors
/// Everything wrong with the syntax.
pub fn read(
    text: &str,
    file_stem: &str,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(Parsed, String), ConfigError> {
    let (parsed, mut diagnostics) = parse_with(text, variable);
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
    let nodes = composed::with_inputs(&parsed.nodes, catalog, &mut diagnostics);
    check_names(&nodes, &mut diagnostics);
    let order = order(&nodes, &mut diagnostics);
    stop_on_errors(&mut diagnostics)?;
    let interval = parsed.topology.duration("checkpoint_interval").unwrap_or(CHECKPOINT_INTERVAL);
    let mut builder = Builder {
        catalog,
        context,
        file: Arc::new(SourceText { name: context.file.clone(), text: Arc::clone(&parsed.text) }),
        streams: BTreeMap::new(),
        inside: BTreeMap::new(),
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
            composed: Vec::new(),
            tables: Vec::new(),
            retention: Retention::of(&parsed.topology),
            warnings: Vec::new(),
        },
    };
    for index in order {
        if let Some(node) = nodes.get(index) {
            builder.node(node);
        }
    }
    builder.warn_unread(&nodes);
    builder.diagnostics.extend(context.take_warnings());
    if builder.loaded.plan.sources.is_empty() && builder.diagnostics.is_empty() {
        let message = "the topology has no source, so nothing would ever happen";
        builder
            .diagnostics
            .push(Diagnostic::error("TG-C015", message).help("`tidegate list` shows every source"));
    }
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

struct Builder<'a> {
    catalog: &'a Catalog,
    context: &'a BuildContext,
    /// The file, for messages about saved state.
    file: Arc<SourceText>,
    /// Ports of the nodes that were built.
    streams: BTreeMap<String, Vec<(String, StreamSchema)>>,
    /// Where ports of composed operators are, by node and number.
    inside: BTreeMap<(String, usize), PortRef>,
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
            Section::Table => self.table(node),
        }
    }

    fn source(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.sources, &node.kind.value) else { return };
        let built = (row.build)(node, self.context).and_then(|part| {
            let unique = unique(node, &part).map_err(ConfigError)?;
            Ok((self.replayed(node, part)?, unique))
        });
        match built {
            Ok((part, unique)) => {
                let mut ports =
                    vec![(String::new(), part.stream.clone()), ("rejects".into(), rejects_schema())];
                ports.extend(received_stream(&part.stream).map(|stream| (RECEIVED.into(), stream)));
                self.streams.insert(node.name.clone(), ports);
                let name = node.name.clone();
                let fingerprint = self.of_source(node, row.keys);
                self.loaded.plan.sources.push(SourceNode { name, part, unique, fingerprint });
            }
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    /// What the position of a source belongs to: the recorded file, if one takes
    /// its place.
    fn of_source(&self, node: &NodeConfig, keys: &[&[Key]]) -> Fingerprint {
        let keys = own_and(SOURCE_KEYS, keys);
        match self.context.replay.get(&node.name) {
            None => Fingerprint::of_outside(node, &keys, &self.file),
            Some(path) => Fingerprint::of_outside(&super::replay::standing_in(node, path), &keys, &self.file),
        }
    }

    /// The same stream from a recorded file, where one was named for the node.
    fn replayed(&self, node: &NodeConfig, part: SourcePart) -> Result<SourcePart, ConfigError> {
        let Some(path) = self.context.replay.get(&node.name) else { return Ok(part) };
        let Some(row) = find(self.catalog.sources, "file") else { return Ok(part) };
        let replayed = (row.build)(&super::replay::file_node(node, &part.stream, path), self.context)?;
        let watermark = WatermarkPolicy { max_future: None, ..part.watermark };
        Ok(SourcePart { watermark, ..replayed })
    }

    fn operator(&mut self, node: &NodeConfig) {
        let (plain, composed) = (self.catalog.operators, self.catalog.composed);
        if let Some(row) = find(composed, &node.kind.value) {
            self.composed(node, row);
        } else if let Some(row) = find(plain, &node.kind.value) {
            self.build_operator(node, row);
        }
    }

    fn trigger(&mut self, node: &NodeConfig) {
        let by_clock = node.table.get("every").or(node.table.get("cron"));
        let wrong = match (by_clock, node.table.get("from")) {
            (Some(_), None) => {
                self.clock(node);
                None
            }
            (None, Some(_)) => None,
            (None, None) => Some("watches nothing; it needs `from`, `every` or `cron`"),
            (Some(_), Some(_)) => Some("has both `from` and a clock; write two triggers"),
        };
        if let Some(wrong) = wrong {
            let message = format!("trigger `{}` {wrong}", node.name);
            self.diagnostics.push(Diagnostic::error("TG-F014", message).at(node.name_span.clone()));
            return;
        }
        if node.table.get("start").is_none() {
            let message = format!("trigger `{}` starts no flow", node.name);
            let diagnostic = Diagnostic::warning("TG-T006", message).at(node.name_span.clone());
            self.diagnostics.push(diagnostic.help("say which: start = \"flow\""));
        }
        if let Some(stream) = self.build_operator(node, self.catalog.trigger) {
            let input = Input { name: node.name.clone(), stream };
            self.loaded.triggers.push((node.clone(), input));
        }
    }

    /// Builds an operator and answers its main stream.
    fn build_operator(&mut self, node: &NodeConfig, row: &Row<BuildOperator>) -> Option<StreamSchema> {
        let (inputs, ports) = self.inputs(node)?;
        match copies(node, || (row.build)(node, self.context, &inputs)) {
            Ok((part, copies)) => {
                let streams: Vec<_> =
                    part.ports.iter().map(|port| (port.name.clone(), port.stream.clone())).collect();
                let main = streams.first().map(|(_, stream)| stream.clone());
                self.streams.insert(node.name.clone(), streams);
                let (reads, keys) = (part.operator.reads(), own_and(OPERATOR_KEYS, row.keys));
                let fingerprint = Fingerprint::of_state(node, &inputs, reads.as_deref(), &keys, &self.file);
                let state_max = node.table.size("state_max").or(self.context.state_max);
                let operator = OperatorNode {
                    name: node.name.clone(),
                    part,
                    copies,
                    state_max,
                    inputs: ports,
                    fingerprint,
                };
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
            Ok(part) if !delivery::accepts(node, &part, input.stream.kind) => {
                self.diagnostics.push(delivery::keeps_them_all(node, &input));
            }
            Ok(part) if delivery::hits_others(node, &part, &input).is_some() => {
                self.diagnostics.extend(delivery::hits_others(node, &part, &input));
            }
            Ok(part) => match delivery::queue(node, part.sink.delivery(), self.context.once) {
                Ok(queue) => {
                    let retry = delivery::retry(node);
                    let name = node.name.clone();
                    let fingerprint =
                        Fingerprint::of_outside(node, &own_and(SINK_KEYS, row.keys), &self.file);
                    self.loaded.plan.sinks.push(SinkNode {
                        name,
                        part,
                        queue,
                        retry,
                        input: port,
                        fingerprint,
                    });
                }
                Err(diagnostic) => self.diagnostics.push(diagnostic),
            },
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    /// The streams a node reads; `None` if one of them could not be built,
    /// which has been reported already.
    fn inputs(&mut self, node: &NodeConfig) -> Option<(Vec<Input>, Vec<PortRef>)> {
        let mut inputs = Vec::new();
        let mut ports = Vec::new();
        if node.section == Section::Trigger && node.table.get("from").is_none() {
            let name = clock_name(&node.name);
            let (_, stream) = self.streams.get(&name)?.first()?;
            let input = Input { name: name.clone(), stream: stream.clone() };
            return Some((vec![input], vec![PortRef { node: name, port: 0 }]));
        }
        for text in node.table.texts("from") {
            let (name, port_name) = split_port(&text.value);
            self.read.insert(name.to_owned());
            let Some(streams) = self.streams.get(name) else {
                let (input, port) = self.joined_table(node, text)?;
                inputs.push(input);
                ports.push(port);
                continue;
            };
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
            let at = PortRef { node: name.to_owned(), port };
            ports.push(self.inside.get(&(at.node.clone(), port)).cloned().unwrap_or(at));
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
