//! `tidegate graph`: a topology as text that draws it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tidegate_engine::topology::plan::Plan;

use super::print::say;
use crate::exit::Failure;
use crate::topology::{LoadOptions, load_and_report};

#[derive(Args)]
pub(crate) struct Graph {
    /// The topology file
    file: PathBuf,
    /// The drawing language
    #[arg(long, default_value = "mermaid")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum, PartialEq)]
enum Format {
    Mermaid,
    Dot,
}

impl Graph {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (_, topology) = load_and_report(&self.file, &LoadOptions::default())?;
        let plan = &topology.loaded.plan;
        let mut edges = edges(plan);
        for (trigger, _) in &topology.loaded.triggers {
            if let Some(flow) = trigger.table.str("start") {
                edges.push((trigger.name.clone(), String::new(), flow.to_owned()));
            }
        }
        match self.format {
            Format::Mermaid => {
                say!("flowchart LR");
                for (from, port, to) in edges {
                    let label = if port.is_empty() { String::new() } else { format!("|{port}|") };
                    say!("  {from} -->{label} {to}");
                }
            }
            Format::Dot => {
                say!("digraph \"{}\" {{\n  rankdir=LR;", plan.name);
                for (from, port, to) in edges {
                    say!("  \"{from}\" -> \"{to}\" [label=\"{port}\"];");
                }
                say!("}}");
            }
        }
        Ok(())
    }
}

/// Every edge as (from, port, to).
fn edges(plan: &Plan) -> Vec<(String, String, String)> {
    let port_name = |node: &str, port: usize| {
        let operator = plan.operators.iter().find(|operator| operator.name == node);
        match operator {
            Some(operator) => operator.part.ports.get(port).map(|port| port.name.clone()).unwrap_or_default(),
            None if port == 1 => "rejects".to_owned(),
            None => String::new(),
        }
    };
    let mut edges = Vec::new();
    for operator in &plan.operators {
        for input in &operator.inputs {
            edges.push((input.node.clone(), port_name(&input.node, input.port), operator.name.clone()));
        }
    }
    for sink in &plan.sinks {
        edges.push((
            sink.input.node.clone(),
            port_name(&sink.input.node, sink.input.port),
            sink.name.clone(),
        ));
    }
    edges
}
