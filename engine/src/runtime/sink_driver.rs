//! The life of a sink inside a topology: rows out, flushed at barriers and
//! when no more are waiting, written again after the peer was lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::edge::EdgeReceiver;
use super::ledger::Report;
use super::parts::{Command, JobLine, Word};
use super::retry::{Pause, Retry};
use super::stats::NodeStats;
use crate::dead_letters::{DeadLetters, LetterId, Refusals, Replay};
use crate::error::{ConnectorError, RejectedRow};
use crate::event::{Barrier, Event};
use crate::planted;
use crate::sink::Sink;
use crate::storage::log::LogError;
use crate::topology::delivery::RetryPolicy;

/// Rows kept for writing again are flushed at this many bytes.
const UNFLUSHED_BYTES_MAX: usize = 8 * 1024 * 1024;
/// And after this time, even if more rows are waiting.
const UNFLUSHED_AGE_MAX: Duration = Duration::from_millis(200);
pub(super) struct SinkDriver {
    pub(super) sink: Box<dyn Sink>,
    pub(super) input: EdgeReceiver,
    pub(super) job: JobLine,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) stats: Arc<NodeStats>,
    /// The last checkpoint's barrier that came by; what follows belongs to a
    /// later one.
    pub(super) epoch: u64,
    begins: u64,
    dead: DeadLetters,
    /// What was refused since the last flush.
    refused: Refusals,
    /// Dead letters among the rows since the last flush.
    replaying: Vec<LetterId>,
    /// Requests that are done when the epoch is durable.
    replayed: Vec<(u64, PathBuf)>,
    unflushed: Vec<RecordBatch>,
    unflushed_bytes: usize,
    unflushed_since: Option<Instant>,
    /// Starts anew when rows have been flushed.
    retry: Retry,
}

/// What a sink's driver needs besides its lines.
pub(super) struct Setup {
    /// Where refused rows go.
    pub(super) dead: DeadLetters,
    /// How a lost peer is tried again.
    pub(super) retry: RetryPolicy,
    /// The epoch that the topology goes on from.
    pub(super) epoch: u64,
    /// Its own epochs come after this one: the same, or later.
    pub(super) begins: u64,
}

/// Why a sink's loop ends without a failure.
enum End {
    /// Its input has ended or a barrier stopped it.
    Input,
    /// The job or the sender is gone.
    Gone,
}

impl SinkDriver {
    pub(super) fn new(
        sink: Box<dyn Sink>,
        input: EdgeReceiver,
        job: JobLine,
        commands: mpsc::Receiver<Command>,
        stats: Arc<NodeStats>,
        setup: Setup,
    ) -> SinkDriver {
        let Setup { dead, retry, epoch, begins } = setup;
        SinkDriver {
            dead,
            retry: Retry::new(retry),
            refused: Refusals::default(),
            replaying: Vec::new(),
            replayed: Vec::new(),
            sink,
            input,
            job,
            commands,
            stats,
            epoch,
            begins,
            unflushed: Vec::new(),
            unflushed_bytes: 0,
            unflushed_since: None,
        }
    }

