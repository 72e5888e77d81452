//! The best rows of each window, or so far: `ROW_NUMBER() OVER (…) <= n` and
//! `DISTINCT ON`.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, Ident, OrderBy, OrderByExpr, OrderByKind, Select, TableAlias, Value,
    WindowType,
};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::value::Text;

use super::interval::written;
use super::item::named;
use super::nodes::Node;
use super::place::Places;
use super::plan::Planner;
use super::project::Item;
use super::refuse;
use super::relation::{Relation, Role, Scope, Windowed};
use super::rewrite::{name_of, one};
use super::select::{Selected, Words};
use super::{updating, window};

/// What the operator `top` calls the number of a row.
pub(super) const COLUMN: &str = "rank";

/// Conditions of WHERE that say how many rows are wanted: `n <= 10`.
#[derive(Default)]
pub(super) struct Limits {
    found: Vec<Limit>,
    /// The table of FROM that is being planned.
    reading: Option<String>,
    /// What it calls its columns, where it gives them other names.
    columns: Option<Vec<String>>,
}

struct Limit {
    names: Vec<String>,
    rows: i64,
    condition: usize,
    is_used: bool,
}

impl Limits {
    pub(super) fn of(conditions: &[Expr]) -> Limits {
        let found = conditions.iter().enumerate().filter_map(|(condition, expr)| {
            let (names, rows) = limit(expr)?;
            Some(Limit { names, rows, condition, is_used: false })
        });
        Limits { found: found.collect(), ..Limits::default() }
    }

    /// Begins with a table of FROM that is called so.
    pub(super) fn read(&mut self, name: Option<&str>, alias: Option<&TableAlias>) {
        self.reading = name.map(str::to_owned);
        self.columns = None;
        self.name_columns(alias);
    }

    /// `AS name (column, …)`; names from further outside stay.
    pub(super) fn name_columns(&mut self, alias: Option<&TableAlias>) {
        let names = alias.map(|alias| alias.columns.as_slice()).unwrap_or_default();
        if self.columns.is_none() && !names.is_empty() {
            self.columns = Some(names.iter().map(|column| column.name.value.clone()).collect());
        }
    }

    /// How many rows are wanted of a rank of this name, in this place of SELECT.
    fn take(&mut self, name: &str, place: usize) -> Option<i64> {
        let reading = self.reading.clone();
        let renamed = self.columns.as_ref().map(|columns| columns.get(place).cloned());
        let outer = renamed.unwrap_or_else(|| Some(name.to_owned()))?;
        let name = outer.as_str();
        let is_meant = |limit: &Limit| match limit.names.as_slice() {
            [only] => only == name,
            [table, column] => column == name && reading.as_deref() == Some(table.as_str()),
            _ => false,
        };
        let limit = self.found.iter_mut().find(|limit| !limit.is_used && is_meant(limit))?;
        limit.is_used = true;
        Some(limit.rows)
    }

    pub(super) fn is_used(&self) -> bool {
        self.found.iter().any(|limit| limit.is_used)
    }

    /// The conditions that are left.
    pub(super) fn rest(&self, conditions: Vec<Expr>) -> Vec<Expr> {
        let is_used = |at: &usize| self.found.iter().any(|limit| limit.is_used && limit.condition == *at);
        conditions.into_iter().enumerate().filter(|(at, _)| !is_used(at)).map(|(_, expr)| expr).collect()
    }
}

