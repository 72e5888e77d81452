//! From a row to the first line of the flow that it starts, durable: the row
//! is handed to a running topology, its trigger fires, the firing is on the
//! disk, the run's first task begins. Between two firings one fsync of as many
//! bytes in the same folder, so that both meet the same disk. Then three-task
//! flows a second.
//!
//! `cargo bench --bench firing`; `TIDEGATE_BENCH_DIR` names another disk,
//! `TIDEGATE_BENCH_FIRINGS` another number of firings.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a benchmark measures time and stops at the first surprise"
)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildSource, BuildTask, Catalog, Row};
use tidegate_engine::error::{ConfigError, ConnectorError, TaskError};
use tidegate_engine::flow::events::FlowEvents;
use tidegate_engine::flow::journal::Journal;
use tidegate_engine::flow::launcher::Launcher;
use tidegate_engine::flow::scheduler::{self, ACTIVE_MAX, SchedulerConfig, SchedulerHandle};
use tidegate_engine::flow::spec::{Workshop, build};
use tidegate_engine::runtime::job::{Job, JobConfig};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::time::{Clock, SystemClock, time_type};
use tidegate_engine::topology::load::{load, read};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_operators::expression::SqlExpressions;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, Sender, channel};

const TOPOLOGY: &str = r#"
[topology]
name = "firing"

[source.rows]
type = "channel"

[trigger.hot]
from  = "rows"
key   = ["device"]
when  = "value > 50"
on    = "row"
start = "cool"
give  = { device = "device", value = "value" }

[flow.cool]
params = { device = "string", value = "float64" }
[[flow.cool.task]]
id = "a"
type = "line"
[[flow.cool.task]]
id = "b"
type = "line"
[[flow.cool.task]]
id = "c"
type = "line"
"#;

/// Flows for the rate, all waiting at once.
const FLOWS: usize = 5_000;
/// Firings that are not counted: files grow, caches fill.
const WARM_UP: usize = 50;

fn main() {
    let firings =
        std::env::var("TIDEGATE_BENCH_FIRINGS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let place =
        std::env::var_os("TIDEGATE_BENCH_DIR").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    let folder = tempfile::tempdir_in(&place).expect("a folder on the disk that is measured");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{threads} cores, in {}; {firings} firings, one at a time", place.display());
    let runtime = |name: &str| {
        let builder = &mut Builder::new_multi_thread();
        builder.worker_threads(threads.min(4)).thread_name(name).enable_all().build().expect("threads")
    };
    let (io, compute) = (runtime("io"), runtime("compute"));
    let mut plant = io.block_on(async { Plant::start(folder.path(), &compute) });
    let mut disk = Disk::open(folder.path());
    let (mut rows, mut fsyncs) = (Vec::new(), Vec::new());
    for at in 0..WARM_UP + firings {
        let before = disk.journal_bytes();
        let row = io.block_on(plant.fire_one(at));
        let fsync = disk.fsync_of(before);
        if at >= WARM_UP {
            rows.push(row);
            fsyncs.push(fsync);
        }
    }
    report(&mut rows, &mut fsyncs, disk.bytes);
    let rate = io.block_on(plant.fire_many());
    println!("three-task flows: {rate:.0}/s with group commit (target > 1,000/s){}", verdict(rate > 1_000.0));
    io.block_on(plant.stop());
}

fn report(rows: &mut [Duration], fsyncs: &mut [Duration], bytes: u64) {
    let [row_50, row_99] = percentiles(rows);
    let [fsync_50, fsync_99] = percentiles(fsyncs);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("                                      p50         p99");
    println!("row to first line of the flow   {:7.3} ms  {:7.3} ms", ms(row_50), ms(row_99));
    println!("one fsync of {bytes:6} bytes       {:7.3} ms  {:7.3} ms", ms(fsync_50), ms(fsync_99));
    let (over_50, over_99) = (ms(row_50) - ms(fsync_50), ms(row_99) - ms(fsync_99));
    println!("more than the fsync             {over_50:7.3} ms  {over_99:7.3} ms");
    println!(
        "target, at most                   1.000 ms    3.000 ms{}",
        verdict(over_50 <= 1.0 && over_99 <= 3.0)
    );
}

fn percentiles(times: &mut [Duration]) -> [Duration; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[(times.len() * percent / 100).min(times.len() - 1)])
}

