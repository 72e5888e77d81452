//! What each node has done, for `status`, metrics and summaries. Counting
//! never waits and never decides anything.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{Counter, Gauge};

use crate::time::Time;

/// Counters of one node.
#[derive(Debug)]
pub struct NodeStats {
    /// The node's name.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub kind: &'static str,
    rows_in: Tally,
    ports: Vec<(String, Tally)>,
    errors: Tally,
    blocked_us: AtomicU64,
    busy_us: AtomicU64,
    watermark_us: AtomicI64,
    state_bytes: AtomicU64,
    state_gauge: Gauge,
    state: Mutex<String>,
}

struct Tally {
    count: AtomicU64,
    metric: Counter,
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.get())
    }
}

impl Tally {
    fn new(metric: Counter) -> Tally {
        Tally { count: AtomicU64::new(0), metric }
    }

    fn add(&self, count: u64) {
        self.count.fetch_add(count, Relaxed);
        self.metric.increment(count);
    }

    fn get(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl NodeStats {
    /// Counters for a node with these output ports.
    #[must_use]
    pub fn new(topology: &str, name: &str, kind: &'static str, ports: &[&str]) -> Arc<NodeStats> {
        let labels = [("topology", topology.to_owned()), ("node", name.to_owned())];
        let port_tally = |port: &&str| {
            let [topology, node] = labels.clone();
            let label = if port.is_empty() { "main" } else { port };
            let labels = [topology, node, ("port", label.to_owned())];
            ((*port).to_owned(), Tally::new(metrics::counter!("tidegate_node_rows_out_total", &labels)))
        };
        Arc::new(NodeStats {
            name: name.to_owned(),
            kind,
            rows_in: Tally::new(metrics::counter!("tidegate_node_rows_in_total", &labels)),
            ports: ports.iter().map(port_tally).collect(),
            errors: Tally::new(metrics::counter!("tidegate_node_errors_total", &labels)),
            blocked_us: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            watermark_us: AtomicI64::new(i64::MIN),
            state_bytes: AtomicU64::new(0),
            state_gauge: metrics::gauge!("tidegate_node_state_bytes", &labels),
            state: Mutex::new("starting".into()),
        })
    }

    /// Counters that nobody is shown.
    #[must_use]
    pub(super) fn uncounted(name: &str, ports: &[&str]) -> Arc<NodeStats> {
        let port = |port: &&str| ((*port).to_owned(), Tally::new(Counter::noop()));
        Arc::new(NodeStats {
            name: name.to_owned(),
            kind: "operator",
            rows_in: Tally::new(Counter::noop()),
            ports: ports.iter().map(port).collect(),
            errors: Tally::new(Counter::noop()),
            blocked_us: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            watermark_us: AtomicI64::new(i64::MIN),
            state_bytes: AtomicU64::new(0),
            state_gauge: Gauge::noop(),
            state: Mutex::new("starting".into()),
        })
    }

    /// Rows have come in.
    pub fn received(&self, rows: usize) {
        self.rows_in.add(rows as u64);
    }

    /// Rows have left by a port.
    pub fn sent(&self, port: usize, rows: usize) {
        if let Some((_, tally)) = self.ports.get(port) {
            tally.add(rows as u64);
        }
    }

    /// Something went wrong that is retried or counted.
    pub fn error(&self) {
        self.errors.add(1);
    }

    /// So many things went wrong that are counted.
    pub fn errors(&self, count: usize) {
        self.errors.add(count as u64);
    }

    /// The node waited this long because its readers were full.
    pub fn blocked(&self, time: Duration) {
        self.blocked_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The node computed this long.
    pub fn busy(&self, time: Duration) {
        self.busy_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Event time has come this far.
    pub fn watermark(&self, time: Time) {
        self.watermark_us.store(time.0, Relaxed);
    }

    /// Memory of a part of its state has changed; answers that of all parts.
    #[allow(clippy::cast_precision_loss, reason = "a metric")]
    pub(super) fn state_changed(&self, before: u64, now: u64) -> u64 {
        let all = self.state_bytes.fetch_add(now.wrapping_sub(before), Relaxed);
        let all = all.wrapping_add(now).wrapping_sub(before);
        self.state_gauge.set(all as f64);
        all
    }

    /// The node is now in this state, e.g. `connected` or `lost: …`.
    pub fn set_state(&self, state: impl Into<String>) {
        if let Ok(mut current) = self.state.lock() {
            *current = state.into();
        }
    }

    /// A copy of all counters.
    #[must_use]
    pub fn read(&self) -> NodeStatus {
        let watermark = self.watermark_us.load(Relaxed);
        NodeStatus {
            name: self.name.clone(),
            kind: self.kind,
            state: self.state.lock().map(|state| state.clone()).unwrap_or_default(),
            rows_in: self.rows_in.get(),
            rows_out: self.ports.iter().map(|(name, tally)| (name.clone(), tally.get())).collect(),
            errors: self.errors.get(),
            blocked_us: self.blocked_us.load(Relaxed),
            busy_us: self.busy_us.load(Relaxed),
            state_bytes: self.state_bytes.load(Relaxed),
            watermark: (watermark != i64::MIN).then(|| Time(watermark).to_string()),
        }
    }
}

/// A node's counters at one moment.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NodeStatus {
    /// The node's name.
    pub name: String,
    /// `source`, `operator` or `sink`.
    pub kind: &'static str,
    /// `connected`, `lost: …`, `ended` …
    pub state: String,
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that left, by port; the main port is `""`.
    pub rows_out: Vec<(String, u64)>,
    /// Errors that were retried or counted.
    pub errors: u64,
    /// Microseconds spent waiting for readers.
    pub blocked_us: u64,
    /// Microseconds spent computing.
    pub busy_us: u64,
    /// Memory of its state in bytes, about.
    pub state_bytes: u64,
    /// Event time promised to readers.
    pub watermark: Option<String>,
}
