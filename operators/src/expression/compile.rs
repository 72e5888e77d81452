//! Text to a compiled expression, with every mistake at its own column.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::execution::context::SessionContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionConfig;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::{Expression, Expressions, Scope, Selected};
use tidegate_engine::topology::value::Text;

use super::locate;
use super::unlike::refuse_unlike;

/// Longest expression or query, in bytes.
const EXPRESSION_BYTES_MAX: usize = 16 * 1024;

/// Most words and operators in one expression or query. A chain of operators makes a
/// tree as deep as it is long, and planning and evaluating recurse.
const EXPRESSION_TOKENS_MAX: usize = 1_000;

/// Stack for planning: unoptimised builds need about 20 KiB per level.
const PLANNING_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Every built-in function. Making it takes milliseconds; nobody changes it.
static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut config = SessionConfig::new().with_information_schema(false);
    // A column is called as the file calls it, capitals included.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let context = SessionContext::new_with_config(config);
    super::over_time::functions().into_iter().for_each(|function| context.register_udaf(function));
    context.state()
});

/// Compiles expressions with DataFusion's parser, types and functions.
pub struct SqlExpressions {
    state: &'static SessionState,
}

impl Default for SqlExpressions {
    fn default() -> SqlExpressions {
        SqlExpressions::new()
    }
}

impl SqlExpressions {
    /// A compiler with DataFusion's built-in functions.
    #[must_use]
    pub fn new() -> SqlExpressions {
        SqlExpressions { state: &STATE }
    }

    pub(crate) fn state(&self) -> &'static SessionState {
        self.state
    }

    /// Text to a typed and coerced logical expression, and its alias if any.
    pub(crate) fn logical(&self, text: &Text, scope: &DFSchema) -> Result<Expr, Diagnostic> {
        check_size(text, "the expression", "split it over two operators of type `project`")?;
        let plan = || {
            let expr = self.state.create_logical_expr(&text.value, scope)?;
            refuse_volatile(&expr)?;
            refuse_unlike(&expr, scope)?;
            Ok(expr)
        };
        on_big_stack(plan).map_err(|error| locate::diagnose(&error, text, scope, self.state))
    }

    /// What must be true together for a condition over rows to be true, coerced.
    pub(crate) fn conjuncts(&self, text: &Text, scope: &DFSchema) -> Result<Vec<Expr>, Diagnostic> {
        let expr = self.logical(text, scope)?;
        refuse_aggregate(&expr, text)?;
        let parts = || simplified(expr.clone(), scope).map(split_conjunction_owned);
        on_big_stack(parts).map_err(|error| locate::diagnose(&error, text, scope, self.state))
    }

    /// A logical expression to one that can be evaluated.
    pub(crate) fn physical(
        &self,
        expr: &Expr,
        text: &Text,
        scope: &DFSchema,
    ) -> Result<Arc<CompiledExpression>, Diagnostic> {
        let build = || {
            let expr = simplified(expr.clone(), scope)?;
            let physical = self.state.create_physical_expr(expr, scope)?;
            CompiledExpression::new(physical, Arc::clone(scope.inner()))
        };
        let built = on_big_stack(build);
        built.map(Arc::new).map_err(|error| locate::diagnose(&error, text, scope, self.state))
    }
}

impl Expressions for SqlExpressions {
    fn compile(&self, text: &Text, scope: &Scope) -> Result<Arc<dyn Expression>, Diagnostic> {
        let scope = to_df_schema(scope, text)?;
        let expr = self.logical(text, &scope)?;
        refuse_aggregate(&expr, text)?;
        Ok(self.physical(&expr, text, &scope)?)
    }

