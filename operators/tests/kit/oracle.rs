//! The same rows as one batch of SQL: without late rows the batch answer is the
//! streaming answer.

use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::runtime::{Builder, Runtime};

use super::{row_lines, sorted};

thread_local! {
    /// Making one takes longer than a query.
    static SESSION: SessionContext = {
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(1))
            // What else could be optimised is not worth the time.
            .with_optimizer_rules(vec![Arc::new(SimplifyExpressions::new())]);
        SessionContext::new_with_state(state.build())
    };
    static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime");
}

/// The lines of a query over these tables, in any order.
pub(crate) fn answer(tables: &[(&str, RecordBatch)], sql: &str) -> Vec<String> {
    let session = SESSION.with(SessionContext::clone);
    for (name, rows) in tables {
        session.deregister_table(*name).expect("known or not");
        session.register_batch(*name, rows.clone()).expect("a table");
    }
    let batches: Vec<RecordBatch> = RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let frame = session.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            frame.collect().await.expect("runs")
        })
    });
    sorted(batches.iter().flat_map(row_lines).collect())
}