const fn verdict(good: bool) -> &'static str {
    if good { "" } else { "  MISSED" }
}

/// The other work of the same size: appends and one fdatasync, as a commit of
/// SQLite's log.
struct Disk {
    file: File,
    journal: PathBuf,
    bytes: u64,
}

impl Disk {
    fn open(folder: &Path) -> Disk {
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join("fsync"));
        Disk { file: file.expect("a new file"), journal: folder.join("journal.db-wal"), bytes: 16_384 }
    }

    fn journal_bytes(&self) -> u64 {
        self.journal.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Writes what the journal's log grew by since then, where it grew.
    fn fsync_of(&mut self, before: u64) -> Duration {
        // Three tasks end one after the other after the first line: four commits.
        let grown = self.journal_bytes().saturating_sub(before) / 4;
        if grown > 0 {
            self.bytes = grown;
        }
        let bytes = vec![7; usize::try_from(self.bytes).expect("a few pages")];
        let started = Instant::now();
        self.file.write_all(&bytes).expect("writes");
        self.file.sync_data().expect("the disk works");
        started.elapsed()
    }
}

/// The topology, running as in the daemon.
struct Plant {
    rows: Sender<RecordBatch>,
    lines: Receiver<(String, Instant)>,
    scheduler: SchedulerHandle,
    job: Job,
}

impl Plant {
    fn start(folder: &Path, compute: &Runtime) -> Plant {
        let (parsed, name) = read(TOPOLOGY, "firing", &|_| None).expect("a right file");
        let context =
            BuildContext::new(&name, folder.to_owned(), folder.to_owned(), Arc::new(SqlExpressions::new()));
        let (rows, receiver) = channel(1_024);
        let (line, lines) = channel(FLOWS * 4);
        context.shared.get_or_insert("bench", || Ends { rows: Mutex::new(Some(receiver)), line });
        let loaded = load(&parsed, &CATALOG, &context).expect("a right file");
        let workshop = Workshop {
            catalog: CATALOG,
            context: context.clone(),
            tables: Vec::new(),
            text: TOPOLOGY.into(),
            variable: Arc::new(|_| None),
        };
        let flows = Arc::new(build(&loaded.flows, &loaded.triggers, workshop).expect("a right file"));
        let config = SchedulerConfig {
            journal: Journal::open(&folder.join("journal.db")).expect("opens"),
            clock: Arc::clone(&context.clock),
            events: FlowEvents::default(),
            active_max: ACTIVE_MAX,
            retention: loaded.retention,
        };
        let scheduler = scheduler::start(Arc::clone(&flows), config).expect("starts");
        let mut plan = loaded.plan;
        plan.sinks.extend(flows.links.iter().map(|link| Launcher::node(link.clone(), scheduler.clone())));
        let config = JobConfig {
            vfs: std::sync::Arc::new(tidegate_engine::storage::vfs::RealDisk),
            data_dir: folder.to_owned(),
            clock: context.clock,
            compute: compute.handle().clone(),
            allowed: Default::default(),
            log_limits: tidegate_engine::storage::log::LogLimits::default(),
        };
        Plant { rows, lines, scheduler, job: Job::start(plan, &config).expect("starts") }
    }

    /// The time from the row to the first line; then waits for the run's end.
    async fn fire_one(&mut self, at: usize) -> Duration {
        let batch = batch(at..at + 1);
        let started = Instant::now();
        self.rows.send(batch).await.expect("the source runs");
        let (task, first) = self.lines.recv().await.expect("a line");
        assert_eq!(task, "a");
        while self.lines.recv().await.expect("a line").0 != "c" {}
        self.scheduler.wait_idle().await;
        first - started
    }

