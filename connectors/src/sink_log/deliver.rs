//! The task that delivers a sink's log: committed epochs, in order, each in one
//! transaction with its marker. It must never trim what the remote side has
//! not committed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidegate_engine::dead_letters::{DeadLetters, Refusals};
use tidegate_engine::sink::EPOCHS_IN_DOUBT;
use tidegate_engine::storage::epoch_log::{EpochLog, Item};
use tidegate_engine::storage::log::LogError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ahead::read;
use super::{Remote, RemoteError, Settings, with_shelf};

/// First wait after a lost peer.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An attempt to connect, or to begin a transaction.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transaction takes further epochs until it has this many rows.
const TRANSACTION_ROWS: usize = 50_000;
/// Refused rows that are logged one by one, of each transaction.
const TOLD_MAX: usize = 10;
/// How often a transaction that is kept open is looked after.
const LOOK: Duration = Duration::from_millis(250);

/// What the task may do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Orders {
    /// The epoch that the topology went on from.
    pub(super) resumed: u64,
    /// Epochs up to this one are to be delivered; nothing before it is set.
    pub(super) committed: Option<u64>,
    /// Whether to end when that is done.
    pub(super) is_closing: bool,
}

/// What the task has done.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// The order that was carried out.
    pub(super) committed: Option<u64>,
    /// Grows with every step that the remote side has taken.
    pub(super) steps: u64,
    /// Why it does not get on now.
    pub(super) lost: Option<String>,
    /// Why it does not go on.
    pub(super) fatal: Option<String>,
}

/// The task.
pub(super) struct Delivery {
    node: String,
    /// Where rows go that are refused.
    dead: Option<DeadLetters>,
    remote: Box<dyn Remote>,
    shelf: Arc<Mutex<EpochLog>>,
    progress: watch::Sender<Progress>,
    accepts_duplicates: bool,
    /// Where a person has accepted them: rows of the log up to the first epoch are
    /// there, those behind it up to the second are not, whatever the marker says.
    accepted: Option<(u64, u64)>,
    is_connected: bool,
    /// The last epoch that this task has tried to commit.
    tried: u64,
    /// Records up to this one are delivered or forgotten.
    done: u64,
    /// Records up to this one are so, or in the transaction under way.
    passed: u64,
    under_way: Option<Transaction>,
    /// The last order whose rows were read.
    seen: Option<u64>,
    /// Since when the oldest row that was read waits for its commit.
    since: Option<Instant>,
    /// Bytes of a log that needs its room.
    crowded: u64,
    state: String,
}

/// A transaction under way.
#[derive(Default)]
struct Transaction {
    /// The last epoch whose rows it has.
    epoch: u64,
    /// The marker it began with: up to there everything has been delivered.
    began_at: u64,
    shape: Option<SchemaRef>,
    rows: usize,
    refused: usize,
    reasons: Vec<String>,
    letters: Refusals,
}

impl Delivery {
    pub(super) fn new(
        settings: &Settings,
        remote: Box<dyn Remote>,
        shelf: Arc<Mutex<EpochLog>>,
        progress: watch::Sender<Progress>,
        dead: Option<DeadLetters>,
    ) -> Delivery {
        Delivery {
            dead,
            node: settings.node.clone(),
            remote,
            shelf,
            progress,
            accepts_duplicates: settings.accepts_duplicates,
            accepted: None,
            is_connected: false,
            tried: 0,
            done: 0,
            passed: 0,
            under_way: None,
            seen: None,
            since: None,
            crowded: settings.bytes_max / 2,
            state: String::new(),
        }
    }

