//! `[trigger.x]`: rows become firings. Judged in event-time order, per key;
//! timers run on event time, so that a replay fires the same.
//!
//! Devices' clocks differ, so lateness is a matter of one key: a row behind
//! the watermark is judged when it comes, and the instants of its key (`hold`,
//! `absent_for`) come as far behind the watermark as its newest row did. A row
//! older than the newest judged one of its own key would change the past: it
//! is not judged and leaves by the port `late`.

mod judge;
mod operator;
mod save;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::expression::{Expression, Scope, compile_condition};
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::part::{named_columns, only_input, require_time};
use judge::Spec;
use operator::Rule;

const KEYS: &[Key] = &[
    optional(
        "from",
        Kind::Text,
        "the stream that is watched; a row older than the newest one judged of its own key is not judged and leaves by the port `late`",
    )
    .aside(),
    optional("key", Kind::List(&Kind::Text), "columns; each combination is judged by itself"),
    optional("when", Kind::Expression, "fires when this becomes true; without it every row fires"),
    optional(
        "on",
        Kind::Word(&["rise", "row"]),
        "rise (default): when it becomes true; row: at every row for which it is true",
    ),
    optional("hold", Kind::Duration, "it must have been true for this long"),
    optional(
        "hits",
        Kind::Text,
        "true for n of the last m rows for which `when` is not NULL, e.g. \"3 of 5\"",
    ),
    optional(
        "count",
        Kind::Int(1, 10_000),
        "true this many times `within` a time; each row counts for one firing",
    ),
    optional("within", Kind::Duration, "the time that `count` counts over"),
    optional(
        "clear_when",
        Kind::Expression,
        "it must have been true before the next firing, also where `when` is NULL; without it `when` false is enough",
    ),
    optional("absent_for", Kind::Duration, "fires when a key known before gives no row for this long"),
    optional(
        "cooldown",
        Kind::Duration,
        "after a firing the key is quiet for this long; what becomes true meanwhile and is still true at the end fires then",
    ),
    optional(
        "forget",
        Kind::Duration,
        "a key without rows for this long begins afresh at its next row, \"30d\" if left out",
    ),
    optional("every", Kind::Duration, "fires by the clock, aligned to the epoch").aside(),
    optional("cron", Kind::Text, "fires by the clock, five fields: minute hour day month weekday").aside(),
    optional("zone", Kind::Text, "time zone of `cron`, \"UTC\" if left out").aside(),
    optional(
        "missed",
        Kind::Word(&["skip", "run_latest", "run_all"]),
        "what to do about times while the daemon was off",
    )
    .aside(),
    optional("start", Kind::Text, "the flow that is started").aside(),
    optional(
        "give",
        Kind::Map(&Kind::Expression),
        "parameter of the flow = expression over the row that fired",
    )
    .aside(),
    optional("max_starts", Kind::Text, "most runs it starts in a time, e.g. \"100/m\"; no limit if left out").aside(),
    optional("mode", Kind::Word(&["live", "shadow"]), "shadow: firings are counted, nothing starts").aside(),
];

/// The row of `[trigger.x]`.
pub const TRIGGER: Row<BuildOperator> = Row {
    name: "trigger",
    summary: "rows become firings, which start flows",
    keys: &[KEYS],
    example: r#"[trigger.hot]
from     = "rows"
key      = ["device"]
when     = "value > 90"
hold     = "2m"
cooldown = "1h"
start    = "warn"
give     = { device = "device" }
"#,
    build,
};

/// Most hits looked back on.
const HITS_MAX: usize = 1_000;
/// Keys are forgotten after this silence.
const FORGET: Duration = Duration::from_secs(30 * 86_400);

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let (operator, ports) = rule(config, context, only_input(config, inputs)?)?;
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

