//! The task that delivers a queue: in order, at least once, as long as its
//! peer takes rows. What it has delivered is saved before it is removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Settings, SharedLog, cursor, with_log};
use crate::dead_letters::Refusals;
use crate::error::{ConnectorError, RejectedRow};
use crate::runtime::retry::{Pause, Retry};
use crate::sink::Sink;
use crate::storage::blocking::blocking;
use crate::storage::epoch_log::{EpochLog, Item, next_item};
use crate::storage::log::LogError;

/// Rows that are delivered with one flush.
const CHUNK_ROWS: usize = 10_000;
/// Bytes of them.
const CHUNK_BYTES: usize = 8 << 20;
/// How far it has come is saved at least this often.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What the task is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    /// The epoch that the topology went on from; not a row goes out before.
    pub(super) resumed: Option<u64>,
    /// Grows when rows have come.
    pub(super) news: u64,
    /// Whether to end when everything is delivered.
    pub(super) is_closing: bool,
}

/// What the task has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// Records up to this one have been delivered.
    pub(super) delivered: u64,
    /// What keeps rows from going out, if anything does now.
    pub(super) trouble: Option<String>,
    /// Why it does not go on.
    pub(super) fatal: Option<String>,
}

/// The task.
pub(super) struct Delivery {
    settings: Arc<Settings>,
    sink: Box<dyn Sink>,
    log: SharedLog,
    progress: watch::Sender<Progress>,
    retry: Retry,
    is_open: bool,
    is_settled: bool,
    delivered: u64,
    saved: u64,
    saved_at: Instant,
    refused: Refusals,
    state: String,
}

/// Records that were read, and their rows by epoch.
#[derive(Default)]
struct Chunk {
    /// The last record.
    number: u64,
    epoch: u64,
    batches: Vec<RecordBatch>,
    expired: usize,
}

impl Delivery {
    pub(super) fn new(
        settings: Arc<Settings>,
        sink: Box<dyn Sink>,
        log: SharedLog,
        progress: watch::Sender<Progress>,
    ) -> Delivery {
        let delivered = progress.borrow().delivered;
        let retry = Retry::new(settings.retry);
        Delivery {
            settings,
            sink,
            log,
            progress,
            retry,
            is_open: false,
            is_settled: false,
            delivered,
            saved: delivered,
            saved_at: Instant::now(),
            refused: Refusals::default(),
            state: String::new(),
        }
    }