fn limit(expr: &Expr) -> Option<(Vec<String>, i64)> {
    let Expr::BinaryOp { left, op, right } = expr else { return None };
    let (name, number, op) = match (left.as_ref(), right.as_ref()) {
        (name, Expr::Value(number)) => (name, number, op.clone()),
        (Expr::Value(number), name) => {
            let turned = match op {
                BinaryOperator::Gt => BinaryOperator::Lt,
                BinaryOperator::GtEq => BinaryOperator::LtEq,
                BinaryOperator::Eq => BinaryOperator::Eq,
                _ => return None,
            };
            (name, number, turned)
        }
        _ => return None,
    };
    let Value::Number(number, _) = &number.value else { return None };
    let number: i64 = number.parse().ok()?;
    let rows = match op {
        BinaryOperator::LtEq => number,
        BinaryOperator::Lt => number.checked_sub(1)?,
        BinaryOperator::Eq if number == 1 => 1,
        _ => return None,
    };
    let names = match name {
        Expr::Identifier(name) => vec![name.value.clone()],
        Expr::CompoundIdentifier(names) => names.iter().map(|name| name.value.clone()).collect(),
        _ => return None,
    };
    Some((names, rows))
}

/// Which rows of each window go on.
pub(super) struct Rank {
    place: Range<usize>,
    /// Over the columns of the stream.
    keys: Vec<Expr>,
    /// None for all rows so far.
    windows: Option<Which>,
    by: Option<Expr>,
    order: Order,
    rows: i64,
    /// Whether the rows alone are asked for, without numbers.
    is_distinct: bool,
}

/// The columns that rows are chosen by, and the word that asks for it.
pub(super) struct Chosen {
    pub(super) place: Range<usize>,
    keys: Vec<(Expr, String)>,
}

impl Chosen {
    /// The names of the columns, each at its place.
    pub(super) fn names(&self, places: &Places) -> Vec<Text> {
        let texts = self
            .keys
            .iter()
            .map(|(key, name)| Text { span: places.in_file(places.of(key)), ..Text::loose(name.clone()) });
        texts.collect()
    }
}

/// How values are compared.
#[derive(Clone, Copy, Default)]
struct Order {
    is_descending: bool,
    /// Where rows without a value are.
    nulls_first: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    /// Those that rows are results of.
    OfRows,
    Of(Windowed),
}

pub(super) fn is_row_number(expr: &Expr) -> bool {
    row_number(expr).is_some()
}

fn row_number(expr: &Expr) -> Option<&Function> {
    match expr {
        Expr::Function(call) if call.over.is_some() && name_of(call) == "row_number" => Some(call),
        Expr::Nested(inner) => row_number(inner),
        _ => None,
    }
}

/// The rank that SELECT asks for.
pub(super) fn of_items(
    items: &[Selected],
    words: &mut Words<'_>,
    limits: &mut Limits,
    places: &Places,
) -> Result<Option<Rank>, Diagnostic> {
    let mut width = 0;
    let ranks = items.iter().filter_map(|item| {
        let before = width;
        width += words.width(item);
        match item {
            Selected::One { expr, name } => Some((row_number(expr)?, name, before)),
            Selected::All { .. } => None,
        }
    });
    let ranks: Vec<_> = ranks.collect();
    let mut ranks = ranks.into_iter();
    let Some((call, name, before)) = ranks.next() else { return Ok(None) };
    let place = window::call_place(call, places);
    if let Some((second, ..)) = ranks.next() {
        let message = "a SELECT has one ROW_NUMBER";
        return Err(refuse::refused(window::call_place(second, places), message, "nest two SELECTs", places));
    }
    let name = name.as_ref().map_or(COLUMN, |name| name.value.as_str());
    let (Some(rows), Some(WindowType::WindowSpec(spec))) = (limits.take(name, before), &call.over) else {
        return Err(refuse::over(call, places));
    };
    if spec.window_frame.is_some() || spec.window_name.is_some() {
        return Err(refuse::over(call, places));
    }
    let (keys, windows) = partition(&spec.partition_by, words, places)?;
    let [order] = spec.order_by.as_slice() else {
        let message = "ROW_NUMBER compares one value here";
        let help =
            "ORDER BY one expression, e.g. ORDER BY value DESC; of equal values the earlier row is ahead";
        return Err(refuse::refused(place, message, help, places));
    };
    if rows < 1 {
        let message = "no row has such a number";
        return Err(refuse::refused(place, message, "ROW_NUMBER begins with 1", places));
    }
    let (by, order) = ordered(order, words, places)?;
    Ok(Some(Rank { place, keys, windows, by: Some(by), order, rows, is_distinct: false }))
}

