//! The contract between whoever needs a SQL expression and the crate that
//! compiles them. No SQL is parsed here.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema};

use crate::diagnostic::Diagnostic;
use crate::error::OperatorError;
use crate::topology::value::Text;

/// The columns an expression may name, in the order of the batches it will be
/// evaluated on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scope {
    /// Column and, where it is written `a.k`, its qualifier `a`.
    pub columns: Vec<(Option<String>, FieldRef)>,
}

impl Scope {
    /// The columns of one stream, without a qualifier.
    #[must_use]
    pub fn of(schema: &Schema) -> Scope {
        Scope { columns: schema.fields().iter().map(|field| (None, Arc::clone(field))).collect() }
    }

    /// This scope with another column at its end.
    #[must_use]
    pub fn with(mut self, qualifier: Option<&str>, field: impl Into<FieldRef>) -> Scope {
        self.columns.push((qualifier.map(str::to_owned), field.into()));
        self
    }
}

/// Compiles expressions. Called when a file is loaded, never per batch.
pub trait Expressions: Send + Sync {
    /// Compiles one expression against the columns of `scope`.
    ///
    /// # Errors
    /// A diagnostic at the wrong word's own place.
    fn compile(&self, text: &Text, scope: &Scope) -> Result<Arc<dyn Expression>, Diagnostic>;

    /// Compiles `expr AS name` (or a bare column name, or `*`) into output columns.
    ///
    /// # Errors
    /// A diagnostic at the wrong word's own place.
    fn compile_select(&self, text: &Text, scope: &Scope) -> Result<Vec<Selected>, Diagnostic>;
}

/// One output column of a `select`.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Name, type and nullability of the column.
    pub field: FieldRef,
    /// What computes it.
    pub expression: Arc<dyn Expression>,
}

/// A compiled expression: a function from a batch to a column of equal length.
pub trait Expression: Send + Sync + fmt::Debug {
    /// Type of the result.
    fn data_type(&self) -> &DataType;

    /// Whether the result may hold NULL.
    fn nullable(&self) -> bool;

    /// Indices of the input columns that it reads.
    fn columns(&self) -> Vec<usize>;

    /// Evaluates on a batch whose columns are those of the scope it was compiled for.
    ///
    /// # Errors
    /// A row on which it cannot be evaluated (division by zero, overflow, a
    /// failed cast); the caller narrows the batch to find it.
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError>;

    /// The index of the input column, if the expression is nothing but that
    /// column: its meaning (event time) passes through.
    fn input_column(&self) -> Option<usize> {
        None
    }
}

/// Compiles a condition: an expression that must be boolean.
///
/// # Errors
/// As `Expressions::compile`, and `TG-X003` if the type is not boolean.
pub fn compile_condition(
    expressions: &dyn Expressions,
    text: &Text,
    scope: &Scope,
) -> Result<Arc<dyn Expression>, Diagnostic> {
    let expression = expressions.compile(text, scope)?;
    if expression.data_type() == &DataType::Boolean {
        return Ok(expression);
    }
    let found = crate::schema::type_name(expression.data_type());
    Err(Diagnostic::error("TG-X003", format!("a condition must be true or false, but this is {found}"))
        .at(text.span_of(0..text.value.len()))
        .label(format!("has type {found}"))
        .help("compare it with something, e.g. `value > 50`"))
}
