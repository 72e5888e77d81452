//! One SELECT: rows come together, are chosen, grouped, ranked, and leave as
//! columns.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Ident, OrderBy, Select, SelectItem, SelectItemQualifiedWildcardKind,
};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;

use super::group::{Grouping, is_grouped};
use super::item::group_expressions;
use super::names::node_name;
use super::nodes::Node;
use super::place::{Places, parts};
use super::plan::{Made, Planner};
use super::project::Item;
use super::rank::{self, Limits, Rank};
use super::refuse;
use super::relation::{Column, Relation, Scope};
use super::rewrite::{resolve, walk};

/// An item of SELECT.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a SELECT has few items, and most are expressions")]
pub(super) enum Selected {
    /// `*` or `a.*`
    All {
        qualifier: Option<String>,
        place: Range<usize>,
    },
    One {
        expr: Expr,
        name: Option<Ident>,
    },
}

/// In whose words expressions are put: those of the rows, or of their groups.
pub(super) enum Words<'r> {
    Rows(&'r Relation),
    Groups(Grouping<'r>),
}

impl Words<'_> {
    pub(super) fn rewrite(&mut self, expr: &Expr, places: &Places) -> Result<Expr, Diagnostic> {
        match self {
            Words::Rows(relation) => resolve(expr, &Scope::of(relation), places),
            Words::Groups(grouping) => grouping.rewrite(expr, places),
        }
    }

    /// How many columns an item becomes.
    pub(super) fn width(&self, item: &Selected) -> usize {
        match (item, self) {
            (Selected::All { qualifier, .. }, Words::Rows(relation)) => {
                all_columns(relation, qualifier.as_deref()).count()
            }
            (Selected::All { .. } | Selected::One { .. }, _) => 1,
        }
    }
}

impl Planner<'_> {
    pub(super) fn select<'q>(
        &mut self,
        select: &'q Select,
        order: Option<&'q OrderBy>,
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Result<Relation, ConfigError> {
        refuse::select(select, &self.places)?;
        let distinct_on = match &select.distinct {
            Some(Distinct::On(columns)) => Some(columns.as_slice()),
            _ => None,
        };
        if distinct_on.is_none() {
            refuse::order(order, &self.places)?;
        }
        let mut conditions = conjuncts(select.selection.as_ref());
        let relation = self.from(select, &mut conditions, made)?;
        let relation = self.chosen(relation, &conditions)?;
        let items = self.items(select)?;
        let (relation, items) = self.unnested(relation, items)?;
        let mut words = if is_grouped(select, &items) {
            let keys = group_expressions(select, &items, &relation, &self.places)?;
            Words::Groups(self.grouping(&relation, keys, select, &items)?)
        } else {
            Words::Rows(&relation)
        };
        let mut rank = rank::of_items(&items, &mut words, limits, &self.places)?;
        if let Some(columns) = distinct_on {
            rank = Some(rank::of_distinct(columns, order, &mut words, &items, select, &self.places)?);
        }
        let items = self.rewritten(&items, &mut words, rank.as_ref())?;
        let place = self.places.of_span(select.select_token.0.span);
        let having = select.having.iter();
        let having: Vec<Expr> =
            having.map(|expr| words.rewrite(expr, &self.places)).collect::<Result<_, _>>()?;
        let relation = match words {
            Words::Rows(_) => relation,
            Words::Groups(grouping) => self.grouped(grouping)?,
        };
        let relation = self.filter(relation, having)?;
        let relation = match rank {
            Some(rank) => self.ranked(&relation, rank)?,
            None => relation,
        };
        self.project(relation, &items, place)
    }

    fn items(&self, select: &Select) -> Result<Vec<Selected>, Diagnostic> {
        let mut items = Vec::new();
        for item in &select.projection {
            items.push(match item {
                SelectItem::UnnamedExpr(expr) => Selected::One { expr: expr.clone(), name: None },
                SelectItem::ExprWithAlias { expr, alias } => {
                    Selected::One { expr: expr.clone(), name: Some(alias.clone()) }
                }
                SelectItem::Wildcard(options) => {
                    let place = self.places.of_span(options.wildcard_token.0.span);
                    self.check_options(options, &place)?;
                    Selected::All { qualifier: None, place }
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                    let mut names = parts(name);
                    let place =
                        names.next().map_or_else(|| self.places.of(item), |name| self.places.of_name(name));
                    self.check_options(options, &place)?;
                    Selected::All { qualifier: Some(node_name(name)), place }
                }
                SelectItem::QualifiedWildcard(..) | SelectItem::ExprWithAliases { .. } => {
                    return Err(refuse::table(self.places.of(item), &self.places));
                }
            });
        }
        if items.is_empty() {
            let place = self.places.of_span(select.select_token.0.span);
            return Err(Diagnostic::error("TG-S001", "SELECT names no column").at(self.places.in_file(place)));
        }
        Ok(items)
    }

    fn check_options(
        &self,
        options: &datafusion::sql::sqlparser::ast::WildcardAdditionalOptions,
        place: &Range<usize>,
    ) -> Result<(), Diagnostic> {
        let plain = options.opt_ilike.is_none()
            && options.opt_exclude.is_none()
            && options.opt_except.is_none()
            && options.opt_replace.is_none()
            && options.opt_rename.is_none()
            && options.opt_alias.is_none();
        if plain {
            return Ok(());
        }
        let message = "`*` stands for all columns and takes no further words here";
        Err(refuse::refused(place.clone(), message, "name the columns", &self.places))
    }

    /// Rows for which the conditions of WHERE are true.
    fn chosen(&mut self, relation: Relation, conditions: &[Expr]) -> Result<Relation, ConfigError> {
        let scope = Scope::of(&relation);
        let conditions = conditions.iter().map(|expr| resolve(expr, &scope, &self.places));
        let conditions = conditions.collect::<Result<_, _>>()?;
        self.filter(relation, conditions)
    }

    /// Rows for which these conditions over the stream's columns are true.
    pub(super) fn filter(
        &mut self,
        relation: Relation,
        conditions: Vec<Expr>,
    ) -> Result<Relation, ConfigError> {
        let Some(condition) = all_of(conditions) else { return Ok(relation) };
        let text = self.places.text_of(&condition);
        let node = Node::new("filter", text.span.clone()).text("where", text);
        let filtered = self.nodes.add(&self.places, node, &[&relation])?;
        Ok(relation.onto(filtered))
    }

    /// The columns that leave, in the words of the last node before.
    fn rewritten(
        &mut self,
        items: &[Selected],
        words: &mut Words<'_>,
        rank: Option<&Rank>,
    ) -> Result<Vec<Item>, Diagnostic> {
        let mut out = Vec::new();
        for item in items {
            match item {
                Selected::All { qualifier, place } => {
                    let Words::Rows(relation) = words else {
                        let message = "`*` stands for columns of rows, and here they are grouped";
                        let help = "name the keys and the aggregates";
                        return Err(refuse::refused(place.clone(), message, help, &self.places));
                    };
                    self.expand(relation, qualifier.as_deref(), place, &mut out)?;
                }
                Selected::One { expr, name } if rank::is_row_number(expr) => {
                    let name = name.clone().or_else(|| rank.map(|_| Ident::new("rank")));
                    out.push(Item { expr: Expr::Identifier(Ident::new(rank::COLUMN)), name });
                }
                Selected::One { expr, name } => {
                    let rewritten = words.rewrite(expr, &self.places)?;
                    out.push(Item {
                        name: name.clone().or_else(|| own_name(expr, &rewritten)),
                        expr: rewritten,
                    });
                }
            }
        }
        Ok(out)
    }

    fn expand(
        &self,
        relation: &Relation,
        qualifier: Option<&str>,
        place: &Range<usize>,
        out: &mut Vec<Item>,
    ) -> Result<(), Diagnostic> {
        let before = out.len();
        for column in all_columns(relation, qualifier) {
            // A name that two sides of a join have gets that of its side before it.
            let mut same = relation.columns.iter().filter(|other| other.bare && other.name == column.name);
            let is_twice = qualifier.is_none() && same.nth(1).is_some();
            out.push(match (&column.qualifier, is_twice) {
                (Some(side), true) => {
                    Item::renamed(relation, column, &format!("{}_{}", side.replace('.', "_"), column.name))
                }
                (_, _) => Item::of(relation, column),
            });
        }
        if out.len() == before {
            let message = format!("there is no `{}` in FROM", qualifier.unwrap_or("*"));
            return Err(Diagnostic::error("TG-X002", message).at(self.places.in_file(place.clone())));
        }
        Ok(())
    }
}

