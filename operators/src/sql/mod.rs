//! `sql`: a query over streams, planned once, when the file is loaded, into the
//! same operators that a file names one by one. Each node that is built gives the
//! columns for the next. What cannot run on a stream is refused at its word.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the grammar is wide and grows: what is not named here is refused or left to the expressions' own planner"
)]

mod bound;
mod from;
mod group;
mod interval;
mod item;
mod join;
mod names;
mod nodes;
mod parse;
mod place;
mod plan;
mod project;
mod rank;
mod refuse;
mod relation;
mod rewrite;
mod select;
mod table;
mod unnest;
mod updating;
mod window;

use tidegate_engine::catalog::{Composed, InnerPart, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::operator::Input;
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use crate::aggregate::TTL_KEY;
use crate::expression::on_stack;
use plan::Planner;

const KEYS: &[Key] = &[
    required(
        "query",
        Kind::Text,
        "one SELECT over nodes and tables: WHERE, GROUP BY with tumble(time, size), hop(time, slide, size) or session(time, gap), HAVING, JOIN near in time or with a table, WITH, UNION ALL, UNNEST, DISTINCT ON, ROW_NUMBER() … <= n (`*` of a join begins with its own `event_time`, or `window_start` and `window_end`); without a window these give results again as they change, with the columns `changed_at` and `change`; `tidegate check --explain` shows what it becomes",
    ),
    Key {
        doc: "results without a window: a key without rows for this long, by event time, is forgotten, and its last result stands; \"30d\" if left out",
        ..TTL_KEY
    },
];

pub(crate) const ROW: Row<Composed> = Row {
    name: "sql",
    summary: "a query over streams and tables, made of the other operators",
    keys: &[KEYS],
    example: r#"[operator.per_device]
type  = "sql"
query = """
  SELECT device, tumble(ts, '1m') AS minute, avg(value) AS mean, count(*) AS n
  FROM rows WHERE quality = 'good'
  GROUP BY device, tumble(ts, '1m') HAVING count(*) > 1
"""
"#,
    build: Composed { reads, build },
};

/// Stack for planning a query: unoptimised builds need about 20 KiB for each word of a
/// chain, of which there are `parse::WORDS_MAX`.
const STACK_BYTES: usize = 256 * 1024 * 1024;

fn query(config: &NodeConfig) -> Result<&Text, ConfigError> {
    config.table.text("query").ok_or_else(ConfigError::default)
}

fn reads(config: &NodeConfig) -> Result<Vec<Text>, ConfigError> {
    let text = query(config)?;
    on_big_stack(text, || {
        let (query, places) = parse::parse(text)?;
        let nodes = names::nodes(&query, &places);
        if nodes.is_empty() { Err(refuse::nothing(&query.body, &places).into()) } else { Ok(nodes) }
    })
}

fn build(
    config: &NodeConfig,
    context: &BuildContext,
    inputs: &[Input],
) -> Result<Vec<InnerPart>, ConfigError> {
    let text = query(config)?;
    on_big_stack(text, || {
        let (query, places) = parse::parse(text)?;
        Planner::new(places, config, context, inputs).plan(&query)
    })
}

fn on_big_stack<T: Send>(
    text: &Text,
    work: impl FnOnce() -> Result<T, ConfigError> + Send,
) -> Result<T, ConfigError> {
    on_stack(STACK_BYTES, work).unwrap_or_else(|what| {
        let message = format!("the query cannot be planned: planning {what}");
        Err(Diagnostic::error("TG-S001", message).at(text.span.clone()).into())
    })
}
