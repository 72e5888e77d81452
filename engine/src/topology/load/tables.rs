//! Tables of a topology: for queries of flows, for streams that are joined with
//! them, and with the operators that record them.

use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use crate::catalog::find;
use crate::diagnostic::Diagnostic;
use crate::operator::{Input, OperatorPart};
use crate::schema::StreamSchema;
use crate::source::{SourcePart, WatermarkPolicy};
use crate::table::{NamedTable, TableFeed, TablePart};
use crate::topology::check::own_and;
use crate::topology::delivery;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::node::NodeConfig;
use crate::topology::plan::{OperatorNode, PortRef, SinkNode, SourceNode};
use crate::topology::sections::TABLE_KEYS;
use crate::topology::value::Text;

impl Builder<'_> {
    /// A table; one that is made from a stream has an operator that keeps it.
    pub(super) fn table(&mut self, node: &NodeConfig) {
        let Some(row) = find(self.catalog.tables, &node.kind.value) else { return };
        let Some((inputs, ports)) = self.inputs(node) else { return };
        match (row.build)(node, self.context, &inputs) {
            Ok(TablePart { table, columns, recorder, sink }) => {
                self.loaded.tables.push(NamedTable { name: node.name.clone(), columns, table });
                let keys = own_and(TABLE_KEYS, row.keys);
                let name = format!("{}.table", node.name);
                if let (Some(part), Some(input)) = (sink, ports.first().cloned()) {
                    let fingerprint = Fingerprint::of_outside(node, &keys, &self.file);
                    let (name, retry) = (name.clone(), delivery::retry(node));
                    self.loaded.plan.sinks.push(SinkNode {
                        name,
                        part,
                        queue: None,
                        retry,
                        input,
                        fingerprint,
                    });
                }
                if let Some(operator) = recorder {
                    let reads = operator.reads();
                    let part = OperatorPart { operator, ports: Vec::new() };
                    let fingerprint =
                        Fingerprint::of_state(node, &inputs, reads.as_deref(), &keys, &self.file);
                    self.loaded.plan.operators.push(OperatorNode::new(name, part, ports, fingerprint));
                }
            }
            Err(error) => self.diagnostics.extend(error.0),
        }
    }

    /// The input of a node that is joined with a table: the source `NAME.rows`,
    /// which gives each version of it. `None` if the table could not be built,
    /// or can only be asked by queries.
    pub(super) fn joined_table(&mut self, node: &NodeConfig, text: &Text) -> Option<(Input, PortRef)> {
        let table = self.loaded.tables.iter().find(|table| table.name == text.value)?.clone();
        let Some(every) = table.table.reload_every() else {
            let message = format!(
                "`{}` cannot be joined with `{}`: it changes with every row of a stream",
                node.name, table.name
            );
            let help = "join the streams themselves: match = { as_of = \"1h\" } finds the last row";
            let diagnostic = Diagnostic::error("TG-T014", message).at(text.span.clone()).help(help);
            self.diagnostics.push(diagnostic);
            return None;
        };
        let name = format!("{}.rows", table.name);
        let stream = StreamSchema::of_table(Arc::clone(&table.columns));
        if !self.loaded.plan.sources.iter().any(|source| source.name == name) {
            let feed = TableFeed::new(&table, every);
            let part = SourcePart {
                source: Box::new(feed),
                stream: stream.clone(),
                watermark: WatermarkPolicy { idle: Duration::MAX, ..WatermarkPolicy::default() },
                replayable: false,
                commit_quickly: false,
                logged: false,
            };
            let (name, fingerprint) = (name.clone(), Fingerprint::default());
            let source = SourceNode { name, part, unique: Vec::new(), fingerprint };
            self.loaded.plan.sources.push(source);
        }
        Some((Input { name: table.name, stream }, PortRef { node: name, port: 0 }))
    }
}
