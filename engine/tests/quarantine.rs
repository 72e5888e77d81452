//! An operator that panics ends its topology by name, and the rows on which it
//! did are kept once, however often they come again.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails says where"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use async_trait::async_trait;
use tidegate_engine::dead_letters::{Fate, shelves};
use tidegate_engine::error::{ConnectorError, OperatorError};
use tidegate_engine::operator::{Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::runtime::job::{Allowed, Job, JobConfig, JobError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::storage::log::LogLimits;
use tidegate_engine::storage::vfs::{RealDisk, Vfs};
use tidegate_engine::time::SystemClock;
use tidegate_engine::topology::delivery::RetryPolicy;
use tidegate_engine::topology::fingerprint::Fingerprint;
use tidegate_engine::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};

const LIMIT: Duration = Duration::from_secs(30);
/// Rows of the one batch.
const ROWS: i64 = 1_500;
/// Rows that are kept of it.
const KEPT: usize = 1_000;

struct Once(bool);

#[async_trait]
impl Source for Once {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        if std::mem::replace(&mut self.0, true) {
            return Ok(Polled::End);
        }
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
        let batch = RecordBatch::try_from_iter([("n", column)]).expect("one column");
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&1),
            received: None,
        }))
    }
}

/// Panics when it is asked to, at its rows or at their end.
struct Panics {
    at_rows: bool,
}

impl Operator for Panics {
    fn on_batch(&mut self, _: usize, batch: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
        assert!(!self.at_rows, "{} rows are too many", batch.num_rows());
        Ok(Progress::Done)
    }

    fn on_end(&mut self, _: &mut Output) -> Result<Progress, OperatorError> {
        panic!("at the end")
    }
}

struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn flush(&mut self, _: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}

async fn run(folder: &Path, at_rows: bool) -> Result<(), JobError> {
    let stream = StreamSchema::new(vec![Field::new("n", DataType::Int64, false)], None);
    let from = |node: &str| PortRef { node: node.to_owned(), port: 0 };
    let part = SourcePart {
        source: Box::new(Once(false)),
        stream: stream.clone(),
        watermark: WatermarkPolicy::default(),
        replayable: true,
        commit_quickly: false,
        logged: false,
    };
    let ports = vec![Port { name: String::new(), stream }];
    let plan = Plan {
        name: "test".into(),
        checkpoint_interval: Duration::from_secs(3_600),
        sources: vec![SourceNode {
            name: "rows".into(),
            part,
            unique: Vec::new(),
            fingerprint: Fingerprint::default(),
        }],
        operators: vec![OperatorNode {
            name: "sums".into(),
            part: OperatorPart { operator: Box::new(Panics { at_rows }), ports },
            copies: Vec::new(),
            state_max: None,
            inputs: vec![from("rows")],
            fingerprint: Fingerprint::default(),
        }],
        sinks: vec![SinkNode {
            name: "out".into(),
            part: SinkPart { sink: Box::new(Nowhere) },
            queue: None,
            retry: RetryPolicy::default(),
            input: from("sums"),
            fingerprint: Fingerprint::default(),
        }],
    };
    let config = JobConfig {
        vfs: Arc::new(RealDisk),
        data_dir: folder.to_owned(),
        clock: Arc::new(SystemClock),
        compute: tokio::runtime::Handle::current(),
        allowed: Allowed::default(),
        log_limits: LogLimits::default(),
    };
    let mut job = Job::start(plan, &config).expect("starts");
    tokio::time::timeout(LIMIT, job.wait()).await.expect("in time")
}

fn failed(message: &str) -> Result<(), JobError> {
    Err(JobError::Failed { node: "sums".into(), message: message.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_on_which_an_operator_panics_are_kept_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for _ in 0..3 {
        assert_eq!(run(folder.path(), true).await, failed("it panicked: 1500 rows are too many"));
    }
    let vfs: Arc<dyn Vfs> = Arc::new(RealDisk);
    let shelves = shelves(&vfs, folder.path()).expect("readable");
    assert_eq!(shelves.iter().map(|shelf| shelf.node.as_str()).collect::<Vec<_>>(), ["sums.quarantine"]);
    let letters = shelves[0].letters().expect("readable");
    assert_eq!(letters.len(), KEPT);
    for (number, letter) in letters.iter().enumerate() {
        assert_eq!(letter.fate, Fate::Quarantined);
        assert_eq!(letter.letter.reason, "it panicked: 1500 rows are too many");
        let value = letter.row.column(0).as_primitive::<Int64Type>().value(0);
        assert_eq!(usize::try_from(value), Ok(number));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_without_rows_is_told_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(run(folder.path(), false).await, failed("it panicked: at the end"));
    let vfs: Arc<dyn Vfs> = Arc::new(RealDisk);
    assert!(shelves(&vfs, folder.path()).expect("readable").is_empty());
}
