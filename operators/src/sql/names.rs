//! Which nodes a query reads. Names that WITH makes are no nodes.

use datafusion::sql::sqlparser::ast::{ObjectName, Query, SetExpr, TableFactor, TableWithJoins};
use tidegate_engine::topology::value::Text;

use super::place::{Places, parts};

/// Each node or port once, in the order of the query, at its place.
pub(super) fn nodes(query: &Query, places: &Places) -> Vec<Text> {
    let mut search = Search { places, found: Vec::new() };
    search.query(query, &[]);
    search.found
}

/// `orders`, `"load.late"` or `load.late` as a node's name.
pub(super) fn node_name(name: &ObjectName) -> String {
    parts(name).map(|part| part.value.as_str()).collect::<Vec<_>>().join(".")
}

struct Search<'a> {
    places: &'a Places,
    found: Vec<Text>,
}

impl Search<'_> {
    fn query(&mut self, query: &Query, made: &[String]) {
        let mut made = made.to_vec();
        for table in query.with.iter().flat_map(|with| &with.cte_tables) {
            self.query(&table.query, &made);
            made.push(table.alias.name.value.clone());
        }
        self.body(&query.body, &made);
    }

    fn body(&mut self, body: &SetExpr, made: &[String]) {
        match body {
            SetExpr::Select(select) => select.from.iter().for_each(|table| self.tables(table, made)),
            SetExpr::Query(query) => self.query(query, made),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, made);
                self.body(right, made);
            }
            _ => {}
        }
    }

    fn tables(&mut self, tables: &TableWithJoins, made: &[String]) {
        self.table(&tables.relation, made);
        tables.joins.iter().for_each(|join| self.table(&join.relation, made));
    }

    fn table(&mut self, table: &TableFactor, made: &[String]) {
        match table {
            TableFactor::Table { name, args: None, .. } => {
                let node = node_name(name);
                if made.contains(&node) || self.found.iter().any(|known| known.value == node) {
                    return;
                }
                let place = self.places.of(table);
                let written = self.places.part(place.clone());
                // Without its quotes, so that a port in it has a place of its own.
                let inside = written.value.len() == node.len() + 2;
                let text = if inside { self.places.part(place.start + 1..place.end - 1) } else { written };
                self.found.push(if text.value == node { text } else { Text { value: node, ..text } });
            }
            TableFactor::Derived { subquery, .. } => self.query(subquery, made),
            TableFactor::NestedJoin { table_with_joins, .. } => self.tables(table_with_joins, made),
            _ => {}
        }
    }
}
