//! The life of a source inside a topology: rows in, watermarks made, rows with
//! an impossible time rejected, barriers sent, positions committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::alignment::{Alignment, Standing, Stands};
use super::ledger::Report;
use super::outlets::Outlets;
use super::parts::{Command, JobLine, Word};
use super::received::Received;
use super::source_reader::{Desk, Reading, Transit, known_until, read};
use super::watermark::Watermarks;
use crate::codec::BadRow;
use crate::error::{OperatorError, RejectedRow};
use crate::event::{Event, Watermark};
use crate::planted;
use crate::reject::{bad_row, rejects};
use crate::schema::{RECEIVED_PORT, StreamSchema};
use crate::source::{Committer, Position, Rows, Silence, SourcePart, WatermarkPolicy};
use crate::time::{Clock, Time, micros};

/// Port of rows that could not be used.
pub(super) const REJECTS_PORT: usize = 1;

/// Batches between reader and driver: one is processed while one is read.
const READINGS_MAX: usize = 1;

/// How often silence is looked at, at least.
const TICK_MAX: Duration = Duration::from_secs(1);
/// The same where windows end by the clock.
const RECEIVED_TICK: Duration = Duration::from_millis(100);

pub(super) struct SourceDriver {
    pub(super) stream: StreamSchema,
    pub(super) policy: WatermarkPolicy,
    pub(super) commit_quickly: bool,
    pub(super) outlets: Outlets,
    pub(super) job: JobLine,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) watermarks: Watermarks,
    pub(super) position: Option<Position>,
    committer: Option<Box<dyn Committer>>,
    reported: BTreeMap<u64, Option<Position>>,
    last_epoch: u64,
    started: Instant,
    /// Between `open` and a loss.
    opened: bool,
    /// It ends with its first rows.
    drained: bool,
    silence: Option<Arc<dyn Silence>>,
    transit: Arc<Transit>,
    /// Readers of the port `received`, if there are any.
    received: Option<Received>,
    /// Rows say when they came: a log has kept them.
    logged: bool,
    alignment: Arc<Alignment>,
    stands: Stands,
}

/// Why a driver's loop ends.
enum Stop {
    /// The source has ended, or was drained.
    End,
    /// A barrier asked for it.
    AtBarrier,
    /// A reader of its rows is gone: somebody else has failed.
    Closed,
    /// It failed itself.
    Failed(String),
}

impl SourceDriver {
    #[allow(clippy::too_many_arguments, reason = "one call, in `job`, and every one is a different thing")]
    pub(super) fn new(
        part: &SourcePart,
        outlets: Outlets,
        job: JobLine,
        commands: mpsc::Receiver<Command>,
        clock: Arc<dyn Clock>,
        (position, watermark, told): (Option<Position>, Option<Time>, Option<Time>),
        alignment: Arc<Alignment>,
    ) -> SourceDriver {
        let is_read = outlets.ports.get(RECEIVED_PORT).is_some_and(|readers| !readers.is_empty());
        SourceDriver {
            received: if is_read { Received::new(&part.stream, told) } else { None },
            logged: part.logged,
            alignment,
            stands: Stands::new(Instant::now()),
            stream: part.stream.clone(),
            policy: part.watermark,
            commit_quickly: part.commit_quickly,
            outlets,
            job,
            commands,
            clock,
            watermarks: Watermarks::new(&part.watermark, watermark),
            position,
            committer: None,
            reported: BTreeMap::new(),
            last_epoch: 0,
            started: Instant::now(),
            opened: false,
            drained: false,
            silence: None,
            transit: Arc::default(),
        }
    }

