//! `route`: each row leaves by the first port whose condition is true.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and, filter_record_batch, not, prep_null_mask_filter};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::{Expression, Scope, compile_condition};
use tidegate_engine::operator::{Input, MAIN_PORT, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamSchema, rejects_schema};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::narrow::{narrow, reject_rows};
use crate::part::only_input;

const KEYS: &[Key] = &[required(
    "ports",
    Kind::Map(&Kind::Expression),
    "port name = condition; a row leaves by the first true one, else by the main port",
)];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "route",
    summary: "each row leaves by the first port whose condition is true",
    keys: &[KEYS],
    example: r#"[operator.by_quality]
type  = "route"
from  = "rows"
ports = { good = "quality = 'good'", bad = "quality = 'bad'" }
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let scope = Scope::of(&input.stream.columns);
    let mut ports = vec![
        Port { name: String::new(), stream: input.stream.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
    ];
    let mut conditions = Vec::new();
    let mut diagnostics = Vec::new();
    for entry in config.table.table("ports").map(|table| table.entries.as_slice()).unwrap_or_default() {
        let Some(text) = entry.value.as_text() else { continue };
        if ports.iter().any(|port| port.name == entry.key) {
            let message = format!("a port cannot be called `{}`", entry.key);
            diagnostics.push(Diagnostic::error("TG-T003", message).at(entry.key_span.clone()));
        }
        match compile_condition(context.expressions.as_ref(), text, &scope) {
            Ok(condition) => conditions.push(condition),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
        ports.push(Port { name: entry.key.clone(), stream: input.stream.clone() });
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let operator = Route { name: config.name.clone(), stream: input.stream.clone(), conditions };
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

const REJECTS_PORT: usize = 1;
/// Port of the first condition.
const FIRST_PORT: usize = 2;

struct Route {
    name: String,
    stream: StreamSchema,
    conditions: Vec<Arc<dyn Expression>>,
}

impl Route {
    /// The rows of each port: (port, rows).
    fn split(&self, rows: &RecordBatch) -> Result<Vec<(usize, RecordBatch)>, OperatorError> {
        let mut left = BooleanArray::from(vec![true; rows.num_rows()]);
        let mut parts = Vec::new();
        for (index, condition) in self.conditions.iter().enumerate() {
            let mask = condition.evaluate(rows)?;
            let mask = mask.as_boolean();
            // NULL is not true.
            let mask = if mask.null_count() > 0 { prep_null_mask_filter(mask) } else { mask.clone() };
            let taken = and(&left, &mask)?;
            left = and(&left, &not(&mask)?)?;
            parts.push((FIRST_PORT + index, filter_record_batch(rows, &taken)?));
        }
        parts.push((MAIN_PORT, filter_record_batch(rows, &left)?));
        Ok(parts)
    }
}

impl Operator for Route {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let mut emit = |parts: Vec<(usize, RecordBatch)>| {
            for (port, rows) in parts {
                out.emit_to(port, rows);
            }
        };
        let bad = narrow(batch, &mut |rows| self.split(rows), &mut emit);
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.stream, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.conditions.iter().flat_map(|condition| condition.columns()).collect())
    }
}
