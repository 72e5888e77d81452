//! `window`: aggregates over rows that lie together in event time.

mod direct;
mod frame;
mod layers;
mod marks;
mod open;
mod operator;
mod pane;
mod state;
#[cfg(test)]
mod tests;

use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::{Input, OperatorPart, Port};
use tidegate_engine::schema::{StreamSchema, rejects_schema, type_name};
use tidegate_engine::time::{micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Table;

use arrow::datatypes::{Field, FieldRef};

use crate::expression::{SqlExpressions, compile_aggregates, is_key_type};
use crate::part::{named_columns, only_input, require_time};
use frame::Frame;
use operator::Window;
use pane::Layout;

const WINDOW_KEYS: &[Key] = &[
    required(
        "kind",
        Kind::Word(&["tumbling", "hopping"]),
        "tumbling: one after the other; hopping: overlapping",
    ),
    required("size", Kind::Duration, "length of a window"),
    optional("slide", Kind::Duration, "distance of two window starts (hopping)"),
    optional("offset", Kind::Duration, "moves all windows later by this much"),
];

const KEYS: &[Key] = &[
    optional("key", Kind::List(&Kind::Text), "columns; each combination has windows of its own"),
    required("window", Kind::Table(WINDOW_KEYS), "kind and size"),
    required("select", Kind::List(&Kind::Expression), "aggregates, e.g. `avg(pressure) AS mean`"),
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

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let (window, ports) = window(config, only_input(config, inputs)?)?;
    Ok(OperatorPart { operator: Box::new(window), ports })
}

fn window(config: &NodeConfig, input: &Input) -> Result<(Window, Vec<Port>), ConfigError> {
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let frame = config.table.table("window").map(|table| read_frame(table, &mut diagnostics));
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
    let compiled = compile_aggregates(&sql, &select, &input.stream.columns, &fields);
    let compiled = compiled.map_err(|mut wrong| diagnostics.append(&mut wrong)).ok();
    let (Some(compiled), Some(frame), true) = (compiled, frame.flatten(), diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let mut columns =
        vec![Field::new("window_start", time_type(), false), Field::new("window_end", time_type(), false)];
    columns.extend(fields.iter().map(|field| field.as_ref().clone()));
    columns.extend(compiled.columns.iter().map(|column| column.field.as_ref().clone()));
    check_names(config, &columns)?;
    let mut stream = StreamSchema::new(columns, Some("window_end"));
    // A result belongs to the window's last instant, so that windows over
    // windows nest exactly.
    stream.time_shift_us = -1;
    let layout = Layout::new(keys, fields, compiled)
        .map_err(|error| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("select")))?;
    let operator = Window::new(config.name.clone(), input.stream.clone(), stream.clone(), frame, layout);
    let ports = vec![
        Port { name: String::new(), stream },
        Port { name: "late".into(), stream: input.stream.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
    ];
    Ok((operator, ports))
}

/// The key's columns, all of types that a window can group by.
fn key_columns(config: &NodeConfig, input: &Input, out: &mut Vec<Diagnostic>) -> Vec<usize> {
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

fn read_frame(table: &Table, out: &mut Vec<Diagnostic>) -> Option<Frame> {
    let size_us = table.duration("size").map(micros)?;
    let slide_us = table.duration("slide").map(micros);
    let offset_us = table.duration("offset").map_or(0, micros);
    let hopping = table.str("kind") == Some("hopping");
    let slide_us = match (hopping, slide_us) {
        (true, Some(slide_us)) => slide_us,
        (true, None) => {
            let diagnostic =
                Diagnostic::error("TG-C004", "a hopping window needs `slide`").at(table.span.clone());
            out.push(diagnostic.help("e.g. slide = \"1m\": a window starts every minute"));
            return None;
        }
        (false, Some(_)) => {
            let message = "a tumbling window has no `slide`";
            let diagnostic = Diagnostic::error("TG-C006", message).at(table.span_of("slide"));
            out.push(diagnostic.help("leave it out, or write kind = \"hopping\""));
            return None;
        }
        (false, None) => size_us,
    };
    match Frame::new(size_us, slide_us, offset_us) {
        Ok(frame) => Some(frame),
        Err(message) => {
            out.push(Diagnostic::error("TG-C006", message).at(table.span.clone()));
            None
        }
    }
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
