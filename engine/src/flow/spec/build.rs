//! `[flow.x]` tables to checked flows: all mistakes of a flow at once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use xxhash_rust::xxh3::xxh3_64;

use super::graph::{Node, Order, order};
use super::keys::{FLOW_KEYS, TASK_KEYS};
use super::trigger::link;
use super::{ATTEMPT_TIMEOUT, Flow, FlowTask, Flows, MAX_AGE, OnePer, TASKS_MAX};
use crate::catalog::{Catalog, find, names};
use crate::diagnostic::{Diagnostic, Severity};
use crate::error::ConfigError;
use crate::expression::{Scope, compile_condition};
use crate::flow::admission::Overlap;
use crate::flow::run::{OnFail, RetryPolicy, RunPlan, TaskPlan};
use crate::operator::Input;
use crate::schema::{StreamSchema, TYPE_NAMES, parse_type};
use crate::task::{Effect, Mode, TaskPart, TaskScope};
use crate::time::time_type;
use crate::topology::fingerprint::table_text;
use crate::topology::keys::{check_keys, without_type};
use crate::topology::node::{BuildContext, NodeConfig, Section};
use crate::topology::value::{Table, Text, Value};

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
    catalog: &Catalog,
    context: &BuildContext,
) -> Result<Flows, ConfigError> {
    let mut out = Vec::new();
    let mut built = Flows { topology: context.topology.clone(), flows: Vec::new(), links: Vec::new() };
    let mut broken = Vec::new();
    for node in flows {
        let stream = trigger_stream(&node.name, triggers);
        let errors_before = out.len();
        match build_flow(node, stream, catalog, context, &mut out) {
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

fn build_flow(
    node: &NodeConfig,
    trigger: Option<StreamSchema>,
    catalog: &Catalog,
    context: &BuildContext,
    out: &mut Vec<Diagnostic>,
) -> Option<Flow> {
    let what = format!("flow `{}`", node.name);
    let before = out.len();
    check_keys(&node.table, &[FLOW_KEYS], &what, &node.name_span, out);
    let tables = task_tables(node, &what, out);
    for (table, _) in &tables {
        check_task_keys(table, &what, catalog, out);
    }
    if out.len() > before {
        return None;
    }
    let params = params(node, &what, out);
    let nodes: Vec<Node<'_>> = tables
        .iter()
        .filter_map(|(table, finally)| table.text("id").map(|id| Node { id, table, finally: *finally }))
        .collect();
    check_ids(&nodes, &params, out);
    let order = order(&nodes, out);
    if out.len() > before {
        return None;
    }
    let mut builder =
        TaskBuilder { nodes: &nodes, order: &order, params: &params, trigger, catalog, context, out };
    let mut tasks = Vec::new();
    for place in 0..order.file_index.len() {
        let task = builder.task(place, &tasks);
        tasks.push(task);
    }
    let (plans, tasks) = tasks.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
    finish(node, params, plans, tasks, context, out)
}

fn finish(
    node: &NodeConfig,
    params: Schema,
    plans: Vec<TaskPlan>,
    tasks: Vec<FlowTask>,
    context: &BuildContext,
    out: &mut Vec<Diagnostic>,
) -> Option<Flow> {
    let table = &node.table;
    let one_per = one_per(table, &params, context, out)?;
    let overlap = table.str("overlap").and_then(Overlap::parse);
    let default = if table.get("one_per").is_some() { Overlap::Skip } else { Overlap::Allow };
    let timeout = positive(table, "timeout", out);
    Some(Flow {
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
        plan: Arc::new(RunPlan { tasks: plans, timeout }),
        tasks,
    })
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

fn check_task_keys(table: &Table, flow: &str, catalog: &Catalog, out: &mut Vec<Diagnostic>) {
    let id = table.str("id").unwrap_or("?");
    let Some(kind) = table.text("type") else {
        out.push(without_type(&format!("task `{id}` of {flow}"), table, table.span.clone()));
        return;
    };
    let Some(row) = find(catalog.tasks, &kind.value) else {
        let known: Vec<&str> = names(catalog.tasks).collect();
        out.push(
            Diagnostic::error("TG-C007", format!("there is no task of type `{}`", kind.value))
                .at(kind.span.clone())
                .help(format!("the types are {}", known.join(", ")))
                .suggest(&kind.value, known.iter().copied()),
        );
        return;
    };
    let what = format!("task `{id}` (type `{}`)", kind.value);
    let keys: Vec<_> = std::iter::once(TASK_KEYS).chain(row.keys.iter().copied()).collect();
    check_keys(table, &keys, &what, &table.span, out);
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

fn check_ids(nodes: &[Node<'_>], params: &Schema, out: &mut Vec<Diagnostic>) {
    for node in nodes {
        let id = node.id.value.as_str();
        let fine = id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && id.chars().next().is_some_and(|first| first.is_ascii_alphabetic())
            && id.len() <= 64;
        let message = if RESERVED.contains(&id) {
            format!("a task cannot be called `{id}`: the word means something else in expressions")
        } else if params.field_with_name(id).is_ok() {
            format!("a task and a parameter are both called `{id}`")
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

/// A time that must not be zero.
fn positive(table: &Table, key: &str, out: &mut Vec<Diagnostic>) -> Option<Duration> {
    let found = table.duration(key)?;
    if found.is_zero() {
        let message = format!("`{key}` must be longer than no time at all");
        out.push(Diagnostic::error("TG-F012", message).at(table.span_of(key)));
    }
    Some(found)
}

type BuiltTask = (TaskPlan, FlowTask);

struct TaskBuilder<'a> {
    nodes: &'a [Node<'a>],
    order: &'a Order,
    params: &'a Schema,
    trigger: Option<StreamSchema>,
    catalog: &'a Catalog,
    context: &'a BuildContext,
    out: &'a mut Vec<Diagnostic>,
}

impl TaskBuilder<'_> {
    /// Builds the task at this place of the order. `None` if it is wrong, or
    /// if it sees one that is, which has been reported already.
    fn task(&mut self, place: usize, before: &[Option<BuiltTask>]) -> Option<BuiltTask> {
        let node = self.nodes.get(*self.order.file_index.get(place)?)?;
        let kind = node.table.text("type")?;
        let row = find(self.catalog.tasks, &kind.value)?;
        let after = self.order.after.get(place)?.clone();
        let sees = self.sees(place, node.finally, before.len());
        let built = |index: &usize| before.get(*index)?.as_ref().map(|(_, task)| task);
        let seen: Vec<&FlowTask> = sees.iter().map(built).collect::<Option<_>>()?;
        let scope = self.scope(&seen);
        let config = NodeConfig {
            section: Section::Flow,
            name: node.id.value.clone(),
            name_span: node.id.span.clone(),
            kind: kind.clone(),
            table: node.table.clone(),
        };
        let part = match (row.build)(&config, self.context, &scope) {
            Ok(part) => part,
            Err(error) => {
                self.out.extend(error.0);
                return None;
            }
        };
        let condition = node.table.text("if").and_then(|text| self.condition(text, &scope.values));
        let device = part.task.effect() == Effect::Device;
        let plan = self.plan(node, after, condition.is_some(), device);
        let timeout = positive(node.table, "timeout", self.out).unwrap_or(ATTEMPT_TIMEOUT);
        let TaskPart { task, result } = part;
        let values = Arc::new(Schema::new(
            scope.values.columns.iter().map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>(),
        ));
        let (id, kind) = (config.name, kind.value.clone());
        Some((plan, FlowTask { id, kind, condition, timeout, task, result, sees, values }))
    }

    fn condition(&mut self, text: &Text, scope: &Scope) -> Option<Arc<dyn crate::expression::Expression>> {
        compile_condition(self.context.expressions.as_ref(), text, scope)
            .map_err(|diagnostic| self.out.push(diagnostic))
            .ok()
    }

    fn plan(&mut self, node: &Node<'_>, after: Vec<usize>, conditional: bool, device: bool) -> TaskPlan {
        let on_fail = node.table.str("on_fail").and_then(OnFail::parse).unwrap_or(OnFail::Pause);
        TaskPlan {
            id: node.id.value.clone(),
            after,
            always: node.table.str("run") == Some("always"),
            conditional,
            finally: node.finally,
            device,
            retry: retry(node.table.table("retry"), self.out),
            on_fail,
        }
    }

    /// The tasks that have certainly ended before: those it waits for, and
    /// those they wait for; for `finally` tasks all others too.
    fn sees(&self, place: usize, finally: bool, before: usize) -> Vec<usize> {
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        let mut open: Vec<usize> = self.order.after.get(place).cloned().unwrap_or_default();
        if finally {
            let ordinary = |index: &usize| {
                let node = self.order.file_index.get(*index).and_then(|file| self.nodes.get(*file));
                node.is_some_and(|node| !node.finally)
            };
            open.extend((0..before).filter(ordinary));
        }
        while let Some(index) = open.pop() {
            if seen.insert(index) {
                open.extend(self.order.after.get(index).into_iter().flatten());
            }
        }
        seen.into_iter().collect()
    }

    fn scope(&self, seen: &[&FlowTask]) -> TaskScope {
        let mut values = Scope::of(self.params)
            .with(Some("run"), Field::new("id", DataType::Utf8, false))
            .with(Some("run"), Field::new("fired_at", time_type(), false));
        for task in seen {
            for field in task.result.columns.fields() {
                // NULL where the task was skipped or gave no row.
                values = values.with(Some(&task.id), field.as_ref().clone().with_nullable(true));
            }
        }
        let results = seen.iter().map(|task| (task.id.clone(), task.result.clone())).collect();
        TaskScope { values, trigger: self.trigger.clone(), results }
    }
}

fn retry(table: Option<&Table>, out: &mut Vec<Diagnostic>) -> RetryPolicy {
    let default = RetryPolicy::default();
    let Some(table) = table else { return default };
    let waits: Vec<Duration> = table
        .get("wait")
        .map(Value::items)
        .unwrap_or_default()
        .iter()
        .filter_map(|item| {
            item.as_text().and_then(|text| crate::topology::value::parse_duration(&text.value))
        })
        .collect();
    let mut in_range = |key: &str, low: f64, high: f64| {
        let found = table.number(key)?;
        if !(low..=high).contains(&found) {
            let message = format!("`{key}` of `retry` must be from {low} to {high}, not {found}");
            out.push(Diagnostic::error("TG-F011", message).at(table.span_of(key)));
        }
        Some(found)
    };
    let factor = in_range("factor", 1.0, 1_000.0);
    let jitter = in_range("jitter", 0.0, 1.0);
    let texts = |key| table.texts(key).into_iter().map(|text| text.value.clone()).collect();
    RetryPolicy {
        times: table.int_as("times").unwrap_or(default.times),
        factor: factor.unwrap_or(if waits.is_empty() { default.factor } else { 1.0 }),
        waits: if waits.is_empty() { default.waits } else { waits },
        wait_max: table.duration("max_wait").unwrap_or(default.wait_max),
        jitter: jitter.unwrap_or(default.jitter),
        on: texts("on"),
        never: texts("never"),
    }
}
