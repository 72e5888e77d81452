//! Comparisons and sums of things that are not alike. SQL would cast text to a
//! number row by row and fail on each; here it is a mistake in the file.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};
use tidegate_engine::schema::type_name;

/// Refuses what would fail on every row, though its types can be cast.
pub(super) fn refuse_unlike(expr: &Expr, scope: &DFSchema) -> Result<()> {
    expr.apply(|node| {
        #[allow(clippy::wildcard_enum_match_arm, reason = "DataFusion's list of expressions is open")]
        match node {
            Expr::BinaryExpr(binary) => {
                if is_comparison(binary.op) || is_arithmetic(binary.op) {
                    check(&binary.left, &binary.right, scope)?;
                }
                if matches!(binary.op, Operator::Divide | Operator::Modulo) && is_zero(&binary.right) {
                    return plan_err!("a whole number is divided by zero");
                }
            }
            Expr::Between(between) => {
                check(&between.expr, &between.low, scope)?;
                check(&between.expr, &between.high, scope)?;
            }
            Expr::InList(list) => list.list.iter().try_for_each(|item| check(&list.expr, item, scope))?,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn is_comparison(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    )
}

fn is_arithmetic(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo
    )
}

fn check(left: &Expr, right: &Expr, scope: &DFSchema) -> Result<()> {
    let (left_type, right_type) = (left.get_type(scope)?, right.get_type(scope)?);
    for (text, text_type, other, other_type) in
        [(left, &left_type, right, &right_type), (right, &right_type, left, &left_type)]
    {
        if !text_type.is_string() || !is_no_text(other_type) {
            continue;
        }
        if let Expr::Literal(value, _) = text {
            // Written as text, such as a time: it must be one.
            if value.cast_to(other_type).is_err() {
                return plan_err!("{value:?} is no {}", type_name(other_type));
            }
        } else {
            let (text, other) = (text.schema_name(), other.schema_name());
            return plan_err!("`{text}` is string and `{other}` is {}", type_name(other_type));
        }
    }
    Ok(())
}

fn is_no_text(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type.is_temporal() || *data_type == DataType::Boolean
}

/// Whether it is the whole number 0; a fraction divided by 0.0 is infinite.
fn is_zero(expr: &Expr) -> bool {
    let Expr::Literal(value, _) = expr else { return false };
    let whole = value.data_type().is_integer();
    whole && !value.is_null() && ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| zero == *value)
}