    /// Delivers until it is told to close, or must not go on.
    pub(super) async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        if let Err(message) = self.serve(&mut orders).await {
            self.say("failed", &message);
            self.progress.send_modify(|progress| progress.fatal = Some(message));
            return;
        }
        self.save().await;
        if self.is_open
            && let Err(error) = self.sink.close().await
        {
            tracing::warn!(node = %self.settings.node, "closing: {error}");
        }
    }

    async fn serve(&mut self, orders: &mut watch::Receiver<Orders>) -> Result<(), String> {
        let is_ready = |orders: &Orders| orders.resumed.is_some() || orders.is_closing;
        let Ok(resumed) = orders.wait_for(is_ready).await.map(|orders| orders.resumed) else { return Ok(()) };
        let Some(resumed) = resumed else { return Ok(()) };
        loop {
            let is_closing = orders.borrow_and_update().is_closing;
            let chunk = self.next().await.map_err(|error| error.to_string())?;
            let Some(chunk) = chunk else {
                self.save().await;
                if is_closing {
                    return Ok(());
                }
                if orders.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            };
            self.expire(chunk.expired);
            if !chunk.batches.is_empty() {
                self.deliver(&chunk, resumed).await?;
            }
            self.delivered = chunk.number;
            self.progress.send_modify(|progress| progress.delivered = chunk.number);
            if self.saved_at.elapsed() >= SAVE_EVERY {
                self.save().await;
            }
        }
    }

    /// What comes next; `None` if there is nothing.
    fn next(&self) -> impl Future<Output = Result<Option<Chunk>, LogError>> + Send + use<> {
        let (log, delivered, now) = (Arc::clone(&self.log), self.delivered, self.settings.clock.now().0);
        let age = self.settings.queue.age;
        let oldest_us = age.map(|age| now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
        async move { with_log(&log, move |log| read(log, delivered, oldest_us)).await }
    }

    async fn deliver(&mut self, chunk: &Chunk, resumed: u64) -> Result<(), String> {
        loop {
            match self.attempt(chunk, resumed).await {
                Ok(()) => {
                    self.retry.succeeded();
                    self.say("connected", "");
                    return Ok(());
                }
                Err(ConnectorError::Fatal(message)) => return Err(message),
                Err(error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_))) => {
                    self.is_open = false;
                    self.settings.stats.errors(1);
                    let bytes = with_log(&self.log, |log| log.bytes()).await;
                    let pause = self.retry.failed();
                    let word = if matches!(pause, Pause::Open(_)) { "breaker open" } else { "lost" };
                    self.say(word, &error.to_string());
                    gauge(&self.settings.node, bytes);
                    tokio::time::sleep(pause.time()).await;
                }
            }
        }
    }

    async fn attempt(&mut self, chunk: &Chunk, resumed: u64) -> Result<(), ConnectorError> {
        if !self.is_open {
            self.sink.open().await?;
            if !self.is_settled {
                self.sink.commit(resumed).await?;
                self.is_settled = true;
            }
            self.is_open = true;
        }
        self.refused.clear();
        for batch in &chunk.batches {
            match self.sink.write(batch).await {
                Ok(()) => {}
                Err(ConnectorError::Rejected(rows)) => self.refuse(std::slice::from_ref(batch), rows),
                Err(error) => return Err(error),
            }
        }
        match self.sink.flush(chunk.epoch).await {
            Ok(()) => {}
            Err(ConnectorError::Rejected(rows)) => self.refuse(&chunk.batches, rows),
            Err(error) => return Err(error),
        }
        let rows: usize = chunk.batches.iter().map(RecordBatch::num_rows).sum();
        metrics::counter!("tidegate_queue_delivered_rows_total", "node" => self.settings.node.clone())
            .increment((rows - self.refused.len().min(rows)) as u64);
        let kept = self.refused.keep(chunk.epoch, &self.settings.dead).await;
        kept.map_err(|error| ConnectorError::Fatal(error.to_string()))
    }

    fn refuse(&mut self, batches: &[RecordBatch], rows: Vec<RejectedRow>) {
        self.settings.stats.errors(rows.len());
        if let Some(first) = rows.first() {
            let (node, count) = (&self.settings.node, rows.len());
            tracing::warn!(%node, "{count} rows refused, and kept: `tidegate dead list`; the first: {}", first.reason);
        }
        self.refused
            .add_all(batches, rows.into_iter().map(|row| (row.row, row.reason)).collect::<BTreeMap<_, _>>());
    }

    /// Rows that nobody wants any more.
    fn expire(&mut self, rows: usize) {
        if rows == 0 {
            return;
        }
        let node = &self.settings.node;
        metrics::counter!("tidegate_queue_dropped_rows_total", "node" => node.clone(), "reason" => "age")
            .increment(rows as u64);
        self.settings.stats.errors(rows);
        tracing::error!(%node, rows, "rows have waited longer than the queue's `age`, and are dropped");
    }

    /// Saves how far it has come, and removes what is behind it. A disk that
    /// does not take it costs repetitions after a crash, and nothing else.
    async fn save(&mut self) {
        self.saved_at = Instant::now();
        let (settings, delivered) = (Arc::clone(&self.settings), self.delivered);
        if delivered != self.saved {
            let saved =
                blocking(move || cursor::write(settings.vfs.as_ref(), &settings.folder, delivered)).await;
            if let Err(error) = saved {
                tracing::warn!(node = %self.settings.node, "cannot save how far the queue has been delivered: {error}");
                return;
            }
            self.saved = delivered;
        }
        let bytes = with_log(&self.log, move |log| {
            log.trim(delivered);
            log.bytes()
        });
        gauge(&self.settings.node, bytes.await);
    }

    /// One line for each change.
    fn say(&mut self, word: &str, message: &str) {
        let state = if message.is_empty() { word.to_owned() } else { format!("{word}: {message}") };
        if state == self.state {
            return;
        }
        let node = &self.settings.node;
        match word {
            "connected" => tracing::info!(%node, "its peer takes rows"),
            "failed" => tracing::error!(%node, "{message}"),
            _ => tracing::warn!(%node, "{word}: {message}; rows wait in the queue"),
        }
        let trouble = (word != "connected").then(|| state.clone());
        self.progress.send_modify(|progress| progress.trouble = trouble);
        self.settings.stats.set_state(state.clone());
        self.state = state;
    }
}

fn gauge(node: &str, bytes: u64) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge")]
    let bytes = bytes as f64;
    metrics::gauge!("tidegate_queue_bytes", "node" => node.to_owned()).set(bytes);
}

fn read(log: &EpochLog, delivered: u64, oldest_us: Option<i64>) -> Result<Option<Chunk>, LogError> {
    let (mut reader, forgets) = (log.records_after(delivered), log.forgets());
    let (mut chunk, mut rows, mut bytes) = (Chunk::default(), 0, 0);
    while rows < CHUNK_ROWS && bytes < CHUNK_BYTES {
        let Some(Item { number, received_us, rows: found }) = next_item(&mut reader, &forgets)? else {
            break;
        };
        chunk.number = number;
        let Some((epoch, batches)) = found else { continue };
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if oldest_us.is_some_and(|oldest| received_us < oldest) {
            chunk.expired += count;
            continue;
        }
        rows += count;
        bytes += batches.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        chunk.epoch = epoch;
        chunk.batches.extend(batches);
    }
    Ok((chunk.number > 0).then_some(chunk))
}

/// Removes the oldest segment, delivered or not; answers how many rows were
/// not, or `None` if there is no other one.
pub(super) fn drop_oldest(log: &mut EpochLog, delivered: u64) -> Result<Option<usize>, LogError> {
    let Some(last) = log.oldest_segment_end() else { return Ok(None) };
    let (mut reader, forgets) = (log.records_after(delivered), log.forgets());
    let mut dropped = 0;
    while let Some(item) = next_item(&mut reader, &forgets)? {
        if item.number > last {
            break;
        }
        let batches = item.rows.iter().flat_map(|(_, batches)| batches);
        dropped += batches.map(RecordBatch::num_rows).sum::<usize>();
    }
    log.trim(last);
    Ok((log.oldest_segment_end() != Some(last)).then_some(dropped))
}
