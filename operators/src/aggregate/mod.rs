//! `aggregate`: aggregates of all rows of a key, without a window. A result
//! changes with its rows, so what leaves is a changelog. Rows of a changelog are
//! taken back as well as given.

mod core;
mod counted;
mod multiset;
mod states;

use std::time::Duration;

use arrow::datatypes::{Field, FieldRef};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::changelog::changelog_of;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::Expression;
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamKind, StreamSchema, rejects_schema};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::expression::{SqlExpressions, compile_aggregates};
use crate::in_order::{InOrder, ports};
use crate::part::{check_image, check_names, only_input_or, require_time};
use crate::window::{Layout, compiled, key_columns};
use core::Aggregate;

/// A key without rows is forgotten after this, as in other operators.
const TTL: Duration = Duration::from_secs(30 * 86_400);

/// How long a key is remembered, for the tables of operators that give changelogs.
pub(crate) const TTL_KEY: Key = optional(
    "ttl",
    Kind::Duration,
    "a key without rows for this long, by event time, is forgotten: nothing leaves then, its last result stands, and its next row begins afresh with `+I`; \"30d\" if left out, never where changes are read: what is taken back later would be unknown",
)
.aside();

const KEYS: &[Key] = &[
    optional("key", Kind::List(&Kind::Text), "columns; each combination has a result of its own"),
    required(
        "select",
        Kind::List(&Kind::Expression),
        "aggregates as of `window`, e.g. `max(price) AS highest`; the result leaves as it changes, with the columns `changed_at` and `change`: +I (new), -U and +U (was and is), -D (gone); where changes are read, a float sum beyond ±1.8e308 stays infinite (or NaN) until its key has no rows",
    ),
    TTL_KEY,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "aggregate",
    summary: "aggregates over all rows of a key, given again as they change",
    keys: &[KEYS],
    example: r#"[operator.totals]
type   = "aggregate"
from   = "rows"
key    = ["device"]
select = ["count(*) AS n", "avg(value) AS mean"]
ttl    = "7d"
"#,
    build,
};

/// How long this node remembers a key, in microseconds; refuses no time at all.
pub(crate) fn ttl_us(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> i64 {
    let ttl_us = micros(config.table.duration(TTL_KEY.name).unwrap_or(TTL));
    if ttl_us == 0 {
        let message = format!("`ttl` of `{}` is zero: nothing would be remembered", config.name);
        out.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("ttl")));
    }
    ttl_us
}

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input_or(config, inputs, &[StreamKind::Changelog])?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let ttl_us = ttl_us(config, &mut diagnostics);
    let keys = key_columns(config, input, &mut diagnostics);
    check_image(config, "key", input, &keys, &mut diagnostics);
    let Some((layout, output)) = layout(config, input, &keys, &mut diagnostics) else {
        return Err(ConfigError(diagnostics));
    };
    let wrong =
        |error: OperatorError| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("select"));
    let values: Result<Vec<_>, OperatorError> =
        layout.computed().map(|computed| compiled(computed, input)).collect();
    let values: Vec<std::sync::Arc<dyn Expression>> = values.map_err(wrong)?;
    let change = input.stream.change();
    let core = Aggregate::new(&config.name, layout, output.clone(), change).map_err(wrong)?;
    let mut operator = InOrder::new(config, input, keys, core)?.with_expressions(values).with_forget(ttl_us);
    if change.is_some() {
        match config.table.entry(TTL_KEY.name) {
            Some(_) => context.warn(forgets(config, input)),
            None => operator = operator.that_keeps_all(),
        }
    }
    let mut ports = ports(output, &input.stream);
    ports.push(Port { name: "rejects".into(), stream: rejects_schema() });
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// A result that has not changed for long is forgotten, although it stands.
fn forgets(config: &NodeConfig, input: &Input) -> Diagnostic {
    let message = format!(
        "`{}` forgets results of `{}` that still stand: when one is taken back later, it leaves by the port `late` and the aggregates are wrong",
        config.name, input.name
    );
    let diagnostic = Diagnostic::warning("TG-T012", message).at(config.table.span_of(TTL_KEY.name));
    diagnostic.help("leave `ttl` out, unless no result changes after that time")
}

/// What is computed, and the results; `None` where something is wrong.
fn layout(
    config: &NodeConfig,
    input: &Input,
    keys: &[usize],
    out: &mut Vec<Diagnostic>,
) -> Option<(Layout, StreamSchema)> {
    let fields: Vec<FieldRef> =
        keys.iter().filter_map(|index| input.stream.columns.fields().get(*index).cloned()).collect();
    let select = config.table.texts("select");
    if select.is_empty() {
        let message = format!("`select` of `{}` is empty", config.name);
        out.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("select")));
    }
    // When a change happened is not when a value was measured.
    let time = input.stream.time.filter(|_| input.stream.kind == StreamKind::Appends);
    let stream = StreamSchema { time, ..input.stream.clone() };
    let compiled = compile_aggregates(&SqlExpressions::new(), &select, &stream, &fields);
    let compiled = compiled.map_err(|mut wrong| out.append(&mut wrong)).ok()?;
    let mut image: Vec<Field> = fields.iter().map(|field| field.as_ref().clone()).collect();
    image.extend(compiled.columns.iter().map(|column| column.field.as_ref().clone()));
    let output = changelog_of(image).keyed_by((0..keys.len()).collect());
    let named: Vec<Field> = output.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    check_names(config, "select", &named, out);
    let layout = Layout::new(keys.to_vec(), fields, compiled)
        .map_err(|error| out.push(Diagnostic::error("TG-X003", error.0).at(config.table.span_of("select"))))
        .ok()?;
    check_image(config, "select", input, &layout.reads(), out);
    out.is_empty().then_some((layout, output))
}
