//! The columns that leave: SELECT's items in the words of the node before.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{Expr, Ident};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::value::Text;

use super::interval::written;
use super::nodes::Node;
use super::plan::Planner;
use super::relation::{Column, Relation, Role};
use super::rewrite::ident;

/// One column that leaves.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Over the columns of the stream.
    pub(super) expr: Expr,
    /// Its name; left to the planner of expressions where the query gives none.
    pub(super) name: Option<Ident>,
}

impl Item {
    /// A column as it is.
    pub(super) fn of(relation: &Relation, column: &Column) -> Item {
        Item::renamed(relation, column, &column.name)
    }

    pub(super) fn renamed(relation: &Relation, column: &Column, name: &str) -> Item {
        Item { expr: Expr::Identifier(ident(relation.field(column))), name: Some(ident(name)) }
    }
}

impl Planner<'_> {
    /// A node that computes these columns; none where they are there already.
    pub(super) fn project(
        &mut self,
        relation: Relation,
        items: &[Item],
        place: Range<usize>,
    ) -> Result<Relation, ConfigError> {
        let outside = relation.stream.outside_of_image();
        let fields = relation.stream.columns.fields().iter().enumerate();
        let fields = fields.filter(|(field, _)| !outside.contains(field)).map(|(_, field)| field);
        let same = |(item, field): (&Item, &std::sync::Arc<arrow::datatypes::Field>)| {
            matches!(&item.expr, Expr::Identifier(name) if name.value == *field.name())
                && item.name.as_ref().is_none_or(|name| name.value == *field.name())
        };
        let is_all = items.len() == fields.clone().count() && items.iter().zip(fields).all(same);
        if is_all && self.nodes.ends_with(&relation) {
            return Ok(Relation { columns: columns(&relation, items, &relation), ..relation });
        }
        let mut node = Node::new("project", self.places.in_file(place.clone()));
        let texts = if is_all {
            vec![Text { span: self.places.in_file(place), ..Text::loose("*") }]
        } else {
            self.check_names(items)?;
            items.iter().map(|item| self.item_text(item)).collect()
        };
        node = node.texts("select", texts);
        if let Some((name, shift_us)) = time_kept(&relation, items) {
            node = node.table("time", &[("column", name), ("shift", written(shift_us))]);
        }
        let projected = self.nodes.add(&self.places, node, &[&relation])?;
        let columns = columns(&relation, items, &projected);
        Ok(Relation { columns, windowed: relation.windowed, ..projected })
    }

    fn item_text(&mut self, item: &Item) -> Text {
        match &item.name {
            Some(name) => self.places.text_as(&item.expr, name),
            None => self.places.text_of(&item.expr),
        }
    }

    /// Two columns of one name are told at the second one.
    fn check_names(&self, items: &[Item]) -> Result<(), Diagnostic> {
        for (index, item) in items.iter().enumerate() {
            let Some(name) = &item.name else { continue };
            let mut before = items.iter().take(index).filter_map(|item| item.name.as_ref());
            if before.any(|other| other.value == name.value) {
                let message = format!("two columns are called `{}`", name.value);
                let written = self.places.byte(name.span.start).is_some();
                let place = if written { self.places.of_name(name) } else { self.places.of(&item.expr) };
                let diagnostic = Diagnostic::error("TG-T009", message).at(self.places.in_file(place));
                return Err(diagnostic.help("give one of them another name with AS"));
            }
        }
        Ok(())
    }
}

/// The columns that leave, with the roles they had.
fn columns(before: &Relation, items: &[Item], after: &Relation) -> Vec<Column> {
    let fields = after.stream.columns.fields().iter().enumerate();
    let columns = fields.zip(items).map(|((field, column), item)| Column {
        qualifier: None,
        name: column.name().clone(),
        bare: true,
        field,
        role: column_of(before, item).map_or(Role::Plain, |column| column.role),
    });
    columns.collect()
}

fn column_of<'a>(relation: &'a Relation, item: &Item) -> Option<&'a Column> {
    let Expr::Identifier(name) = &item.expr else { return None };
    relation.columns.iter().find(|column| relation.field(column) == name.value)
}

/// Event time of a window's result is its last instant. Where only its start
/// leaves, that follows from it as well.
fn time_kept(relation: &Relation, items: &[Item]) -> Option<(String, i64)> {
    let windowed = relation.windowed?;
    let is_time = |item: &Item| column_of(relation, item).is_some_and(|column| relation.is_time(column));
    // Event time is never NULL.
    let is_there = |column: &Column| {
        relation.stream.columns.fields().get(column.field).is_some_and(|field| !field.is_nullable())
    };
    let is_start = |item: &&Item| {
        column_of(relation, item).is_some_and(|column| column.role == Role::Start && is_there(column))
    };
    if relation.time().is_none() || items.iter().any(is_time) {
        return None;
    }
    let start = items.iter().find(is_start)?;
    let name = match (&start.name, &start.expr) {
        (Some(name), _) | (None, Expr::Identifier(name)) => name.value.clone(),
        (None, _) => return None,
    };
    Some((name, windowed.size_us - 1))
}
