//! `filter`: lets rows through for which a condition is true.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::filter_record_batch;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::expression::{Expression, Scope, compile_condition};
use tidegate_engine::operator::{Input, MAIN_PORT, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamKind, StreamSchema, rejects_schema};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::narrow::{narrow, reject_rows};
use crate::part::{check_image, only_input_or};

const KEYS: &[Key] = &[required("where", Kind::Expression, "rows for which this is true go on")];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "filter",
    summary: "lets rows through for which a condition is true",
    keys: &[KEYS],
    example: r#"[operator.hot]
type  = "filter"
from  = "rows"
where = "value > 50 AND quality = 'good'"
"#,
    build,
};

const REJECTS_PORT: usize = 1;

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let input = only_input_or(config, inputs, &[StreamKind::Changelog])?;
    let text = config.table.text("where").ok_or_else(ConfigError::default)?;
    let condition = compile_condition(context.expressions.as_ref(), text, &Scope::of(&input.stream.columns))?;
    let mut problems = Vec::new();
    check_image(config, "where", input, &condition.columns(), &mut problems);
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    let operator = Filter { name: config.name.clone(), stream: input.stream.clone(), condition };
    let ports = vec![
        Port { name: String::new(), stream: input.stream.clone() },
        Port { name: "rejects".into(), stream: rejects_schema() },
    ];
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

struct Filter {
    name: String,
    stream: StreamSchema,
    condition: Arc<dyn Expression>,
}

impl Operator for Filter {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        let condition = &self.condition;
        let mut work = |rows: &RecordBatch| {
            let mask = condition.evaluate(rows)?;
            Ok(filter_record_batch(rows, mask.as_boolean())?)
        };
        let bad = narrow(batch, &mut work, &mut |rows| out.emit_to(MAIN_PORT, rows));
        if !bad.is_empty() {
            out.emit_to(REJECTS_PORT, reject_rows(&self.name, &self.stream, batch, bad)?);
        }
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.condition.columns())
    }
}
