//! UNNEST: a row for each item of a list, in SELECT or in FROM.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, TableAlias,
};
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::value::Text;

use super::nodes::Node;
use super::plan::Planner;
use super::refuse;
use super::relation::{Column, Relation, Role, Scope};
use super::rewrite::{ident, name_of, resolve};
use super::select::Selected;
use super::window::call_place;

impl Planner<'_> {
    /// Items such as `unnest(samples) AS sample` as columns. Lists of one row go
    /// side by side, as in PostgreSQL.
    pub(super) fn unnested(
        &mut self,
        relation: Relation,
        items: Vec<Selected>,
    ) -> Result<(Relation, Vec<Selected>), ConfigError> {
        let (mut lists, mut taken) = (Vec::new(), names(&relation));
        let mut out = Vec::new();
        for item in items {
            match &item {
                Selected::One { expr: Expr::Function(call), name } if name_of(call) == "unnest" => {
                    let place = call_place(call, &self.places);
                    let argument = match &call.args {
                        FunctionArguments::List(list) => match list.args.as_slice() {
                            [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => Some(expr.clone()),
                            _ => None,
                        },
                        _ => None,
                    };
                    let Some(argument) = argument else {
                        return Err(refuse::misplaced_unnest(call, &self.places).into());
                    };
                    let name = name.clone().unwrap_or_else(|| Ident::new("unnest"));
                    let column = Ident { span: name.span, ..fresh(&name, &mut taken) };
                    out.push(Selected::One { expr: Expr::Identifier(column.clone()), name: Some(name) });
                    lists.push((argument, column, place));
                }
                _ => out.push(item),
            }
        }
        let Some((_, _, place)) = lists.first().cloned() else { return Ok((relation, out)) };
        let lists: Vec<_> = lists.into_iter().map(|(expr, name, _)| (expr, name)).collect();
        Ok((self.flattened(&relation, &lists, &place)?.0, out))
    }

    /// `FROM …, UNNEST(list) AS alias (column)`.
    pub(super) fn unnest_from(
        &mut self,
        relation: &Relation,
        lists: &[Expr],
        alias: Option<&TableAlias>,
        place: &Range<usize>,
    ) -> Result<Relation, ConfigError> {
        let [list] = lists else {
            let message = "UNNEST takes one list here";
            return Err(refuse::refused(place.clone(), message, "write UNNEST for each", &self.places).into());
        };
        let table = alias.map_or_else(|| Ident::new("unnest"), |alias| alias.name.clone());
        let column = alias
            .and_then(|alias| alias.columns.first())
            .map_or_else(|| table.clone(), |column| column.name.clone());
        let inner = fresh(&column, &mut names(relation));
        let (mut flat, width) = self.flattened(relation, &[(list.clone(), inner.clone())], place)?;
        let prefix = format!("{}_", inner.value);
        for added in flat.columns.iter_mut().skip(width) {
            added.qualifier = Some(table.value.clone());
            // A field of a struct.
            if let Some(field) = added.name.strip_prefix(&prefix) {
                added.name = field.to_owned();
            } else if added.name == inner.value {
                added.name.clone_from(&column.value);
            }
        }
        Ok(flat)
    }

    /// The rows with each list's items under its name, which no column has yet; and how
    /// many columns of before there are.
    fn flattened(
        &mut self,
        relation: &Relation,
        lists: &[(Expr, Ident)],
        place: &Range<usize>,
    ) -> Result<(Relation, usize), ConfigError> {
        let span = self.places.in_file(place.clone());
        let mut select = vec![Text { span: span.clone(), ..Text::loose("*") }];
        for (expr, name) in lists {
            let expr = resolve(expr, &Scope::of(relation), &self.places)?;
            select.push(self.places.text_as(&expr, name));
        }
        let node = Node::new("project", span.clone()).texts("select", select);
        let listed = self.nodes.add(&self.places, node, &[relation])?;
        let names = lists.iter().map(|(expr, name)| Text {
            span: self.places.in_file(self.places.of(expr)),
            ..Text::loose(name.value.clone())
        });
        let names: Vec<Text> = names.collect();
        let node = Node::new("flatten", span).texts("columns", names).word("empty", "drop");
        let flat = self.nodes.add(&self.places, node, &[&listed])?;
        Ok(after(relation, flat, lists))
    }
}

/// The columns there were, where they are now, and those of the items.
fn after(before: &Relation, flat: Relation, lists: &[(Expr, Ident)]) -> (Relation, usize) {
    let fields = flat.stream.columns.fields();
    let place_of = |name: &str| fields.iter().position(|field| field.name() == name);
    let is_item = |name: &str| {
        lists.iter().any(|(_, list)| name == list.value || name.starts_with(&format!("{}_", list.value)))
    };
    let mut columns: Vec<Column> = Vec::new();
    for column in &before.columns {
        if let Some(field) = place_of(before.field(column)) {
            columns.push(Column { field, ..column.clone() });
        }
    }
    let width = columns.len();
    let known: Vec<usize> = columns.iter().map(|column| column.field).collect();
    for (field, added) in fields.iter().enumerate() {
        if !known.contains(&field) && is_item(added.name()) {
            let name = added.name().clone();
            columns.push(Column { qualifier: None, name, bare: true, field, role: Role::Plain });
        }
    }
    (Relation { columns, windowed: before.windowed, ..flat }, width)
}

fn names(relation: &Relation) -> Vec<String> {
    relation.stream.columns.fields().iter().map(|field| field.name().clone()).collect()
}

/// A name for the items of a list, and for their fields, that no column has: the list
/// itself may be called as they are.
fn fresh(name: &Ident, taken: &mut Vec<String>) -> Ident {
    let mut free = name.value.clone();
    while taken
        .iter()
        .any(|known| known.strip_prefix(&free).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
    {
        free.push_str("_item");
    }
    taken.push(free.clone());
    if free == name.value { name.clone() } else { Ident { span: name.span, ..ident(&free) } }
}
