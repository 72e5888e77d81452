//! A source inside a running topology: what an operator behind it sees of rows
//! and watermarks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tempfile::TempDir;
use tidegate_engine::error::{ConnectorError, OperatorError};
use tidegate_engine::operator::{Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::runtime::job::{Job, JobConfig};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::source::SourcePart;
use tidegate_engine::time::{SystemClock, Time};
use tidegate_engine::topology::delivery::RetryPolicy;
use tidegate_engine::topology::plan::{OperatorNode, Plan, PortRef, SinkNode, SourceNode};

/// A running topology of one source.
pub(crate) struct Running {
    job: Job,
    seen: Arc<Mutex<Seen>>,
    _folder: TempDir,
}

/// What has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Rows, and those of them behind the watermark.
    pub(crate) rows: usize,
    pub(crate) late: usize,
    /// Event time in microseconds.
    pub(crate) watermark: Option<i64>,
}

impl Running {
    /// Starts the source.
    pub(crate) fn start(part: SourcePart) -> Running {
        let folder = tempfile::tempdir().expect("a folder is made");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let stream = part.stream.clone();
        let operator = Watcher { stream: stream.clone(), seen: Arc::clone(&seen) };
        let from = |node: &str| PortRef { node: node.to_owned(), port: 0 };
        let plan = Plan {
            name: "test".into(),
            checkpoint_interval: Duration::from_millis(200),
            sources: vec![SourceNode {
                name: "s".into(),
                part,
                unique: Vec::new(),
                fingerprint: Default::default(),
            }],
            operators: vec![OperatorNode {
                name: "watcher".into(),
                part: OperatorPart {
                    operator: Box::new(operator),
                    ports: vec![Port { name: String::new(), stream }],
                },
                copies: Vec::new(),
                state_max: None,
                inputs: vec![from("s")],
                fingerprint: Default::default(),
            }],
            sinks: vec![SinkNode {
                name: "k".into(),
                part: SinkPart { sink: Box::new(Nowhere) },
                queue: None,
                retry: RetryPolicy::default(),
                input: from("watcher"),
                fingerprint: Default::default(),
            }],
        };
        let config = JobConfig {
            vfs: std::sync::Arc::new(tidegate_engine::storage::vfs::RealDisk),
            data_dir: folder.path().to_owned(),
            clock: Arc::new(SystemClock),
            compute: tokio::runtime::Handle::current(),
            allowed: Default::default(),
            log_limits: tidegate_engine::storage::log::LogLimits::default(),
        };
        let job = Job::start(plan, &config).expect("starts");
        Running { job, seen, _folder: folder }
    }

    /// What has come so far.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().expect("no panic").clone()
    }

    /// What `status` says of the source.
    pub(crate) fn state(&self) -> String {
        self.job.stats.iter().find(|stats| stats.name == "s").expect("is there").read().state
    }

    /// Event time in seconds, rounded down.
    pub(crate) fn seconds(&self) -> Option<i64> {
        self.seen().watermark.map(|micros| micros.div_euclid(1_000_000))
    }

    /// Ends in good order.
    pub(crate) async fn stop(mut self) {
        self.job.stop().await;
        let ended = tokio::time::timeout(super::LIMIT, self.job.wait()).await;
        ended.expect("ends in time").expect("ends well");
    }
}

struct Watcher {
    stream: StreamSchema,
    seen: Arc<Mutex<Seen>>,
}

impl Operator for Watcher {
    fn on_batch(&mut self, _: usize, batch: &RecordBatch, _: &mut Output) -> Result<Progress, OperatorError> {
        let times = self.stream.times(batch)?;
        let mut seen = self.seen.lock().expect("no panic");
        let watermark = seen.watermark;
        seen.rows += times.len();
        seen.late += times.values().iter().filter(|time| Some(**time) < watermark).count();
        Ok(Progress::Done)
    }

    fn on_watermark(&mut self, time: Time, _: &mut Output) -> Result<Progress, OperatorError> {
        self.seen.lock().expect("no panic").watermark = Some(time.0);
        Ok(Progress::Done)
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
