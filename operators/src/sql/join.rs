//! Two streams put together: what of a condition is about time becomes `match`,
//! the rest is `on`.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, JoinConstraint};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::topology::value::Text;

use super::bound::Near;
use super::interval::written;
use super::nodes::Node;
use super::place::parts;
use super::plan::Planner;
use super::refuse;
use super::relation::{Column, Found, Relation, Role, Scope, Windowed};
use super::rewrite::{ident, names_in, one, resolve_as};
use super::select::{all_of, conjuncts};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Inner,
    Left,
    Right,
    Full,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Inner => "inner",
            Kind::Left => "left",
            Kind::Right => "right",
            Kind::Full => "full",
        }
    }
}

/// What a query says of a join.
pub(super) struct Request<'q> {
    pub(super) kind: Kind,
    /// What must be true.
    pub(super) on: Vec<Expr>,
    pub(super) as_of: Option<&'q Expr>,
    pub(super) place: Range<usize>,
    pub(super) using: Option<&'q JoinConstraint>,
}

/// What `match` says.
enum Match {
    Within { before_us: i64, after_us: i64 },
    Window { size_us: i64 },
    AsOf { tolerance_us: i64 },
}

impl Planner<'_> {
    /// The conditions of ON or USING.
    pub(super) fn constraint(
        &self,
        on: Option<&JoinConstraint>,
        left: &Relation,
        right: &Relation,
        kind: Kind,
    ) -> Result<Vec<Expr>, Diagnostic> {
        let names = match on {
            Some(JoinConstraint::On(expr)) => return Ok(conjuncts(Some(expr))),
            Some(JoinConstraint::Using(names)) => names,
            Some(JoinConstraint::Natural | JoinConstraint::None) | None => return Ok(Vec::new()),
        };
        let mut found = Vec::new();
        for name in names.iter().flat_map(parts) {
            if matches!(kind, Kind::Right | Kind::Full) {
                let place = self.places.of_name(name);
                let message = "with USING a column would be that of either side";
                return Err(refuse::refused(
                    place,
                    message,
                    "write ON a.k = b.k and coalesce(a.k, b.k)",
                    &self.places,
                ));
            }
            let names = std::slice::from_ref(name);
            let side = |relation: &Relation| -> Result<Expr, Diagnostic> {
                let found = one(names, &Scope::of(relation), &self.places)?;
                let qualifier = found.column.qualifier.as_deref().map(ident);
                Ok(match qualifier {
                    Some(qualifier) => Expr::CompoundIdentifier(vec![qualifier, name.clone()]),
                    None => Expr::Identifier(name.clone()),
                })
            };
            found.push(Expr::BinaryOp {
                left: Box::new(side(left)?),
                op: BinaryOperator::Eq,
                right: Box::new(side(right)?),
            });
        }
        Ok(found)
    }

    /// The node that joins.
    pub(super) fn joined(
        &mut self,
        left: &Relation,
        right: Relation,
        request: &Request<'_>,
    ) -> Result<Relation, ConfigError> {
        if left.stream.is_table() || right.stream.is_table() {
            return self.joined_with_table(left, &right, request);
        }
        if let Some(relation) = [left, &right].into_iter().find(|relation| relation.changes()) {
            let message = format!(
                "`{}` gives results again when they change, and a pair could not be taken back",
                relation.called_by()
            );
            let help = "join the rows themselves and group what comes of it, or join results of windows";
            return Err(refuse::changes(request.place.clone(), &message, help, &self.places).into());
        }
        let right = if left.node == right.node { self.second(right, &request.place)? } else { right };
        let right = if names_clash(left, &right, LEAD) {
            self.renamed_apart(left, right, &request.place)?
        } else {
            right
        };
        let word = request.place.clone();
        let scope = Scope { relations: vec![left, &right] };
        for names in request.on.iter().flat_map(names_in) {
            one(&names, &scope, &self.places)?;
        }
        let (near, rest) = self.near(&scope, request, &word)?;
        let node = self.join_node(&rest, &scope, word)?;
        let node = match request.kind {
            Kind::Inner => node,
            kind => node.word("kind", kind.word()),
        };
        let node = match near {
            Match::Within { before_us, after_us } if before_us == after_us => {
                node.table("match", &[("within", written(before_us))])
            }
            Match::Within { before_us, after_us } => node.table_in(
                "match",
                "within",
                &[("before", written(before_us)), ("after", written(after_us))],
            ),
            Match::Window { size_us } => node.table("match", &[("window", written(size_us))]),
            Match::AsOf { tolerance_us } => node.table("match", &[("as_of", written(tolerance_us))]),
        };
        let joined = self.nodes.add(&self.places, node, &[left, &right])?;
        Ok(together(left, &right, joined, &near, request))
    }

    /// A node that joins on these conditions.
    pub(super) fn join_node(
        &mut self,
        on: &[Expr],
        scope: &Scope<'_>,
        word: Range<usize>,
    ) -> Result<Node, Diagnostic> {
        let refer = |found: &Found<'_>| {
            let mut names: Vec<Ident> = found.relation.node.split('.').map(ident).collect();
            names.push(ident(found.relation.field(found.column)));
            names
        };
        let on = on.iter().map(|expr| resolve_as(expr, scope, &self.places, &refer));
        let on: Vec<Expr> = on.collect::<Result<_, _>>()?;
        let span = self.places.in_file(word);
        let on = match all_of(on) {
            Some(on) => self.places.text_of(&on),
            None => Text { span: span.clone(), ..Text::loose("true") },
        };
        Ok(Node::new("join", span).text("on", on))
    }

    /// The same stream once more, under a name of its own.
    fn second(&mut self, relation: Relation, place: &Range<usize>) -> Result<Relation, ConfigError> {
        let span = self.places.in_file(place.clone());
        let all = Text { span: span.clone(), ..Text::loose("*") };
        let node = Node::new("project", span).texts("select", vec![all]);
        let again = self.nodes.add(&self.places, node, &[&relation])?;
        Ok(relation.onto(again))
    }

    /// The same rows under names that the left side has not.
    pub(super) fn renamed_apart(
        &mut self,
        left: &Relation,
        right: Relation,
        place: &Range<usize>,
    ) -> Result<Relation, ConfigError> {
        let mut taken: Vec<String> =
            left.stream.columns.fields().iter().map(|field| field.name().clone()).collect();
        let span = self.places.in_file(place.clone());
        let side = right.columns.iter().find_map(|column| column.qualifier.clone());
        let side = side.unwrap_or_else(|| right.node.clone()).replace('.', "_");
        let mut select = Vec::new();
        for field in right.stream.columns.fields() {
            let mut name = format!("{side}_{}", field.name());
            while taken.contains(&name) {
                name.push('_');
            }
            select.push(Text {
                span: span.clone(),
                ..Text::loose(format!("{} AS {}", ident(field.name()), ident(&name)))
            });
            taken.push(name);
        }
        let node = Node::new("project", span).texts("select", select);
        let renamed = self.nodes.add(&self.places, node, &[&right])?;
        Ok(right.onto(renamed))
    }

    /// How near rows must be, and the conditions that this does not say.
    fn near(
        &self,
        scope: &Scope<'_>,
        request: &Request<'_>,
        word: &Range<usize>,
    ) -> Result<(Match, Vec<Expr>), Diagnostic> {
        let mut near = Near::default();
        let (mut of_time, mut rest) = (Vec::new(), Vec::new());
        for expr in &request.on {
            let is_of_time = near.take(expr, scope, &self.places)?;
            if is_of_time { of_time.push(expr.clone()) } else { rest.push(expr.clone()) }
        }
        if let Some(condition) = request.as_of {
            let mut order = Near::default();
            let taken = order.take(condition, scope, &self.places)?;
            let is_plain = taken && order.from_us.is_none() && order.to_us == Some(0) && !order.is_inexact;
            if !is_plain {
                let message = "MATCH_CONDITION says that the right row is not younger than the left one";
                let help = "MATCH_CONDITION (a.ts >= b.ts), with the event times of both";
                return Err(refuse::condition(condition, message, help, &self.places));
            }
            if let Some(window) = of_time.iter().find(|expr| near.window_us.is_some() && is_of_windows(expr))
            {
                let message = "ASOF looks back by a length of time, not by windows";
                let help = "say how old the right row may be: b.ts >= a.ts - INTERVAL '1 hour'";
                return Err(refuse::condition(window, message, help, &self.places));
            }
            let Some(from_us) = near.from_us.filter(|from_us| *from_us <= 0 && !near.is_inexact) else {
                let help = "add how old it may be: ON a.k = b.k AND b.ts >= a.ts - INTERVAL '1 hour'";
                return Err(unbounded(self, word, help));
            };
            if near.to_us.is_some_and(|to_us| to_us < 0) {
                rest.extend(of_time);
            }
            return Ok((Match::AsOf { tolerance_us: from_us.saturating_neg() }, rest));
        }
        if let Some(size_us) = near.window_us {
            if near.from_us.is_some() || near.to_us.is_some() {
                rest.extend(of_time.into_iter().filter(|expr| !is_of_windows(expr)));
            }
            return Ok((Match::Window { size_us }, rest));
        }
        let help = "say how near in event time: ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '5 seconds', or tumble(a.ts, '1m') = tumble(b.ts, '1m')";
        let (Some(from_us), Some(to_us)) = (near.from_us, near.to_us) else {
            let joined = scope.relations.iter().filter_map(|relation| relation.time());
            let joined = joined.filter(|time| time.qualifier.is_none()).map(|time| time.name.as_str()).next();
            return Err(match joined {
                Some(time) => {
                    let help = format!("{help}; event time of what is joined already is `{time}`");
                    unbounded(self, word, &help)
                }
                None => unbounded(self, word, help),
            });
        };
        if from_us > to_us {
            let message = "no two rows can be so near: the bounds of their times cross";
            return Err(Diagnostic::error("TG-S003", message).at(self.places.in_file(word.clone())));
        }
        let is_whole = from_us <= 0 && to_us >= 0 && !near.is_inexact;
        if !is_whole {
            rest.extend(of_time);
        }
        let before_us = from_us.min(0).saturating_neg();
        Ok((Match::Within { before_us, after_us: to_us.max(0) }, rest))
    }
}

