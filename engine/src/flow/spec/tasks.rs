//! The tasks of a flow, each built with what it may see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};

use super::graph::{Node, Order};
use super::revision::Workshop;
use super::{ATTEMPT_TIMEOUT, FlowTask};
use crate::catalog::find;
use crate::diagnostic::Diagnostic;
use crate::expression::{Scope, compile_condition};
use crate::flow::run::{OnFail, RetryPolicy, TaskPlan};
use crate::schema::StreamSchema;
use crate::task::{Effect, TaskPart, TaskScope};
use crate::time::time_type;
use crate::topology::node::{NodeConfig, Section};
use crate::topology::value::{Table, Text, Value};

/// A task and its place in the plan.
pub(super) type BuiltTask = (TaskPlan, FlowTask);

/// What a flow's tasks are built from.
pub(super) struct TaskBuilder<'a> {
    pub(super) nodes: &'a [Node<'a>],
    pub(super) order: &'a Order,
    pub(super) params: &'a Schema,
    pub(super) trigger: Option<StreamSchema>,
    pub(super) workshop: &'a Workshop,
    pub(super) out: &'a mut Vec<Diagnostic>,
}

impl TaskBuilder<'_> {
    /// Builds the task at this place of the order. `None` if it is wrong, or
    /// if it sees one that is: then only its own mistakes are added.
    pub(super) fn task(&mut self, place: usize, before: &[Option<BuiltTask>]) -> Option<BuiltTask> {
        let node = self.nodes.get(*self.order.file_index.get(place)?)?;
        let kind = node.table.text("type").filter(|_| node.fit)?;
        let row = find(self.workshop.catalog.tasks, &kind.value)?;
        let after = self.order.after.get(place)?.clone();
        let sees = self.sees(place, node.finally, before.len());
        let built = |index: &usize| before.get(*index)?.as_ref().map(|(_, task)| task);
        let seen: Vec<&FlowTask> = sees.iter().filter_map(built).collect();
        let id_at = |place: &usize| self.nodes.get(*self.order.file_index.get(*place)?).map(|node| node.id);
        let wrong: Vec<&Text> =
            sees.iter().filter(|place| built(place).is_none()).filter_map(id_at).collect();
        let said_before = self.out.len();
        let scope = self.scope(&seen);
        let config = NodeConfig {
            section: Section::Flow,
            name: node.id.value.clone(),
            name_span: node.id.span.clone(),
            kind: kind.clone(),
            table: node.table.clone(),
        };
        let part = (row.build)(&config, &self.workshop.context, &scope);
        let part = part.map_err(|error| self.out.extend(error.0)).ok();
        let condition = node.table.text("if").and_then(|text| self.condition(text, &scope.values));
        let device = part.as_ref().is_some_and(|part| part.task.effect() == Effect::Device);
        let plan = self.plan(node, after, condition.is_some(), device);
        let timeout = positive(node.table, "timeout", self.out).unwrap_or(ATTEMPT_TIMEOUT);
        let said = self.out.split_off(said_before);
        let echoes = |said: &Diagnostic| wrong.iter().any(|id| names(said, &id.value));
        self.out.extend(said.into_iter().filter(|said| !echoes(said)));
        let TaskPart { task, result } = part.filter(|_| wrong.is_empty())?;
        let values = Arc::new(Schema::new(
            scope.values.columns.iter().map(|(_, field)| Arc::clone(field)).collect::<Vec<_>>(),
        ));
        let (id, kind) = (config.name, kind.value.clone());
        Some((plan, FlowTask { id, kind, condition, timeout, task, result, sees, values }))
    }

    fn condition(&mut self, text: &Text, scope: &Scope) -> Option<Arc<dyn crate::expression::Expression>> {
        compile_condition(self.workshop.context.expressions.as_ref(), text, scope)
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
        let tables = self.workshop.tables.clone();
        TaskScope { values, trigger: self.trigger.clone(), results, tables }
    }
}

/// Whether a message is about a task's result: as a table, a column, a value.
fn names(said: &Diagnostic, task: &str) -> bool {
    let mut quoted = said.message.split('`').skip(1).step_by(2);
    quoted.any(|word| word.trim_start_matches('$').split('.').next() == Some(task))
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

/// A time that must not be zero.
pub(super) fn positive(table: &Table, key: &str, out: &mut Vec<Diagnostic>) -> Option<Duration> {
    let found = table.duration(key)?;
    if found.is_zero() {
        let message = format!("`{key}` must be longer than no time at all");
        out.push(Diagnostic::error("TG-F012", message).at(table.span_of(key)));
    }
    Some(found)
}
