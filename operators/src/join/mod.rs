//! `join`: rows of two streams that belong together and lie near each other in
//! event time, or rows of a stream with those of a table.

mod as_of;
mod bound;
mod index;
mod keys;
mod layout;
mod on;
mod operator;
mod pairs;
mod reshare;
mod state;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::Field;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::{Input, Operator, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Data, Table};

use crate::part::{require_time, rows_that_stand};
use as_of::AsOf;
use bound::{Both, Bound, Side};
use layout::{Layout, Lead, Shapes};
use operator::Join;

const WITHIN_KEYS: &[Key] = &[
    optional(
        "before",
        Kind::Duration,
        "the right row lies at most so far before the left one, \"0s\" if left out",
    ),
    optional(
        "after",
        Kind::Duration,
        "the right row lies at most so far behind the left one, \"0s\" if left out",
    ),
];

const MATCH_KEYS: &[Key] = &[
    optional(
        "within",
        Kind::AnyOf(&[Kind::Duration, Kind::Table(WITHIN_KEYS)]),
        "the rows lie at most so far apart in event time",
    ),
    optional("window", Kind::Duration, "both rows lie in one tumbling window of this size"),
    optional(
        "as_of",
        Kind::Duration,
        "the last right row that is not younger than the left one nor older than this",
    ),
];

const KEYS: &[Key] = &[
    required("on", Kind::Expression, "which rows belong together, e.g. `a.k = b.k AND a.x > b.y`"),
    optional(
        "kind",
        Kind::Word(&["inner", "left", "right", "full"]),
        "rows of which side leave without a partner too: \"inner\" (none) if left out; inner or left for a table",
    ),
    optional(
        "match",
        Kind::Table(MATCH_KEYS),
        "how near in event time they must be: within, window or as_of; not for a table, whose rows have no time",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "join",
    summary: "rows of two streams that belong together, near each other in event time; or of a stream and a table",
    keys: &[KEYS],
    example: r#"[operator.joined]
type  = "join"
from  = ["rows", "more"]
on    = "rows.device = more.device AND rows.value > more.value"
kind  = "left"
match = { within = "5s" }
"#,
    build,
};

/// Rows that came after the watermark, alone.
const LATE_PORT: usize = 1;
/// Rows, or pairs of them, on which `on` failed.
const REJECTS_PORT: usize = 2;

/// How near rows must be.
#[derive(Clone, Copy)]
enum Match {
    Bound(Bound),
    AsOf { tolerance_us: i64 },
}

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    if inputs.iter().any(|input| input.stream.is_table()) {
        return table::build(config, &two(config, inputs)?);
    }
    let (layout, near) = layout(config, inputs)?;
    let port = |name: &str, stream: &StreamSchema| Port { name: name.into(), stream: stream.clone() };
    let ports =
        vec![port("", &layout.output), port("late", &layout.late), port("rejects", &rejects_schema())];
    let operator: Box<dyn Operator> = match near {
        Match::Bound(bound) => Box::new(Join::new(Arc::new(layout), bound)),
        Match::AsOf { tolerance_us } => Box::new(AsOf::new(Arc::new(layout), tolerance_us)),
    };
    Ok(OperatorPart { operator, ports })
}

fn layout(config: &NodeConfig, inputs: &[Input]) -> Result<(Layout, Match), ConfigError> {
    let inputs = two(config, inputs)?;
    for side in Side::BOTH {
        require_time(config, inputs.of(side))?;
        rows_that_stand(config, inputs.of(side))?;
    }
    let near = near(config)?;
    let text = config.table.text("on").ok_or_else(ConfigError::default)?;
    let condition = on::compile(text, &inputs)?;
    let kind = config.table.str("kind").unwrap_or("inner");
    let outer = Both { left: matches!(kind, "left" | "full"), right: matches!(kind, "right" | "full") };
    let lead = match near {
        Match::Bound(Bound::Window { size_us }) => Lead::Window { size_us },
        Match::Bound(Bound::Within { .. }) | Match::AsOf { .. } => {
            let [left, right] = Side::BOTH.map(|side| inputs.of(side).stream.time_shift_us);
            // Results of windows keep their ends.
            Lead::EventTime { shift_us: if left == right { left } else { 0 } }
        }
    };
    let output = output(config, &inputs, &outer, lead)?;
    let names = Both { left: inputs.left.name.clone(), right: inputs.right.name.clone() };
    let inputs = Both { left: inputs.left.stream.clone(), right: inputs.right.stream.clone() };
    let shapes = Shapes { name: config.name.clone(), names, inputs, outer, output, lead };
    Ok((Layout::new(shapes, condition), near))
}

