//! `union`: several streams of one shape become one.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::schema::{StreamKind, StreamSchema, type_name};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "union",
    summary: "several streams of one shape become one",
    keys: &[],
    example: r#"[operator.all]
type = "union"
from = ["rows", "more"]
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let Some((first, others)) = inputs.split_first() else {
        return Err(ConfigError::default());
    };
    let mut stream = first.stream.clone();
    for other in others {
        if let Some(difference) = difference(&first.stream, &other.stream) {
            let message = format!("`{}` and `{}` differ: {difference}", first.name, other.name);
            let diagnostic = Diagnostic::error("TG-T008", message).at(config.table.span_of("from"));
            return Err(diagnostic.help("bring both to one shape with operators of type `project`").into());
        }
        stream = widen(&stream, &other.stream);
    }
    if inputs.iter().any(|input| input.stream.key != first.stream.key) {
        stream.key = None;
    }
    if inputs.iter().any(|input| input.stream.kind == StreamKind::Revises) {
        stream.kind = StreamKind::Revises;
    }
    let ports = vec![Port { name: String::new(), stream: stream.clone() }];
    Ok(OperatorPart { operator: Box::new(Union { stream }), ports })
}

/// The first difference that matters: names, types, event time.
fn difference(left: &StreamSchema, right: &StreamSchema) -> Option<String> {
    let (a, b) = (left.columns.fields(), right.columns.fields());
    if a.len() != b.len() {
        return Some(format!("{} columns and {} columns", a.len(), b.len()));
    }
    for (a, b) in a.iter().zip(b) {
        if a.name() != b.name() || a.data_type() != b.data_type() {
            let (at, bt) = (type_name(a.data_type()), type_name(b.data_type()));
            return Some(format!("column `{}` ({at}) and column `{}` ({bt})", a.name(), b.name()));
        }
    }
    if (left.kind == StreamKind::Changelog) != (right.kind == StreamKind::Changelog) {
        return Some("one gives changes, the other rows that stand".to_owned());
    }
    (left.time != right.time || left.time_shift_us != right.time_shift_us)
        .then(|| "their event time".to_owned())
}

/// A column that may be NULL on one side may be NULL in the union.
fn widen(left: &StreamSchema, right: &StreamSchema) -> StreamSchema {
    let fields = left.columns.fields().iter().zip(right.columns.fields());
    let fields: Vec<_> =
        fields.map(|(a, b)| a.as_ref().clone().with_nullable(a.is_nullable() || b.is_nullable())).collect();
    StreamSchema { columns: Arc::new(arrow::datatypes::Schema::new(fields)), ..left.clone() }
}

struct Union {
    stream: StreamSchema,
}

impl Operator for Union {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        out.emit(batch.clone().with_schema(Arc::clone(&self.stream.columns))?);
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(Vec::new())
    }
}
