//! `[operator.x] type = "lookup"`: what a database, an HTTP service or Redis
//! knows of each row. Here are the keys and what all of them share; requests are
//! made beside each client.

mod answers;
mod http;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::expression::{Expression, Scope};
use tidegate_engine::lookup::{LOOKUP_KEYS, Lookup, LookupPart, build as build_node};
use tidegate_engine::operator::{Input, OperatorPart};
use tidegate_engine::schema::type_name;
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::{Data, Table, Text};

pub(crate) use answers::{Collected, key_texts};

use crate::format::{COLUMN_KEYS, RowFormat};
use crate::table::set;

/// As in `schema` of a source.
const COLUMNS: Kind = Kind::Map(&Kind::AnyOf(&[Kind::Text, Kind::Table(COLUMN_KEYS)]));

const SQL_KEYS: &[Key] = &[
    optional("sqlite", Kind::Text, "an SQLite file"),
    optional(
        "postgres",
        Kind::Text,
        "or a server: postgresql://user@host:5432/database, or a secret:// reference",
    ),
    optional("password", Kind::Secret, "the user's password, if the url has none"),
    required("query", Kind::Template, "the query; each {expr} is a parameter"),
];

const HTTP_KEYS: &[Key] = &[
    required("get", Kind::Template, "URL to get; each {expr} is encoded, and none may be in the host"),
    optional("headers", Kind::Map(&Kind::Text), "more headers; a value may be a secret:// reference"),
    optional("token", Kind::Secret, "sent as `Authorization: Bearer …`"),
];

const REDIS_KEYS: &[Key] = &[
    required("url", Kind::Text, "redis://host:6379/0, without TLS"),
    optional("password", Kind::Secret, "sent as AUTH"),
    optional(
        "get",
        Kind::Template,
        "the key whose value is looked up: a JSON object, or the one column of `output`",
    ),
    optional("hash", Kind::Template, "the key of a hash whose fields are the columns of `output`"),
];

const KEYS: &[Key] = &[
    optional("sql", Kind::Table(SQL_KEYS), "asks a database"),
    optional(
        "http",
        Kind::Table(HTTP_KEYS),
        "asks an HTTP service for JSON; 404 means that nothing is known",
    ),
    optional("redis", Kind::Table(REDIS_KEYS), "asks Redis"),
    required("output", COLUMNS, "the columns of the answer and their types; `from` is a path into JSON"),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "lookup",
    summary: "what a database, an HTTP service or Redis knows of each row, remembered for a time",
    keys: &[KEYS, LOOKUP_KEYS],
    example: r#"[operator.owned]
type   = "lookup"
from   = "rows"
http   = { get = "http://registry.example/devices/{device}" }
output = { owner = "string", limit = { type = "float64", from = "limits.high" } }
cache  = { size = 10000, for = "5m" }
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, inputs: &[Input]) -> Result<OperatorPart, ConfigError> {
    let [input] = inputs else {
        let message = format!("`{}` has {} inputs, but `lookup` takes one", config.name, inputs.len());
        let diagnostic = Diagnostic::error("TG-T005", message).at(config.table.span_of("from"));
        return Err(diagnostic.help("join several streams with an operator of type `union` first").into());
    };
    let ways: Vec<&str> =
        ["sql", "http", "redis"].into_iter().filter(|way| config.table.get(way).is_some()).collect();
    let ([way], Some(table)) = (ways.as_slice(), ways.first().and_then(|way| config.table.table(way))) else {
        let message = format!("`{}` must say whom it asks, once", config.name);
        let help = "write one of sql = { … }, http = { … } and redis = { … }";
        return Err(Diagnostic::error("TG-C006", message).at(config.name_span.clone()).help(help).into());
    };
    let question = Question { config, context, input, table };
    let (lookup, keys, columns): Built = match *way {
        "http" => http::lookup(&question)?,
        "redis" => crate::redis::lookup(&question)?,
        _ => match (table.get("sqlite"), table.get("postgres")) {
            (Some(_), None) => crate::sqlite_lookup::lookup(&question)?,
            (None, Some(_)) => crate::postgres::lookup(&question)?,
            (_, _) => {
                let message = "`sql` names one database: `sqlite` or `postgres`";
                return Err(Diagnostic::error("TG-C006", message).at(config.table.span_of("sql")).into());
            }
        },
    };
    build_node(config, input, LookupPart { lookup, keys, columns })
}