    fn compile_select(&self, text: &Text, scope: &Scope) -> Result<Vec<Selected>, Diagnostic> {
        if text.value.trim() == "*" {
            let columns = scope.columns.iter().enumerate();
            return columns.map(|(index, (_, field))| Ok(passed_through(index, field, scope))).collect();
        }
        let df_scope = to_df_schema(scope, text)?;
        let expr = self.logical(text, &df_scope)?;
        refuse_aggregate(&expr, text)?;
        let name = output_name(&expr);
        let compiled = self.physical(&expr.unalias(), text, &df_scope)?;
        let field = Arc::new(Field::new(name, compiled.data_type().clone(), compiled.nullable()));
        Ok(vec![Selected { field, expression: compiled }])
    }
}

fn passed_through(index: usize, field: &Arc<Field>, scope: &Scope) -> Selected {
    let fields: Vec<_> = scope.columns.iter().map(|(_, field)| Arc::clone(field)).collect();
    let column = datafusion::physical_expr::expressions::Column::new(field.name(), index);
    let expression = CompiledExpression {
        physical: Arc::new(column),
        schema: Arc::new(arrow::datatypes::Schema::new(fields)),
        data_type: field.data_type().clone(),
        nullable: field.is_nullable(),
    };
    Selected { field: Arc::clone(field), expression: Arc::new(expression) }
}

/// What a column without `AS` is called: a column keeps its name, anything
/// else is called by its text.
pub(crate) fn output_name(expr: &Expr) -> String {
    if let Expr::Column(column) = expr { column.name.clone() } else { expr.schema_name().to_string() }
}

/// The scope as DataFusion wants it. `k` beside a later `a.k` is the column
/// without a qualifier; otherwise names must be unique.
pub(crate) fn to_df_schema(scope: &Scope, text: &Text) -> Result<DFSchema, Diagnostic> {
    let columns = &scope.columns;
    let twice = columns.iter().enumerate().find(|(index, (qualifier, field))| {
        let mut before = columns.iter().take(*index).filter(|(_, other)| other.name() == field.name());
        before.any(|(other, _)| qualifier.is_none() || qualifier == other)
    });
    if let Some((_, (_, field))) = twice {
        return Err(Diagnostic::error("TG-T009", format!("two columns have one name: `{}`", field.name()))
            .at(text.span.clone())
            .help("give one of them another name with AS"));
    }
    // DataFusion tells `k` from `a.k`, but does not let a schema begin with both.
    let numbered = columns
        .iter()
        .enumerate()
        .map(|(index, (_, field))| (Some(TableReference::bare(index.to_string())), Arc::clone(field)));
    let qualifiers = columns.iter().map(|(qualifier, _)| qualifier.as_deref().map(table_reference));
    DFSchema::new_with_metadata(numbered.collect(), std::collections::HashMap::new())
        .and_then(|schema| schema.with_field_specific_qualified_schema(qualifiers.collect()))
        .map_err(|error| Diagnostic::error("TG-X001", error.strip_backtrace()).at(text.span.clone()))
}

/// A node, or a node's port, as SQL names it.
fn table_reference(qualifier: &str) -> TableReference {
    match qualifier.split_once('.') {
        Some((node, port)) => TableReference::partial(node, port),
        None => TableReference::bare(qualifier),
    }
}

/// Refuses an expression or a query that is empty or too long; `what` it is,
/// and how it could be made shorter.
pub(crate) fn check_size(text: &Text, what: &str, help: &str) -> Result<(), Diagnostic> {
    let too_long = text.value.len() > EXPRESSION_BYTES_MAX;
    if too_long || token_count(&text.value) > EXPRESSION_TOKENS_MAX {
        let message = format!(
            "{what} is too long: at most {EXPRESSION_BYTES_MAX} bytes and {EXPRESSION_TOKENS_MAX} words and operators"
        );
        return Err(Diagnostic::error("TG-X005", message).at(text.span.clone()).help(help));
    }
    if text.value.trim().is_empty() {
        return Err(Diagnostic::error("TG-X001", format!("{what} is empty")).at(text.span.clone()));
    }
    Ok(())
}

fn token_count(text: &str) -> usize {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    let mut count = 0;
    let mut in_word = false;
    for c in text.chars() {
        if c.is_whitespace() {
            in_word = false;
        } else if !word(c) {
            in_word = false;
            count += 1;
        } else if !in_word {
            in_word = true;
            count += 1;
        }
    }
    count
}