/// The one row of each key and window that DISTINCT ON leaves.
pub(super) fn of_distinct(
    columns: &[Expr],
    order: Option<&OrderBy>,
    words: &mut Words<'_>,
    items: &[Selected],
    select: &Select,
    places: &Places,
) -> Result<Rank, Diagnostic> {
    let start = places.of_span(select.select_token.0.span).start;
    let place = places.word_behind("DISTINCT", start).unwrap_or_else(|| places.all());
    if items.iter().any(|item| matches!(item, Selected::One { expr, .. } if is_row_number(expr))) {
        return Err(refuse::refused(
            place,
            "DISTINCT ON and ROW_NUMBER both choose rows",
            "nest two SELECTs",
            places,
        ));
    }
    let columns = columns.iter().map(|expr| named(expr, items, places));
    let columns: Vec<Expr> = columns.collect::<Result<_, _>>()?;
    let (keys, windows) = partition(&columns, words, places)?;
    let ordered_by = match order.map(|order| &order.kind) {
        Some(OrderByKind::Expressions(expressions)) => expressions.as_slice(),
        Some(OrderByKind::All(_)) => {
            let at =
                places.word_behind("ALL", places.word_behind("ORDER", start).map_or(start, |word| word.end));
            let message = "DISTINCT ON compares one value here";
            return Err(refuse::refused(at.unwrap_or(place), message, "name what is compared", places));
        }
        None => &[],
    };
    let ordered_by = ordered_by
        .iter()
        .map(|order| Ok(OrderByExpr { expr: named(&order.expr, items, places)?, ..order.clone() }));
    let ordered_by: Vec<OrderByExpr> = ordered_by.collect::<Result<_, Diagnostic>>()?;
    // As elsewhere, ORDER BY begins with what DISTINCT ON names.
    let mut rest = ordered_by.iter().filter(|order| !columns.contains(&order.expr));
    let (by, order) = match (rest.next(), rest.next()) {
        (None, _) => (None, Order::default()),
        (Some(order), None) => {
            let (by, order) = ordered(order, words, places)?;
            (Some(by), order)
        }
        (Some(_), Some(second)) => {
            let message = "DISTINCT ON compares one value here; of equal ones the earlier row is ahead";
            return Err(refuse::condition(&second.expr, message, "leave this out", places));
        }
    };
    Ok(Rank { place, keys, windows, by, order, rows: 1, is_distinct: true })
}

/// As in PostgreSQL, NULL is larger than any value.
fn ordered(order: &OrderByExpr, words: &mut Words<'_>, places: &Places) -> Result<(Expr, Order), Diagnostic> {
    let is_descending = order.options.asc == Some(false);
    let nulls_first = order.options.nulls_first.unwrap_or(is_descending);
    Ok((words.rewrite(&order.expr, places)?, Order { is_descending, nulls_first }))
}

/// Keys and windows of PARTITION BY or DISTINCT ON.
fn partition(
    columns: &[Expr],
    words: &mut Words<'_>,
    places: &Places,
) -> Result<(Vec<Expr>, Option<Which>), Diagnostic> {
    let (mut keys, mut windows) = (Vec::new(), None::<Which>);
    for expr in columns {
        let which = match words {
            Words::Groups(grouping) => grouping.is_edge(expr, places).then_some(Which::OfRows),
            Words::Rows(relation) => of_rows(expr, relation, places)?,
        };
        match which {
            Some(which) if windows.is_some_and(|known| known != which) => {
                let message = "rows are ranked in windows of one kind";
                return Err(refuse::condition(expr, message, "leave one of them out", places));
            }
            Some(which) => windows = Some(which),
            None => keys.push(words.rewrite(expr, places)?),
        }
    }
    Ok((keys, windows))
}

