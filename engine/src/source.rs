//! The contract of a source: where rows come in. Watermarks, back-off,
//! back-pressure and metrics belong to the driver; a source only reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tokio::time::Instant;

use crate::error::ConnectorError;
use crate::schema::StreamSchema;
use crate::time::Time;

/// Reads rows from outside.
#[async_trait]
pub trait Source: Send {
    /// Connects and goes to `resume`, the last position that was committed to
    /// a checkpoint, or to the configured start. Called again after `Lost`.
    ///
    /// # Errors
    /// `Lost`: back off and open again; `Fatal`: the topology fails.
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError>;

    /// The rows that are ready now, waiting until there are some; it must not
    /// hold rows back to fill a batch. Never cancelled while the topology runs.
    ///
    /// # Errors
    /// `Lost`: the driver reopens at the last position it was given.
    async fn next(&mut self) -> Result<Polled, ConnectorError>;

    /// Tells the outside that everything up to a position is durable; `None`
    /// where the outside does not care. Asked for after each `open`.
    fn committer(&self) -> Option<Box<dyn Committer>> {
        None
    }

    /// Only these columns are read by anybody: a source may leave the others
    /// NULL (never its event time) and save the work of decoding them. The
    /// schema stays. Called at most once, before `open`.
    fn keep(&mut self, _columns: &[&str]) {}

    /// Whether its position says something though its rows cannot be read again,
    /// e.g. since when nobody has read it. It is then given to `open` after a
    /// restart too, and its committer is told positions of earlier lives.
    fn remembers(&self) -> bool {
        false
    }

    /// How far this source's silence may be believed, for sources that go on
    /// trying by themselves or whose rows wait outside. `None`: from `open` to
    /// `Lost`, silence is silence. Asked for after each `open`.
    fn silence(&self) -> Option<Arc<dyn Silence>> {
        None
    }

    /// Lets go of the peer in good order.
    ///
    /// # Errors
    /// Logged; the topology stops all the same.
    async fn close(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Tells the driver, while `next` is pending, whether nothing comes because
/// there is nothing. In silence that is believed event time follows the clock;
/// in any other it stands, so that rows that come after an outage are not late.
pub trait Silence: Send + Sync {
    /// The latest moment until which it is certain that no row of this
    /// partition waits anywhere: now, if the peer answers at once; its last sign
    /// of life, if it answers now and then. `None` while it is away or rows wait.
    fn known_until(&self, partition: u32) -> Option<Instant>;

    /// Whether nothing that was kept waits to be handed over, also while the peer
    /// is away: what comes from now on comes later. Logs know of it.
    fn is_drained(&self) -> bool {
        false
    }
}

/// Whether the peer answers at present, for sources that need no more.
impl Silence for AtomicBool {
    fn known_until(&self, _partition: u32) -> Option<Instant> {
        self.load(Ordering::Acquire).then(Instant::now)
    }
}

/// What `Source::next` found.
#[derive(Debug)]
pub enum Polled {
    /// Rows.
    Rows(Rows),
    /// These partitions are ours from here on, and no others: new ones hold the
    /// watermark back until they give a row or are idle, those that went no
    /// longer do. A source that never says so has the partition 0.
    Partitions(Vec<u32>),
    /// There will never be more.
    End,
}

/// Rows of one partition.
#[derive(Debug)]
pub struct Rows {
    /// The partition they belong to: watermarks are kept for each. Sources
    /// without partitions always say 0.
    pub partition: u32,
    /// The rows, with the source's schema. The event-time column may hold
    /// NULL here; the driver moves such rows to `rejects`.
    pub batch: RecordBatch,
    /// Rows that could not be decoded, with the columns of `rejects_schema`.
    pub rejects: Option<RecordBatch>,
    /// Where to go on after these rows (and everything returned before).
    pub position: Position,
    /// When they came, if that was not just now: a log has kept them.
    pub received: Option<Time>,
}

/// A place in a source that it can return to. Only the source that made it
/// understands it; it is kept in checkpoints, so its format is for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub Arc<[u8]>);

impl Position {
    /// A position from a value that serialises as JSON.
    ///
    /// # Panics
    /// Never for plain structs, maps with string keys, numbers and text.
    #[must_use]
    pub fn of(value: &impl serde::Serialize) -> Position {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        Position(bytes.into())
    }

    /// Reads the value back.
    ///
    /// # Errors
    /// `Fatal`, if the bytes are not such a value.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConnectorError> {
        serde_json::from_slice(&self.0)
            .map_err(|error| ConnectorError::Fatal(format!("cannot read the saved position: {error}")))
    }
}

/// Tells the outside how far we are. Separate from the source, because it is
/// called while `next` is pending.
#[async_trait]
pub trait Committer: Send {
    /// Everything up to `position` is durable here.
    ///
    /// # Errors
    /// Logged and tried again with the next, later position.
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError>;
}

/// A source, built and not yet open.
pub struct SourcePart {
    /// The source.
    pub source: Box<dyn Source>,
    /// The rows it gives.
    pub stream: StreamSchema,
    /// How its watermarks are made.
    pub watermark: WatermarkPolicy,
    /// Whether `position` survives: a replayable source resumes where the
    /// checkpoint says. Others have `next` start at what comes next, and are
    /// given their position only where they ask for it (`Source::remembers`).
    pub replayable: bool,
    /// Commit soon after rows arrive instead of at the next checkpoint: the
    /// peer stops sending while acknowledgements are missing (MQTT).
    pub commit_quickly: bool,
    /// Rows go through the ingress log: durable before the peer hears "got it"
    /// and before anybody acts on them; `replayable` and `commit_quickly` are
    /// the log's business then.
    pub logged: bool,
}

/// How the driver makes watermarks for a source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WatermarkPolicy {
    /// How much later than its successors a row may come.
    pub delay: std::time::Duration,
    /// After this silence a partition no longer holds others back.
    pub idle: std::time::Duration,
    /// Rows further ahead of the clock than this go to `rejects`; `None` for
    /// files, whose rows may be of any age.
    pub max_future: Option<std::time::Duration>,
    /// While event time is further ahead than this of the slowest source of the
    /// topology that gives rows, the source is not read; `None`: it is read.
    pub drift: Option<std::time::Duration>,
}

impl Default for WatermarkPolicy {
    /// Delay 0 s, idle 30 s, five minutes into the future.
    fn default() -> WatermarkPolicy {
        WatermarkPolicy {
            delay: std::time::Duration::ZERO,
            idle: std::time::Duration::from_secs(30),
            max_future: Some(std::time::Duration::from_secs(300)),
            drift: None,
        }
    }
}
