//! GROUP BY: keys, one kind of windows, and the aggregates that are asked for.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Ident, Select};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::value::Text;

use super::nodes::Node;
use super::place::Places;
use super::plan::Planner;
use super::refuse;
use super::relation::{Relation, Role, Scope, Windowed};
use super::rewrite::{each, ident, join_names, name_of, one, resolve, walk};
use super::select::Selected;
use super::window::{self, Windows};
use crate::expression::SqlExpressions;

const START: &str = "window_start";
const END: &str = "window_end";

/// A key of GROUP BY.
struct Key {
    /// Over the columns of the stream, without quotes.
    text: String,
    expr: Expr,
    /// What the column of the key is called.
    field: String,
}

struct Aggregate {
    text: String,
    expr: Expr,
    name: String,
}

/// Groups of rows, and what is asked of them so far.
pub(super) struct Grouping<'r> {
    relation: &'r Relation,
    keys: Vec<Key>,
    /// None if a result is of all rows, and changes with them.
    windows: Option<Windows>,
    /// The call that makes them; none for windows over results of windows.
    call: Option<String>,
    /// Where they are named.
    place: Range<usize>,
    aggregates: Vec<Aggregate>,
    /// What SELECT calls expressions.
    names: Vec<(Expr, Ident)>,
}

/// Whether rows are grouped.
pub(super) fn is_grouped(select: &Select, items: &[Selected]) -> bool {
    let by = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
    };
    let aggregates =
        |item: &Selected| matches!(item, Selected::One { expr, .. } if first_aggregate(expr).is_some());
    by || select.having.is_some() || items.iter().any(aggregates)
}

/// Whether a function of this name counts over many rows.
fn is_aggregate(name: &str) -> bool {
    SqlExpressions::new().state().aggregate_functions().contains_key(name)
}

pub(super) fn first_aggregate(expr: &Expr) -> Option<Ident> {
    let mut found = None;
    walk(expr, |expr| {
        if matches!(expr, Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. }) {
            // What is in it is its own.
            *expr = Expr::Identifier(Ident::new("query"));
        } else if let Expr::Function(call) = expr
            && call.over.is_none()
            && is_aggregate(&name_of(call))
            && found.is_none()
        {
            found = super::place::parts(&call.name).next().cloned();
        }
    });
    found
}

