//! `pattern`: rows of one key that follow each other: A, then B, no C between,
//! within a time; or A, and then nothing like C until the time is over.

mod machine;
mod operator;

use std::sync::Arc;

use arrow::datatypes::Field;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::expression::{Expression, Scope, Selected, compile_condition};
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Table, Text};

use crate::in_order::{FORGET, InOrder, KEY, key_columns, ports};
use crate::part::{only_input, require_time};
use machine::Spec;
use operator::{Pattern, Step};

const STEP_KEYS: &[Key] = &[
    required("name", Kind::Text, "what `select` calls the row of this step"),
    optional(
        "when",
        Kind::Expression,
        "a row for which this is true takes the step; the last step may have none: it is taken when `within` is over",
    ),
    optional(
        "not",
        Kind::Expression,
        "a row for which this is true ends what has come as far as the step before",
    ),
];

const KEYS: &[Key] = &[
    KEY,
    required(
        "sequence",
        Kind::List(&Kind::Table(STEP_KEYS)),
        "the steps, each a row behind that of the one before; rows between them do not matter; of several candidates the newest counts; a row belongs to one match",
    ),
    required("within", Kind::Duration, "the last step comes less than this after the first"),
    optional(
        "select",
        Kind::List(&Kind::Expression),
        "columns behind `match_start`, `match_end` (event time) and the key, e.g. `hot.value AS before`; all of all steps, as `hot_value`, if left out",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "pattern",
    summary: "finds rows of one key that follow each other: A, then B, not C, within a time",
    keys: &[KEYS],
    example: r#"[operator.tripped]
type     = "pattern"
from     = "rows"
key      = ["device"]
sequence = [
  { name = "hot", when = "value > 90" },
  { name = "stopped", when = "value < 1", not = "quality = 'bad'" },
]
within   = "10m"
select   = ["hot.value AS peak", "stopped.ts AS stopped_at"]
"#,
    build,
};

/// Most steps of a sequence.
const STEPS_MAX: usize = 32;

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let mut expressions = Vec::new();
    let steps = read_steps(config, context, input, &mut expressions, &mut diagnostics);
    if let Some(forget) =
        config.table.duration("forget").filter(|forget| config.table.duration("within") > Some(*forget))
    {
        let message = format!("a key is forgotten after {forget:?}, before `within` is over");
        let diagnostic = Diagnostic::error("TG-C006", message).at(config.table.span_of("forget"));
        diagnostics.push(diagnostic.help("make `forget` at least as long as `within`"));
    }
    let names: Vec<String> =
        steps.iter().filter(|step| step.when.is_some()).map(|step| step.name.clone()).collect();
    let scope = scope_of(&names, input);
    let columns = select(config, context, &scope, &names, &mut diagnostics);
    let fields = input.stream.columns.fields();
    let mut output =
        vec![Field::new("match_start", time_type(), false), Field::new("match_end", time_type(), false)];
    output.extend(keys.iter().filter_map(|index| fields.get(*index)).map(|field| field.as_ref().clone()));
    for (column, span) in &columns {
        let name = column.field.name();
        if output.iter().any(|field| field.name() == name) {
            let message = format!("two columns of `{}` are called `{name}`", config.name);
            let diagnostic = Diagnostic::error("TG-T009", message).at(span.clone());
            diagnostics.push(diagnostic.help("give one of them another name with AS"));
        }
        output.push(column.field.as_ref().clone());
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let stream = StreamSchema::new(output, Some("match_end"));
    let spec = Spec {
        steps: names.len(),
        ends_in_silence: names.len() < steps.len(),
        within_us: config.table.duration("within").map_or(i64::MAX, micros),
    };
    let mut ports = ports(stream.clone(), &input.stream);
    ports.push(Port { name: "rejects".into(), stream: rejects_schema() });
    let wide = scope.columns.iter().map(|(_, field)| field.as_ref().clone()).collect();
    let columns: Vec<Selected> = columns.into_iter().map(|(column, _)| column).collect();
    let core = Pattern::new(config.name.clone(), input.stream.clone(), stream, (spec, steps)).selecting(
        keys.clone(),
        columns,
        wide,
    );
    let operator = InOrder::new(config, input, keys, core)?.with_expressions(expressions);
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// The steps; their conditions are added to `expressions`.
fn read_steps(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
    expressions: &mut Vec<Arc<dyn Expression>>,
    out: &mut Vec<Diagnostic>,
) -> Vec<Step> {
    let scope = Scope::of(&input.stream.columns);
    let tables = config.table.tables("sequence");
    let mut condition = |table: &Table, key: &str, out: &mut Vec<Diagnostic>| {
        let text = table.text(key)?;
        match compile_condition(context.expressions.as_ref(), text, &scope) {
            Ok(condition) => expressions.push(condition),
            Err(diagnostic) => out.push(diagnostic),
        }
        expressions.len().checked_sub(1)
    };
    let mut wrong = Vec::new();
    let mut steps: Vec<Step> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let mut tell = |code, key: &str, message: String, help: &str| {
            wrong.push(Diagnostic::error(code, message).at(table.span_of(key)).help(help));
        };
        let name = table.text("name").map(|text| text.value.clone()).unwrap_or_default();
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_word || !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            tell(
                "TG-C012",
                "name",
                format!("`{name}` cannot be the name of a step"),
                "use letters, digits and _",
            );
        }
        if steps.iter().any(|step| step.name == name) {
            tell("TG-T003", "name", format!("two steps are called `{name}`"), "each needs a name of its own");
        }
        let is_last = index > 0 && index + 1 == tables.len();
        if table.get("when").is_none() && !(is_last && table.get("not").is_some()) {
            let help = "only the last step may have none, and then it needs `not`: what must not come until `within` is over";
            tell("TG-C004", "name", format!("step `{name}` has no `when`"), help);
        }
        if index == 0 && table.get("not").is_some() {
            let message = format!("there is nothing before step `{name}` that `not` could end");
            tell("TG-C006", "not", message, "put it into the step behind");
        }
        let (when, not) = (condition(table, "when", out), condition(table, "not", out));
        steps.push(Step { name, when, not });
    }
    if !(2..=STEPS_MAX).contains(&tables.len()) {
        let message = format!("`sequence` of `{}` has {} steps", config.name, tables.len());
        let help = format!("it needs from 2 to {STEPS_MAX}; a single condition is a `filter`");
        wrong.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("sequence")).help(help));
    }
    out.append(&mut wrong);
    steps
}