/// Whom to ask, what makes the keys, the columns of the answers.
pub(crate) type Built = (Arc<dyn Lookup>, Vec<Arc<dyn Expression>>, SchemaRef);

/// What a look-up is built from.
pub(crate) struct Question<'a> {
    pub(crate) config: &'a NodeConfig,
    pub(crate) context: &'a BuildContext,
    input: &'a Input,
    /// The table that says whom to ask.
    pub(crate) table: &'a Table,
}

impl Question<'_> {
    /// Compiles the text that holds the key of each row.
    pub(crate) fn template(&self, key: &str) -> Result<Template, ConfigError> {
        let text = self.table.text(key).ok_or_else(ConfigError::default)?;
        let scope = Scope::of(&self.input.stream.columns);
        let template =
            Template::compile(text, &scope, self.context.expressions.as_ref()).map_err(ConfigError)?;
        if template.as_literal().is_some() {
            let message = format!("`{key}` of `{}` asks the same for every row", self.config.name);
            let diagnostic = Diagnostic::error("TG-C006", message).at(text.span.clone());
            return Err(diagnostic.help("insert a value of the row: {device}").into());
        }
        Ok(template)
    }

    /// A query whose `{expr}` have become these parameters.
    pub(crate) fn query(
        &self,
        parameter: impl Fn(usize) -> String,
    ) -> Result<(Template, String), ConfigError> {
        let template = self.template("query")?;
        let text = self.table.text("query").ok_or_else(ConfigError::default)?;
        for expression in template.expressions() {
            if matches!(
                expression.data_type(),
                DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            ) {
                let name = type_name(expression.data_type());
                let message = format!("a parameter of a query cannot be of the type {name}");
                return Err(Diagnostic::error("TG-X003", message).at(text.span.clone()).into());
            }
        }
        let parameters: Vec<String> = (0..template.expressions().len()).map(parameter).collect();
        // A mark that no query has shows where a parameter would be inside of quotes.
        let marked = template.fill(&vec!["\u{1}".to_owned(); parameters.len()]);
        let mut quoted = None;
        for c in marked.chars() {
            match (quoted, c) {
                (Some(open), _) if c == open => quoted = None,
                (None, '\'' | '"') => quoted = Some(c),
                (Some(_), '\u{1}') => {
                    let message = "a value inside quotes of a query would be text as it stands";
                    let diagnostic = Diagnostic::error("TG-X006", message).at(text.span.clone());
                    return Err(diagnostic.help("leave the quotes out: a value is a parameter").into());
                }
                (_, _) => {}
            }
        }
        let query = template.fill(&parameters);
        let query = query.trim().trim_end_matches(';').to_owned();
        Ok((template, query))
    }

    /// Whether a column of the answer holds numbers that count a unit of time.
    pub(crate) fn counts(&self, column: &str) -> bool {
        let column = self.config.table.table("output").and_then(|output| output.table(column));
        column.is_some_and(|column| column.get("unit").is_some())
    }

    /// How answers, which are JSON, become rows.
    pub(crate) fn format(&self, mistyped: Option<&str>) -> Result<RowFormat, ConfigError> {
        let mut config = self.config.clone();
        if let Some(output) = config.table.get("output").map(|value| value.data.clone()) {
            set(&mut config, "schema", output);
        }
        set(&mut config, "format", Data::Text(Text::loose("json")));
        if let Some(word) = mistyped {
            set(&mut config, "mistyped", Data::Text(Text::loose(word)));
        }
        RowFormat::from_config(&config, Vec::new())
    }
}