/// The columns of `*` or `a.*`.
fn all_columns<'a>(relation: &'a Relation, qualifier: Option<&str>) -> impl Iterator<Item = &'a Column> {
    relation.columns.iter().filter(move |column| match qualifier {
        Some(_) => column.qualifier.as_deref() == qualifier,
        None => column.bare,
    })
}

/// What a column without AS is called.
fn own_name(written: &Expr, rewritten: &Expr) -> Option<Ident> {
    match (written, rewritten) {
        (Expr::Identifier(name), _) => Some(name.clone()),
        (Expr::CompoundIdentifier(names), _) => names.last().cloned(),
        (Expr::Nested(inner), _) => own_name(inner, rewritten),
        (_, Expr::Identifier(name)) => {
            Some(Ident { span: datafusion::sql::sqlparser::tokenizer::Span::empty(), ..name.clone() })
        }
        (_, _) => None,
    }
}

/// What must be true together.
pub(super) fn conjuncts(condition: Option<&Expr>) -> Vec<Expr> {
    let mut found = Vec::new();
    let mut left: Vec<&Expr> = condition.into_iter().collect();
    while let Some(expr) = left.pop() {
        match expr {
            Expr::BinaryOp { left: first, op: BinaryOperator::And, right } => {
                left.push(right);
                left.push(first);
            }
            Expr::Nested(inner)
                if matches!(inner.as_ref(), Expr::BinaryOp { op: BinaryOperator::And, .. }) =>
            {
                left.push(inner);
            }
            other => found.push(other.clone()),
        }
    }
    found
}

fn has_distinct_from(expr: &Expr) -> bool {
    let mut found = false;
    walk(expr, |expr| found |= matches!(expr, Expr::IsDistinctFrom(..) | Expr::IsNotDistinctFrom(..)));
    found
}

/// One condition of several.
pub(super) fn all_of(conditions: Vec<Expr>) -> Option<Expr> {
    // Read again, IS DISTINCT FROM would take what is behind it.
    let is_weaker = |expr: &Expr| {
        matches!(expr, Expr::BinaryOp { op: BinaryOperator::Or | BinaryOperator::Xor, .. })
            || has_distinct_from(expr)
    };
    let single = conditions.len() == 1;
    let enclosed = conditions
        .into_iter()
        .map(|expr| if is_weaker(&expr) && !single { Expr::Nested(Box::new(expr)) } else { expr });
    enclosed.reduce(|left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: BinaryOperator::And,
        right: Box::new(right),
    })
}
