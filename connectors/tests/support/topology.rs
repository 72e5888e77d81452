//! Nodes, contexts and expressions for tests of connectors. The expressions
//! know column names only: SQL is compiled in a crate that connectors may not
//! see.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::{Expression, Expressions, Scope, Selected};
use tidegate_engine::source::Source;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::parse::parse;
use tidegate_engine::topology::value::Text;

/// The first node of a topology's text.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) fn node(text: &str) -> NodeConfig {
    let (parsed, problems) = parse(text);
    assert_eq!(problems, []);
    parsed.nodes.into_iter().next().expect("the text has a node")
}

/// A context whose expressions are column names.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) fn build_context() -> BuildContext {
    BuildContext::new("test", PathBuf::from("."), std::env::temp_dir(), Arc::new(ColumnNames))
}

/// `column` or `other_task.column`; nothing else compiles.
#[derive(Debug)]
struct ColumnNames;

#[derive(Debug)]
struct OneColumn {
    index: usize,
    data_type: DataType,
    nullable: bool,
}

impl Expressions for ColumnNames {
    fn compile(&self, text: &Text, scope: &Scope) -> Result<Arc<dyn Expression>, Diagnostic> {
        let written = |(qualifier, name): (Option<&str>, &str)| match qualifier {
            Some(qualifier) => format!("{qualifier}.{name}"),
            None => name.to_owned(),
        };
        let found = scope.columns.iter().position(|(qualifier, field)| {
            written((qualifier.as_deref(), field.name())) == text.value.trim()
        });
        let index = found.ok_or_else(|| {
            let message = format!("no column is called `{}`", text.value);
            Diagnostic::error("TG-X001", message).at(text.span.clone())
        })?;
        let field = &scope.columns[index].1;
        let (data_type, nullable) = (field.data_type().clone(), field.is_nullable());
        Ok(Arc::new(OneColumn { index, data_type, nullable }))
    }

    fn compile_select(&self, text: &Text, _scope: &Scope) -> Result<Vec<Selected>, Diagnostic> {
        Err(Diagnostic::error("TG-X001", "no select here").at(text.span.clone()))
    }
}

impl Expression for OneColumn {
    fn data_type(&self) -> &DataType {
        &self.data_type
    }

    fn nullable(&self) -> bool {
        self.nullable
    }

    fn columns(&self) -> Vec<usize> {
        vec![self.index]
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        Ok(Arc::clone(batch.column(self.index)))
    }
}

/// Whether a source says that its peer answers.
#[allow(dead_code, reason = "not every test file uses every helper")]
pub(crate) fn is_connected(source: &dyn Source) -> bool {
    source.silence().is_some_and(|silence| silence.known_until(0).is_some())
}