/// What may stand before the columns of both streams.
const LEAD: &[&str] = &["event_time", "window_start", "window_end"];

/// Whether two columns of what joins these would have one name: a name that both
/// sides have gets that of its node before it, which may be taken as well.
pub(super) fn names_clash(left: &Relation, right: &Relation, lead: &[&str]) -> bool {
    let names =
        |own: &Relation, other: &Relation| -> Vec<String> {
            let is_taken = |name: &str| {
                lead.contains(&name) || other.stream.columns.fields().iter().any(|field| field.name() == name)
            };
            let fields = own.stream.columns.fields().iter().map(|field| field.name());
            fields
                .map(|name| {
                    if is_taken(name) {
                        format!("{}_{name}", own.node.replace('.', "_"))
                    } else {
                        name.clone()
                    }
                })
                .collect()
        };
    let mut all = [names(left, right), names(right, left)].concat();
    all.extend(lead.iter().map(|name| (*name).to_owned()));
    let count = all.len();
    all.sort();
    all.dedup();
    all.len() < count
}

/// A condition that is said by `match = { window = … }`.
fn is_of_windows(expr: &Expr) -> bool {
    let is_call = |expr: &Expr| super::window::call(expr).is_some();
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => is_call(left) || is_call(right),
        Expr::Nested(inner) => is_of_windows(inner),
        _ => false,
    }
}

