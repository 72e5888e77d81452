//! A source of device values as its driver sees it: opened, read row by row,
//! acknowledged, with a time limit on everything.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]
#![allow(dead_code, reason = "not every test file uses every helper")]

use std::collections::VecDeque;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMicrosecondType};
use tidegate_connectors::SOURCES;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::source::{Committer, Polled, Position, SourcePart};
use tidegate_engine::topology::node::BuildContext;
use tokio::time::timeout;

use crate::topology;

/// Nothing here takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A row of `source.opcua`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) ts_us: i64,
    pub(crate) node: String,
    pub(crate) value: Option<f64>,
    pub(crate) quality: String,
    pub(crate) status: String,
}

/// Builds `[source.s]`.
pub(crate) fn build(kind: &str, keys: &str, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let node = topology::node(&format!("[source.s]\ntype = \"{kind}\"\n{keys}\n"));
    let row = SOURCES.iter().find(|row| row.name == kind).expect("a row");
    (row.build)(&node, context)
}

/// A source that is read.
pub(crate) struct Feed {
    pub(crate) part: SourcePart,
    /// Whether what was read is acknowledged as durable.
    pub(crate) commits: bool,
    /// Where the source stood after the last batch.
    pub(crate) position: Option<Position>,
    committer: Option<Box<dyn Committer>>,
    waiting: VecDeque<Row>,
}

impl Feed {
    /// Opens `source.opcua` with these keys besides the endpoint.
    pub(crate) async fn open(endpoint: &str, keys: &str) -> Feed {
        Feed::try_open(endpoint, keys).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) async fn try_open(endpoint: &str, keys: &str) -> Result<Feed, ConnectorError> {
        Feed::try_open_in(endpoint, keys, &topology::build_context()).await
    }

    pub(crate) async fn try_open_in(
        endpoint: &str,
        keys: &str,
        context: &BuildContext,
    ) -> Result<Feed, ConnectorError> {
        Feed::build(endpoint, keys, context, None).reopened().await
    }

    /// Opens it as a process does that goes on after another one.
    pub(crate) async fn open_at(endpoint: &str, keys: &str, position: Option<Position>) -> Feed {
        let feed = Feed::build(endpoint, keys, &topology::build_context(), position).reopened().await;
        feed.unwrap_or_else(|error| panic!("{error}"))
    }

    fn build(endpoint: &str, keys: &str, context: &BuildContext, position: Option<Position>) -> Feed {
        let keys = format!("endpoint = \"{endpoint}\"\n{keys}");
        let part = build("opcua", &keys, context).unwrap_or_else(|error| panic!("{error}"));
        Feed { part, commits: true, position, committer: None, waiting: VecDeque::new() }
    }

    async fn reopened(mut self) -> Result<Feed, ConnectorError> {
        self.reopen().await?;
        Ok(self)
    }

    /// What the driver does at the start and after `Lost`.
    pub(crate) async fn reopen(&mut self) -> Result<(), ConnectorError> {
        timeout(LIMIT, self.part.source.open(self.position.as_ref())).await.expect("opens in time")?;
        self.committer = self.part.source.committer();
        Ok(())
    }

    /// The next batch; everything in it is durable at once, if `commits`.
    pub(crate) async fn batch(&mut self) -> Result<Polled, ConnectorError> {
        let polled = timeout(LIMIT, self.part.source.next()).await.expect("news in time")?;
        if let Polled::Rows(rows) = &polled {
            self.position = Some(rows.position.clone());
        }
        if let (true, Polled::Rows(rows), Some(committer)) = (self.commits, &polled, &mut self.committer) {
            committer.commit(&rows.position).await.expect("commits");
        }
        Ok(polled)
    }

    /// The next row.
    pub(crate) async fn row(&mut self) -> Row {
        loop {
            if let Some(row) = self.waiting.pop_front() {
                return row;
            }
            match self.batch().await {
                Ok(Polled::Rows(rows)) => self.waiting.extend(rows_of(&rows.batch)),
                Ok(Polled::Partitions(_) | Polled::End) => panic!("no rows"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Rows that were read and not looked at.
    pub(crate) fn rest(&mut self) -> Vec<Row> {
        self.waiting.drain(..).collect()
    }

    /// The next row that satisfies a condition; the others before it are dropped.
    pub(crate) async fn until(&mut self, what: &str, is: impl Fn(&Row) -> bool) -> Row {
        let found = async {
            loop {
                let row = self.row().await;
                if is(&row) {
                    return row;
                }
            }
        };
        timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no row within {LIMIT:?}: {what}"))
    }

    /// The next good value of any node.
    pub(crate) async fn good(&mut self) -> f64 {
        let row = self.until("a good value", |row| row.quality == "good" && row.value.is_some()).await;
        row.value.expect("a value")
    }

    pub(crate) fn is_connected(&self) -> bool {
        topology::is_connected(self.part.source.as_ref())
    }

    /// Reads batches until the source says what its connection is.
    pub(crate) async fn until_connected(&mut self, connected: bool) {
        while self.is_connected() != connected {
            match self.batch().await {
                Ok(Polled::Rows(rows)) => self.waiting.extend(rows_of(&rows.batch)),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn close(&mut self) {
        timeout(LIMIT, self.part.source.close()).await.expect("closes in time").expect("closes");
    }
}

/// The rows of a batch of `source.opcua`.
pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let text = |name: &str, row: usize| {
        let column = batch.column_by_name(name).expect("a column");
        column.as_string::<i32>().value(row).to_owned()
    };
    let values = batch.column_by_name("value").expect("a column");
    let values = values.as_primitive_opt::<Float64Type>();
    let times = batch.column_by_name("ts").expect("a column");
    let times = times.as_primitive::<TimestampMicrosecondType>();
    (0..batch.num_rows())
        .map(|row| Row {
            ts_us: times.value(row),
            node: text("node", row),
            value: values.filter(|values| values.is_valid(row)).map(|values| values.value(row)),
            quality: text("quality", row),
            status: text("status", row),
        })
        .collect()
}