impl Planner<'_> {
    /// Keys and windows of GROUP BY.
    pub(super) fn grouping<'r>(
        &mut self,
        relation: &'r Relation,
        expressions: Vec<Expr>,
        select: &Select,
        items: &[Selected],
    ) -> Result<Grouping<'r>, ConfigError> {
        let places = &self.places;
        let (mut keys, mut windows) = (Vec::new(), None);
        let mut edge: Option<(Windowed, Range<usize>)> = None;
        // Beside a call, an edge of other windows is a column as any.
        let has_call = expressions.iter().any(|expr| window::call(expr).is_some());
        for expr in expressions {
            if let Some(call) = window::call(&expr) {
                let place = window::call_place(call, places);
                if windows.is_some() {
                    let message = "rows are grouped into windows of one kind";
                    return Err(refuse::refused(place, message, "leave one of them out", places).into());
                }
                windows = Some((
                    window::read(call, relation, places)?,
                    Some(call_text(call, relation, places)?),
                    place,
                ));
                continue;
            }
            if let Some((windowed, _)) = edge_of(&expr, relation, places).filter(|_| !has_call) {
                edge = Some((windowed, places.of(&expr)));
                continue;
            }
            let resolved = resolve(&expr, &Scope::of(relation), places)?;
            let text = plain(&resolved);
            let field = match &resolved {
                Expr::Identifier(name) => name.value.clone(),
                _ => resolved.to_string(),
            };
            if has_call && (field == START || field == END) {
                let message = format!("the windows of this GROUP BY have a `{field}` of their own");
                let help = format!("call it otherwise in the inner SELECT: {field} AS inner_{field}");
                return Err(refuse::condition(&expr, &message, &help, places).into());
            }
            keys.push(Key { text, expr: resolved, field });
        }
        let windows =
            windows.or_else(|| edge.map(|(windowed, place)| (window::again(windowed), None, place)));
        let (windows, call, place) = match windows {
            Some((windows, call, place)) => (Some(windows), call, place),
            None => (None, None, self.updating_place(select, items)),
        };
        let names = items.iter().filter_map(|item| match item {
            Selected::One { expr, name: Some(name) } => Some((expr.clone(), name.clone())),
            Selected::One { .. } | Selected::All { .. } => None,
        });
        Ok(Grouping { relation, keys, windows, call, place, aggregates: Vec::new(), names: names.collect() })
    }

    /// The node that groups, and the rows it gives.
    pub(super) fn grouped(&mut self, grouping: Grouping<'_>) -> Result<Relation, ConfigError> {
        let Grouping { relation, keys, windows, mut aggregates, place, .. } = grouping;
        let relation = self.keyed(relation, keys.iter().map(|key| (&key.expr, key.field.as_str())))?;
        if aggregates.is_empty() {
            // Keys alone are asked for, and a node gives something; without windows
            // what never changes, so that nothing leaves again.
            let text = if windows.is_some() { "count(*)" } else { "count(*) > 0" }.to_owned();
            let expr = parsed(&text);
            aggregates.push(Aggregate { name: text.clone(), text, expr });
        }
        let span = self.places.in_file(place);
        let kind = if windows.is_some() { "window" } else { "aggregate" };
        let mut node = Node::new(kind, span.clone());
        if !keys.is_empty() {
            let named = keys.iter().map(|key| Text {
                span: self.places.in_file(self.places.of(&key.expr)),
                ..Text::loose(key.field.clone())
            });
            node = node.texts("key", named.collect());
        }
        node = match &windows {
            Some(windows) => node.table("window", &windows.words),
            None => self.with_ttl(node, None),
        };
        let select =
            aggregates.iter().map(|aggregate| self.places.text_as(&aggregate.expr, &ident(&aggregate.name)));
        let node = node.texts("select", select.collect());
        let grouped = self.nodes.add(&self.places, node, &[&relation])?;
        let Some(windows) = windows else { return Ok(grouped) };
        let windowed = Relation { windowed: windows.windowed, ..grouped.with_edges(START, END) };
        match windows.windowed {
            Some(Windowed { size_us, slide_us }) if grouping.call.is_none() && size_us != slide_us => {
                self.with_true_start(windowed, size_us, &span)
            }
            _ => Ok(windowed),
        }
    }

    /// Results of overlapping windows, grouped again, begin where those did.
    fn with_true_start(
        &mut self,
        relation: Relation,
        size_us: i64,
        span: &tidegate_engine::diagnostic::Span,
    ) -> Result<Relation, ConfigError> {
        let loose = |text: String| Text { span: span.clone(), ..Text::loose(text) };
        let names = relation.columns.iter().map(|column| match column.role {
            Role::Start => loose(format!("{END} - INTERVAL '{size_us} microseconds' AS {START}")),
            Role::End | Role::Plain => loose(ident(relation.field(column)).to_string()),
        });
        let node = Node::new("project", span.clone()).texts("select", names.collect());
        let projected = self.nodes.add(&self.places, node, &[&relation])?;
        Ok(relation.onto(projected))
    }

    /// The rows with a column for each key that is none.
    pub(super) fn keyed<'k>(
        &mut self,
        relation: &Relation,
        keys: impl Iterator<Item = (&'k Expr, &'k str)>,
    ) -> Result<Relation, ConfigError> {
        let computed: Vec<(&Expr, &str)> =
            keys.filter(|(expr, _)| !matches!(expr, Expr::Identifier(_))).collect();
        let Some((first, _)) = computed.first() else { return Ok(relation.clone()) };
        let span = self.places.in_file(self.places.of(*first));
        let mut select = vec![Text { span: span.clone(), ..Text::loose("*") }];
        for (expr, name) in &computed {
            select.push(self.places.text_as(expr, &ident(name)));
        }
        let node = Node::new("project", span).texts("select", select);
        let projected = self.nodes.add(&self.places, node, &[relation])?;
        Ok(relation.clone().onto(projected))
    }
}

/// Names mean the same with quotes and without.
fn plain(expr: &Expr) -> String {
    let bare = |name: &mut Ident| name.quote_style = None;
    let plain = each(expr, |expr| {
        match expr {
            Expr::Identifier(name) => bare(name),
            Expr::CompoundIdentifier(names) => names.iter_mut().for_each(bare),
            _ => {}
        }
        Ok(())
    });
    plain.unwrap_or_else(|_| expr.clone()).to_string()
}

fn parsed(text: &str) -> Expr {
    let parsed = SqlExpressions::new().state().sql_to_expr(text, &datafusion::config::Dialect::Generic);
    parsed.unwrap_or_else(|_| Expr::Identifier(Ident::new("count")))
}

