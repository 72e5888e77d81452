//! The nodes that a query becomes: each is what a file could say, built by the
//! same function, and gives the columns for the next.

use datafusion::sql::sqlparser::ast::{Expr, Ident};
use tidegate_engine::catalog::{BuildOperator, Feed, InnerPart, Row, find};
use tidegate_engine::diagnostic::{Diagnostic, Span};
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Data, Entry, Table, Text, Value};

use super::place::{Atom, Places};
use super::relation::Relation;

/// Most operators that one query may become.
const PARTS_MAX: usize = 200;

const OPERATORS: &[&[Row<BuildOperator>]] = &[crate::OPERATORS];

/// What a node says.
pub(super) struct Node {
    kind: &'static str,
    span: Span,
    table: Table,
}

impl Node {
    /// A node of this type; `span` is the place in the file that it is made from.
    pub(super) fn new(kind: &'static str, span: Span) -> Node {
        Node { kind, table: Table { span: span.clone(), entries: Vec::new() }, span }
    }

    fn with(mut self, key: &str, span: Span, data: Data) -> Node {
        let value = Value { span: span.clone(), data };
        self.table.entries.push(Entry { key: key.to_owned(), key_span: span, value });
        self
    }

    pub(super) fn text(self, key: &str, text: Text) -> Node {
        let span = text.span.clone();
        self.with(key, span, Data::Text(text))
    }

    pub(super) fn texts(self, key: &str, texts: Vec<Text>) -> Node {
        let span = self.span.clone();
        let items = texts.into_iter().map(|text| Value { span: text.span.clone(), data: Data::Text(text) });
        let items = items.collect();
        self.with(key, span, Data::List(items))
    }

    /// A word that stands in no query.
    pub(super) fn word(self, key: &str, word: &str) -> Node {
        let text = self.loose(word);
        self.text(key, text)
    }

    pub(super) fn number(self, key: &str, number: i64) -> Node {
        let span = self.span.clone();
        self.with(key, span, Data::Int(number))
    }

    /// A table of words.
    pub(super) fn table(self, key: &str, words: &[(&str, String)]) -> Node {
        let inner =
            words.iter().fold(Node::new("", self.span.clone()), |node, (key, word)| node.word(key, word));
        let span = self.span.clone();
        self.with(key, span, Data::Table(inner.table))
    }

    /// A table of words in a table.
    pub(super) fn table_in(self, key: &str, inner_key: &str, words: &[(&str, String)]) -> Node {
        let inner = Node::new("", self.span.clone()).table(inner_key, words);
        let span = self.span.clone();
        self.with(key, span, Data::Table(inner.table))
    }

    fn loose(&self, word: &str) -> Text {
        Text { span: self.span.clone(), ..Text::loose(word) }
    }
}

/// All nodes of a query so far.
pub(super) struct Nodes<'a> {
    config: &'a NodeConfig,
    context: &'a BuildContext,
    parts: Vec<InnerPart>,
}

impl<'a> Nodes<'a> {
    pub(super) fn new(config: &'a NodeConfig, context: &'a BuildContext) -> Nodes<'a> {
        Nodes { config, context, parts: Vec::new() }
    }

    /// Builds a node behind these.
    pub(super) fn add(
        &mut self,
        places: &Places,
        node: Node,
        from: &[&Relation],
    ) -> Result<Relation, ConfigError> {
        if self.parts.len() >= PARTS_MAX {
            let message = format!("the query would become more than {PARTS_MAX} operators");
            let help = "split it over several operators of type `sql`";
            return Err(Diagnostic::error("TG-X005", message).at(node.span).help(help).into());
        }
        let names = from.iter().map(|relation| node.loose(&relation.node)).collect();
        let span = node.span.clone();
        let kind = node.loose(node.kind);
        let mut table = Node::new("", span.clone()).text("type", kind.clone()).texts("from", names).table;
        table.entries.extend(node.table.entries);
        let number = self.parts.len() + 1;
        let config = NodeConfig {
            name: format!("{}.{number}", self.config.name),
            name_span: span,
            kind,
            table,
            ..self.config.clone()
        };
        let inputs = from.iter().map(|relation| (relation.feed, relation.input())).collect();
        let part = self.built(places, config, inputs)?;
        let stream = part.part.ports.first().map(|port| port.stream.clone());
        let stream = stream.ok_or_else(ConfigError::default)?;
        self.parts.push(part);
        Ok(Relation::new(Feed::Inside(number - 1), format!("{}_{number}", self.config.name), stream))
    }

    fn built(
        &self,
        places: &Places,
        config: NodeConfig,
        inputs: Vec<(Feed, Input)>,
    ) -> Result<InnerPart, ConfigError> {
        let row = find(OPERATORS, &config.kind.value).ok_or_else(ConfigError::default)?;
        let streams: Vec<Input> = inputs.iter().map(|(_, input)| input.clone()).collect();
        let part = (row.build)(&config, self.context, &streams);
        let part = part.map_err(|error| {
            ConfigError(error.0.into_iter().map(|message| places.moved(message)).collect())
        })?;
        Ok(InnerPart { config, keys: row.keys, part, inputs })
    }

    /// Whether this is what the last node gives.
    pub(super) fn ends_with(&self, relation: &Relation) -> bool {
        relation.feed == Feed::Inside(self.parts.len().wrapping_sub(1))
    }

    /// All parts; the last one bears the name of the query's node.
    pub(super) fn finish(mut self, places: &Places) -> Result<Vec<InnerPart>, ConfigError> {
        if let Some(last) = self.parts.pop() {
            let config = NodeConfig { name: self.config.name.clone(), ..last.config };
            let last = self.built(places, config, last.inputs)?;
            self.parts.push(last);
        }
        Ok(self.parts)
    }
}

impl Places {
    /// The expression as a text of a node.
    pub(super) fn text_of(&mut self, expr: &Expr) -> Text {
        let atoms = self.atoms(expr);
        self.printed(expr.to_string(), &atoms)
    }

    /// `expression AS name`; a column under its own name stands alone.
    pub(super) fn text_as(&mut self, expr: &Expr, name: &Ident) -> Text {
        let mut atoms: Vec<Atom> = self.atoms(expr);
        if matches!(expr, Expr::Identifier(column) if column.value == name.value) {
            return self.printed(expr.to_string(), &atoms);
        }
        if let Some(place) = self.byte(name.span.start).zip(self.byte(name.span.end)) {
            atoms.push((place.0..place.1, name.to_string()));
        }
        self.printed(format!("{expr} AS {name}"), &atoms)
    }
}