    /// Runs until its input ends, a barrier stops it or it fails.
    pub(super) async fn run(mut self) {
        match self.serve().await {
            Ok(End::Input) => {
                self.await_last_commit().await;
                match self.sink.close().await {
                    Ok(()) => self.stats.set_state("ended"),
                    // What it cannot get over is no good end, though it is late.
                    Err(ConnectorError::Fatal(message)) => self.fail(message).await,
                    Err(error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_))) => {
                        tracing::warn!(node = %self.job.part, "closing: {error}");
                        self.stats.set_state("ended");
                    }
                }
            }
            Ok(End::Gone) => {}
            Err(message) => self.fail(message).await,
        }
    }

    async fn fail(&mut self, message: String) {
        self.stats.set_state(format!("failed: {message}"));
        self.job.say(Word::Failed(message)).await;
    }

    async fn serve(&mut self) -> Result<End, String> {
        self.dead.resume(self.epoch).await.map_err(|error| error.to_string())?;
        self.open_until_it_works().await?;
        self.settle().await?;
        self.epoch = self.begins;
        loop {
            let overdue = self.unflushed_since.is_some_and(|since| since.elapsed() >= UNFLUSHED_AGE_MAX);
            let nothing_waits = self.input.is_empty() && !self.unflushed.is_empty();
            if overdue || nothing_waits || self.unflushed_bytes >= UNFLUSHED_BYTES_MAX {
                // These rows follow the last checkpoint's barrier.
                self.flush(self.epoch + 1).await?;
            }
            let event = tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => { self.on_command(command).await; continue; }
                    None => return Ok(End::Gone),
                },
                event = self.input.recv() => event,
            };
            match event {
                None => return Ok(End::Gone),
                Some(Event::Batch(batch)) => self.on_batch(batch).await?,
                Some(Event::Watermark(_)) => {}
                Some(Event::Barrier(barrier)) => {
                    self.on_barrier(barrier).await?;
                    if barrier.then_stop {
                        return Ok(End::Input);
                    }
                }
                Some(Event::End) => {
                    self.replay(self.epoch + 1).await?;
                    self.flush(self.epoch + 1).await?;
                    self.job.say(Word::Ended(Report::Flushed)).await;
                    return Ok(End::Input);
                }
            }
        }
    }

    async fn on_batch(&mut self, batch: RecordBatch) -> Result<(), String> {
        self.stats.received(batch.num_rows());
        self.take(batch).await
    }

    async fn take(&mut self, batch: RecordBatch) -> Result<(), String> {
        self.unflushed_bytes += batch.get_array_memory_size();
        self.unflushed_since.get_or_insert_with(Instant::now);
        self.unflushed.push(batch);
        let last = self.unflushed.len() - 1;
        match self.write_from(last).await {
            Ok(()) => Ok(()),
            Err(ConnectorError::Lost(message)) => self.recover(&message).await,
            Err(error) => Err(error.to_string()),
        }
    }

    async fn on_barrier(&mut self, barrier: Barrier) -> Result<(), String> {
        if barrier.light {
            // Durable now, published with the checkpoint that will hold them.
            self.flush(self.epoch + 1).await?;
        } else {
            self.replay(barrier.epoch).await?;
            self.epoch = barrier.epoch;
            self.flush(barrier.epoch).await?;
        }
        self.job.say(Word::Report(barrier.epoch, Report::Flushed)).await;
        Ok(())
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Commit(epoch) => self.commit(epoch).await,
            Command::Barrier(_) | Command::Acknowledge(_) | Command::Drain => {}
        }
    }

    async fn commit(&mut self, epoch: u64) {
        if let Err(error) = self.sink.commit(epoch).await {
            // Idempotent: the next epoch's commit publishes this one too.
            self.stats.error();
            tracing::warn!(node = %self.job.part, "cannot commit epoch {epoch} yet: {error}");
            return;
        }
        self.stats.set_state(self.sink.trouble().unwrap_or_else(|| "connected".into()));
        self.replayed.retain(|(replayed, request)| {
            let is_durable = *replayed <= epoch;
            if is_durable && let Err(error) = self.dead.forget_request(request) {
                // Its letters are marked: the next start finds nothing to do.
                tracing::warn!(node = %self.job.part, "cannot remove {}: {error}", request.display());
            }
            !is_durable
        });
    }

    /// Dead letters that a person wants to have delivered are rows like others
    /// of this epoch, and marked with it: a crash before its checkpoint brings
    /// back both, one after it neither.
    async fn replay(&mut self, epoch: u64) -> Result<(), String> {
        let requested = self.dead.requested().await.map_err(|error| error.to_string())?;
        for Replay { request, ids, rows } in requested {
            if self.replayed.iter().any(|(_, known)| *known == request) {
                continue;
            }
            tracing::info!(node = %self.job.part, letters = ids.len(), "dead letters are delivered again");
            for batch in rows {
                self.take(batch).await?;
            }
            self.replaying.extend(ids);
            self.replayed.push((epoch, request));
        }
        Ok(())
    }

    /// What was refused, and what was delivered again, is durable with the rows
    /// of the same flush, and after them.
    async fn keep_letters(&mut self, epoch: u64) -> Result<(), LogError> {
        self.refused.keep(epoch, &self.dead).await?;
        if !self.replaying.is_empty() {
            self.dead.replayed(epoch, &self.replaying).await?;
            self.replaying.clear();
        }
        Ok(())
    }

    /// The final epoch is durable only after this sink's last word.
    async fn await_last_commit(&mut self) {
        while let Some(command) = self.commands.recv().await.filter(|_| !planted!(LastCommitSkipped)) {
            self.on_command(command).await;
        }
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), String> {
        loop {
            match if planted!(FlushSkipped) { Ok(()) } else { self.sink.flush(epoch).await } {
                Ok(()) => break,
                Err(ConnectorError::Lost(message)) => self.recover(&message).await?,
                Err(ConnectorError::Rejected(rows)) => {
                    self.refuse(&self.unflushed.clone(), rows);
                    break;
                }
                Err(ConnectorError::Fatal(message)) => return Err(message),
            }
        }
        self.retry.succeeded();
        let rows: usize = self.unflushed.iter().map(RecordBatch::num_rows).sum();
        self.stats.sent(0, rows.saturating_sub(self.refused.len()));
        self.keep_letters(epoch).await.map_err(|error| error.to_string())?;
        self.unflushed.clear();
        self.unflushed_bytes = 0;
        self.unflushed_since = None;
        Ok(())
    }

    /// Writes the unflushed batches from this one on; refused rows become dead
    /// letters with the next flush.
    async fn write_from(&mut self, first: usize) -> Result<(), ConnectorError> {
        for index in first..self.unflushed.len() {
            let Some(batch) = self.unflushed.get(index).cloned() else { break };
            match self.sink.write(&batch).await {
                Ok(()) => {}
                Err(ConnectorError::Rejected(rows)) => self.refuse(&[batch], rows),
                Err(error @ (ConnectorError::Lost(_) | ConnectorError::Fatal(_))) => return Err(error),
            }
        }
        Ok(())
    }

    /// Rows of these batches, counted over all of them, were refused.
    fn refuse(&mut self, batches: &[RecordBatch], rows: Vec<RejectedRow>) {
        self.stats.errors(rows.len());
        if let Some(first) = rows.first() {
            let (node, count) = (&self.job.part, rows.len());
            tracing::warn!(%node, "{count} rows refused, and kept: `tidegate dead list`; the first: {}", first.reason);
        }
        self.refused.add_all(batches, rows.into_iter().map(|row| (row.row, row.reason)).collect());
    }

    /// What a process that crashed has prepared is published now, and what it
    /// prepared for a later epoch is forgotten, because it will be written
    /// again: not a word goes out before that is so.
    async fn settle(&mut self) -> Result<(), String> {
        loop {
            match if planted!(SettleSkipped) { Ok(()) } else { self.sink.commit(self.epoch).await } {
                Ok(()) => return Ok(()),
                Err(ConnectorError::Fatal(message)) => return Err(message),
                Err(error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_))) => {
                    self.wait(&error.to_string()).await;
                    self.open_until_it_works().await?;
                }
            }
        }
    }

    /// Shows that the peer is away, and waits a while.
    async fn wait(&mut self, message: &str) {
        self.stats.error();
        let pause = self.retry.failed();
        match pause {
            Pause::Wait(_) => {
                self.stats.set_state(format!("lost: {message}"));
                tracing::warn!(node = %self.job.part, "lost: {message}; trying again");
            }
            Pause::Open(time) => {
                self.stats.set_state(format!("breaker open: {message}"));
                tracing::warn!(node = %self.job.part, "breaker open for {time:?}: {message}");
            }
        }
        tokio::time::sleep(pause.time()).await;
    }

    async fn open_until_it_works(&mut self) -> Result<(), String> {
        loop {
            match self.sink.open().await {
                Ok(()) => {
                    self.stats.set_state("connected");
                    return Ok(());
                }
                Err(ConnectorError::Fatal(message)) => return Err(message),
                Err(error @ (ConnectorError::Lost(_) | ConnectorError::Rejected(_))) => {
                    self.wait(&error.to_string()).await;
                }
            }
        }
    }

    /// Opens the sink again and writes everything since the last flush again.
    async fn recover(&mut self, message: &str) -> Result<(), String> {
        let mut message = message.to_owned();
        loop {
            self.wait(&message).await;
            self.open_until_it_works().await?;
            self.refused.clear();
            match self.write_from(if planted!(RowsNotWrittenAgain) { usize::MAX } else { 0 }).await {
                Ok(()) => return Ok(()),
                Err(ConnectorError::Lost(again)) => message = again,
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