fn of_rows(expr: &Expr, relation: &Relation, places: &Places) -> Result<Option<Which>, Diagnostic> {
    if let Some(call) = window::call(expr) {
        let windows = window::read(call, relation, places)?;
        return match windows.windowed {
            Some(windowed) if windowed.size_us == windowed.slide_us => Ok(Some(Which::Of(windowed))),
            Some(_) | None => {
                let message = "a row is ranked in windows that follow each other";
                let help = "tumble(ts, '1m')";
                Err(refuse::refused(window::call_place(call, places), message, help, places))
            }
        };
    }
    let names = match expr {
        Expr::Identifier(name) => std::slice::from_ref(name),
        Expr::CompoundIdentifier(names) => names,
        _ => return Ok(None),
    };
    let found = one(names, &Scope::of(relation), places)?;
    Ok((found.column.role != Role::Plain && relation.windowed.is_some()).then_some(Which::OfRows))
}

impl Planner<'_> {
    /// The node that ranks.
    pub(super) fn ranked(&mut self, relation: &Relation, rank: Rank) -> Result<Relation, ConfigError> {
        let Rank { place, keys, windows, by, order, rows, is_distinct } = rank;
        let Order { is_descending, nulls_first } = order;
        let windowed = match windows {
            Some(Which::Of(windowed)) => Some(windowed),
            Some(Which::OfRows) => relation.windowed,
            None => None,
        };
        let windowed = windowed.filter(|windowed| windowed.size_us % windowed.slide_us.max(1) == 0);
        if windows.is_some() && windowed.is_none() {
            let message = "rows can be ranked in windows of one size, which is a multiple of their slide";
            return Err(refuse::refused(place, message, "tumble(ts, '1m')", &self.places).into());
        }
        let by = by.or_else(|| relation.time().map(|time| Item::of(relation, time).expr));
        let Some(by) = by else {
            let message = "the rows here have no event time";
            return Err(refuse::refused(place, message, "let the inner SELECT keep it", &self.places).into());
        };
        let keys = keys.into_iter().map(|key| {
            let name = field_of(&key);
            (key, name)
        });
        let chosen = Chosen { place, keys: keys.collect() };
        let by_time = is_distinct && windows.is_none() && updating::is_time(&by, relation);
        let relation = self.keyed(relation, chosen.keys.iter().map(|(key, name)| (key, name.as_str())))?;
        if by_time && is_descending {
            return self.latest(&relation, &chosen);
        }
        if by_time {
            return Err(refuse::first(chosen.place, &self.places).into());
        }
        let mut node = Node::new("top", self.places.in_file(chosen.place.clone()));
        if !chosen.keys.is_empty() {
            node = node.texts("key", chosen.names(&self.places));
        }
        let has_nulls = may_be_null(&by, &relation);
        let by = self.places.text_of(&by);
        let word = if is_descending { "largest" } else { "smallest" };
        let node = node.text("by", by).number("rows", rows).word("order", word);
        let nulls = if nulls_first { "first" } else { "last" };
        let node = if has_nulls { node.word("nulls", nulls) } else { node };
        let Some(windowed) = windowed else { return self.ranked_so_far(&relation, node, &chosen) };
        let node = node.word("size", &written(windowed.slide_us));
        let ranked = self.nodes.add(&self.places, node, &[&relation])?;
        Ok(relation.onto(ranked))
    }
}

/// Whether rows may have no such value.
fn may_be_null(by: &Expr, relation: &Relation) -> bool {
    let Expr::Identifier(name) = by else { return true };
    let field = relation.stream.columns.fields().find(&name.value);
    field.is_none_or(|(index, field)| field.is_nullable() && relation.stream.time != Some(index))
}

/// The column of a key.
fn field_of(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(Ident { value, .. }) => value.clone(),
        other => other.to_string(),
    }
}
