//! What GROUP BY, DISTINCT ON and its ORDER BY mean by the number or the name of an item
//! of SELECT.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select, Value};
use tidegate_engine::diagnostic::Diagnostic;

use super::place::Places;
use super::refuse;
use super::relation::{Relation, Scope};
use super::select::Selected;

/// What GROUP BY names, with numbers and names of items replaced by what they mean.
pub(super) fn group_expressions(
    select: &Select,
    items: &[Selected],
    relation: &Relation,
    places: &Places,
) -> Result<Vec<Expr>, Diagnostic> {
    let GroupByExpr::Expressions(expressions, _) = &select.group_by else { return Ok(Vec::new()) };
    let scope = Scope::of(relation);
    let mut out = Vec::new();
    for expr in expressions {
        let named = match expr {
            Expr::Value(value) => {
                match item_number(&value.value, expr, items, places)? {
                    Selected::One { expr: item, .. } => Some(item),
                    // Told where `*` stands.
                    Selected::All { .. } => None,
                }
            }
            Expr::Identifier(name) if scope.find(std::slice::from_ref(name)).is_empty() => {
                items.iter().find_map(|item| match item {
                    Selected::One { expr, name: Some(alias) } if alias.value == name.value => Some(expr),
                    _ => None,
                })
            }
            _ => None,
        };
        out.push(named.unwrap_or(expr).clone());
    }
    Ok(out)
}

/// What DISTINCT ON and its ORDER BY mean by the number or the name of an item; a name of
/// SELECT goes before that of a column, as in PostgreSQL.
pub(super) fn named(expr: &Expr, items: &[Selected], places: &Places) -> Result<Expr, Diagnostic> {
    let item = match expr {
        Expr::Value(value) => {
            let item = item_number(&value.value, expr, items, places)?;
            let before = items.iter().take_while(|other| !std::ptr::eq(*other, item));
            let all = |item: &Selected| matches!(item, Selected::All { .. });
            match item {
                Selected::One { expr: item, .. } if !before.clone().any(all) => Some(item),
                Selected::All { .. } | Selected::One { .. } => {
                    let message = "numbers do not count the columns of `*`";
                    return Err(refuse::condition(expr, message, "name the column", places));
                }
            }
        }
        Expr::Identifier(name) => items.iter().find_map(|item| match item {
            Selected::One { expr, name: Some(alias) } if alias.value == name.value => Some(expr),
            Selected::One { .. } | Selected::All { .. } => None,
        }),
        _ => None,
    };
    Ok(item.unwrap_or(expr).clone())
}

/// The item of SELECT that a number means.
fn item_number<'i>(
    value: &Value,
    expr: &Expr,
    items: &'i [Selected],
    places: &Places,
) -> Result<&'i Selected, Diagnostic> {
    let Value::Number(number, _) = value else {
        let message = "a value is the same in every row";
        return Err(refuse::condition(expr, message, "name a column", places));
    };
    let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    index.and_then(|index| items.get(index)).ok_or_else(|| {
        let message = format!("SELECT has no column of the number {number}");
        Diagnostic::error("TG-S004", message).at(places.in_file(places.of(expr)))
    })
}
