//! `sql`: a query over the rows that fired (`trigger`), results of earlier
//! tasks (by their ids), the topology's tables, and values (`$turbine`,
//! `$need.mm`, `$fired_at`, `{mm * 2}`). Planned and typed when the file is loaded; tables
//! are read when it runs.

mod query;
mod values;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::schema::{StreamKind, StreamSchema};
use tidegate_engine::table::ReferenceTable;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::expression::{check_size, locate_in_query};
use query::Table;
use values::{Inserted, VALUES, Values, insert_values};

const KEYS: &[Key] =
    &[required("query", Kind::Text, "one SELECT; its rows are the result; `$name` and `{expr}` are values")];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "sql",
    summary: "queries the rows that fired, the results of earlier tasks and tables",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id    = "evidence"
type  = "sql"
query = "SELECT count(*) AS n, max(value) AS worst FROM trigger"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let text = config.table.text("query").ok_or_else(ConfigError::default)?;
    check_size(text, "the query", "let an earlier task of type `sql` do a part of it")?;
    let Inserted { query, values } =
        insert_values(text, &scope.values, context.expressions.as_ref()).map_err(ConfigError)?;
    let mut inputs = vec![(VALUES.to_owned(), Arc::clone(&values.columns), Origin::Values(values))];
    if let Some(trigger) = &scope.trigger {
        inputs.push(("trigger".into(), Arc::clone(&trigger.columns), Origin::Trigger));
    }
    for (id, result) in &scope.results {
        inputs.push((id.clone(), Arc::clone(&result.columns), Origin::Result));
    }
    for table in &scope.tables {
        inputs.push((
            table.name.clone(),
            Arc::clone(&table.columns),
            Origin::Table(Arc::clone(&table.table)),
        ));
    }
    let empty =
        inputs.iter().map(|(name, schema, _)| (name.clone(), Arc::clone(schema), Vec::new())).collect();
    let names: Vec<&str> =
        inputs.iter().map(|(name, _, _)| name.as_str()).filter(|name| *name != VALUES).collect();
    let planned = query::plan(query.clone(), empty).map_err(|error| locate_in_query(&error, text, &names))?;
    // What the query does not name is neither read nor handed over.
    inputs.retain(|(name, _, _)| planned.reads.contains(name));
    let result = StreamSchema {
        columns: planned.columns,
        time: None,
        time_shift_us: 0,
        kind: StreamKind::Appends,
        key: None,
    };
    Ok(TaskPart { task: Box::new(Sql { query, inputs }), result })
}

/// Where the rows of a table of the query come from.
#[derive(Clone)]
enum Origin {
    Values(Values),
    Trigger,
    Result,
    Table(Arc<dyn ReferenceTable>),
}

struct Sql {
    query: String,
    /// The tables that the query reads.
    inputs: Vec<(String, SchemaRef, Origin)>,
}

/// The rows of every table of the query, as they are now. May read files.
fn gather(inputs: &[(String, SchemaRef, Origin)], context: &TaskContext) -> Result<Vec<Table>, TaskError> {
    let mut tables = Vec::with_capacity(inputs.len());
    for (name, schema, origin) in inputs {
        let batches = match origin {
            Origin::Values(values) => vec![values.row(&context.values)?],
            Origin::Trigger => context.trigger_rows.clone(),
            Origin::Result => {
                let found = context.results.iter().find(|(id, _)| id == name);
                found.map(|(_, rows)| rows.clone()).unwrap_or_default()
            }
            Origin::Table(table) => table
                .rows()
                .map_err(|reason| TaskError::Fatal(format!("table `{name}` cannot be read: {reason}")))?,
        };
        let batches: Result<Vec<RecordBatch>, _> = batches
            .into_iter()
            .map(|batch| RecordBatch::try_new(Arc::clone(schema), batch.columns().to_vec()))
            .collect();
        let batches =
            batches.map_err(|error| TaskError::Fatal(format!("the rows of `{name}` do not fit: {error}")))?;
        tables.push((name.clone(), Arc::clone(schema), batches));
    }
    Ok(tables)
}

#[async_trait]
impl Task for Sql {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let (query, inputs, context) = (self.query.clone(), self.inputs.clone(), context.clone());
        let rows = query::run(query, move || gather(&inputs, &context)).await?;
        Ok(TaskStep::Done(rows))
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }
}
