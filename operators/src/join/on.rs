//! `on` of a join, compiled: what must be equal is looked up by hash, the rest
//! is a condition on pairs.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::expression::{Expression, Scope};
use tidegate_engine::operator::Input;
use tidegate_engine::schema::type_name;
use tidegate_engine::topology::value::Text;

use std::sync::Arc;

use super::bound::{Both, Side};
use super::layout::Condition;
use crate::expression::{SqlExpressions, is_key_type, to_df_schema};

/// Compiles `on` against the columns of both inputs, each under its name.
pub(super) fn compile(text: &Text, inputs: &Both<&Input>) -> Result<Condition, Diagnostic> {
    let sql = SqlExpressions::new();
    let scope_of = |side| scope(inputs.of(side), Scope::default());
    let both = to_df_schema(&scope(inputs.right, scope_of(Side::Left)), text)?;
    let own = Both {
        left: to_df_schema(&scope_of(Side::Left), text)?,
        right: to_df_schema(&scope_of(Side::Right), text)?,
    };
    let parts = sql.conjuncts(text, &both)?;
    let mut keys = Both { left: Vec::new(), right: Vec::new() };
    let mut rest = Vec::new();
    for part in parts {
        match key_of(&part, &both, &own) {
            Some(pair) => {
                for side in Side::BOTH {
                    let key: Arc<dyn Expression> = sql.physical(pair.of(side), text, own.of(side))?;
                    keys.of_mut(side).push(key);
                }
            }
            None => rest.push(part),
        }
    }
    let rest = conjunction(rest).map(|rest| sql.physical(&rest, text, &both)).transpose()?;
    if let Some(rest) = &rest
        && rest.data_type() != &DataType::Boolean
    {
        let found = type_name(rest.data_type());
        let message = format!("a condition must be true or false, but this is {found}");
        return Err(Diagnostic::error("TG-X003", message)
            .at(text.span_of(0..text.value.len()))
            .label(format!("has type {found}"))
            .help(format!(
                "say what must be equal, e.g. `{0}.k = {1}.k`",
                inputs.left.name, inputs.right.name
            )));
    }
    Ok(Condition { keys, residual: rest.map(|rest| rest as Arc<dyn Expression>) })
}

/// A scope with the columns of an input at its end.
fn scope(input: &Input, before: Scope) -> Scope {
    let fields = input.stream.columns.fields().iter();
    fields.fold(before, |scope, field| scope.with(Some(&input.name), Arc::clone(field)))
}

/// The two sides of `a.k = b.k`, if they can be looked up.
fn key_of(part: &Expr, both: &DFSchema, own: &Both<DFSchema>) -> Option<Both<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part else { return None };
    let width = own.left.fields().len();
    let side = |expr: &Expr| {
        let columns = expr.column_refs();
        let mut sides = columns.iter().map(|column| {
            let index = both.index_of_column(column).ok()?;
            Some(if index < width { Side::Left } else { Side::Right })
        });
        let first = sides.next()??;
        sides.all(|other| other == Some(first)).then_some(first)
    };
    let pair = match (side(left)?, side(right)?) {
        (Side::Left, Side::Right) => Both { left: left.as_ref().clone(), right: right.as_ref().clone() },
        (Side::Right, Side::Left) => Both { left: right.as_ref().clone(), right: left.as_ref().clone() },
        (_, _) => return None,
    };
    let types = (pair.left.get_type(&own.left).ok()?, pair.right.get_type(&own.right).ok()?);
    // Fractions are compared as numbers, not bit by bit.
    (types.0 == types.1 && is_key_type(&types.0)).then_some(pair)
}
