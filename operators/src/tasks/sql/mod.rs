//! `sql`: a query over the rows that fired (`trigger`), results of earlier
//! tasks (by their ids), the topology's tables, and values (`$turbine`,
//! `$need.mm`, `$fired_at`). Planned and typed when the file is loaded; tables
//! are read when it runs.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig};
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::expression::Scope;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::table::ReferenceTable;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use crate::expression::locate_in_query;

const KEYS: &[Key] = &[required("query", Kind::Text, "one SELECT; its rows are the result")];

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

/// The table of values, which queries name by `$`.
const VALUES: &str = "tidegate_values";
/// Longest query, in bytes.
const QUERY_BYTES_MAX: usize = 64 * 1024;
/// Stack of the thread that plans: planning recurses over the query.
const STACK_BYTES: usize = 64 * 1024 * 1024;

fn build(config: &NodeConfig, _context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let text = config.table.text("query").ok_or_else(ConfigError::default)?;
    if text.value.len() > QUERY_BYTES_MAX {
        let message = format!("the query is longer than {QUERY_BYTES_MAX} bytes");
        return Err(Diagnostic::error("TG-F024", message).at(text.span.clone()).into());
    }
    let query = insert_values(text, &scope.values)?;
    let mut inputs = vec![(VALUES.to_owned(), values_schema(&scope.values), Origin::Values)];
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
    let planned = run(query.clone(), empty, false).map_err(|error| locate_in_query(&error, text, &names))?;
    // What the query does not name is neither read nor handed over.
    inputs.retain(|(name, _, _)| planned.reads.contains(name));
    let result = StreamSchema { columns: planned.columns, time: None, time_shift_us: 0 };
    Ok(TaskPart { task: Box::new(Sql { query, inputs }), result })
}

/// Where the rows of a table of the query come from.
#[derive(Clone)]
enum Origin {
    Values,
    Trigger,
    Result,
    Table(Arc<dyn ReferenceTable>),
}

/// Columns of the task's values, called by their place.
fn values_schema(scope: &Scope) -> SchemaRef {
    let fields = scope.columns.iter().enumerate();
    let fields =
        fields.map(|(index, (_, field))| Field::new(format!("c{index}"), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Replaces `$name` and `$task.column` outside of quotes by a look-up of the
/// value, so that a value can never be read as SQL.
fn insert_values(text: &Text, scope: &Scope) -> Result<String, Diagnostic> {
    let mut out = String::with_capacity(text.value.len());
    let mut quote = None;
    let mut chars = text.value.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(_) | None => {}
        }
        if c != '$' || quote.is_some() {
            out.push(c);
            continue;
        }
        let mut end = at + 1;
        while let Some((next, c)) = chars.peek().copied() {
            if !(c.is_alphanumeric() || c == '_' || c == '.') {
                break;
            }
            end = next + c.len_utf8();
            chars.next();
        }
        let name = text.value.get(at + 1..end).unwrap_or_default();
        let index = find_value(name, scope).ok_or_else(|| {
            let names: Vec<String> = scope.columns.iter().map(value_name).collect();
            Diagnostic::error("TG-X002", format!("there is no value `${name}`"))
                .at(text.span_of(at..end))
                .help(format!("the values are {}", names.join(", ")))
                .suggest(name, names.iter().map(String::as_str))
        })?;
        out.push_str(&format!("(SELECT c{index} FROM {VALUES})"));
    }
    Ok(out)
}

fn value_name(column: &(Option<String>, arrow::datatypes::FieldRef)) -> String {
    match column {
        (Some(qualifier), field) => format!("{qualifier}.{}", field.name()),
        (None, field) => field.name().clone(),
    }
}

fn find_value(name: &str, scope: &Scope) -> Option<usize> {
    let of_run = format!("run.{name}");
    [name, of_run.as_str()]
        .into_iter()
        .find_map(|name| scope.columns.iter().position(|column| value_name(column) == name))
}

type Table = (String, SchemaRef, Vec<RecordBatch>);

/// What came of a query.
struct Answer {
    columns: SchemaRef,
    /// Names of the tables it reads.
    reads: BTreeSet<String>,
    rows: Vec<RecordBatch>,
}

/// Plans the query, and runs it if asked to, on a thread with a big stack.
fn run(query: String, tables: Vec<Table>, execute: bool) -> Result<Answer, DataFusionError> {
    on_big_stack(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| DataFusionError::External(error.into()))?;
        runtime.block_on(async move {
            let mut config = SessionConfig::new().with_target_partitions(1);
            config.options_mut().sql_parser.enable_ident_normalization = false;
            let context = SessionContext::new_with_config(config);
            for (name, schema, batches) in tables {
                let table = MemTable::try_new(schema, vec![batches])?;
                context.register_table(name.as_str(), Arc::new(table))?;
            }
            let only_select =
                SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
            let frame = context.sql_with_options(&query, only_select).await?;
            let mut reads = BTreeSet::new();
            frame.logical_plan().apply_with_subqueries(|plan| {
                if let LogicalPlan::TableScan(scan) = plan {
                    reads.insert(scan.table_name.table().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            let columns = Arc::new(frame.schema().as_arrow().clone());
            let rows = if execute { frame.collect().await? } else { Vec::new() };
            Ok(Answer { columns, reads, rows })
        })
    })
}

/// Planning recurses over the query.
fn on_big_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataFusionError> + Send + 'static,
) -> Result<T, DataFusionError> {
    let failed = |what: &str| DataFusionError::Internal(format!("the query's thread {what}"));
    let thread = std::thread::Builder::new().name("sql".into()).stack_size(STACK_BYTES).spawn(work);
    thread.map_err(|_| failed("could not start"))?.join().map_err(|_| failed("has died"))?
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
            Origin::Values => vec![context.values.clone()],
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
        let ran = tokio::task::spawn_blocking(move || {
            let tables = gather(&inputs, &context)?;
            run(query, tables, true).map_err(|error| TaskError::Fatal(error.strip_backtrace()))
        });
        let answer = ran.await.map_err(|error| TaskError::Fatal(error.to_string()))??;
        Ok(TaskStep::Done(answer.rows))
    }

    fn effect(&self) -> Effect {
        Effect::Pure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::DataType;

    #[test]
    fn values_are_looked_up_and_never_pasted() {
        let scope = Scope::default()
            .with(None, Field::new("turbine", DataType::Utf8, true))
            .with(Some("run"), Field::new("fired_at", DataType::Int64, true));
        let query = Text::loose("SELECT '$turbine' WHERE t = $turbine AND at > $fired_at");
        let inserted = insert_values(&query, &scope).expect("both are there");
        assert_eq!(
            inserted,
            "SELECT '$turbine' WHERE t = (SELECT c0 FROM tidegate_values) AND at > (SELECT c1 FROM tidegate_values)"
        );
        let wrong = insert_values(&Text::loose("SELECT $turbin"), &scope).expect_err("not there");
        assert_eq!(wrong.help.as_deref(), Some("did you mean `turbine`?"));
    }
}
