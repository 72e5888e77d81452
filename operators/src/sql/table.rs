//! A stream put together with a table: each row with the rows of the table as it
//! is then. The table may stand on either side of JOIN.

use std::ops::Range;

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;

use super::join::{Kind, Request, is_used, names_clash};
use super::plan::Planner;
use super::refuse;
use super::relation::{Column, Relation, Scope};
use super::rewrite::{names_in, one};

impl Planner<'_> {
    pub(super) fn joined_with_table(
        &mut self,
        left: &Relation,
        right: &Relation,
        request: &Request<'_>,
    ) -> Result<Relation, ConfigError> {
        let is_turned = left.stream.is_table();
        let (stream, table) = if is_turned { (right, left) } else { (left, right) };
        self.check_table(stream, table, request, is_turned)?;
        let stream = if names_clash(stream, table, &[]) {
            self.renamed_apart(table, stream.clone(), &request.place)?
        } else {
            stream.clone()
        };
        let relations = if is_turned { vec![table, &stream] } else { vec![&stream, table] };
        let scope = Scope { relations };
        for names in request.on.iter().flat_map(names_in) {
            one(&names, &scope, &self.places)?;
        }
        let node = self.join_node(&request.on, &scope, request.place.clone())?;
        let node = if request.kind == Kind::Inner { node } else { node.word("kind", "left") };
        let joined = self.nodes.add(&self.places, node, &[&stream, table])?;
        let width = stream.stream.columns.fields().len();
        // In the order of the query, wherever they are in the stream.
        let columns = scope.columns().map(|(side, relation, column)| Column {
            field: if relation.stream.is_table() { width + column.field } else { column.field },
            bare: column.bare && !(side == 1 && is_used(request.using, &column.name)),
            ..column.clone()
        });
        Ok(Relation { columns: columns.collect(), windowed: stream.windowed, ..joined })
    }

    /// What a table cannot be in a join.
    fn check_table(
        &self,
        stream: &Relation,
        table: &Relation,
        request: &Request<'_>,
        is_turned: bool,
    ) -> Result<(), Diagnostic> {
        let place = request.place.clone();
        if stream.stream.is_table() {
            let message = format!(
                "`{}` and `{}` are tables: neither gives rows by itself",
                table.called_by(),
                stream.called_by()
            );
            let help = "join each of them with a stream, the stream first; a query of a flow joins tables";
            return Err(refuse::refused(place, &message, help, &self.places));
        }
        if let Some(condition) = request.as_of {
            let message = format!("rows of the table `{}` have no event time to match by", table.called_by());
            return Err(refuse::condition(
                condition,
                &message,
                "write JOIN or LEFT JOIN: a row is joined with the table as it is",
                &self.places,
            ));
        }
        match (request.kind, is_turned) {
            (Kind::Inner, _) | (Kind::Left, false) | (Kind::Right, true) => Ok(()),
            (kind, _) => {
                let word = self.places.word_before(kind.word(), place.start).unwrap_or(place);
                let message = format!(
                    "rows of the table `{}` would leave without a partner, but a partner may come at any time",
                    table.called_by()
                );
                let help =
                    format!("write FROM {} LEFT JOIN {}, or JOIN", stream.called_by(), table.called_by());
                Err(refuse::refused(word, &message, &help, &self.places))
            }
        }
    }

    /// Refuses a table that no stream asks.
    pub(super) fn check_alone(&self, relation: &Relation, place: &Range<usize>) -> Result<(), Diagnostic> {
        if !relation.stream.is_table() {
            return Ok(());
        }
        let name = relation.called_by();
        let message = format!("`{name}` is a table, which gives no rows by itself: a stream asks it");
        let help = format!("join it with a stream: FROM node JOIN {name} ON node.k = {name}.k");
        Err(refuse::refused(place.clone(), &message, &help, &self.places))
    }
}
