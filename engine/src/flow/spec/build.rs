//! `[flow.x]` tables to checked flows: all mistakes of a flow at once.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use xxhash_rust::xxh3::xxh3_64;

use super::graph::{Node, order};
use super::keys::{FLOW_KEYS, TASK_KEYS};
use super::revision::Workshop;
use super::tasks::{TaskBuilder, positive};
use super::trigger::link;
use super::{Flow, FlowTask, Flows, MAX_AGE, OnePer, TASKS_MAX};
use crate::catalog::{Catalog, find, names};
use crate::diagnostic::{Diagnostic, Severity};
use crate::error::ConfigError;
use crate::expression::Scope;
use crate::flow::admission::Overlap;
use crate::flow::run::RunPlan;
use crate::operator::Input;
use crate::schema::{StreamSchema, TYPE_NAMES, parse_type};
use crate::table::NamedTable;
use crate::task::Mode;
use crate::topology::fingerprint::table_text;
use crate::topology::keys::{check_keys, without_type};
use crate::topology::node::{BuildContext, NodeConfig};
use crate::topology::value::{Table, Value};

/// Names that mean something else where task ids and parameters are used.
const RESERVED: &[&str] = &["run", "params", "trigger"];

/// Checks and builds every flow of a topology and what starts it. `flows` and
/// `triggers` are those of `topology::load::Loaded`.
///
/// # Errors
/// Everything wrong with any of them.
pub fn build(
    flows: &[NodeConfig],
    triggers: &[(NodeConfig, Input)],
    workshop: Workshop,
) -> Result<Flows, ConfigError> {
    let mut out = Vec::new();
    let topology = workshop.context.topology.clone();
    let mut built = Flows { topology, flows: Vec::new(), links: Vec::new(), workshop };
    let mut broken = Vec::new();
    for node in flows {
        let stream = trigger_stream(&node.name, triggers);
        let errors_before = out.len();
        match build_flow(node, stream, &built.workshop, &mut out) {
            Some(flow) if out.len() == errors_before => built.flows.push(Arc::new(flow)),
            Some(_) | None => broken.push(node.name.as_str()),
        }
    }
    for (node, input) in triggers {
        built.links.extend(link(node, input, &built.flows, &broken, &mut out));
    }
    if out.iter().any(|diagnostic| diagnostic.severity == Severity::Error) {
        return Err(ConfigError(out));
    }
    Ok(built)
}

/// The rows that start a flow, if all its triggers have the same.
fn trigger_stream(flow: &str, triggers: &[(NodeConfig, Input)]) -> Option<StreamSchema> {
    let mut streams = triggers
        .iter()
        .filter(|(node, _)| node.table.str("start") == Some(flow))
        .map(|(_, input)| super::trigger::own_columns(&input.stream));
    let first = streams.next()?;
    streams.all(|other| other.columns == first.columns).then_some(first)
}

/// Checks and builds one flow; `None`, with messages, if it is wrong.
pub(super) fn build_flow(
    node: &NodeConfig,
    trigger: Option<StreamSchema>,
    workshop: &Workshop,
    out: &mut Vec<Diagnostic>,
) -> Option<Flow> {
    let what = format!("flow `{}`", node.name);
    check_keys(&node.table, &[FLOW_KEYS], &what, &node.name_span, out);
    let before = out.len();
    let tables = task_tables(node, &what, out);
    let unusable = out.len() > before;
    let nodes: Vec<Option<Node<'_>>> = tables
        .iter()
        .map(|(table, finally)| {
            let fit = check_task_keys(table, &what, &workshop.catalog, out);
            table.text("id").map(|id| Node { id, table, finally: *finally, fit })
        })
        .collect();
    let params_are_none = node.table.get("params").is_some_and(|params| params.as_table().is_none());
    let nodes: Vec<Node<'_>> = nodes.into_iter().collect::<Option<_>>()?;
    if unusable || params_are_none {
        return None;
    }
    let before = out.len();
    let params = params(node, &what, out);
    check_ids(&nodes, &params, &workshop.tables, out);
    let order = order(&nodes, out);
    if out.len() > before {
        return None;
    }
    let mut builder = TaskBuilder { nodes: &nodes, order: &order, params: &params, trigger, workshop, out };
    let mut tasks = Vec::new();
    for place in 0..order.file_index.len() {
        let task = builder.task(place, &tasks);
        tasks.push(task);
    }
    let one_per = one_per(&node.table, &params, &workshop.context, out);
    let timeout = positive(&node.table, "timeout", out);
    let (plans, tasks) = tasks.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
    let plan = RunPlan { tasks: plans, timeout };
    Some(finish(node, params, one_per?, plan, tasks, &workshop.context))
}

fn finish(
    node: &NodeConfig,
    params: Schema,
    one_per: OnePer,
    plan: RunPlan,
    tasks: Vec<FlowTask>,
    context: &BuildContext,
) -> Flow {
    let table = &node.table;
    let overlap = table.str("overlap").and_then(Overlap::parse);
    let default = if table.get("one_per").is_some() { Overlap::Skip } else { Overlap::Allow };
    Flow {
        topology: context.topology.clone(),
        name: node.name.clone(),
        revision: format!("{:016x}", xxh3_64(table_text(table).as_bytes())),
        params: Arc::new(params),
        one_per,
        overlap: overlap.unwrap_or(default),
        mode: match table.str("mode") {
            Some("armed") => Mode::Armed,
            Some("shadow") => Mode::Shadow,
            Some(_) | None => Mode::DryRun,
        },
        max_age: table.duration("max_age").unwrap_or(MAX_AGE),
        plan: Arc::new(plan),
        tasks,
    }
}

