//! Results of all rows so far, which change with them: without a window, aggregates,
//! ranks and last rows are changelogs.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::time::micros;
use tidegate_engine::topology::node::NodeConfig;

use super::group::first_aggregate;
use super::interval::written;
use super::nodes::Node;
use super::plan::Planner;
use super::rank::Chosen;
use super::refuse;
use super::relation::Relation;
use super::select::Selected;

/// The key of the query's node that says how long such results are remembered.
pub(super) const TTL: &str = "ttl";

impl Planner<'_> {
    /// The word that asks for a result of all rows.
    pub(super) fn updating_place(&self, select: &Select, items: &[Selected]) -> Range<usize> {
        let start = self.places.of_span(select.select_token.0.span).start;
        let by = match &select.group_by {
            GroupByExpr::All(_) => true,
            GroupByExpr::Expressions(expressions, _) => !expressions.is_empty(),
        };
        let group = by.then(|| self.places.word_behind("GROUP", start)).flatten();
        let aggregate = items.iter().find_map(|item| match item {
            Selected::One { expr, .. } => first_aggregate(expr),
            Selected::All { .. } => None,
        });
        let aggregate = aggregate.map(|name| self.places.of_name(&name));
        group.or(aggregate).or(self.places.word_behind("HAVING", start)).unwrap_or_else(|| self.places.all())
    }

    /// The node with how long it remembers a key, where the query's node says it or
    /// something must.
    pub(super) fn with_ttl(&mut self, node: Node, otherwise: Option<&str>) -> Node {
        self.is_updating = true;
        let said = self.config.table.duration(TTL).map(|ttl| written(micros(ttl)));
        match said.as_deref().or(otherwise) {
            Some(ttl) => node.word(TTL, ttl),
            None => node,
        }
    }

    /// The rows of each key that are ahead of all others so far.
    pub(super) fn ranked_so_far(
        &mut self,
        relation: &Relation,
        node: Node,
        chosen: &Chosen,
    ) -> Result<Relation, ConfigError> {
        let node = self.with_ttl(node, None);
        self.changing(relation, node, chosen)
    }

    /// The last row of each key so far.
    pub(super) fn latest(&mut self, relation: &Relation, chosen: &Chosen) -> Result<Relation, ConfigError> {
        let node = Node::new("dedup", self.places.in_file(chosen.place.clone()));
        let node = node.texts("key", chosen.names(&self.places)).word("keep", "last");
        let node = self.with_ttl(node, Some("30d"));
        self.changing(relation, node, chosen)
    }

    fn changing(
        &mut self,
        relation: &Relation,
        node: Node,
        chosen: &Chosen,
    ) -> Result<Relation, ConfigError> {
        if relation.changes() {
            let message = "rows are chosen from results that may still change: a row that is taken back could not be replaced";
            let help = "choose among the rows themselves, or let the results be those of windows";
            return Err(refuse::changes(chosen.place.clone(), message, help, &self.places).into());
        }
        let changing = self.nodes.add(&self.places, node, &[relation])?;
        // Their event time is that of a change: windows end here.
        Ok(Relation { windowed: None, ..relation.clone().onto(changing) })
    }
}

/// A time to remember results that no part of the query keeps.
pub(super) fn unused_ttl(config: &NodeConfig) -> Result<(), Diagnostic> {
    if config.table.get(TTL).is_none() {
        return Ok(());
    }
    let message = format!("`ttl` of `{}` has no meaning: no result of its query is of all rows", config.name);
    let help = "leave it out; windows end by themselves";
    Err(Diagnostic::error("TG-C006", message).at(config.table.span_of(TTL)).help(help))
}

/// Whether an expression is the event time of a relation.
pub(super) fn is_time(expr: &Expr, relation: &Relation) -> bool {
    let time = relation.time().map(|time| relation.field(time));
    matches!(expr, Expr::Identifier(name) if Some(name.value.as_str()) == time)
}