fn two<'a>(config: &NodeConfig, inputs: &'a [Input]) -> Result<Both<&'a Input>, Diagnostic> {
    let span = config.table.span_of("from");
    let [left, right] = inputs else {
        let message = format!("`{}` has {} inputs, but `join` takes two", config.name, inputs.len());
        let help = "join the first two, and what comes of it with the third";
        return Err(Diagnostic::error("TG-T005", message).at(span).help(help));
    };
    if left.name == right.name {
        let message =
            format!("`{0}` reads `{1}` twice, so a column of `{1}` would mean two", config.name, left.name);
        let help = "give one of them another name: an operator of type `project` with select = [\"*\"]";
        return Err(Diagnostic::error("TG-T003", message).at(span).help(help));
    }
    Ok(Both { left, right })
}

fn near(config: &NodeConfig) -> Result<Match, Diagnostic> {
    let help = "write match = { within = \"5s\" }, { window = \"1m\" } or { as_of = \"10s\" }";
    let Some(table) = config.table.table("match").filter(|table| !table.entries.is_empty()) else {
        let message = format!(
            "`{}` joins streams without a bound: every row would have to be kept for ever, since its partner may still come",
            config.name
        );
        let span =
            config.table.get("match").map_or_else(|| config.name_span.clone(), |value| value.span.clone());
        return Err(Diagnostic::error("TG-T013", message).at(span).label("has no bound").help(help));
    };
    if let [_, second, ..] = table.entries.as_slice() {
        let message =
            format!("`match` of `{}` says several things; rows can be near in one way only", config.name);
        return Err(Diagnostic::error("TG-C006", message).at(second.key_span.clone()).help(help));
    }
    if let Some(tolerance) = table.duration("as_of") {
        return Ok(Match::AsOf { tolerance_us: micros(tolerance) });
    }
    if let Some(size) = table.duration("window") {
        if micros(size) < 1 {
            let message = "a window is at least 1 µs long";
            return Err(Diagnostic::error("TG-C006", message).at(table.span_of("window")));
        }
        return Ok(Match::Bound(Bound::Window { size_us: micros(size) }));
    }
    Ok(Match::Bound(within(table)))
}

fn within(table: &Table) -> Bound {
    let both = table.duration("within").map_or(0, micros);
    let Some(Data::Table(parts)) = table.get("within").map(|value| &value.data) else {
        return Bound::Within { before_us: both, after_us: both };
    };
    let part = |word| parts.duration(word).map_or(0, micros);
    Bound::Within { before_us: part("before"), after_us: part("after") }
}

/// The rows that leave: time, then the columns of both sides. A name that is
/// taken twice gets that of its node before it.
fn output(
    config: &NodeConfig,
    inputs: &Both<&Input>,
    outer: &Both<bool>,
    lead: Lead,
) -> Result<StreamSchema, Diagnostic> {
    let (names, time, time_shift_us): (&[&str], &str, i64) = match lead {
        Lead::EventTime { shift_us } => (&["event_time"], "event_time", shift_us),
        // As results of windows have it.
        Lead::Window { .. } => (&["window_start", "window_end"], "window_end", -1),
    };
    let mut fields: Vec<Field> = names.iter().map(|name| Field::new(*name, time_type(), false)).collect();
    for side in Side::BOTH {
        let (input, other) = (inputs.of(side), inputs.of(side.other()));
        for field in input.stream.columns.fields() {
            let is_taken = names.contains(&field.name().as_str())
                || other.stream.columns.fields().iter().any(|known| known.name() == field.name());
            let name = if is_taken {
                format!("{}_{}", input.name.replace('.', "_"), field.name())
            } else {
                field.name().clone()
            };
            if fields.iter().any(|known| *known.name() == name) {
                let message = format!("two columns of `{}` are called `{name}`", config.name);
                let help = "give one of them another name with an operator of type `project`";
                return Err(Diagnostic::error("TG-T009", message)
                    .at(config.table.span_of("from"))
                    .help(help));
            }
            let is_nullable = field.is_nullable() || *outer.of(side.other());
            fields.push(field.as_ref().clone().with_name(name).with_nullable(is_nullable));
        }
    }
    Ok(StreamSchema { time_shift_us, ..StreamSchema::new(fields, Some(time)) })
}
