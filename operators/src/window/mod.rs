//! `window`: aggregates over rows that lie together in event time.

mod assigned;
mod between;
mod boxed;
mod calendar;
mod close;
mod count;
mod direct;
mod evaluated;
mod frame;
mod kinds;
mod layers;
mod marks;
mod open;
mod operator;
mod pane;
mod parts;
mod reshare;
mod results;
mod revisions;
mod session;
mod sliding;
mod slots;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::physical_expr::PhysicalExpr;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::{Expression, Scope, compile_condition};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Port};
use tidegate_engine::schema::{RECEIVED_AT, StreamKind, StreamSchema, rejects_schema, type_name};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind as Value, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::expression::{CompiledExpression, SqlExpressions, compile_aggregates, is_key_type};
use crate::in_order::{self, InOrder};
use crate::part::{named_columns, only_input, require_time};
use assigned::Assigned;
use between::Between;
pub(crate) use direct::Direct;
pub(crate) use evaluated::Evaluated;
use kinds::{Kind, WINDOW_KEYS};
use operator::Window;
pub(crate) use pane::{Layout, failed};
use results::Results;
use revisions::{FINAL, REVISION};
use sliding::Sliding;

const KEYS: &[Key] = &[
    optional("key", Value::List(&Value::Text), "columns; each combination has windows of its own"),
    required("window", Value::Table(WINDOW_KEYS), "kind and size"),
    required(
        "select",
        Value::List(&Value::Expression),
        "aggregates, e.g. `avg(pressure) AS mean`; beside SQL's own also first, last, delta, rate, time_weighted_avg and mode",
    ),
    optional(
        "time",
        Value::Word(&["event", "processing"]),
        "processing: windows of the time at which rows came, of a stream whose time that is, such as the port `received` of a source; \"event\" if left out",
    )
    .aside(),
    optional(
        "early",
        Value::Duration,
        "gives a running result (`final` is false) at each multiple of this; tumbling, hopping and calendar windows",
    ),
    optional(
        "allowed_lateness",
        Value::Duration,
        "a window that late rows come for is given again for so long (`revision` 1, 2 …), for their keys; tumbling, hopping and calendar windows",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "window",
    summary: "aggregates over rows that lie together in event time",
    keys: &[KEYS],
    example: r#"[operator.load]
type   = "window"
from   = "rows"
key    = ["device"]
window = { kind = "tumbling", size = "10s" }
select = ["count(*) AS n", "avg(value) AS mean", "max(value) AS peak"]
"#,
    build,
};

/// Rows for which every window was closed already.
const LATE_PORT: usize = 1;
/// Rows on which an expression failed.
const REJECTS_PORT: usize = 2;

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let Parts { kind, layout, keys, stream } = parts(config, input)?;
    let ports = vec![
        Port { name: String::new(), stream: stream.clone() },
        Port { name: "late".into(), stream: input.stream.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
    ];
    let wrong =
        |error: OperatorError| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("select"));
    let results = Results { name: config.name.clone(), stream };
    let conditions = conditions(context, input, &kind)?;
    let values = layout.computed().map(|input_of| compiled(input_of, input)).collect::<Result<Vec<_>, _>>();
    let values: Vec<_> = conditions.iter().cloned().chain(values.map_err(wrong)?).collect();
    let operator: Box<dyn Operator> = match kind {
        Kind::Panes(frame) => {
            Box::new(Window::new(input.stream.clone(), results, frame, layout).map_err(wrong)?)
        }
        Kind::Sliding { size_us } => {
            let core = Sliding::new(size_us, layout, results).map_err(wrong)?;
            Box::new(
                InOrder::new(config, input, keys, core)?
                    .with_expressions(values)
                    .with_forget(in_order::forget_us(config).max(size_us)),
            )
        }
        Kind::Session(rule) => {
            let forget_us = rule.forget_us();
            let core = Assigned::new(rule, layout, results, 0).map_err(wrong)?;
            Box::new(InOrder::new(config, input, keys, core)?.with_expressions(values).with_forget(forget_us))
        }
        Kind::Count(rule) => {
            let core = Assigned::new(rule, layout, results, 0).map_err(wrong)?;
            Box::new(InOrder::new(config, input, keys, core)?.with_expressions(values))
        }
        Kind::State { .. } => {
            let core = Assigned::new(Between, layout, results, conditions.len()).map_err(wrong)?;
            Box::new(InOrder::new(config, input, keys, core)?.with_expressions(values))
        }
    };
    Ok(OperatorPart { operator, ports })
}

/// The conditions of a state window.
fn conditions(
    context: &BuildContext,
    input: &Input,
    kind: &Kind,
) -> Result<Vec<Arc<dyn Expression>>, ConfigError> {
    let Kind::State { open, close } = kind else { return Ok(Vec::new()) };
    let scope = Scope::of(&input.stream.columns);
    let compile = |text| Ok(compile_condition(context.expressions.as_ref(), text, &scope)?);
    [open, close].into_iter().map(compile).collect()
}

/// An argument or a filter of an aggregate.
pub(crate) fn compiled(
    expression: &Arc<dyn PhysicalExpr>,
    input: &Input,
) -> Result<Arc<dyn Expression>, OperatorError> {
    let compiled = CompiledExpression::new(Arc::clone(expression), Arc::clone(&input.stream.columns));
    Ok(Arc::new(compiled.map_err(pane::failed)?))
}

