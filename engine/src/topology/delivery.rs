//! What every sink's file may say about a peer that is away: a queue on disk
//! in front of it, and how it is tried again; and which sinks take results that
//! change.

use std::time::Duration;

use super::key::{Key, Kind, optional};
use super::node::NodeConfig;
use super::value::Table;
use crate::diagnostic::Diagnostic;
use crate::operator::Input;
use crate::schema::StreamKind;
use crate::sink::{Delivery, SinkPart};

/// Keys of `queue`.
pub const QUEUE_KEYS: &[Key] = &[
    optional("disk", Kind::Size, "most bytes that wait, \"1GiB\" if left out"),
    optional(
        "age",
        Kind::Duration,
        "rows that have waited longer are dropped and counted; for ever if left out",
    ),
    optional(
        "when_full",
        Kind::Word(&["block", "drop_oldest", "drop_newest"]),
        "what a full queue does: its sources wait, or rows are dropped and counted; \"block\" if left out",
    ),
];

/// Keys of `retry` of a sink.
pub const RETRY_KEYS: &[Key] = &[
    optional("wait", Kind::Duration, "first wait after a failure, doubled each time; \"100ms\" if left out"),
    optional("max", Kind::Duration, "longest wait, \"10s\" if left out"),
    optional(
        "open_after",
        Kind::Int(1, 1_000_000),
        "circuit breaker: after so many failures in a row the peer is left in peace; never if left out",
    ),
    optional("open_for", Kind::Duration, "for so long; then one attempt decides; \"30s\" if left out"),
];

/// Most bytes that wait.
const DISK: u64 = 1 << 30;
/// A queue works in segments, and needs room for two.
const DISK_MIN: u64 = 8 << 20;

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Its sources wait.
    Block,
    /// Rows that have waited longest are dropped and counted.
    DropOldest,
    /// Rows that come are dropped and counted.
    DropNewest,
}

/// A queue on disk in front of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Most bytes that wait.
    pub bytes_max: u64,
    /// Longest wait.
    pub age: Option<Duration>,
    /// What it does when it is full.
    pub when_full: WhenFull,
    /// Whether a stop waits as long as there is progress (`--once`).
    pub drains: bool,
}

/// How a lost peer is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// First wait; each further one is twice as long.
    pub wait: Duration,
    /// Longest wait.
    pub max: Duration,
    /// After so many failures in a row the breaker opens.
    pub open_after: Option<u32>,
    /// For so long; then one attempt decides.
    pub open_for: Duration,
}

impl Default for RetryPolicy {
    /// 100 ms to 10 s, without a breaker.
    fn default() -> RetryPolicy {
        RetryPolicy {
            wait: Duration::from_millis(100),
            max: Duration::from_secs(10),
            open_after: None,
            open_for: Duration::from_secs(30),
        }
    }
}

/// The `retry` of a sink.
#[must_use]
pub fn retry(node: &NodeConfig) -> RetryPolicy {
    let default = RetryPolicy::default();
    let Some(table) = node.table.table("retry") else { return default };
    let wait = table.duration("wait").unwrap_or(default.wait).max(Duration::from_millis(1));
    RetryPolicy {
        wait,
        max: table.duration("max").unwrap_or(default.max).max(wait),
        open_after: table.int_as("open_after"),
        open_for: table.duration("open_for").unwrap_or(default.open_for),
    }
}

/// Most bytes that an exactly-once sink may keep in its own log, if the file
/// says so.
#[must_use]
pub fn log_bytes(node: &NodeConfig) -> Option<u64> {
    node.table.table("queue").map(|table| table.size("disk").unwrap_or(DISK))
}

/// The queue that stands in front of a sink, if there is one.
///
/// # Errors
/// The sink cannot have it.
pub fn queue(node: &NodeConfig, delivery: Delivery, drains: bool) -> Result<Option<Queue>, Diagnostic> {
    let Some(table) = node.table.table("queue") else { return Ok(None) };
    let wrong = |key: &str, message: String| {
        Diagnostic::error("TG-T010", message).at(if key.is_empty() {
            node.table.span_of("queue")
        } else {
            table.span_of(key)
        })
    };
    let bytes_max = table.size("disk").unwrap_or(DISK);
    if bytes_max < DISK_MIN {
        let message = format!("a queue of {bytes_max} bytes is too small to work with");
        return Err(wrong("disk", message).help("it takes 8MiB at least"));
    }
    match delivery {
        Delivery::AtLeastOnce => {
            Ok(Some(Queue { bytes_max, age: table.duration("age"), when_full: when_full(table), drains }))
        }
        Delivery::Local | Delivery::Published => {
            let message =
                format!("sink `{}` writes to this machine's disk and has nobody to wait for", node.name);
            Err(wrong("", message).help("leave `queue` out"))
        }
        Delivery::ExactlyOnce => {
            let word = ["age", "when_full"].into_iter().find(|key| match *key {
                "age" => table.get("age").is_some(),
                _ => when_full(table) != WhenFull::Block,
            });
            let Some(word) = word else { return Ok(None) };
            let message = format!("sink `{}` delivers each row exactly once and drops none", node.name);
            Err(wrong(word, message)
                .help(format!("leave `{word}` out; `disk` limits the log that it has anyway")))
        }
    }
}

fn when_full(table: &Table) -> WhenFull {
    match table.str("when_full") {
        Some("drop_oldest") => WhenFull::DropOldest,
        Some("drop_newest") => WhenFull::DropNewest,
        Some(_) | None => WhenFull::Block,
    }
}

/// Whether rows of this kind may come.
pub(super) fn accepts(node: &NodeConfig, part: &SinkPart, kind: StreamKind) -> bool {
    kind == StreamKind::Appends || part.sink.upserts() || node.table.bool("accept_changes") == Some(true)
}

/// A sink that puts rows in and takes them out by a key that does not name them.
pub(super) fn hits_others(node: &NodeConfig, part: &SinkPart, input: &Input) -> Option<Diagnostic> {
    if !part.sink.upserts() || node.table.get("key").is_none() {
        return None;
    }
    let key = node.table.texts("key");
    let key: Vec<&str> = key.iter().map(|text| text.value.as_str()).collect();
    let (message, help) = input.stream.hits_others(&input.name, &key)?;
    Some(Diagnostic::error("TG-T012", message).at(node.table.span_of("key")).help(help))
}

/// A sink that keeps every row reads results that change.
pub(super) fn keeps_them_all(node: &NodeConfig, input: &Input) -> Diagnostic {
    let columns = match input.stream.kind {
        StreamKind::Changelog => "the column `change` says what each row is",
        StreamKind::Revises | StreamKind::Appends | StreamKind::Table => {
            "the columns `revision` and `final` tell results apart"
        }
    };
    let message = format!(
        "`{}` gives results again when they change, and `{}` would keep them all",
        input.name, node.name
    );
    Diagnostic::error("TG-T012", message)
        .at(node.table.span_of("from"))
        .help(format!("use a sink that replaces rows by key, or say `accept_changes = true`: {columns}"))
}
