//! `select` of a window: aggregates over rows, and expressions over those
//! aggregates, e.g. `max(x) - min(x) AS span`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Accumulator, Expr, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::expression::{Expression, Scope, Selected};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::topology::value::Text;

use super::compile::{SqlExpressions, output_name, simplified, to_df_schema};
use super::locate;
use super::over_time::takes_time;

/// One aggregate function with its arguments, over the input's columns.
#[derive(Clone, Debug)]
pub(crate) struct AggregateColumn {
    function: Arc<AggregateFunctionExpr>,
    /// What the function is fed.
    pub(crate) arguments: Vec<Arc<dyn PhysicalExpr>>,
    /// Their types.
    pub(crate) argument_types: Vec<DataType>,
    /// `FILTER (WHERE …)`.
    pub(crate) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Set if it is a function of one argument, neither distinct nor ordered.
    pub(crate) plain: Option<Plain>,
}

/// A function of one argument.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) name: String,
    pub(crate) argument: DataType,
    pub(crate) result: DataType,
}

impl AggregateColumn {
    /// An accumulator without rows.
    pub(crate) fn accumulator(&self) -> datafusion::error::Result<Box<dyn GroupsAccumulator>> {
        if self.function.groups_accumulator_supported() {
            return self.function.create_groups_accumulator();
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }

    /// An accumulator for one group.
    pub(crate) fn single(&self) -> datafusion::error::Result<Box<dyn Accumulator>> {
        self.function.create_accumulator()
    }

    /// Type of its result.
    pub(crate) fn result_field(&self) -> FieldRef {
        self.function.field()
    }

    /// Columns of its intermediate state, for snapshots.
    pub(crate) fn state_fields(&self) -> datafusion::error::Result<Vec<FieldRef>> {
        self.function.state_fields()
    }
}

/// A compiled `select` over aggregates.
#[derive(Clone, Debug)]
pub(crate) struct AggregateSelect {
    /// The distinct aggregates, in order of first use.
    pub(crate) aggregates: Vec<AggregateColumn>,
    /// Output columns over (keys…, aggregates…).
    pub(crate) columns: Vec<Selected>,
}

/// Compiles a window's `select` for an input and its key columns.
pub(crate) fn compile_aggregates(
    sql: &SqlExpressions,
    select: &[&Text],
    input: &StreamSchema,
    keys: &[FieldRef],
) -> Result<AggregateSelect, Vec<Diagnostic>> {
    let time =
        input.time.and_then(|index| input.columns.fields().get(index)).map(|field| field.name().as_str());
    let mut compiler =
        Compiler { sql, input: &input.columns, time, found: Vec::new(), aggregates: Vec::new() };
    let mut diagnostics = Vec::new();
    let mut items = Vec::new();
    for text in select {
        match compiler.item(text) {
            Ok((name, expr)) => items.push((*text, name, expr)),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    let mut result = Scope { columns: keys.iter().map(|key| (None, Arc::clone(key))).collect() };
    for (index, aggregate) in compiler.aggregates.iter().enumerate() {
        let field = aggregate.function.field();
        let field = Field::new(placeholder(index), field.data_type().clone(), field.is_nullable());
        result.columns.push((None, Arc::new(field)));
    }
    let mut columns = Vec::new();
    for (text, name, expr) in items {
        let column =
            to_df_schema(&result, text).and_then(|scope| over_result(sql, text, name, &expr, &scope, keys));
        match column {
            Ok(column) => columns.push(column),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    if diagnostics.is_empty() {
        Ok(AggregateSelect { aggregates: compiler.aggregates, columns })
    } else {
        Err(diagnostics)
    }
}

fn placeholder(index: usize) -> String {
    format!("aggregate {index}")
}

fn over_result(
    sql: &SqlExpressions,
    text: &Text,
    name: String,
    expr: &Expr,
    scope: &DFSchema,
    keys: &[FieldRef],
) -> Result<Selected, Diagnostic> {
    for column in expr.column_refs() {
        if scope.field_with_unqualified_name(&column.name).is_err() {
            let keys: Vec<&str> = keys.iter().map(|key| key.name().as_str()).collect();
            let message = format!("`{}` is neither a key of the window nor inside an aggregate", column.name);
            return Err(Diagnostic::error("TG-X007", message)
                .at(locate::word(text, &column.name))
                .help(format!("the keys are [{}]; or write e.g. max({})", keys.join(", "), column.name)));
        }
    }
    let compiled = sql.physical(expr, text, scope)?;
    let field = Field::new(name, compiled.data_type().clone(), compiled.nullable());
    Ok(Selected { field: Arc::new(field), expression: compiled })
}

struct Compiler<'a> {
    sql: &'a SqlExpressions,
    input: &'a SchemaRef,
    /// The column of event time.
    time: Option<&'a str>,
    found: Vec<Expr>,
    aggregates: Vec<AggregateColumn>,
}

impl Compiler<'_> {
    /// The output's name, and its expression with each aggregate replaced by
    /// a column.
    fn item(&mut self, text: &Text) -> Result<(String, Expr), Diagnostic> {
        let scope = to_df_schema(&Scope::of(self.input), text)?;
        let expr = self.sql.logical(text, &scope)?;
        let name = output_name(&expr);
        let failed = |error| locate::diagnose(&error, text, &scope, self.sql.state());
        let simple = simplified(expr.unalias(), &scope).map_err(failed)?;
        let replaced = simple.transform_down(|node| {
            if !matches!(node, Expr::AggregateFunction(_)) {
                return Ok(Transformed::no(node));
            }
            let index = self.aggregate(node, &scope)?;
            let column = Expr::Column(Column::new_unqualified(placeholder(index)));
            Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
        });
        let replaced = replaced.map_err(|error| locate::diagnose(&error, text, &scope, self.sql.state()))?;
        Ok((name, replaced.data))
    }

    /// Functions over time are given the event time where the file names none.
    fn with_time(&self, mut node: Expr) -> Expr {
        if let (Expr::AggregateFunction(function), Some(time)) = (&mut node, self.time)
            && takes_time(function.func.name())
            && function.params.args.len() == 1
        {
            function.params.args.push(Expr::Column(Column::new_unqualified(time)));
        }
        node
    }

    fn aggregate(&mut self, node: Expr, scope: &DFSchema) -> datafusion::error::Result<usize> {
        let node = self.with_time(node);
        if let Some(index) = self.found.iter().position(|known| *known == node) {
            return Ok(index);
        }
        let properties = self.sql.state().execution_props();
        let planning = PhysicalPlanningContext::default();
        let lowered =
            LoweredAggregateBuilder::new(&node, scope, self.input, properties, &planning).build()?;
        let mut arguments = lowered.aggregate.expressions();
        // Ordered aggregates need their order columns beside the arguments.
        arguments.extend(lowered.order_bys.into_iter().map(|sort| sort.expr));
        let function = lowered.aggregate;
        let plain = match arguments.as_slice() {
            [argument] if !function.is_distinct() && function.order_bys().is_empty() => Some(Plain {
                name: function.fun().name().to_owned(),
                argument: argument.data_type(self.input)?,
                result: function.field().data_type().clone(),
            }),
            _ => None,
        };
        let types: datafusion::error::Result<Vec<DataType>> =
            arguments.iter().map(|argument| argument.data_type(self.input)).collect();
        let (argument_types, filter) = (types?, lowered.filter);
        let column = AggregateColumn { function, arguments, argument_types, filter, plain };
        column.accumulator()?;
        self.aggregates.push(column);
        self.found.push(node);
        Ok(self.aggregates.len() - 1)
    }
}

/// Types a window can group by: those with a stable equality.
pub(crate) fn is_key_type(data_type: &DataType) -> bool {
    !data_type.is_nested() && !data_type.is_floating()
}
