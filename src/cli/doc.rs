//! `tidegate doc source.modbus`: keys and an example, from the catalogue.

use clap::Args;
use tidegate_engine::catalog::{Row, find, names};
use tidegate_engine::diagnostic::nearest;
use tidegate_engine::topology::key::{Key, Kind};
use tidegate_engine::topology::sections::{
    COMPOSED_KEYS, OPERATOR_KEYS, SINK_KEYS, SOURCE_KEYS, TABLE_KEYS, TOPOLOGY_KEYS,
};

use super::print::say;
use crate::catalog::CATALOG;
use crate::exit::{FAILED, Failure};

#[derive(Args)]
pub(crate) struct Doc {
    /// `source.TYPE`, `operator.TYPE`, `sink.TYPE`, `table.TYPE`, `task.TYPE`, `trigger` or `topology`
    part: String,
}

impl Doc {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (section, name) = self.part.split_once('.').unwrap_or((self.part.as_str(), ""));
        match section {
            "source" => show(section, SOURCE_KEYS, find(CATALOG.sources, name)),
            "operator" => show(section, OPERATOR_KEYS, find(CATALOG.operators, name))
                .or_else(|| show(section, COMPOSED_KEYS, find(CATALOG.composed, name))),
            "sink" => show(section, SINK_KEYS, find(CATALOG.sinks, name)),
            "table" => show(section, TABLE_KEYS, find(CATALOG.tables, name)),
            "task" => show(section, &[], find(CATALOG.tasks, name)),
            "trigger" => show(section, &[], Some(CATALOG.trigger)),
            "topology" => {
                keys(TOPOLOGY_KEYS, 0);
                Some(())
            }
            _ => None,
        }
        .ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> Failure {
        let all: Vec<String> = names(CATALOG.sources)
            .map(|name| format!("source.{name}"))
            .chain(names(CATALOG.operators).map(|name| format!("operator.{name}")))
            .chain(names(CATALOG.composed).map(|name| format!("operator.{name}")))
            .chain(names(CATALOG.sinks).map(|name| format!("sink.{name}")))
            .chain(names(CATALOG.tables).map(|name| format!("table.{name}")))
            .chain(names(CATALOG.tasks).map(|name| format!("task.{name}")))
            .chain(["trigger".to_owned(), "topology".to_owned()])
            .collect();
        let near = nearest(&self.part, all.iter().map(String::as_str));
        let help = near
            .map_or("`tidegate list` shows them all".to_owned(), |near| format!("did you mean `{near}`?"));
        Failure::new(FAILED, format!("there is no `{}`; {help}", self.part))
    }
}

fn show<Build>(section: &str, common: &[Key], row: Option<&Row<Build>>) -> Option<()> {
    let row = row?;
    say!("{section}.{}: {}\n", row.name, row.summary);
    keys(common, 0);
    for table in row.keys {
        keys(table, 0);
    }
    say!("\nExample:\n\n{}", row.example.trim_end());
    Some(())
}

fn keys(keys: &[Key], depth: usize) {
    let indent = "  ".repeat(depth);
    for key in keys {
        let need = if key.required { "required" } else { "optional" };
        say!("{indent}{} ({need}): {}. {}", key.name, key.doc, first_upper(&key.kind.describe()));
        nested(&key.kind, depth + 1);
    }
}

fn nested(kind: &Kind, depth: usize) {
    match kind {
        Kind::Table(inner) => keys(inner, depth),
        Kind::List(inner) | Kind::Map(inner) => nested(inner, depth),
        Kind::AnyOf(kinds) => kinds.iter().for_each(|kind| nested(kind, depth)),
        Kind::Text
        | Kind::Template
        | Kind::Expression
        | Kind::Secret
        | Kind::Word(_)
        | Kind::Bool
        | Kind::Int(..)
        | Kind::Number
        | Kind::Duration
        | Kind::Size
        | Kind::Rate
        | Kind::Any => {}
    }
}

fn first_upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
