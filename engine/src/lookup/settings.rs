//! The keys that every look-up has, and the node that is made of them.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, Schema};

use super::{LookupPart, LookupPlan, Waits};
use crate::diagnostic::Diagnostic;
use crate::error::ConfigError;
use crate::operator::{Input, OperatorPart, Port};
use crate::schema::{StreamKind, StreamSchema, rejects_schema};
use crate::topology::key::{Key, Kind, optional};
use crate::topology::node::NodeConfig;

const CACHE_KEYS: &[Key] = &[
    optional("size", Kind::Int(0, 10_000_000), "most keys that are remembered, 10000 if left out"),
    optional("for", Kind::Duration, "how long an answer is good, \"1m\" if left out"),
];

/// Keys of every look-up.
pub const LOOKUP_KEYS: &[Key] = &[
    optional(
        "kind",
        Kind::Word(&["left", "inner"]),
        "whether rows leave of which nothing is known, with NULL: \"left\" (they do) if left out",
    )
    .aside(),
    optional("in_flight", Kind::Int(1, 10_000), "most requests at a time, 64 if left out").aside(),
    optional(
        "order",
        Kind::Word(&["rows", "any"]),
        "\"rows\": they leave as they came; \"any\": as soon as they have their answer; \"rows\" if left out",
    )
    .aside(),
    optional(
        "cache",
        Kind::Table(CACHE_KEYS),
        "answers that are not asked for again, also that there is none",
    )
    .aside(),
    optional("timeout", Kind::Duration, "longest wait for one answer, \"5s\" if left out").aside(),
    optional("retries", Kind::Int(0, 1_000), "further attempts when there is no answer, 3 if left out")
        .aside(),
    optional(
        "on_error",
        Kind::Word(&["reject", "null", "fail"]),
        "what becomes of rows without an answer: \"reject\" (to the port `rejects`) if left out",
    )
    .aside(),
];

/// In which order rows leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they came.
    Rows,
    /// As soon as they have their answer.
    Any,
}

/// What becomes of rows without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// They leave by the port `rejects`.
    Reject,
    /// They leave as if nothing were known.
    Null,
    /// The topology fails.
    Fail,
}

/// How rows are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether rows leave of which nothing is known.
    pub is_outer: bool,
    /// Most requests at a time.
    pub in_flight: usize,
    /// In which order rows leave.
    pub order: Order,
    /// Most keys that are remembered.
    pub cache_size: usize,
    /// How long an answer is good.
    pub cache_for: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Further attempts.
    pub retries: u32,
    /// What becomes of rows without an answer.
    pub on_error: OnError,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            is_outer: true,
            in_flight: 64,
            order: Order::Rows,
            cache_size: 10_000,
            cache_for: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            retries: 3,
            on_error: OnError::Reject,
        }
    }
}

impl Settings {
    fn read(config: &NodeConfig) -> Settings {
        let (table, default) = (&config.table, Settings::default());
        let cache = table.table("cache");
        Settings {
            is_outer: table.str("kind") != Some("inner"),
            in_flight: table.int_as("in_flight").unwrap_or(default.in_flight),
            order: if table.str("order") == Some("any") { Order::Any } else { Order::Rows },
            cache_size: cache.and_then(|cache| cache.int_as("size")).unwrap_or(default.cache_size),
            cache_for: cache.and_then(|cache| cache.duration("for")).unwrap_or(default.cache_for),
            timeout: table.duration("timeout").unwrap_or(default.timeout),
            retries: table.int_as("retries").unwrap_or(default.retries),
            on_error: match table.str("on_error") {
                Some("null") => OnError::Null,
                Some("fail") => OnError::Fail,
                Some(_) | None => OnError::Reject,
            },
        }
    }
}

/// The node that looks rows up.
///
/// # Errors
/// The input gives its results several times, or a column of the answers has the
/// name of one of the rows.
pub fn build(config: &NodeConfig, input: &Input, part: LookupPart) -> Result<OperatorPart, ConfigError> {
    let at_from = config.table.span_of("from");
    if input.stream.kind != StreamKind::Appends {
        let message = format!(
            "`{}` gives results again when they change, which `{}` cannot take back",
            input.name, config.name
        );
        return Err(Diagnostic::error("TG-T012", message).at(at_from).into());
    }
    let settings = Settings::read(config);
    let mut fields: Vec<Field> =
        input.stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    for field in part.columns.fields() {
        if fields.iter().any(|known| known.name() == field.name()) {
            let message = format!("two columns of `{}` are called `{}`", config.name, field.name());
            let help = "give the answer's another name: output = { other_name = { type = …, from = … } }";
            let diagnostic = Diagnostic::error("TG-T009", message).at(config.table.span_of("output"));
            return Err(diagnostic.help(help).into());
        }
        fields.push(field.as_ref().clone().with_nullable(true));
    }
    let output = StreamSchema { columns: Arc::new(Schema::new(fields)), ..input.stream.clone() };
    let keys = part.keys.iter().enumerate();
    let keys = keys.map(|(index, key)| Field::new(format!("key {index}"), key.data_type().clone(), true));
    let plan = LookupPlan {
        node: config.name.clone(),
        keys: Arc::new(Schema::new(keys.collect::<Vec<_>>())),
        part,
        input: input.stream.clone(),
        output: output.clone(),
        settings,
    };
    let port = |name: &str, stream| Port { name: name.into(), stream };
    let ports = vec![port("", output), port("rejects", rejects_schema())];
    Ok(OperatorPart { operator: Box::new(Waits(Some(plan))), ports })
}
