//! Nodes that no file names: the clock of a trigger, the union in front of a sink.

use super::Builder;
use crate::catalog::find;
use crate::operator::Input;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::plan::{OperatorNode, PortRef, SourceNode};

impl Builder<'_> {
    /// The source `schedule` that a trigger by the clock reads.
    pub(super) fn clock(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.sources, "schedule") else { return };
        let words = ["every", "cron", "zone", "missed"];
        let mut table = node.table.clone();
        table.entries.retain(|entry| words.contains(&entry.key.as_str()));
        let name = clock_name(&node.name);
        let clock = NodeConfig { section: Section::Source, name: name.clone(), table, ..node.clone() };
        match (row.build)(&clock, self.context) {
            Ok(part) => {
                self.streams.insert(name.clone(), vec![(String::new(), part.stream.clone())]);
                let fingerprint = self.of_source(&clock, row.keys);
                self.loaded.plan.sources.push(SourceNode { name, part, unique: Vec::new(), fingerprint });
            }
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    /// A sink that reads several streams reads their union.
    pub(super) fn join(
        &mut self,
        node: &NodeConfig,
        inputs: &[Input],
        ports: Vec<PortRef>,
    ) -> Option<(Input, PortRef)> {
        let row = find(self.catalog.operators, "union")?;
        let name = format!("{}.from", node.name);
        match (row.build)(node, self.context, inputs) {
            Ok(part) => {
                let stream = part.ports.first()?.stream.clone();
                let fingerprint = Fingerprint::default();
                let operator = OperatorNode::new(name.clone(), part, ports, fingerprint);
                self.loaded.plan.operators.push(operator);
                Some((Input { name: name.clone(), stream }, PortRef { node: name, port: 0 }))
            }
            Err(error) => {
                self.diagnostics.extend(error.0);
                None
            }
        }
    }
}

/// Name of the source behind a trigger by the clock.
pub(super) fn clock_name(trigger: &str) -> String {
    format!("{trigger}.clock")
}
