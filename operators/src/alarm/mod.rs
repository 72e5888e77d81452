//! `alarm`: the life of alarms after ISA-18.2. Rows of measurements and of
//! commands come in one stream, in event-time order; a row leaves whenever an
//! alarm changes.

mod life;
mod operator;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::expression::{Expression, Scope, compile_condition};
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{FORGET, InOrder, forget_us, key_columns, ports};
use crate::part::{only_input, require_time};
use life::Spec;
use operator::{Alarms, Words};

const FLOOD_KEYS: &[Key] = &[
    required("count", Kind::Int(1, 100_000), "alarms that may be raised"),
    required("within", Kind::Duration, "in this time"),
];

const KEYS: &[Key] = &[
    optional(
        "key",
        Kind::List(&Kind::Text),
        "columns; each combination is an alarm of its own. A row behind the watermark leaves by the port `late`",
    ),
    required("when", Kind::Expression, "the alarm's condition; where it is NULL, as in rows of commands, it stays as it was"),
    optional("clear_when", Kind::Expression, "the condition is gone when this is true (hysteresis); without it, when `when` is false"),
    optional("on_delay", Kind::Duration, "the condition must have been true for this long"),
    optional("off_delay", Kind::Duration, "it must have been gone for this long"),
    optional("acknowledge", Kind::Expression, "a row for which this is true acknowledges; without it alarms need no answer"),
    optional("latch", Kind::Bool, "true: an alarm stays when its condition is gone, until it is acknowledged and reset"),
    optional("reset", Kind::Expression, "a row for which this is true resets what is latched and acknowledged"),
    optional(
        "shelve",
        Kind::Expression,
        "a row for which this is true shelves for `shelve_for`: nothing is told meanwhile; what is still true at the end is raised anew",
    ),
    optional("shelve_for", Kind::Duration, "how long a shelved alarm is silent").aside(),
    optional("unshelve", Kind::Expression, "a row for which this is true ends that at once"),
    optional(
        "flood",
        Kind::Table(FLOOD_KEYS),
        "most alarms raised in a time, all keys together, e.g. { count = 10, within = \"10m\" }; what is raised beyond leaves by the port `flood`, with all that is told of it until it is normal again",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "alarm",
    summary: "the life of alarms after ISA-18.2: delays, hysteresis, acknowledge, latch, shelve, flood",
    keys: &[KEYS],
    example: r#"[operator.hot]
type        = "alarm"
from        = "rows"
key         = ["device"]
when        = "value > 90"
clear_when  = "value < 85"
on_delay    = "5s"
off_delay   = "10s"
acknowledge = "quality = 'ack'"
flood       = { count = 10, within = "10m" }
"#,
    build,
};

/// What is told of alarms beyond the limit of a flood.
const FLOOD_PORT: usize = 3;

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let mut expressions: Vec<Arc<dyn Expression>> = Vec::new();
    let scope = Scope::of(&input.stream.columns);
    let mut condition = |key: &str| {
        let text = table.text(key)?;
        match compile_condition(context.expressions.as_ref(), text, &scope) {
            Ok(condition) => expressions.push(condition),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
        expressions.len().checked_sub(1)
    };
    let words = Words {
        when: condition("when"),
        clear: condition("clear_when"),
        acknowledge: condition("acknowledge"),
        reset: condition("reset"),
        shelve: condition("shelve"),
        unshelve: condition("unshelve"),
    };
    check_words(config, &mut diagnostics);
    let output = output(config, input, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let span = |key: &str| table.duration(key).map_or(0, micros);
    let spec = Spec {
        on_delay_us: span("on_delay"),
        off_delay_us: span("off_delay"),
        clears_itself: words.clear.is_none(),
        needs_acknowledge: words.acknowledge.is_some(),
        latches: table.bool("latch") == Some(true),
        shelve_us: span("shelve_for"),
        forget_us: forget_us(config),
    };
    let flood = table.table("flood");
    let flood =
        flood.and_then(|flood| flood.int_as::<usize>("count").zip(flood.duration("within").map(micros)));
    let mut ports = ports(output.clone(), &input.stream);
    ports.push(Port { name: "rejects".into(), stream: rejects_schema() });
    ports.push(Port { name: "flood".into(), stream: output.clone() });
    let core = Alarms::new(input.stream.clone(), output, spec, words, flood);
    let operator = InOrder::new(config, input, keys, core)?.with_expressions(expressions);
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// Words that need each other.
fn check_words(config: &NodeConfig, out: &mut Vec<Diagnostic>) {
    let table = &config.table;
    let has = |key: &str| table.get(key).is_some();
    let latches = table.bool("latch") == Some(true);
    let mut needs = |key: &str, is_there: bool, other: &str, has_other: bool, help: &str| {
        if is_there && !has_other {
            let message = format!("`{}` has `{key}` but no `{other}`", config.name);
            out.push(Diagnostic::error("TG-C004", message).at(table.span_of(key)).help(help));
        }
    };
    needs(
        "latch",
        latches,
        "reset",
        has("reset"),
        "say which row resets it, e.g. reset = \"command = 'reset'\"",
    );
    needs("reset", has("reset"), "latch", latches, "only a latched alarm is reset: latch = true");
    let help = "say how long at most, e.g. shelve_for = \"30m\": what is shelved for ever is forgotten";
    needs("shelve", has("shelve"), "shelve_for", has("shelve_for"), help);
    needs(
        "shelve_for",
        has("shelve_for"),
        "shelve",
        has("shelve"),
        "say which row shelves, e.g. shelve = \"command = 'shelve'\"",
    );
    needs(
        "unshelve",
        has("unshelve"),
        "shelve",
        has("shelve"),
        "say which row shelves, e.g. shelve = \"command = 'shelve'\"",
    );
    let longest = ["on_delay", "off_delay", "shelve_for"].iter().filter_map(|key| table.duration(key)).max();
    if let Some(forget) = table.duration("forget").filter(|forget| longest > Some(*forget)) {
        let message = format!("an alarm is forgotten after {forget:?}, before its delays are over");
        let diagnostic = Diagnostic::error("TG-C006", message).at(table.span_of("forget"));
        out.push(diagnostic.help("make `forget` longer than `on_delay`, `off_delay` and `shelve_for`"));
    }
}

/// What is told of an alarm, then the columns of the row that led to it, or
/// where time did, of the newest one before.
fn output(config: &NodeConfig, input: &Input, out: &mut Vec<Diagnostic>) -> StreamSchema {
    let mut fields = vec![
        Field::new("alarm_time", time_type(), false),
        Field::new("alarm_event", DataType::Utf8, false),
        Field::new("alarm_state", DataType::Utf8, false),
        Field::new("raised_at", time_type(), true),
    ];
    for field in input.stream.columns.fields() {
        if fields.iter().any(|earlier| earlier.name() == field.name()) {
            let message = format!("`{}` has a column `{}` already", input.name, field.name());
            let diagnostic = Diagnostic::error("TG-T009", message).at(config.table.span_of("from"));
            out.push(diagnostic.help("give it another name with a `project` before"));
        }
        fields.push(field.as_ref().clone());
    }
    StreamSchema::new(fields, Some("alarm_time"))
}