/// Planning recurses over the expression; a thread of its own has the stack.
fn on_big_stack<T: Send>(
    work: impl FnOnce() -> datafusion::error::Result<T> + Send,
) -> datafusion::error::Result<T> {
    let failed = |what| datafusion::error::DataFusionError::Internal(format!("planning {what}"));
    on_stack(PLANNING_STACK_BYTES, work).map_err(failed).flatten()
}

/// What the work answers on a thread with so much stack, or what became of it.
pub(crate) fn on_stack<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_panic)) => Err("failed".into()),
            Err(error) => Err(format!("found no thread: {error}")),
        }
    })
}

/// A coerced expression in its simplest form: `coalesce` and others exist in
/// that form only.
pub(crate) fn simplified(expr: Expr, scope: &DFSchema) -> datafusion::error::Result<Expr> {
    let context = SimplifyContext::builder().with_schema(Arc::new(scope.clone())).build();
    let simplifier = ExprSimplifier::new(context);
    simplifier.simplify(simplifier.coerce(expr, scope)?)
}

/// Functions whose value depends on the moment would make a replay differ.
fn refuse_volatile(expr: &Expr) -> datafusion::error::Result<()> {
    let mut found = None;
    expr.apply(|node| {
        if let Expr::ScalarFunction(call) = node
            && call.func.signature().volatility != Volatility::Immutable
        {
            found = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    match found {
        Some(name) => datafusion::common::plan_err!("{} `{name}`", locate::VOLATILE),
        None => Ok(()),
    }
}

fn refuse_aggregate(expr: &Expr, text: &Text) -> Result<(), Diagnostic> {
    let mut found = None;
    let visited = expr.apply(|node| {
        if let Expr::AggregateFunction(call) = node {
            found = Some(call.func.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match (visited, found) {
        (Ok(_), Some(name)) => {
            Err(Diagnostic::error("TG-X007", format!("`{name}` counts over many rows; here there is one"))
                .at(locate::word(text, &name))
                .help("aggregates belong into `select` of an operator of type `window`"))
        }
        (_, _) => Ok(()),
    }
}

/// Indices of the columns that a physical expression reads.
pub(crate) fn columns(physical: &Arc<dyn PhysicalExpr>) -> Vec<usize> {
    let found = datafusion::physical_expr::utils::collect_columns(physical);
    found.iter().map(datafusion::physical_expr::expressions::Column::index).collect()
}

/// An expression bound to the columns of one schema.
#[derive(Debug, Clone)]
pub(crate) struct CompiledExpression {
    physical: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    data_type: DataType,
    nullable: bool,
}

impl CompiledExpression {
    pub(crate) fn new(physical: Arc<dyn PhysicalExpr>, schema: SchemaRef) -> datafusion::error::Result<Self> {
        let data_type = physical.data_type(&schema)?;
        let nullable = physical.nullable(&schema)?;
        Ok(CompiledExpression { physical, schema, data_type, nullable })
    }

    /// The index of the input column, if the expression is just that column.
    pub(crate) fn column(&self) -> Option<usize> {
        let column = self.physical.downcast_ref::<datafusion::physical_expr::expressions::Column>();
        column.map(datafusion::physical_expr::expressions::Column::index)
    }
}

impl Expression for CompiledExpression {
    fn data_type(&self) -> &DataType {
        &self.data_type
    }

    fn nullable(&self) -> bool {
        self.nullable
    }

    fn columns(&self) -> Vec<usize> {
        columns(&self.physical)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, OperatorError> {
        debug_assert_eq!(self.schema.fields().len(), batch.num_columns(), "compiled for another schema");
        let value = self.physical.evaluate(batch).and_then(|value| value.into_array(batch.num_rows()));
        value.map_err(|error| OperatorError::new(error.strip_backtrace()))
    }

    fn input_column(&self) -> Option<usize> {
        self.column()
    }
}
