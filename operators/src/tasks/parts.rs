//! What tasks share: templates of their keys, results of one row.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::TaskError;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::task::{TaskContext, TaskScope, TaskStep};
use tidegate_engine::template::Template;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

/// The template of a key; an empty one where it is left out.
pub(super) fn template(
    config: &NodeConfig,
    key: &str,
    context: &BuildContext,
    scope: &TaskScope,
    out: &mut Vec<Diagnostic>,
) -> Option<Template> {
    let text = config.table.text(key)?;
    match Template::compile(text, &scope.values, context.expressions.as_ref()) {
        Ok(template) => Some(template),
        Err(wrong) => {
            out.extend(wrong);
            None
        }
    }
}

/// A template's text for the task's one row.
pub(super) fn render(template: &Template, context: &TaskContext) -> Result<String, TaskError> {
    render_encoded(template, context, &str::to_owned)
}

/// As `render`, with each inserted value encoded for its place.
pub(super) fn render_encoded(
    template: &Template,
    context: &TaskContext,
    encode: &dyn Fn(&str) -> String,
) -> Result<String, TaskError> {
    let rendered = template.render(&context.values, encode).map_err(|error| TaskError::Fatal(error.0))?;
    rendered.into_iter().next().ok_or_else(|| TaskError::Fatal("no row to insert values from".into()))
}

/// A result schema of these columns.
pub(super) fn result(columns: &[(&str, DataType)]) -> StreamSchema {
    let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    StreamSchema::new(fields.collect(), None)
}

/// A finished task with one row.
pub(super) fn done(schema: &StreamSchema, columns: Vec<ArrayRef>) -> Result<TaskStep, TaskError> {
    let batch = RecordBatch::try_new(Arc::clone(&schema.columns), columns);
    batch.map(|batch| TaskStep::Done(vec![batch])).map_err(|error| TaskError::Fatal(error.to_string()))
}
