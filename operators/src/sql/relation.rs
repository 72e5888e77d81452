//! What a part of a query gives: a stream, and what the query calls its columns.

use datafusion::sql::sqlparser::ast::Ident;
use tidegate_engine::catalog::Feed;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::{StreamKind, StreamSchema};

/// Whether a column is an edge of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    Start,
    End,
}

/// Windows of one size that rows are results of, by fixed steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Windowed {
    pub(super) size_us: i64,
    pub(super) slide_us: i64,
}

/// A column as a query may name it.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// `a` of `a.k`.
    pub(super) qualifier: Option<String>,
    pub(super) name: String,
    /// Whether `k` alone may mean it.
    pub(super) bare: bool,
    /// Where it is in the stream.
    pub(super) field: usize,
    pub(super) role: Role,
}

#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub(super) feed: Feed,
    /// What the node is called where a file could name it.
    pub(super) node: String,
    pub(super) stream: StreamSchema,
    pub(super) columns: Vec<Column>,
    pub(super) windowed: Option<Windowed>,
}

/// The names that a query may use, of one relation or of both sides of a join.
pub(super) struct Scope<'a> {
    pub(super) relations: Vec<&'a Relation>,
}

/// A column that was found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    /// Which relation.
    pub(super) side: usize,
    pub(super) relation: &'a Relation,
    pub(super) column: &'a Column,
    /// How many of the names mean it; the others are fields of a struct.
    pub(super) names: usize,
}

impl Relation {
    /// All columns, as the stream calls them; of a changelog, those of its images.
    pub(super) fn new(feed: Feed, node: String, stream: StreamSchema) -> Relation {
        let outside = stream.outside_of_image();
        let fields = stream.columns.fields().iter().enumerate();
        let fields = fields.filter(|(field, _)| !outside.contains(field));
        let columns = fields.map(|(field, column)| Column {
            qualifier: None,
            name: column.name().clone(),
            bare: true,
            field,
            role: Role::Plain,
        });
        let columns = columns.collect();
        Relation { feed, node, stream, columns, windowed: None }
    }

    /// The same after a node that leaves columns where they are, and may add some.
    pub(super) fn onto(self, next: Relation) -> Relation {
        Relation { columns: self.columns, windowed: self.windowed, ..next }
    }

    /// The same under a name.
    pub(super) fn called(mut self, alias: &str) -> Relation {
        for column in &mut self.columns {
            column.qualifier = Some(alias.to_owned());
        }
        self
    }

    pub(super) fn field(&self, column: &Column) -> &str {
        self.stream.columns.fields().get(column.field).map_or("", |field| field.name())
    }

    /// What the query calls it.
    pub(super) fn called_by(&self) -> &str {
        self.columns.iter().find_map(|column| column.qualifier.as_deref()).unwrap_or(&self.node)
    }

    /// Whether rows change what earlier ones said.
    pub(super) fn changes(&self) -> bool {
        matches!(self.stream.kind, StreamKind::Changelog | StreamKind::Revises)
    }

    pub(super) fn input(&self) -> Input {
        Input { name: self.node.clone(), stream: self.stream.clone() }
    }

    /// What its event time is called.
    pub(super) fn time(&self) -> Option<&Column> {
        self.columns.iter().find(|column| Some(column.field) == self.stream.time)
    }

    pub(super) fn is_time(&self, column: &Column) -> bool {
        Some(column.field) == self.stream.time
    }

    /// Sets the roles of columns by their names in the stream.
    pub(super) fn with_edges(mut self, start: &str, end: &str) -> Relation {
        let fields = self.stream.columns.fields();
        for column in &mut self.columns {
            match fields.get(column.field).map(|field| field.name().as_str()) {
                Some(name) if name == start => column.role = Role::Start,
                Some(name) if name == end => column.role = Role::End,
                Some(_) | None => {}
            }
        }
        self
    }
}

impl<'a> Scope<'a> {
    pub(super) fn of(relation: &'a Relation) -> Scope<'a> {
        Scope { relations: vec![relation] }
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = (usize, &'a Relation, &'a Column)> + '_ {
        let sides = self.relations.iter().enumerate();
        sides
            .flat_map(|(side, relation)| relation.columns.iter().map(move |column| (side, *relation, column)))
    }

    /// Every column that these names may mean.
    pub(super) fn find(&self, names: &[Ident]) -> Vec<Found<'a>> {
        let values: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
        let mut found = Vec::new();
        for (side, relation, column) in self.columns() {
            let qualified = column.qualifier.as_deref().map(|qualifier| {
                let parts: Vec<&str> = qualifier.split('.').collect();
                // `"load.late".k`, or load.late.k.
                let whole =
                    values.first() == Some(&qualifier) && values.get(1) == Some(&column.name.as_str());
                let split = parts.len() > 1
                    && values.starts_with(&parts)
                    && values.get(parts.len()) == Some(&column.name.as_str());
                if whole {
                    2
                } else if split {
                    parts.len() + 1
                } else {
                    0
                }
            });
            let names = qualified.filter(|names| *names > 0);
            let names = names.or((column.bare && values.first() == Some(&column.name.as_str())).then_some(1));
            if let Some(names) = names {
                found.push(Found { side, relation, column, names });
            }
        }
        // `a.k` is the column k of a, rather than the field k of a struct a.
        let longest = found.iter().map(|found| found.names).max().unwrap_or(0);
        found.retain(|found| found.names == longest);
        found
    }

    /// Every name, for messages.
    pub(super) fn listed(&self) -> Vec<String> {
        let names = self.columns().map(|(_, _, column)| match &column.qualifier {
            Some(qualifier) if self.relations.len() > 1 || !column.bare => {
                format!("{qualifier}.{}", column.name)
            }
            _ => column.name.clone(),
        });
        names.collect()
    }
}