fn rule(
    config: &NodeConfig,
    context: &BuildContext,
    input: &Input,
) -> Result<(Rule, Vec<Port>), ConfigError> {
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let spec = read_spec(config, &mut diagnostics);
    let scope = Scope::of(&input.stream.columns);
    let expressions = context.expressions.as_ref();
    let mut condition = |key: &str| {
        let text = config.table.text(key)?;
        match compile_condition(expressions, text, &scope) {
            Ok(condition) => Some(condition),
            Err(diagnostic) => {
                diagnostics.push(diagnostic);
                None
            }
        }
    };
    let when = condition("when");
    let clear_when = condition("clear_when");
    let keys = named_columns(config, "key", &input.stream, &mut diagnostics);
    let mut give: Vec<(String, Arc<dyn Expression>)> = Vec::new();
    for entry in config.table.table("give").map(|table| table.entries.as_slice()).unwrap_or_default() {
        let Some(text) = entry.value.as_text() else { continue };
        match expressions.compile(text, &scope) {
            Ok(expression) => give.push((entry.key.clone(), expression)),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    let Some(spec) = spec.filter(|_| diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    let output = firing_stream(&input.stream, &give);
    let ports = vec![
        Port { name: String::new(), stream: output.clone() },
        Port { name: "cooling".into(), stream: output.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
        Port { name: "late".into(), stream: input.stream.clone() },
    ];
    let parts = operator::Parts { when, clear_when, keys, give };
    Ok((Rule::new(config.name.clone(), input.stream.clone(), output, spec, parts), ports))
}

/// Columns of a firing: `firing_time`, `firing_key`, `firing_ordinal`, then
/// `give.NAME` for each parameter, then the columns of the watched stream.
fn firing_stream(input: &StreamSchema, give: &[(String, Arc<dyn Expression>)]) -> StreamSchema {
    let mut fields = vec![
        Field::new("firing_time", time_type(), false),
        Field::new("firing_key", DataType::Utf8, false),
        Field::new("firing_ordinal", DataType::Int64, false),
    ];
    fields.extend(
        give.iter().map(|(name, value)| Field::new(format!("give.{name}"), value.data_type().clone(), true)),
    );
    fields.extend(input.columns.fields().iter().map(|field| field.as_ref().clone()));
    StreamSchema::new(fields, Some("firing_time"))
}

fn read_spec(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Option<Spec> {
    let table = &config.table;
    let before = out.len();
    let span = |key: &str| table.duration(key).map(micros);
    let hits = table.text("hits").and_then(|text| match parse_hits(&text.value) {
        Some(hits) => Some(hits),
        None => {
            let message = format!("`hits` of `{}` cannot be {:?}", config.name, text.value);
            let diagnostic = Diagnostic::error("TG-C006", message).at(text.span.clone());
            out.push(diagnostic.help(format!("write e.g. \"3 of 5\", at most {HITS_MAX} rows back")));
            None
        }
    });
    let count = table.int_as::<usize>("count");
    let mut conflict = |wrong: bool, key: &str, message: String, help: &str| {
        if wrong {
            out.push(Diagnostic::error("TG-F010", message).at(table.span_of(key)).help(help));
        }
    };
    let name = &config.name;
    let has = |key: &str| table.get(key).is_some();
    conflict(
        has("count") != has("within"),
        if has("count") { "count" } else { "within" },
        format!("trigger `{name}` has only one of `count` and `within`"),
        "they belong together: count = 5, within = \"10m\"",
    );
    conflict(
        has("count") && has("hits"),
        "hits",
        format!("trigger `{name}` has both `count` and `hits`"),
        "choose one; two triggers may start the same flow",
    );
    conflict(
        has("absent_for") && (has("hold") || has("hits") || has("count")),
        "absent_for",
        format!("trigger `{name}` watches for silence and for rows at once"),
        "write two triggers; they may start the same flow",
    );
    conflict(
        has("clear_when") && table.str("on") == Some("row"),
        "clear_when",
        format!("trigger `{name}` fires at every row, so there is nothing to clear"),
        "leave one of `on` and `clear_when` out",
    );
    for key in ["hold", "hits", "count", "clear_when"] {
        conflict(
            has(key) && !has("when"),
            key,
            format!("trigger `{name}` has `{key}` but no `when`"),
            "say what must be true, e.g. when = \"value > 50\"",
        );
    }
    (out.len() == before).then(|| Spec {
        hold_us: span("hold"),
        hits,
        count: count.zip(span("within")),
        absent_us: span("absent_for"),
        cooldown_us: span("cooldown").unwrap_or(0),
        forget_us: micros(table.duration("forget").unwrap_or(FORGET)),
        on_row: table.str("on") == Some("row") || !has("when"),
        clears_itself: !has("clear_when"),
    })
}

/// `"3 of 5"` → (3, 5).
fn parse_hits(text: &str) -> Option<(usize, usize)> {
    let (hits, of) = text.split_once(" of ")?;
    let (hits, of) = (hits.trim().parse().ok()?, of.trim().parse().ok()?);
    (1 <= hits && hits <= of && of <= HITS_MAX).then_some((hits, of))
}