/// What a window operator is made of.
struct Parts {
    kind: Kind,
    layout: Layout,
    keys: Vec<usize>,
    /// Its results.
    stream: StreamSchema,
}

fn parts(config: &NodeConfig, input: &Input) -> Result<Parts, ConfigError> {
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    check_time(config, input, &mut diagnostics);
    let keys = key_columns(config, input, &mut diagnostics);
    let kind = config.table.table("window").map(|table| kinds::read(table, &mut diagnostics));
    let kind = kind.flatten().and_then(|kind| revised(config, kind, &mut diagnostics));
    let fields: Vec<FieldRef> =
        keys.iter().filter_map(|index| input.stream.columns.fields().get(*index).cloned()).collect();
    let select = config.table.texts("select");
    if select.is_empty() {
        diagnostics.push(
            Diagnostic::error("TG-C006", format!("`select` of `{}` is empty", config.name))
                .at(config.table.span_of("select")),
        );
    }
    // Aggregates need DataFusion's own planner, so they are compiled here and
    // not through the engine's contract.
    let sql = SqlExpressions::new();
    let compiled = compile_aggregates(&sql, &select, &input.stream, &fields);
    let compiled = compiled.map_err(|mut wrong| diagnostics.append(&mut wrong)).ok();
    let (Some(compiled), Some(kind), true) = (compiled, kind, diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let mut columns =
        vec![Field::new("window_start", time_type(), false), Field::new("window_end", time_type(), false)];
    columns.extend(fields.iter().map(|field| field.as_ref().clone()));
    columns.extend(compiled.columns.iter().map(|column| column.field.as_ref().clone()));
    let revises = matches!(&kind, Kind::Panes(frame) if frame.revises());
    if revises {
        columns.push(Field::new(REVISION, DataType::Int64, false));
        columns.push(Field::new(FINAL, DataType::Boolean, false));
    }
    check_names(config, &columns)?;
    let mut stream = StreamSchema::new(columns, Some("window_end"));
    // A result belongs to the window's last instant, so that windows over windows
    // nest exactly; what ends with a row belongs to that row's time.
    stream.time_shift_us = match kind {
        Kind::Panes(_) | Kind::Session(_) => -1,
        Kind::Count(_) | Kind::Sliding { .. } | Kind::State { .. } => 0,
    };
    if revises {
        stream.kind = StreamKind::Revises;
    }
    let layout = Layout::new(keys.clone(), fields, compiled)
        .map_err(|error| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("select")))?;
    Ok(Parts { kind, layout, keys, stream })
}

/// Windows of processing time need rows that come by it: no operator has a clock.
fn check_time(config: &NodeConfig, input: &Input, out: &mut Vec<Diagnostic>) {
    if config.table.str("time") != Some("processing") || input.stream.time_name() == Some(RECEIVED_AT) {
        return;
    }
    let message = format!("the time of `{}` is not the time at which rows came", input.name);
    let diagnostic = Diagnostic::error("TG-T007", message).at(config.table.span_of("time"));
    out.push(diagnostic.help("read the port `received` of the source, e.g. from = \"rows.received\""));
}

/// The windows, given before their end and after it as the node says.
fn revised(config: &NodeConfig, kind: Kind, out: &mut Vec<Diagnostic>) -> Option<Kind> {
    let table = &config.table;
    let (early, lateness) = (table.duration("early"), table.duration("allowed_lateness"));
    match kind {
        Kind::Panes(frame) => {
            let frame = frame.with_lateness(lateness.map_or(0, micros));
            let Some(early) = early else { return Some(Kind::Panes(frame)) };
            let wrong = |message| out.push(Diagnostic::error("TG-C006", message).at(table.span_of("early")));
            frame.with_early(micros(early)).map(Kind::Panes).map_err(wrong).ok()
        }
        Kind::Session(_) | Kind::Count(_) | Kind::Sliding { .. } | Kind::State { .. } => {
            for key in ["early", "allowed_lateness"].into_iter().filter(|key| table.get(key).is_some()) {
                let message = format!("`{key}` is for tumbling, hopping and calendar windows");
                out.push(Diagnostic::error("TG-C006", message).at(table.span_of(key)));
            }
            Some(kind)
        }
    }
}

/// The key's columns, all of types that a window can group by.
pub(crate) fn key_columns(config: &NodeConfig, input: &Input, out: &mut Vec<Diagnostic>) -> Vec<usize> {
    let keys = named_columns(config, "key", &input.stream, out);
    for field in keys.iter().filter_map(|index| input.stream.columns.fields().get(*index)) {
        if !is_key_type(field.data_type()) {
            let texts = config.table.texts("key");
            let span = texts.iter().find(|text| text.value == *field.name()).map(|text| text.span.clone());
            let message =
                format!("`{}` is {} and cannot be a key", field.name(), type_name(field.data_type()));
            let diagnostic = Diagnostic::error("TG-X003", message).at(span.unwrap_or_default());
            out.push(diagnostic.help("keys need an exact equality: use strings, whole numbers, times"));
        }
    }
    keys
}

fn check_names(config: &NodeConfig, columns: &[Field]) -> Result<(), Diagnostic> {
    for (index, column) in columns.iter().enumerate() {
        if columns.iter().take(index).any(|earlier| earlier.name() == column.name()) {
            let message = format!("two columns of `{}` are called `{}`", config.name, column.name());
            return Err(Diagnostic::error("TG-T009", message)
                .at(config.table.span_of("select"))
                .help("give one of them another name with AS"));
        }
    }
    Ok(())
}