/// The tables of `task` and `finally`, each with whether it is the latter.
fn task_tables<'a>(node: &'a NodeConfig, what: &str, out: &mut Vec<Diagnostic>) -> Vec<(&'a Table, bool)> {
    let mut tables = Vec::new();
    for (key, finally) in [("task", false), ("finally", true)] {
        for item in node.table.get(key).map(Value::items).unwrap_or_default() {
            match item.as_table() {
                Some(table) => tables.push((table, finally)),
                None => out.push(
                    Diagnostic::error("TG-F001", format!("`{key}` of {what} is a list of tables"))
                        .at(item.span.clone())
                        .help(format!("write [[flow.{}.{key}]] above each task", node.name)),
                ),
            }
        }
    }
    if tables.len() > TASKS_MAX {
        let message = format!("{what} has {} tasks; it may have {TASKS_MAX}", tables.len());
        out.push(Diagnostic::error("TG-F001", message).at(node.name_span.clone()));
    }
    if !tables.iter().any(|(_, finally)| !finally) && node.table.get("task").is_some() {
        let message = format!("{what} has no task");
        out.push(Diagnostic::error("TG-F001", message).at(node.name_span.clone()));
    }
    tables
}

/// Whether the keys of a task are right.
fn check_task_keys(table: &Table, flow: &str, catalog: &Catalog, out: &mut Vec<Diagnostic>) -> bool {
    let before = out.len();
    let id = table.str("id").unwrap_or("?");
    let Some(kind) = table.text("type") else {
        out.push(without_type(&format!("task `{id}` of {flow}"), table, table.span.clone()));
        return false;
    };
    let Some(row) = find(catalog.tasks, &kind.value) else {
        let known: Vec<&str> = names(catalog.tasks).collect();
        out.push(
            Diagnostic::error("TG-C007", format!("there is no task of type `{}`", kind.value))
                .at(kind.span.clone())
                .help(format!("the types are {}", known.join(", ")))
                .suggest(&kind.value, known.iter().copied()),
        );
        return false;
    };
    let what = format!("task `{id}` (type `{}`)", kind.value);
    let keys: Vec<_> = std::iter::once(TASK_KEYS).chain(row.keys.iter().copied()).collect();
    check_keys(table, &keys, &what, &table.span, out);
    out.len() == before
}

fn params(node: &NodeConfig, what: &str, out: &mut Vec<Diagnostic>) -> Schema {
    let mut fields = Vec::new();
    for entry in node.table.table("params").into_iter().flat_map(|params| &params.entries) {
        let name = entry.value.as_text().map_or("", |text| text.value.as_str());
        match parse_type(name) {
            Some(data_type) => fields.push(Field::new(&entry.key, data_type, true)),
            None => out.push(
                Diagnostic::error("TG-F006", format!("`{name}` is no type of a parameter of {what}"))
                    .at(entry.value.span.clone())
                    .help(format!("the types are {}", TYPE_NAMES.join(", ")))
                    .suggest(name, TYPE_NAMES.iter().copied()),
            ),
        }
    }
    Schema::new(fields)
}

fn check_ids(nodes: &[Node<'_>], params: &Schema, tables: &[NamedTable], out: &mut Vec<Diagnostic>) {
    for node in nodes {
        let id = node.id.value.as_str();
        let fine = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && id.chars().next().is_some_and(|first| first.is_ascii_alphabetic())
            && id.len() <= 64;
        let message = if RESERVED.contains(&id) {
            format!("a task cannot be called `{id}`: the word means something else in expressions")
        } else if params.field_with_name(id).is_ok() {
            format!("a task and a parameter are both called `{id}`")
        } else if tables.iter().any(|table| table.name == id) {
            format!("a task and a table are both called `{id}`")
        } else if !fine {
            format!("`{id}` cannot be the id of a task")
        } else {
            continue;
        };
        let help = "an id begins with a letter and holds letters, digits and `_`, at most 64";
        out.push(Diagnostic::error("TG-F002", message).at(node.id.span.clone()).help(help));
    }
}

fn one_per(
    table: &Table,
    params: &Schema,
    context: &BuildContext,
    out: &mut Vec<Diagnostic>,
) -> Option<OnePer> {
    let Some(text) = table.text("one_per") else { return Some(OnePer::Flow) };
    if text.value == "topology" && params.field_with_name("topology").is_err() {
        return Some(OnePer::Flow);
    }
    match context.expressions.compile(text, &Scope::of(params)) {
        Ok(expression) => Some(OnePer::Value(expression)),
        Err(diagnostic) => {
            let help = "`one_per` is an expression over `params`, or \"topology\"";
            out.push(if diagnostic.help.is_none() { diagnostic.help(help) } else { diagnostic });
            None
        }
    }
}