/// The columns of every step that is a row, as `step.column`.
fn scope_of(names: &[String], input: &Input) -> Scope {
    let mut scope = Scope::default();
    for name in names {
        for field in input.stream.columns.fields() {
            scope = scope.with(Some(name), Arc::clone(field));
        }
    }
    scope
}

type Spanned = (Selected, std::ops::Range<usize>);

fn select(
    config: &NodeConfig,
    context: &BuildContext,
    scope: &Scope,
    names: &[String],
    out: &mut Vec<Diagnostic>,
) -> Vec<Spanned> {
    let texts: Vec<Text> = match config.table.get("select") {
        Some(_) => config.table.texts("select").into_iter().cloned().collect(),
        None => {
            let quoted = |(step, field): &(Option<String>, Arc<Field>)| {
                let (step, column) = (step.as_deref().unwrap_or_default(), field.name());
                let column = column.replace('"', "\"\"");
                Text::loose(format!("{step}.\"{column}\" AS \"{step}_{column}\""))
            };
            let place = config.table.span_of("sequence");
            scope.columns.iter().map(|column| Text { span: place.clone(), ..quoted(column) }).collect()
        }
    };
    let mut columns = Vec::new();
    for text in texts {
        match context.expressions.compile_select(&text, scope) {
            Ok(selected) => {
                for column in selected {
                    columns.push((named(column, &text, names), text.span.clone()));
                }
            }
            Err(diagnostic) => out.push(diagnostic),
        }
    }
    columns
}

/// `hot.value` without `AS` is called `hot_value`.
fn named(column: Selected, text: &Text, names: &[String]) -> Selected {
    let plain = text.value.trim().split_once('.');
    match plain.filter(|(step, name)| column.field.name() == name && names.iter().any(|known| known == step))
    {
        Some((step, name)) => {
            let field = column.field.as_ref().clone().with_name(format!("{step}_{name}"));
            Selected { field: Arc::new(field), ..column }
        }
        None => column,
    }
}