    /// Runs until the source ends, a barrier stops it or something fails.
    pub(super) async fn run(mut self, part: SourcePart) {
        let (stop_reader, stopped) = watch::channel(false);
        let (sender, mut readings) = mpsc::channel(READINGS_MAX);
        let stats = Arc::clone(&self.outlets.stats);
        let desk = Desk { sender, transit: Arc::clone(&self.transit) };
        let reader = tokio::spawn(read(part.source, self.position.clone(), stats, desk, stopped));
        let tick_max = if self.received.is_some() { RECEIVED_TICK } else { TICK_MAX };
        let tick = (self.policy.idle / 4).clamp(Duration::from_millis(10), tick_max);
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.promise_again().await;
        let mut news = self.alignment.news();
        let stop = loop {
            let is_ahead = self.is_ahead();
            let step = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => self.on_command(command).await,
                // Before the rows: one busy partition must not keep a silent one from being idle.
                _ = ticks.tick() => self.on_tick().await,
                // Somebody else has come on: looked at anew.
                _ = news.changed(), if is_ahead => Ok(()),
                reading = readings.recv(), if !is_ahead => match reading {
                    Some(reading) => self.on_reading(reading).await,
                    None => Err(Stop::Failed("the source's task has died".into())),
                },
            };
            if let Err(stop) = step {
                break stop;
            }
            self.tell_standing();
        };
        self.alignment.set(&self.job.part, Standing::Out);
        let ended = matches!(stop, Stop::End);
        self.finish(stop).await;
        // Acknowledge what the last epochs make durable, then let go.
        while self.committer.is_some() && (ended || !self.reported.is_empty()) {
            match self.commands.recv().await {
                Some(Command::Commit(epoch)) => self.on_commit(epoch).await,
                Some(Command::Acknowledge(epoch)) => self.on_acknowledge(epoch).await,
                Some(Command::Barrier(_) | Command::Drain) => {}
                None => break,
            }
        }
        if stop_reader.send(true).is_err() {
            tracing::debug!(node = %self.job.part, "the reader has ended already");
        }
        drop(readings);
        if reader.await.is_err() {
            tracing::error!(node = %self.job.part, "the source's task has died");
        }
    }

    /// What was promised before a restart still holds.
    async fn promise_again(&mut self) {
        if let Some(time) = self.watermarks.emitted() {
            self.send_watermark(Watermark::Time(time)).await.ok();
        }
        let told = self.received.as_ref().and_then(Received::told);
        self.tell_passed(told).await.ok();
    }

    async fn finish(&mut self, stop: Stop) {
        match stop {
            Stop::End => {
                if let Some(time) = self.watermarks.on_end() {
                    self.send_watermark(Watermark::Time(time)).await.ok();
                }
                self.outlets.broadcast(&Event::End).await.ok();
                self.outlets.stats.set_state("ended");
                // It counts for the first epoch that it did not report.
                self.reported.insert(self.last_epoch + 1, self.position.clone());
                if !planted!(EndNotReported) {
                    self.job.say(Word::Ended(self.report())).await;
                }
            }
            Stop::AtBarrier => self.outlets.stats.set_state("stopped"),
            Stop::Closed => {}
            Stop::Failed(message) => self.job.say(Word::Failed(message)).await,
        }
    }

    /// Whether others are to come on before more rows are taken.
    fn is_ahead(&self) -> bool {
        let drift = self.policy.drift.filter(|_| self.stream.time.is_some());
        drift.is_some_and(|drift| self.alignment.is_ahead(&self.job.part, micros(drift)))
    }

    fn tell_standing(&mut self) {
        if self.stream.time.is_none() {
            return;
        }
        let reached = self.watermarks.reached();
        let (is_idle, empty) = (self.watermarks.is_idle(), self.transit.is_empty());
        let standing = self.stands.judge(reached, is_idle, empty, self.policy.idle, Instant::now());
        self.alignment.set(&self.job.part, standing);
    }

    async fn on_command(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::Commit(epoch) => self.on_commit(epoch).await,
            Command::Acknowledge(epoch) => self.on_acknowledge(epoch).await,
            // Rows wait for a table that has not been read yet.
            Command::Drain if self.stream.is_table() && self.position.is_none() => self.drained = true,
            Command::Drain => return Err(Stop::End),
            Command::Barrier(barrier) => {
                self.last_epoch = barrier.epoch;
                self.reported.insert(barrier.epoch, self.position.clone());
                self.job.say(Word::Report(barrier.epoch, self.report())).await;
                if planted!(TrimmedBeforeCommit) {
                    self.on_commit(barrier.epoch).await;
                }
                self.outlets.broadcast(&Event::Barrier(barrier)).await.map_err(|_| Stop::Closed)?;
                if barrier.then_stop {
                    return Err(Stop::AtBarrier);
                }
            }
        }
        Ok(())
    }

    fn report(&self) -> Report {
        let received = self.received.as_ref().and_then(Received::told);
        Report::Source { position: self.position.clone(), watermark: self.watermarks.emitted(), received }
    }

    /// Whoever can be read again waits for the checkpoint: a log that forgot its
    /// rows now could not give them after a crash.
    async fn on_acknowledge(&mut self, epoch: u64) {
        if self.commit_quickly {
            self.on_commit(epoch).await;
        }
    }

    async fn on_commit(&mut self, epoch: u64) {
        let later = self.reported.split_off(&(epoch + 1));
        let done = std::mem::replace(&mut self.reported, later);
        let position = done.into_values().next_back().flatten();
        if let (Some(committer), Some(position)) = (self.committer.as_mut(), position)
            && let Err(error) = committer.commit(&position).await
        {
            self.outlets.stats.error();
            tracing::warn!(node = %self.job.part, "cannot acknowledge yet: {error}");
        }
    }

    async fn on_reading(&mut self, reading: Reading) -> Result<(), Stop> {
        match reading {
            Reading::Opened { committer, silence } => {
                self.committer = committer;
                self.silence = silence;
                self.opened = true;
                self.stands.opened(Instant::now());
                Ok(())
            }
            Reading::Lost => {
                self.opened = false;
                self.stands.lost();
                // Looked at now: the source may be back before the next tick.
                self.on_tick().await
            }
            Reading::End => Err(Stop::End),
            Reading::Fatal(message) => Err(Stop::Failed(message)),
            Reading::Partitions(all) => {
                // Whoever reads on where we stop waits until our rows are durable.
                self.job.say(Word::WantsCommit).await;
                let raised = self.watermarks.set_partitions(&all, self.started.elapsed());
                self.send_watermarks(raised).await
            }
            Reading::Rows(rows) => {
                self.transit.taken();
                self.on_rows(rows).await
            }
        }
    }

    async fn on_rows(&mut self, rows: Rows) -> Result<(), Stop> {
        let Rows { partition, batch, rejects, position, received } = rows;
        self.stands.gave(batch.num_rows() > 0);
        self.outlets.stats.received(batch.num_rows() + rejects.as_ref().map_or(0, RecordBatch::num_rows));
        if let Some(rejects) = rejects.filter(|rejects| rejects.num_rows() > 0) {
            self.outlets.send(REJECTS_PORT, Event::Batch(rejects)).await.map_err(|_| Stop::Closed)?;
        }
        let received = received.unwrap_or_else(|| self.clock.now());
        self.send_rows(usize::try_from(partition).unwrap_or(0), batch, received).await?;
        self.position = Some(position);
        if self.drained {
            return Err(Stop::End);
        }
        if self.commit_quickly {
            self.job.say(Word::WantsCommit).await;
        }
        Ok(())
    }

    /// Sends rows, cut where a row lies behind the watermark raised before it.
    async fn send_rows(&mut self, partition: usize, batch: RecordBatch, now: Time) -> Result<(), Stop> {
        if batch.num_rows() == 0 && !self.stream.is_table() {
            return Ok(());
        }
        if self.stream.time.is_none() {
            self.send_received(&batch, now).await?;
            return self.outlets.send(0, Event::Batch(batch)).await.map_err(|_| Stop::Closed);
        }
        let failed = |error: OperatorError| Stop::Failed(error.0);
        let times = self.stream.times(&batch).map_err(failed)?;
        let (batch, times) = self.guard(batch, times, now).await?;
        self.send_received(&batch, now).await?;
        self.stands.gave(batch.num_rows() > 0);
        let cuts = self.watermarks.observe(partition, times.values(), self.started.elapsed());
        let mut start = 0;
        for cut in cuts {
            if cut.end > start {
                let piece = batch.slice(start, cut.end - start);
                self.outlets.send(0, Event::Batch(piece)).await.map_err(|_| Stop::Closed)?;
            }
            start = cut.end;
            if let Some(time) = cut.watermark {
                self.send_watermark(Watermark::Time(time)).await?;
            }
        }
        Ok(())
    }

    /// Takes rows out whose time is missing or lies too far in the future.
    async fn guard(
        &mut self,
        batch: RecordBatch,
        times: TimestampMicrosecondArray,
        now: Time,
    ) -> Result<(RecordBatch, TimestampMicrosecondArray), Stop> {
        let latest = self.policy.max_future.map_or(i64::MAX, |span| now.0.saturating_add(micros(span)));
        let sound = times.null_count() == 0 && times.values().iter().all(|time| *time <= latest);
        if sound {
            return Ok((batch, times));
        }
        let failed = |error: arrow::error::ArrowError| Stop::Failed(error.to_string());
        let keep: BooleanArray =
            times.iter().map(|time| Some(time.is_some_and(|time| time <= latest))).collect();
        let bad = times.iter().enumerate().filter_map(|(row, time)| {
            let reason = match time {
                None => "the event time is missing".to_owned(),
                Some(time) if time > latest => {
                    format!("the event time {} lies too far in the future", Time(time))
                }
                Some(_) => return None,
            };
            Some(bad_row(&batch, RejectedRow { row, reason }))
        });
        let bad: Vec<BadRow> = bad.collect();
        let rejects = rejects(&self.job.part, &bad, vec![now.0; bad.len()]).map_err(failed)?;
        self.outlets.send(REJECTS_PORT, Event::Batch(rejects)).await.map_err(|_| Stop::Closed)?;
        let batch = arrow::compute::filter_record_batch(&batch, &keep).map_err(failed)?;
        let times = self.stream.times(&batch).map_err(|error| Stop::Failed(error.0))?;
        Ok((batch, times))
    }

    async fn on_tick(&mut self) -> Result<(), Stop> {
        self.pass_time().await?;
        if self.stream.time.is_none() {
            return Ok(());
        }
        let (opened, silence, transit) = (self.opened, self.silence.as_ref(), &self.transit);
        let silent_until = |partition| {
            let known = known_until(opened, silence, transit, partition);
            known.map(|known| known.saturating_duration_since(self.started))
        };
        let watermarks = self.watermarks.on_time(silent_until);
        self.send_watermarks(watermarks).await
    }

    /// Sends rows by the time they came.
    async fn send_received(&mut self, batch: &RecordBatch, at: Time) -> Result<(), Stop> {
        let Some(received) = self.received.as_mut().filter(|_| batch.num_rows() > 0) else { return Ok(()) };
        let (batch, at) = received.stamp(batch, at).map_err(|error| Stop::Failed(error.0))?;
        let passed = received.pass(at);
        self.outlets.send(RECEIVED_PORT, Event::Batch(batch)).await.map_err(|_| Stop::Closed)?;
        self.tell_passed(passed).await
    }

    /// The clock goes on, and so does the time of receipt: rows that are still to
    /// come are stamped later. Those of a log are stamped already: it waits for
    /// them, and for no peer.
    async fn pass_time(&mut self) -> Result<(), Stop> {
        if self.received.is_none() {
            return Ok(());
        }
        // The clock first: what is not in the log yet is stamped later than this.
        let to = self.clock.now();
        // Then the source: its rows go into transit before it forgets them.
        let is_drained = self.silence.as_ref().is_some_and(|silence| silence.is_drained());
        if self.logged && !(is_drained && self.transit.is_empty()) {
            return Ok(());
        }
        let passed = self.received.as_mut().and_then(|received| received.pass(to));
        self.tell_passed(passed).await
    }

    async fn tell_passed(&mut self, passed: Option<Time>) -> Result<(), Stop> {
        let Some(time) = passed.map(Watermark::Time) else { return Ok(()) };
        self.outlets.send(RECEIVED_PORT, Event::Watermark(time)).await.map_err(|_| Stop::Closed)
    }

    async fn send_watermarks(&mut self, watermarks: Vec<Watermark>) -> Result<(), Stop> {
        for watermark in watermarks {
            self.send_watermark(watermark).await?;
        }
        Ok(())
    }

    async fn send_watermark(&mut self, watermark: Watermark) -> Result<(), Stop> {
        if let Watermark::Time(time) = watermark {
            self.outlets.stats.watermark(time);
        }
        // The port `received` has a time of its own.
        for port in [0, REJECTS_PORT] {
            self.outlets.send(port, Event::Watermark(watermark)).await.map_err(|_| Stop::Closed)?;
        }
        Ok(())
    }
}
