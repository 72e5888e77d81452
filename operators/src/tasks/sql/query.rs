//! Runs a query over tables in memory: within its memory, its result within
//! its size, and no longer than somebody waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SessionContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig};
use futures::StreamExt;
use tidegate_engine::error::TaskError;
use tidegate_engine::task::RESULT_BYTES_MAX;
use tokio::sync::oneshot;

/// Most bytes that sorting, joining and grouping may hold; nothing is spilled.
const MEMORY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Stack of the thread that plans and runs: both recurse over the query.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// A table of the query: name, columns, rows.
pub(super) type Table = (String, SchemaRef, Vec<RecordBatch>);

/// What a query gives, before it is run.
pub(super) struct Planned {
    pub(super) columns: SchemaRef,
    /// Names of the tables it reads.
    pub(super) reads: BTreeSet<String>,
}

/// Plans the query over tables without rows.
pub(super) fn plan(query: String, tables: Vec<Table>) -> Result<Planned> {
    let work = move || {
        in_runtime(async move {
            let frame = frame(&query, tables).await?;
            let mut reads = BTreeSet::new();
            frame.logical_plan().apply_with_subqueries(|plan| {
                if let LogicalPlan::TableScan(scan) = plan {
                    reads.insert(scan.table_name.table().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
            Ok(Planned { columns: Arc::new(frame.schema().as_arrow().clone()), reads })
        })
    };
    let thread = thread().spawn(work).map_err(|error| DataFusionError::External(error.into()))?;
    thread.join().map_err(|_| DataFusionError::Internal("planning has died".into()))?
}

/// Gathers the tables and runs the query, on a thread of its own. The query
/// ends when the answer is no longer waited for: at its next batch, which a join
/// without an equality may take long to fill.
pub(super) async fn run(
    query: String,
    gather: impl FnOnce() -> std::result::Result<Vec<Table>, TaskError> + Send + 'static,
) -> std::result::Result<Vec<RecordBatch>, TaskError> {
    let (tell, mut told) = oneshot::channel();
    let work = move || {
        let mut tell: oneshot::Sender<_> = tell;
        let answer = gather().and_then(|tables| {
            let rows = in_runtime(async {
                tokio::select! {
                    biased;
                    () = tell.closed() => Err(DataFusionError::Execution("nobody waits any more".into())),
                    rows = rows(&query, tables) => rows,
                }
            });
            rows.map_err(|error| TaskError::Fatal(error.strip_backtrace()))
        });
        // An error means that nobody waits for the answer any more.
        drop(tell.send(answer));
    };
    thread().spawn(work).map_err(|error| TaskError::Fatal(format!("no thread for the query: {error}")))?;
    (&mut told).await.map_err(|_| TaskError::Fatal("the query's thread has died".into()))?
}

fn thread() -> std::thread::Builder {
    std::thread::Builder::new().name("sql".into()).stack_size(STACK_BYTES)
}

fn in_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.map_err(|error| DataFusionError::External(error.into()))?.block_on(work)
}

async fn frame(query: &str, tables: Vec<Table>) -> Result<DataFrame> {
    let mut config = SessionConfig::new().with_target_partitions(1);
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(MEMORY_BYTES_MAX)))
        .with_disk_manager_builder(no_disk)
        .build_arc()?;
    let context = SessionContext::new_with_config_rt(config, runtime);
    for (name, schema, batches) in tables {
        let table = MemTable::try_new(schema, vec![batches])?;
        context.register_table(name.as_str(), Arc::new(table))?;
    }
    let only_select =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    context.sql_with_options(query, only_select).await
}

async fn rows(query: &str, tables: Vec<Table>) -> Result<Vec<RecordBatch>> {
    let mut stream = frame(query, tables).await?.execute_stream().await?;
    let mut rows = Vec::new();
    let mut bytes = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        for column in batch.columns() {
            bytes += column.to_data().get_slice_memory_size()?;
        }
        if bytes > RESULT_BYTES_MAX {
            let message = format!("the result is larger than {RESULT_BYTES_MAX} bytes");
            return Err(DataFusionError::ResourcesExhausted(message));
        }
        rows.push(batch);
    }
    Ok(rows)
}