    /// Flows a second, with all rows there at once.
    async fn fire_many(&mut self) -> f64 {
        let started = Instant::now();
        self.rows.send(batch(0..FLOWS)).await.expect("the source runs");
        let mut ended = 0;
        while ended < FLOWS {
            ended += usize::from(self.lines.recv().await.expect("a line").0 == "c");
        }
        self.scheduler.wait_idle().await;
        FLOWS as f64 / started.elapsed().as_secs_f64()
    }

    async fn stop(mut self) {
        self.job.stop().await;
        self.job.wait().await.expect("ends well");
        self.scheduler.stop().await;
    }
}

fn batch(rows: std::ops::Range<usize>) -> RecordBatch {
    let now = SystemClock.now().0;
    let devices: ArrayRef =
        Arc::new(rows.clone().map(|row| Some(format!("pump-{row}"))).collect::<StringArray>());
    let times = TimestampMicrosecondArray::from(vec![now; rows.len()]).with_timezone("UTC");
    let values: ArrayRef = Arc::new(Float64Array::from(vec![99.5; rows.len()]));
    RecordBatch::try_new(stream().columns, vec![devices, Arc::new(times), values])
        .expect("the stream's columns")
}

fn stream() -> StreamSchema {
    let fields = vec![
        Field::new("device", DataType::Utf8, true),
        Field::new("ts", time_type(), false),
        Field::new("value", DataType::Float64, true),
    ];
    StreamSchema::new(fields, Some("ts"))
}

const CATALOG: Catalog = Catalog {
    sources: &[SOURCES],
    operators: &[tidegate_operators::OPERATORS],
    composed: &[],
    sinks: &[],
    tables: &[],
    trigger: &tidegate_operators::TRIGGER,
    tasks: &[TASKS],
};

const SOURCES: &[Row<BuildSource>] =
    &[Row { name: "channel", summary: "rows of the benchmark", keys: &[], example: "", build: build_source }];

const TASKS: &[Row<BuildTask>] =
    &[Row { name: "line", summary: "says when it begins", keys: &[], example: "", build: build_task }];

/// The benchmark's ends of the channels, for the parts.
struct Ends {
    rows: Mutex<Option<Receiver<RecordBatch>>>,
    line: Sender<(String, Instant)>,
}

fn ends(context: &BuildContext) -> Arc<Ends> {
    context.shared.get_or_insert("bench", || unreachable!("made before the parts"))
}

struct ChannelSource(Receiver<RecordBatch>);

fn build_source(_: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let rows = ends(context).rows.lock().unwrap_or_else(PoisonError::into_inner).take();
    let source = Box::new(ChannelSource(rows.ok_or_else(ConfigError::default)?));
    let watermark = WatermarkPolicy::default();
    Ok(SourcePart {
        source,
        stream: stream(),
        watermark,
        replayable: false,
        commit_quickly: false,
        logged: false,
    })
}

#[async_trait]
impl Source for ChannelSource {
    async fn open(&mut self, _: Option<&Position>) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some(batch) = self.0.recv().await else { return Ok(Polled::End) };
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&0),
            received: None,
        }))
    }
}

struct Line(Sender<(String, Instant)>);

fn build_task(_: &NodeConfig, context: &BuildContext, _: &TaskScope) -> Result<TaskPart, ConfigError> {
    let result = StreamSchema::new(Vec::new(), None);
    Ok(TaskPart { task: Box::new(Line(ends(context).line.clone())), result })
}

#[async_trait]
impl Task for Line {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let now = Instant::now();
        drop(self.0.send((context.task_id.clone(), now)).await);
        Ok(TaskStep::Done(Vec::new()))
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}
