//! What benchmarks share: a running engine, rates, and what machine this is.

#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark stops at the first surprise"
)]

pub(crate) mod due;
pub(crate) mod nexmark;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_engine::catalog::Catalog;
use tidegate_engine::expression::Expressions;
use tidegate_engine::runtime::job::{Job, JobConfig};
use tidegate_engine::shared::Shared;
use tidegate_engine::topology::load::{load, read};
use tidegate_engine::topology::node::BuildContext;
use tidegate_operators::expression::SqlExpressions;
use tokio::runtime::{Builder, Runtime};

use crate::catalog::CATALOG;

/// The monotonic clock.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The daemon's two runtimes.
pub(crate) struct Engine {
    io: Runtime,
    compute: Runtime,
}

impl Engine {
    pub(crate) fn start() -> Engine {
        let runtime = || Builder::new_multi_thread().worker_threads(2).enable_all().build();
        Engine { io: runtime().expect("threads"), compute: runtime().expect("threads") }
    }

    pub(crate) fn io(&self) -> &Runtime {
        &self.io
    }

    pub(crate) fn compute(&self) -> &Runtime {
        &self.compute
    }

    /// Runs a topology to its end; answers how many rows left each node's main
    /// port, or entered a sink.
    pub(crate) fn run(&self, text: &str) -> HashMap<String, u64> {
        self.run_with(&CATALOG, text).0
    }

    /// As `run`, with other parts; answers also what they shared.
    pub(crate) fn run_with(&self, catalog: &Catalog, text: &str) -> (HashMap<String, u64>, Arc<Shared>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (parsed, name) = read(text, "bench", &|_| None).expect("a right topology");
        let expressions: Arc<dyn Expressions> = Arc::new(SqlExpressions::new());
        let mut context =
            BuildContext::new(&name, folder.path().into(), folder.path().join("data"), expressions);
        context.once = true;
        let loaded = load(&parsed, catalog, &context).expect("a right topology");
        let shared = Arc::clone(&context.shared);
        let counts = self.io.block_on(async {
            let config = JobConfig {
                vfs: std::sync::Arc::new(tidegate_engine::storage::vfs::RealDisk),
                data_dir: context.data_dir,
                clock: context.clock,
                compute: self.compute.handle().clone(),
                allowed: Default::default(),
                log_limits: tidegate_engine::storage::log::LogLimits::default(),
            };
            let mut job = Job::start(loaded.plan, &config).expect("starts");
            job.wait().await.expect("runs to its end");
            let counts = job.stats.iter().map(|node| node.read());
            counts.map(|node| (node.name, node.rows_out.first().map_or(0, |port| port.1))).collect()
        });
        (counts, shared)
    }
}

/// Rates of several runs.
#[derive(Default)]
pub(crate) struct Rates(Vec<f64>);

impl Rates {
    pub(crate) fn add(&mut self, rows: u64, time: Duration) {
        self.0.push(rows as f64 / time.as_secs_f64());
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max) = (self.0[0], self.0[self.0.len() - 1]);
        let million = 1e6;
        write!(
            out,
            "{:6.2} {:6.2} {:6.2} M rows/s (min, median, max of {})",
            min / million,
            self.median() / million,
            max / million,
            self.0.len()
        )
    }
}

/// Median, high percentiles and maximum of latencies, in microseconds.
pub(crate) fn percentiles(times: &[Duration]) -> String {
    let mut sorted: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    format!(
        "p50 {:7.0} p99 {:7.0} p99.9 {:7.0} p99.99 {:7.0} max {:7.0} µs of {}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0),
        sorted.len()
    )
}

/// Starts this benchmark again on one core; `true` in the one that is bound.
pub(crate) fn bind_to_one_core() -> bool {
    const BOUND: &str = "TIDEGATE_BENCH_BOUND";
    if std::env::var_os(BOUND).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("has a path");
    let status = std::process::Command::new("taskset")
        .args(["-c", "0"])
        .arg(program)
        .args(std::env::args().skip(1))
        .env(BOUND, "1")
        .status();
    assert!(status.expect("taskset, of util-linux").success(), "the bound benchmark failed");
    false
}

/// Processor and number of cores.
pub(crate) fn machine() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cores} core(s)", model.unwrap_or("unknown processor").trim())
}
