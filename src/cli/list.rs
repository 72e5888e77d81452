//! `tidegate list`: the catalogue.

use clap::Args;
use tidegate_engine::catalog::Row;

use super::print::say;
use crate::catalog::CATALOG;
use crate::exit::Failure;

#[derive(Args)]
pub(crate) struct List {
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

impl List {
    #[allow(clippy::unnecessary_wraps, reason = "every command answers alike")]
    pub(crate) fn run(self) -> Result<(), Failure> {
        self.section("source", CATALOG.sources);
        self.section("operator", CATALOG.operators);
        self.section("operator", CATALOG.composed);
        self.section("sink", CATALOG.sinks);
        self.section("table", CATALOG.tables);
        self.section("task", CATALOG.tasks);
        Ok(())
    }

    fn section<Build>(&self, section: &str, tables: &[&[Row<Build>]]) {
        let mut rows: Vec<&Row<Build>> = tables.iter().flat_map(|table| table.iter()).collect();
        rows.sort_by_key(|row| row.name);
        for row in rows {
            if self.json {
                say!("{}", serde_json::json!({"section": section, "type": row.name, "summary": row.summary}));
            } else {
                say!("{:<24} {}", format!("{section}.{}", row.name), row.summary);
            }
        }
    }
}
