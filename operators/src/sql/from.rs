//! FROM: nodes, tables of WITH, queries in brackets, UNNEST, and how they are joined.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{Expr, JoinConstraint, JoinOperator, Select, TableAlias, TableFactor};
use tidegate_engine::catalog::Feed;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;

use super::join::{Kind, Request};
use super::names::node_name;
use super::place::parts;
use super::plan::{Made, Planner};
use super::rank::Limits;
use super::refuse;
use super::relation::{Relation, Scope};
use super::rewrite::{names_in, one};

/// One part of FROM, and how it is put to those before it.
struct Step<'q> {
    what: What<'q>,
    kind: Kind,
    on: Option<&'q JoinConstraint>,
    /// `MATCH_CONDITION (…)`
    as_of: Option<&'q Expr>,
    place: Range<usize>,
}

enum What<'q> {
    Rows(Relation),
    Unnest(&'q [Expr], Option<&'q TableAlias>),
}

impl Planner<'_> {
    /// The rows of FROM. Conditions of WHERE that belong to a join, or to one side
    /// of it, are taken out.
    pub(super) fn from<'q>(
        &mut self,
        select: &'q Select,
        conditions: &mut Vec<Expr>,
        made: &Made<'q>,
    ) -> Result<Relation, ConfigError> {
        let mut limits = Limits::of(conditions);
        let mut steps = Vec::new();
        for table in &select.from {
            steps.push(self.step(&table.relation, (Kind::Inner, None, None), made, &mut limits)?);
            for join in &table.joins {
                let how = self.how(&join.join_operator, &join.relation)?;
                steps.push(self.step(&join.relation, how, made, &mut limits)?);
            }
        }
        let is_inner = steps.iter().all(|step| step.kind == Kind::Inner);
        if is_inner {
            self.check_ambiguous(&steps, conditions)?;
            // The rank has seen to them; an outer join would bring rows without a rank.
            *conditions = limits.rest(std::mem::take(conditions));
        }
        if is_inner && steps.len() > 1 {
            self.choose_early(&mut steps, conditions)?;
        }
        let mut steps = steps.into_iter();
        let Some(Step { what: What::Rows(mut relation), place: first, .. }) = steps.next() else {
            return Err(refuse::no_from(select, &self.places).into());
        };
        for step in steps {
            relation = match step.what {
                What::Unnest(lists, alias) => {
                    self.check_alone(&relation, &first)?;
                    self.unnest_from(&relation, lists, alias, &step.place)?
                }
                What::Rows(right) => {
                    let mut on = self.constraint(step.on, &relation, &right, step.kind)?;
                    if is_inner {
                        on.extend(taken(conditions, &Scope { relations: vec![&relation, &right] }));
                    }
                    let request =
                        Request { kind: step.kind, on, as_of: step.as_of, place: step.place, using: step.on };
                    self.joined(&relation, right, &request)?
                }
            };
        }
        self.check_alone(&relation, &first)?;
        Ok(relation)
    }

    fn step<'q>(
        &mut self,
        table: &'q TableFactor,
        (kind, on, as_of): (Kind, Option<&'q JoinConstraint>, Option<&'q Expr>),
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Result<Step<'q>, ConfigError> {
        let place = self.places.of(table);
        if let TableFactor::UNNEST { alias, array_exprs, with_offset, with_ordinality, .. } = table {
            let place = self.places.word_before("UNNEST", place.end).unwrap_or(place);
            if *with_offset || *with_ordinality {
                let message = "UNNEST gives no numbers here";
                let help = "an operator of type `flatten` has `index` for them";
                return Err(refuse::refused(place, message, help, &self.places).into());
            }
            let is_plain = matches!(on, None | Some(JoinConstraint::None)) || is_true(on);
            if !is_plain || kind != Kind::Inner {
                let message = "UNNEST is put to its own rows and has no condition";
                let help =
                    "write FROM node CROSS JOIN UNNEST(node.list) AS item, and the condition into WHERE";
                return Err(refuse::refused(place, message, help, &self.places).into());
            }
            return Ok(Step {
                what: What::Unnest(array_exprs, alias.as_ref()),
                kind,
                on: None,
                as_of: None,
                place,
            });
        }
        // ASOF looks at all rows before a condition of WHERE may take one away.
        let none = &mut Limits::default();
        let limits = if as_of.is_some() { none } else { limits };
        let what = What::Rows(self.table(table, made, limits)?);
        let word = on.and(self.places.word_before("JOIN", place.start));
        let place = word.unwrap_or(place);
        Ok(Step { what, kind, on, as_of, place })
    }

    /// A node, a table of WITH or a query in brackets.
    fn table<'q>(
        &mut self,
        table: &'q TableFactor,
        made: &Made<'q>,
        limits: &mut Limits,
    ) -> Result<Relation, ConfigError> {
        match table {
            TableFactor::Table {
                name,
                alias,
                args: None,
                version: None,
                sample: None,
                json_path: None,
                with_ordinality: false,
                ..
            } => {
                let node = node_name(name);
                let called =
                    alias.as_ref().map_or(node.as_str(), |alias| alias.name.value.as_str()).to_owned();
                limits.read(Some(&called), alias.as_ref());
                let relation = match self.made(&node, made, limits) {
                    Some(relation) => relation?,
                    None => self.outside(&node)?,
                };
                let relation = match alias {
                    Some(alias) => self.renamed(relation, alias)?,
                    None => relation,
                };
                Ok(relation.called(&called))
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                let called = alias.as_ref().map(|alias| alias.name.value.as_str());
                limits.read(called, alias.as_ref());
                let relation = self.query(subquery, made, limits)?;
                match alias {
                    Some(alias) => Ok(self.renamed(relation, alias)?.called(&alias.name.value)),
                    None => Ok(relation),
                }
            }
            TableFactor::Table { name, .. } => {
                let place =
                    parts(name).next().map_or_else(|| self.places.all(), |name| self.places.of_name(name));
                Err(refuse::table(place, &self.places).into())
            }
            other => Err(refuse::table(self.places.of(other), &self.places).into()),
        }
    }

    /// A stream that the query's node reads.
    fn outside(&self, node: &str) -> Result<Relation, ConfigError> {
        let found = self.inputs.iter().enumerate().find(|(_, input)| input.name == node);
        let (index, input) = found.ok_or_else(ConfigError::default)?;
        Ok(Relation::new(Feed::Outside(index), input.name.clone(), input.stream.clone()))
    }

    fn how<'q>(
        &self,
        operator: &'q JoinOperator,
        table: &TableFactor,
    ) -> Result<(Kind, Option<&'q JoinConstraint>, Option<&'q Expr>), ConfigError> {
        let (kind, on) = match operator {
            JoinOperator::Join(on) | JoinOperator::Inner(on) | JoinOperator::CrossJoin(on) => {
                (Kind::Inner, on)
            }
            JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => (Kind::Left, on),
            JoinOperator::Right(on) | JoinOperator::RightOuter(on) => (Kind::Right, on),
            JoinOperator::FullOuter(on) => (Kind::Full, on),
            // As in Snowflake: a row without partner stays.
            JoinOperator::AsOf { match_condition, constraint } => {
                return Ok((Kind::Left, Some(constraint), Some(match_condition)));
            }
            _ => {
                let place = self.places.of(table);
                let place = self.places.word_before("JOIN", place.start).unwrap_or(place);
                let message = "this kind of join is not known here";
                let help = "there are JOIN, LEFT JOIN, RIGHT JOIN, FULL JOIN and ASOF JOIN";
                return Err(refuse::refused(place, message, help, &self.places).into());
            }
        };
        if matches!(on, JoinConstraint::Natural) {
            let place = self.places.of(table);
            let place = self.places.word_before("NATURAL", place.start).unwrap_or(place);
            let message = "a column that comes later would change what a natural join means";
            return Err(
                refuse::refused(place, message, "write USING (k) or ON a.k = b.k", &self.places).into()
            );
        }
        Ok((kind, Some(on), None))
    }

    /// A name that several tables have says nothing.
    fn check_ambiguous(&self, steps: &[Step<'_>], conditions: &[Expr]) -> Result<(), Diagnostic> {
        if steps.iter().any(|step| matches!(step.on, Some(JoinConstraint::Using(_)))) {
            return Ok(());
        }
        let all = Scope { relations: rows_of(steps).collect() };
        for names in conditions.iter().flat_map(names_in) {
            if all.find(&names).len() > 1 {
                one(&names, &all, &self.places)?;
            }
        }
        Ok(())
    }

    /// Conditions that look at one side only are asked before the join, so that
    /// fewer rows have to wait in it.
    fn choose_early(
        &mut self,
        steps: &mut [Step<'_>],
        conditions: &mut Vec<Expr>,
    ) -> Result<(), ConfigError> {
        let relations: Vec<Relation> = rows_of(steps).cloned().collect();
        let all = Scope { relations: relations.iter().collect() };
        let has_unnest = relations.len() < steps.len();
        let mut number = 0;
        for step in steps {
            let What::Rows(relation) = &mut step.what else { continue };
            let is_table = relation.stream.is_table();
            let is_own = |expr: &Expr| {
                let names = names_in(expr);
                // A table is asked with the rest.
                !is_table
                    && !names.is_empty()
                    && names.iter().all(|names| match all.find(names).as_slice() {
                        // A bare name may be that of an item of a list.
                        [found] => found.side == number && !(has_unnest && found.names == 1),
                        _ => false,
                    })
            };
            let (own, rest): (Vec<Expr>, Vec<Expr>) =
                std::mem::take(conditions).into_iter().partition(is_own);
            *conditions = rest;
            number += 1;
            if own.is_empty() {
                continue;
            }
            let scope = Scope::of(relation);
            let own = own.iter().map(|expr| super::rewrite::resolve(expr, &scope, &self.places));
            let own = own.collect::<Result<_, _>>()?;
            *relation = self.filter(relation.clone(), own)?;
        }
        Ok(())
    }
}

fn rows_of<'s>(steps: &'s [Step<'_>]) -> impl Iterator<Item = &'s Relation> {
    steps.iter().filter_map(|step| match &step.what {
        What::Rows(relation) => Some(relation),
        What::Unnest(..) => None,
    })
}

/// `ON true`
fn is_true(on: Option<&JoinConstraint>) -> bool {
    matches!(on, Some(JoinConstraint::On(Expr::Value(value))) if value.to_string() == "true")
}

/// Conditions that can be told from these two sides.
fn taken(conditions: &mut Vec<Expr>, scope: &Scope<'_>) -> Vec<Expr> {
    let can_be_told = |expr: &Expr| {
        let names = names_in(expr);
        !names.is_empty() && names.iter().all(|names| scope.find(names).len() == 1)
    };
    let (taken, rest) = std::mem::take(conditions).into_iter().partition(can_be_told);
    *conditions = rest;
    taken
}