/// A window's edge among the columns of a relation whose rows are results of
/// windows of one size.
fn edge_of(expr: &Expr, relation: &Relation, places: &Places) -> Option<(Windowed, Role)> {
    let names = match expr {
        Expr::Identifier(name) => std::slice::from_ref(name),
        Expr::CompoundIdentifier(names) => names,
        _ => return None,
    };
    let found = one(names, &Scope::of(relation), places).ok()?;
    relation
        .windowed
        .filter(|_| found.column.role != Role::Plain)
        .map(|windowed| (windowed, found.column.role))
}

/// The call of a window function, whatever qualifiers it is written with.
fn call_text(
    call: &datafusion::sql::sqlparser::ast::Function,
    relation: &Relation,
    places: &Places,
) -> Result<String, Diagnostic> {
    let (time, lengths) = window::arguments(call, "", places)?;
    let time = resolve(time, &Scope::of(relation), places)?;
    let lengths = lengths.iter().map(|length| format!("{:?}", super::interval::of(length)));
    Ok(format!("{}({time}, {})", name_of(call), lengths.collect::<Vec<_>>().join(", ")))
}

impl Grouping<'_> {
    /// The expression over keys, edges of windows and aggregates.
    pub(super) fn rewrite(&mut self, expr: &Expr, places: &Places) -> Result<Expr, Diagnostic> {
        each(expr, |expr| self.replace(expr, places))
    }

    /// Whether an expression is an edge of the windows.
    pub(super) fn is_edge(&self, expr: &Expr, places: &Places) -> bool {
        if self.windows.is_none() {
            return false;
        }
        let Some(call) = window::call(expr) else {
            let is_name = matches!(expr, Expr::Identifier(name) if name.value == START || name.value == END);
            return is_name || (self.call.is_none() && edge_of(expr, self.relation, places).is_some());
        };
        self.call.is_some() && call_text(call, self.relation, places).ok() == self.call
    }

    fn replace(&mut self, expr: &mut Expr, places: &Places) -> Result<(), Diagnostic> {
        if window::call(expr).is_some() || matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) {
            *expr = self.leaf(expr, places)?;
            return Ok(());
        }
        if let Expr::Function(call) = expr
            && call.over.is_none()
            && is_aggregate(&name_of(call))
        {
            let resolved = resolve(expr, &Scope::of(self.relation), places)?;
            *expr = Expr::Identifier(self.aggregate(&resolved, expr));
            return Ok(());
        }
        // Whatever is refused in rows is refused here: an empty scope finds the
        // same words, and keys that are expressions are looked for first.
        if self.keys.iter().any(|key| !matches!(key.expr, Expr::Identifier(_)))
            && let Ok(resolved) = resolve(expr, &Scope::of(self.relation), places)
            && let Some(key) = self.key(&resolved)
        {
            *expr = Expr::Identifier(placed(&key.field, expr));
            return Ok(());
        }
        if let Expr::CompoundFieldAccess { root, access_chain } = expr {
            join_names(root, access_chain);
        }
        match expr {
            Expr::Function(call) if call.over.is_some() => Err(refuse::over(call, places)),
            Expr::Function(call) if name_of(call) == "unnest" => Err(refuse::misplaced_unnest(call, places)),
            Expr::Subquery(query) => Err(refuse::subquery(query, places)),
            Expr::Exists { subquery, .. } | Expr::InSubquery { subquery, .. } => {
                Err(refuse::subquery(subquery, places))
            }
            _ => Ok(()),
        }
    }

    /// A window's edge or a key.
    fn leaf(&self, expr: &Expr, places: &Places) -> Result<Expr, Diagnostic> {
        if let Some(call) = window::call(expr) {
            if call_text(call, self.relation, places).ok() == self.call && self.call.is_some() {
                return Ok(Expr::Identifier(placed(START, expr)));
            }
            let message = "these are other windows than those of GROUP BY";
            let help = "write the same words in both places, or window_start and window_end";
            return Err(refuse::refused(window::call_place(call, places), message, help, places));
        }
        let names = match expr {
            Expr::Identifier(name)
                if self.windows.is_some() && (name.value == START || name.value == END) =>
            {
                return Ok(expr.clone());
            }
            Expr::Identifier(name) => std::slice::from_ref(name),
            Expr::CompoundIdentifier(names) => names,
            _ => return Ok(expr.clone()),
        };
        if self.call.is_none()
            && let Some((_, role)) = edge_of(expr, self.relation, places)
        {
            let edge = if role == Role::Start { START } else { END };
            return Ok(Expr::Identifier(placed(edge, expr)));
        }
        let resolved = match resolve(expr, &Scope::of(self.relation), places) {
            Ok(resolved) => resolved,
            Err(diagnostic) => return self.alias(names, places).ok_or(diagnostic),
        };
        if let Some(key) = self.key(&resolved) {
            return Ok(Expr::Identifier(placed(&key.field, expr)));
        }
        // A key may be a struct of which a field is meant.
        if let Expr::CompoundIdentifier(names) = &resolved
            && names.first().is_some_and(|first| self.keys.iter().any(|key| key.field == first.value))
        {
            return Ok(resolved);
        }
        let keys: Vec<&str> = self.keys.iter().map(|key| key.text.as_str()).collect();
        let name = names.last().map_or("", |name| name.value.as_str());
        let message = format!("`{name}` is neither a key of GROUP BY nor inside an aggregate");
        Err(Diagnostic::error("TG-X007", message)
            .at(places.in_file(places.of(expr)))
            .help(format!("the keys are [{}]; or write e.g. max({name})", keys.join(", "))))
    }

    /// The key that an expression over the columns of the stream is.
    fn key(&self, resolved: &Expr) -> Option<&Key> {
        let text = plain(resolved);
        self.keys.iter().find(|key| key.text == text)
    }

    /// What SELECT calls an aggregate, a key or the windows, in HAVING and ORDER BY.
    fn alias(&self, names: &[Ident], places: &Places) -> Option<Expr> {
        let [name] = names else { return None };
        let column = |known: &str| Some(Expr::Identifier(Ident { span: name.span, ..ident(known) }));
        if let Some(known) = self.aggregates.iter().find(|aggregate| aggregate.name == name.value) {
            return column(&known.name);
        }
        let (expr, _) = self.names.iter().find(|(_, alias)| alias.value == name.value)?;
        if let Some(call) = window::call(expr) {
            let is_own = call_text(call, self.relation, places).ok() == self.call;
            return column(START).filter(|_| is_own);
        }
        if let Expr::Identifier(edge) = expr
            && (edge.value == START || edge.value == END)
        {
            return column(&edge.value);
        }
        if let Some((_, role)) = edge_of(expr, self.relation, places).filter(|_| self.call.is_none()) {
            return column(if role == Role::Start { START } else { END });
        }
        let resolved = resolve(expr, &Scope::of(self.relation), places).ok()?;
        column(&self.key(&resolved)?.field)
    }

    /// The column of an aggregate.
    fn aggregate(&mut self, resolved: &Expr, written: &Expr) -> Ident {
        let text = resolved.to_string();
        if let Some(known) = self.aggregates.iter().find(|known| known.text == text) {
            return spanned(&known.name, resolved);
        }
        let is_free = |name: &str| {
            name != START
                && name != END
                && !self.keys.iter().any(|key| key.field == name)
                && !self.aggregates.iter().any(|known| known.name == name)
        };
        let alias = self.names.iter().find(|(expr, name)| expr == written && is_free(&name.value));
        let name = alias.map_or_else(|| text.clone(), |(_, name)| name.value.clone());
        self.aggregates.push(Aggregate { text, expr: resolved.clone(), name: name.clone() });
        spanned(&name, resolved)
    }
}

/// A column's name at the place of the function that it is the value of.
fn spanned(name: &str, of: &Expr) -> Ident {
    let span = match of {
        Expr::Function(call) => super::place::parts(&call.name).next().map(|name| name.span),
        _ => None,
    };
    span.map_or_else(|| ident(name), |span| Ident { span, ..ident(name) })
}

/// A column's name at the place of what it stands for.
fn placed(name: &str, expr: &Expr) -> Ident {
    match expr {
        Expr::Identifier(written) => {
            let quote_style =
                if written.value == name { written.quote_style } else { ident(name).quote_style };
            Ident { value: name.to_owned(), quote_style, span: written.span }
        }
        Expr::CompoundIdentifier(names) => {
            let span = names.last().map(|name| name.span);
            span.map_or_else(|| ident(name), |span| Ident { span, ..ident(name) })
        }
        Expr::Nested(inner) => placed(name, inner),
        _ => spanned(name, expr),
    }
}
