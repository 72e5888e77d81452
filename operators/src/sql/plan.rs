//! A query from outside in: WITH, UNION ALL, and each SELECT.

use std::cell::RefCell;
use std::rc::Rc;

use datafusion::sql::sqlparser::ast::{
    Cte, Ident, OrderBy, Query, SetExpr, SetOperator, SetQuantifier, TableAlias,
};
use tidegate_engine::catalog::InnerPart;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use super::nodes::{Node, Nodes};
use super::place::Places;
use super::project::Item;
use super::rank::Limits;
use super::refuse;
use super::relation::Relation;
use super::updating;

/// Makes the nodes of one query.
pub(super) struct Planner<'a> {
    pub(super) places: Places,
    pub(super) nodes: Nodes<'a>,
    pub(super) inputs: &'a [Input],
    pub(super) config: &'a NodeConfig,
    /// Whether some result is of all rows, and changes with them.
    pub(super) is_updating: bool,
}

/// The tables that WITH has made so far, the newest first.
pub(super) type Made<'q> = Option<Rc<Table<'q>>>;

pub(super) struct Table<'q> {
    with: &'q Cte,
    before: Made<'q>,
    /// Planned once, however often it is read.
    planned: RefCell<Option<Relation>>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(
        places: Places,
        config: &'a NodeConfig,
        context: &'a BuildContext,
        inputs: &'a [Input],
    ) -> Planner<'a> {
        Planner { places, nodes: Nodes::new(config, context), inputs, config, is_updating: false }
    }

    pub(super) fn plan(mut self, query: &Query) -> Result<Vec<InnerPart>, ConfigError> {
        let relation = self.query(query, &None, &mut Limits::default())?;
        if !self.is_updating {
            updating::unused_ttl(self.config)?;
        }
        if !self.nodes.ends_with(&relation) {
            let span = self.places.in_file(self.places.all());
            let all = Text { span: span.clone(), ..Text::loose("*") };
            let node = Node::new("project", span).texts("select", vec![all]);
            self.nodes.add(&self.places, node, &[&relation])?;
        }
        self.nodes.finish(&self.places)
    }

    /// What a query gives. `limits` are what whoever reads it asks of its ranks.
    pub(super) fn query<'q>(
        &mut self,
        query: &'q Query,
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Result<Relation, ConfigError> {
        refuse::query(query, &self.places)?;
        let mut made = made.clone();
        for with in query.with.iter().flat_map(|with| &with.cte_tables) {
            made = Some(Rc::new(Table { with, before: made, planned: RefCell::default() }));
        }
        self.body(&query.body, query.order_by.as_ref(), &made, limits)
    }

    fn body<'q>(
        &mut self,
        body: &'q SetExpr,
        order: Option<&'q OrderBy>,
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Result<Relation, ConfigError> {
        match body {
            SetExpr::Select(select) => self.select(select, order, made, limits),
            SetExpr::Query(query) => {
                refuse::order(order, &self.places)?;
                self.query(query, made, limits)
            }
            SetExpr::SetOperation {
                op: SetOperator::Union,
                set_quantifier: SetQuantifier::All,
                left,
                right,
            } => {
                refuse::order(order, &self.places)?;
                self.union(left, right, made)
            }
            other => Err(refuse::body(other, &self.places).into()),
        }
    }

    /// UNION ALL. A chain of them is one node.
    fn union<'q>(
        &mut self,
        left: &'q SetExpr,
        right: &'q SetExpr,
        made: &Made<'q>,
    ) -> Result<Relation, ConfigError> {
        let mut branches = vec![right];
        let mut rest = left;
        while let SetExpr::SetOperation {
            op: SetOperator::Union,
            set_quantifier: SetQuantifier::All,
            left,
            right,
        } = rest
        {
            branches.push(right);
            rest = left;
        }
        branches.push(rest);
        let mut relations: Vec<Relation> = Vec::new();
        for branch in branches.into_iter().rev() {
            let relation = self.body(branch, None, made, &mut Limits::default())?;
            let relation = match relations.first() {
                Some(first) => self.named_alike(relation, first, branch)?,
                None => relation,
            };
            relations.push(relation);
        }
        let place = self.places.of(right);
        let word = self.places.word_before("UNION", place.start).unwrap_or(place);
        let node = Node::new("union", self.places.in_file(word));
        let union = self.nodes.add(&self.places, node, &relations.iter().collect::<Vec<_>>())?;
        let same = |relation: &Relation| {
            let first = relations.first();
            first.is_some_and(|first| first.windowed == relation.windowed && roles(first) == roles(relation))
        };
        match relations.first() {
            Some(first) if relations.iter().all(same) => Ok(first.clone().onto(union)),
            _ => Ok(union),
        }
    }

    /// The same rows under the names of the first branch.
    fn named_alike(
        &mut self,
        relation: Relation,
        first: &Relation,
        branch: &SetExpr,
    ) -> Result<Relation, ConfigError> {
        let names = |relation: &Relation| -> Vec<String> {
            relation.stream.columns.fields().iter().map(|field| field.name().clone()).collect()
        };
        let (own, wanted) = (names(&relation), names(first));
        if own == wanted || own.len() != wanted.len() {
            // Other differences are told by the union.
            return Ok(relation);
        }
        let items =
            relation.columns.iter().zip(&wanted).map(|(column, name)| Item::renamed(&relation, column, name));
        let items: Vec<Item> = items.collect();
        let place = self.places.of(branch);
        self.project(relation, &items, place)
    }

    /// A table that WITH has made, if it has this name.
    pub(super) fn made<'q>(
        &mut self,
        name: &str,
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Option<Result<Relation, ConfigError>> {
        let mut at = made.as_ref();
        while let Some(table) = at.filter(|table| table.with.alias.name.value != name) {
            at = table.before.as_ref();
        }
        let table = Rc::clone(at?);
        if let Some(relation) = table.planned.borrow().as_ref() {
            return Some(Ok(relation.clone()));
        }
        limits.name_columns(Some(&table.with.alias));
        let planned = self.query(&table.with.query, &table.before, limits);
        let planned = planned.and_then(|relation| self.renamed(relation, &table.with.alias));
        // A rank is planned for whoever reads it.
        if let Ok(relation) = &planned
            && !limits.is_used()
        {
            *table.planned.borrow_mut() = Some(relation.clone());
        }
        Some(planned)
    }

    /// `AS name (column, …)`.
    pub(super) fn renamed(
        &self,
        mut relation: Relation,
        alias: &TableAlias,
    ) -> Result<Relation, ConfigError> {
        if alias.columns.is_empty() {
            return Ok(relation);
        }
        let names: Vec<&Ident> = alias.columns.iter().map(|column| &column.name).collect();
        if names.len() != relation.columns.len() {
            return Err(refuse::alias(alias, relation.columns.len(), &self.places).into());
        }
        for (column, name) in relation.columns.iter_mut().zip(names) {
            column.name.clone_from(&name.value);
        }
        Ok(relation)
    }
}

fn roles(relation: &Relation) -> Vec<super::relation::Role> {
    relation.columns.iter().map(|column| column.role).collect()
}