fn unbounded(planner: &Planner<'_>, word: &Range<usize>, help: &str) -> Diagnostic {
    let message = "streams are joined without a bound: every row would have to be kept for ever, since its partner may still come";
    Diagnostic::error("TG-T013", message)
        .at(planner.places.in_file(word.clone()))
        .label("has no bound")
        .help(help)
}

/// Whether USING names a column: it is that of the first side then.
pub(super) fn is_used(using: Option<&JoinConstraint>, name: &str) -> bool {
    let named = match using {
        Some(JoinConstraint::Using(names)) => names.as_slice(),
        _ => &[],
    };
    named.iter().flat_map(parts).any(|used| used.value == name)
}

/// The columns of both sides in what the join gives.
fn together(
    left: &Relation,
    right: &Relation,
    joined: Relation,
    near: &Match,
    request: &Request<'_>,
) -> Relation {
    let both = left.stream.columns.fields().len() + right.stream.columns.fields().len();
    let lead = joined.stream.columns.fields().len().saturating_sub(both);
    let is_windows = matches!(near, Match::Window { .. });
    let mut columns: Vec<Column> = joined.columns.iter().take(lead).cloned().collect();
    if is_windows {
        for (column, role) in columns.iter_mut().zip([Role::Start, Role::End]) {
            column.role = role;
        }
    }
    let windowed = match near {
        Match::Window { size_us } => Some(Windowed { size_us: *size_us, slide_us: *size_us }),
        Match::Within { before_us: 0, after_us: 0 } if left.windowed == right.windowed => left.windowed,
        Match::Within { .. } | Match::AsOf { .. } => None,
    };
    // An edge of other windows, or one that may be NULL, is a column as any.
    let role = |side: &Relation, outer: [Kind; 2], column: &Column| {
        let is_kept = side.windowed == windowed && !outer.contains(&request.kind);
        if is_kept { column.role } else { Role::Plain }
    };
    let is_used = |name: &str| is_used(request.using, name);
    let width = left.stream.columns.fields().len();
    // The time of a join before this one gives way to that of this one.
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let gives_way = |column: &Column| column.qualifier.is_none() && names.contains(&column.name);
    columns.extend(left.columns.iter().map(|column| Column {
        field: lead + column.field,
        bare: column.bare && !gives_way(column),
        role: role(left, [Kind::Right, Kind::Full], column),
        ..column.clone()
    }));
    columns.extend(right.columns.iter().map(|column| Column {
        field: lead + width + column.field,
        bare: column.bare && !is_used(&column.name) && !gives_way(column),
        role: role(right, [Kind::Left, Kind::Full], column),
        ..column.clone()
    }));
    // A name that a side has as well means that of the side.
    let (own, sides) = columns.split_at_mut(lead);
    for column in own {
        column.bare = !sides.iter().any(|known| known.bare && known.name == column.name);
    }
    Relation { columns, windowed, ..joined }
}