    /// Delivers until it is told to close, or must not go on.
    pub(super) async fn run(mut self, mut orders: watch::Receiver<Orders>) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let limit = if self.under_way.is_some() { LOOK } else { Duration::MAX };
            let Some(order) = next_order(&mut orders, self.seen, limit).await else { return };
            let delivered = self.progress.borrow().committed;
            let Some(committed) = order.committed.filter(|_| order.committed > delivered) else { return };
            match self.round(order, committed).await {
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    self.say("connected", "");
                    let is_delivered = self.under_way.is_none();
                    self.progress.send_modify(|progress| {
                        progress.lost = None;
                        if is_delivered {
                            progress.committed = Some(committed);
                        }
                    });
                }
                Err(RemoteError::Fatal(message)) => {
                    self.say("failed", &message);
                    self.progress.send_modify(|progress| progress.fatal = Some(message));
                    return;
                }
                Err(RemoteError::Lost(message) | RemoteError::Refused(message)) => {
                    // What was under way is read and sent again.
                    (self.is_connected, self.under_way, self.passed) = (false, None, self.done);
                    self.seen = delivered;
                    self.say("lost", &message);
                    self.progress.send_modify(|progress| progress.lost = Some(message));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Reads what is there up to an epoch, and commits it when that is due.
    async fn round(&mut self, order: Orders, committed: u64) -> Result<(), RemoteError> {
        self.tried = self.tried.max(order.resumed);
        if !self.is_connected {
            let born = with_shelf(&self.shelf, |shelf| shelf.born()).await;
            let known = born.unwrap_or(self.tried);
            if let Some(marker) = in_time(CONNECT_TIMEOUT, self.remote.look()).await? {
                self.check_or_accept(marker, known, order.resumed)?;
            }
            let marker = in_time(CONNECT_TIMEOUT, self.remote.connect()).await?;
            self.check_or_accept(marker, known, order.resumed)?;
            if self.accepted.is_none() {
                meet(&self.shelf).await?;
            }
            self.is_connected = true;
        }
        if self.seen != Some(committed) {
            self.read_on(committed).await?;
            self.seen = Some(committed);
        }
        let bytes = with_shelf(&self.shelf, |shelf| shelf.bytes()).await;
        if self.is_due(order, bytes) {
            self.finish().await?;
            if self.accepted.take().is_some() {
                // Until now another start had to ask again.
                meet(&self.shelf).await?;
            }
        }
        Ok(())
    }

    /// Puts the rows up to an epoch into transactions.
    async fn read_on(&mut self, committed: u64) -> Result<(), RemoteError> {
        let passed = self.passed;
        let (mut reader, forgets) =
            with_shelf(&self.shelf, move |shelf| (shelf.records_after(passed), shelf.forgets())).await;
        let forgets = Arc::new(forgets);
        loop {
            let chunk;
            (reader, chunk) = read(reader, Arc::clone(&forgets), committed).await?;
            for Item { number, rows, .. } in chunk.items {
                if let Some((epoch, batches)) = rows {
                    self.deliver(epoch, &batches).await?;
                }
                self.passed = number;
            }
            if chunk.is_end {
                return Ok(());
            }
        }
    }

    /// Whether what was read is to be committed now, with so many bytes in the log.
    fn is_due(&self, order: Orders, bytes: u64) -> bool {
        let (Some(transaction), Some(roll)) = (&self.under_way, self.remote.roll()) else { return true };
        order.is_closing
            || self.remote.announced().is_some()
            // Left by an earlier process: it has waited for long enough.
            || transaction.epoch <= order.resumed
            || self.remote.bytes() >= roll.bytes
            || self.since.is_some_and(|since| since.elapsed() >= roll.age)
            || bytes >= self.crowded
    }

    /// Whether the transaction is to be committed before it takes rows of this
    /// epoch. One that is kept open has rows of one shape: the topology's file may
    /// have changed between two of them.
    fn is_full(&self, transaction: &Transaction, epoch: u64, shape: Option<&SchemaRef>) -> bool {
        transaction.epoch < epoch
            && match (self.remote.announced(), self.remote.roll()) {
                (Some(last), _) => last < epoch,
                (None, Some(roll)) => {
                    let is_other = transaction.shape.is_some() && transaction.shape.as_ref() != shape;
                    self.remote.bytes() >= roll.bytes || is_other
                }
                (None, None) => transaction.rows >= TRANSACTION_ROWS,
            }
    }

    /// Adds rows to the transaction. A full one is committed before the first
    /// row of another epoch, when records up to `passed` are in it.
    async fn deliver(&mut self, epoch: u64, batches: &[RecordBatch]) -> Result<(), RemoteError> {
        let shape = batches.first().map(RecordBatch::schema);
        let mut transaction = loop {
            let transaction = match self.under_way.take() {
                Some(transaction) => transaction,
                None => self.begin().await?,
            };
            if !self.is_full(&transaction, epoch, shape.as_ref()) {
                break transaction;
            }
            self.under_way = Some(transaction);
            self.finish().await?;
        };
        let (is_there, at) = match self.accepted {
            // The marker counts them, and others came under their numbers.
            Some((known, resumed)) if epoch <= resumed => (epoch <= known, transaction.began_at + 1),
            Some(_) | None => (epoch <= transaction.began_at, epoch),
        };
        if !is_there {
            for batch in batches {
                self.insert(&mut transaction, batch).await?;
            }
            (transaction.epoch, transaction.shape) = (at, shape);
            self.since.get_or_insert_with(Instant::now);
        }
        self.under_way = Some(transaction);
        Ok(())
    }

    async fn begin(&mut self) -> Result<Transaction, RemoteError> {
        let marker = in_time(self.remote.step_timeout(), self.remote.begin()).await?;
        self.check(marker, self.tried)?;
        Ok(Transaction { epoch: marker, began_at: marker, ..Transaction::default() })
    }

    /// Inserts rows in as few parts as possible: a part that is refused is
    /// halved until the bad row stands alone.
    async fn insert(
        &mut self,
        transaction: &mut Transaction,
        batch: &RecordBatch,
    ) -> Result<(), RemoteError> {
        let mut parts = vec![(0, batch.num_rows())];
        while let Some((from, to)) = parts.pop() {
            let part = batch.slice(from, to - from);
            match in_time(self.remote.step_timeout(), self.remote.insert(&part)).await {
                Ok(()) => transaction.rows += to - from,
                Err(RemoteError::Refused(reason)) if to - from <= 1 => {
                    transaction.refused += 1;
                    if transaction.reasons.len() < TOLD_MAX {
                        transaction.reasons.push(reason.clone());
                    }
                    transaction.letters.add_row(part, reason);
                }
                Err(RemoteError::Refused(_)) => {
                    let middle = from + (to - from) / 2;
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
                Err(error) => return Err(error),
            }
            self.progress.send_modify(|progress| progress.steps += 1);
        }
        Ok(())
    }

    /// Commits, then lets go of the records up to `passed`.
    async fn finish(&mut self) -> Result<(), RemoteError> {
        if let Some(mut transaction) = self.under_way.take() {
            let epoch = self.remote.announced().unwrap_or(transaction.epoch);
            self.tried = self.tried.max(epoch);
            // Before the remote side says that they are behind it; when it does not
            // say so, they are told twice.
            if let Some(dead) = &self.dead {
                let kept = transaction.letters.keep(epoch, dead).await;
                kept.map_err(|error| RemoteError::Fatal(error.to_string()))?;
            }
            in_time(self.remote.step_timeout(), self.remote.commit(epoch)).await?;
            self.since = None;
            self.progress.send_modify(|progress| progress.steps += 1);
            let (rows, node) = (transaction.rows, self.node.clone());
            metrics::counter!("tidegate_sink_delivered_total", "node" => node)
                .increment(u64::try_from(rows).unwrap_or(u64::MAX));
            for reason in &transaction.reasons {
                tracing::warn!(node = %self.node, "row refused: {reason}");
            }
            if let Some(reason) = transaction.reasons.first() {
                refused(&self.node, transaction.refused, reason);
            }
        }
        let passed = self.passed;
        self.done = passed;
        let bytes = with_shelf(&self.shelf, move |shelf| {
            shelf.trim(passed);
            shelf.bytes()
        });
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        let bytes = bytes.await as f64;
        metrics::gauge!("tidegate_sink_log_bytes", "node" => self.node.clone()).set(bytes);
        Ok(())
    }

    /// The same, unless a person accepts that rows come twice, who is quoted in the
    /// log. The epochs of this life are later than what is reached, or it stops;
    /// between the marker and there nothing need be complete.
    fn check_or_accept(&mut self, marker: u64, known: u64, resumed: u64) -> Result<(), RemoteError> {
        let reached = self.remote.announced().map_or(marker, |announced| announced.max(marker));
        let is_later = reached <= resumed.saturating_add(EPOCHS_IN_DOUBT / 2);
        if reached <= known || !self.accepts_duplicates || !is_later {
            return self.check(reached, known);
        }
        let (there, _) = *self.accepted.get_or_insert((known.min(marker), resumed));
        if self.tried < reached {
            self.tried = reached;
            metrics::counter!("tidegate_sink_duplicates_accepted_total", "node" => self.node.clone())
                .increment(1);
            tracing::error!(
                node = %self.node,
                "--accept-duplicates: the remote side has rows up to epoch {reached}, later than epoch {known} that this \
                 topology knows of; rows of epochs {} to {reached} may be there twice, and those before count as delivered",
                there + 1
            );
        }
        Ok(())
    }

    /// A marker that none of our checkpoints knows: rows after the checkpoint
    /// have been delivered, and will come again under other epochs.
    fn check(&self, marker: u64, known: u64) -> Result<(), RemoteError> {
        if marker <= known {
            return Ok(());
        }
        let way = if self.accepts_duplicates {
            "--accept-duplicates does not reach so far: it was given to a state as old before, or that topology is at \
             work. Bring the newer state back, or accept rows twice:"
        } else {
            "Bring the newer state back, or accept rows twice: --accept-duplicates, or"
        };
        Err(RemoteError::Fatal(format!(
            "the remote side has rows up to epoch {marker}, later than epoch {known} that this topology knows of: its \
             state is older than what was delivered, or another topology of this name writes there. {way} remove {}",
            self.remote.marker_place()
        )))
    }

    /// One line for each change.
    fn say(&mut self, word: &str, message: &str) {
        let state = format!("{word}: {message}");
        if state == self.state {
            return;
        }
        match word {
            "connected" => tracing::info!(node = %self.node, "the remote side is connected"),
            "lost" => tracing::warn!(node = %self.node, "the remote side is lost: {message}; trying again"),
            _ => tracing::error!(node = %self.node, "{message}"),
        }
        self.state = state;
    }
}

/// An order after the one that was seen, or after a time the same one again.
async fn next_order(
    orders: &mut watch::Receiver<Orders>,
    seen: Option<u64>,
    limit: Duration,
) -> Option<Orders> {
    let is_new = |orders: &Orders| orders.committed > seen || orders.is_closing;
    if let Ok(order) = tokio::time::timeout(limit, orders.wait_for(is_new)).await {
        return order.ok().map(|order| *order);
    }
    Some(*orders.borrow())
}

/// Notes that the remote side has been seen, before it gets rows: durable, or
/// the marker that those move would look like another log's.
async fn meet(shelf: &Arc<Mutex<EpochLog>>) -> Result<(), RemoteError> {
    let met = with_shelf(shelf, |shelf| {
        shelf.meet()?;
        shelf.sync()
    });
    met.await.map_err(|error| match error {
        LogError::Full(_) => RemoteError::Lost(error.to_string()),
        LogError::Broken(_) | LogError::Unreadable(_) => RemoteError::Fatal(error.to_string()),
    })
}

/// Counts rows that are lost to their own fault.
pub(super) fn refused(node: &str, rows: usize, reason: &str) {
    metrics::counter!("tidegate_sink_refused_total", "node" => node.to_owned())
        .increment(u64::try_from(rows).unwrap_or(u64::MAX));
    tracing::warn!(%node, rows, "rows refused; the first: {reason}");
}

async fn in_time<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, RemoteError>>,
) -> Result<T, RemoteError> {
    let timed_out = || RemoteError::Lost(format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(timed_out()))
}
