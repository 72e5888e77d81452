//! Rows that are looked up: many requests at a time, rows in the order they
//! came. A barrier waits until nothing is under way, so a look-up has no state;
//! a watermark never overtakes a row; a slow peer makes the senders wait.

mod answer;
mod cache;
mod request;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::row::{RowConverter, SortField};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use self::answer::{Answer, Left, leave};
use self::cache::Cache;
use self::request::{Outcome, ask};
use self::waiting::{Asked, Entry, Queue, Waiting};
use super::edge::{Closed, EdgeReceiver};
use super::ledger::Report;
use super::outlets::Outlets;
use super::parts::{JobLine, Word};
use crate::error::{OperatorError, RejectedRow};
use crate::event::{Barrier, Event};
use crate::lookup::{LookupPlan, Order};
use crate::reject::{bad_row, narrow, rejects};

/// The values of a key, as bytes.
pub(super) type Key = Box<[u8]>;

/// With so many rows waiting no more are taken.
const ROWS_MAX: usize = 8_192;
/// Rows that leave together; fewer where each leaves as soon as it can.
const PIECE_ROWS: usize = 1_024;
const PIECE_ROWS_ANY: usize = 64;
/// After so many requests without an answer in time the peer is silent: one key is
/// asked for, once, and without an answer to it the others have none either.
const SILENT_MAX: usize = 3;
/// The port of rows that could not be looked up.
const REJECTS_PORT: usize = 1;

/// The loop of a look-up.
pub(super) struct Stage {
    plan: LookupPlan,
    input: EdgeReceiver,
    outlets: Outlets,
    job: JobLine,
    converter: Arc<RowConverter>,
    queue: Queue,
    asked: Asked,
    cache: Cache,
    /// Each on its own: a reader that is slow must not look like a slow peer.
    flights: JoinSet<Outcome>,
    /// Most keys of one request now: fewer where many have no answer in time.
    keys_max: usize,
    /// So many requests, one after the other, had no answer in time.
    silent: usize,
    /// When the peer has answered last.
    heard: Option<Instant>,
    barrier: Option<Barrier>,
    has_ended: bool,
}

/// Why it stops.
enum Stop {
    Done,
    Closed,
    Failed(String),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Stop {
        Stop::Closed
    }
}

impl From<OperatorError> for Stop {
    fn from(error: OperatorError) -> Stop {
        Stop::Failed(error.0)
    }
}

impl Stage {
    /// # Errors
    /// Keys of a type that no key can be of.
    pub(super) fn new(
        plan: LookupPlan,
        input: EdgeReceiver,
        outlets: Outlets,
        job: JobLine,
    ) -> Result<Stage, OperatorError> {
        let fields = plan.keys.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        Ok(Stage {
            queue: Queue::new(plan.settings.order),
            asked: Asked::default(),
            cache: Cache::new(plan.settings.cache_size, plan.settings.cache_for),
            flights: JoinSet::new(),
            keys_max: plan.part.lookup.keys_max().max(1),
            silent: 0,
            heard: None,
            barrier: None,
            has_ended: false,
            converter: Arc::new(converter),
            plan,
            input,
            outlets,
            job,
        })
    }

    /// Runs until its input has ended, a barrier stops it or it fails.
    pub(super) async fn run(mut self) {
        self.outlets.stats.set_state("running");
        loop {
            match self.step().await {
                Ok(()) => {}
                Err(Stop::Done | Stop::Closed) => return,
                Err(Stop::Failed(message)) => {
                    self.outlets.stats.set_state(format!("failed: {message}"));
                    return self.job.say(Word::Failed(message)).await;
                }
            }
        }
    }

    async fn step(&mut self) -> Result<(), Stop> {
        self.start_requests()?;
        self.send_ready().await?;
        if self.queue.is_empty() {
            self.pass_on().await?;
        }
        // What has come before a barrier or the end is finished first.
        let has_room =
            self.queue.rows() < ROWS_MAX && self.asked.todo() < self.at_once().saturating_mul(self.keys_max);
        let is_open = self.barrier.is_none() && !self.has_ended && has_room;
        tokio::select! {
            Some(outcome) = self.flights.join_next(), if !self.flights.is_empty() => self.on_outcome(outcome)?,
            event = self.input.recv(), if is_open => match event {
                Some(Event::Batch(batch)) => self.on_batch(&batch).await?,
                Some(Event::Watermark(watermark)) => self.queue.push(Entry::Watermark(watermark)),
                Some(Event::Barrier(barrier)) => self.barrier = Some(barrier),
                Some(Event::End) => self.has_ended = true,
                // A sender that went without an end has failed; its job knows.
                None => return Err(Stop::Closed),
            },
        }
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.silent >= SILENT_MAX
    }

    /// Most requests at a time, now.
    fn at_once(&self) -> usize {
        let most = self.plan.settings.in_flight.min(self.plan.part.lookup.at_once());
        if self.is_silent() { 1 } else { most }
    }

    fn start_requests(&mut self) -> Result<(), Stop> {
        while self.flights.len() < self.at_once() {
            let mut settings = self.plan.settings;
            if self.is_silent() {
                (self.keys_max, settings.retries) = (1, 0);
            }
            let Some(keys) = self.asked.next(self.keys_max) else { break };
            let parser = self.converter.parser();
            let columns = self.converter.convert_rows(keys.iter().map(|key| parser.parse(key)));
            let columns = columns.map_err(OperatorError::from)?;
            let batch = RecordBatch::try_new(Arc::clone(&self.plan.keys), columns);
            let batch = batch.map_err(OperatorError::from)?;
            let (lookup, stats) = (Arc::clone(&self.plan.part.lookup), Arc::clone(&self.outlets.stats));
            self.flights.spawn(ask(lookup, keys, batch, settings, stats));
        }
        Ok(())
    }

    fn on_outcome(&mut self, outcome: Result<Outcome, JoinError>) -> Result<(), Stop> {
        let outcome = outcome.map_err(|error| Stop::Failed(format!("a request has died: {error}")))?;
        let now = Instant::now();
        self.keys_max = match outcome.too_many {
            Some(keys) => self.keys_max.min(keys / 2).max(1),
            None => (self.keys_max + self.keys_max / 8 + 1).min(self.plan.part.lookup.keys_max().max(1)),
        };
        let mut answers = outcome.answers;
        match outcome.silent {
            None => (self.silent, self.heard) = (0, Some(now)),
            // Others were answered while this one was not.
            Some(_) if self.heard.is_some_and(|heard| heard >= outcome.began) => {}
            Some(reason) => {
                self.silent += 1;
                if self.is_silent() {
                    let reason = format!("others had no answer either: {reason}");
                    let rest = self.asked.next(usize::MAX).unwrap_or_default();
                    answers.extend(rest.into_iter().map(|key| (key, Answer::failed(&reason))));
                }
            }
        }
        for (key, answer) in answers {
            for waiter in self.asked.answered(&key) {
                self.queue.answer(waiter, answer.clone());
            }
            if !answer.is_failure() {
                self.cache.put(key, answer, now);
            }
        }
        Ok(())
    }

    async fn on_batch(&mut self, batch: &RecordBatch) -> Result<(), Stop> {
        self.outlets.stats.received(batch.num_rows());
        let keys = &self.plan.part.keys;
        let (parts, bad) = narrow(batch.num_rows(), |part| {
            let rows = batch.slice(part.start, part.len());
            let keys = keys.iter().map(|key| key.evaluate(&rows)).collect::<Result<Vec<_>, _>>()?;
            Ok((rows, keys))
        });
        self.reject(batch, bad).await?;
        let size = if self.plan.settings.order == Order::Any { PIECE_ROWS_ANY } else { PIECE_ROWS };
        for (rows, keys) in parts {
            let mut start = 0;
            while start < rows.num_rows() {
                let count = size.min(rows.num_rows() - start);
                let keys: Vec<ArrayRef> = keys.iter().map(|key| key.slice(start, count)).collect();
                self.wait(rows.slice(start, count), &keys)?;
                start += count;
            }
        }
        Ok(())
    }

    /// Rows wait for the answers to their keys.
    fn wait(&mut self, batch: RecordBatch, keys: &[ArrayRef]) -> Result<(), OperatorError> {
        let values = self.converter.convert_columns(keys)?;
        let now = Instant::now();
        let (id, mut known) = (self.queue.id(), HashMap::new());
        let (mut rows, mut answers) = (Vec::with_capacity(batch.num_rows()), Vec::new());
        for (row, value) in values.iter().enumerate() {
            if keys.iter().any(|key| key.is_null(row)) {
                rows.push(None);
                continue;
            }
            let key: Key = value.as_ref().into();
            let index = *known.entry(key).or_insert_with_key(|key| {
                let answer = self.cache.get(key, now);
                if answer.is_none() {
                    self.asked.ask(key, (id, answers.len()));
                }
                answers.push(answer);
                answers.len() - 1
            });
            rows.push(Some(index));
        }
        let missing = answers.iter().filter(|answer| answer.is_none()).count();
        metrics::counter!("tidegate_lookup_known_total", "node" => self.plan.node.clone())
            .increment((answers.len() - missing) as u64);
        self.queue.push(Entry::Rows(Waiting { id, batch, rows, answers, missing }));
        Ok(())
    }

    async fn send_ready(&mut self) -> Result<(), Stop> {
        while let Some(entry) = self.queue.pop() {
            match entry {
                Entry::Watermark(watermark) => {
                    if let crate::event::Watermark::Time(time) = watermark {
                        self.outlets.stats.watermark(time);
                    }
                    self.outlets.broadcast(&Event::Watermark(watermark)).await?;
                }
                Entry::Rows(waiting) => {
                    let Left { rows, failed } = leave(&self.plan, &waiting)?;
                    self.reject(&waiting.batch, failed).await?;
                    if rows.num_rows() > 0 {
                        self.outlets.send(0, Event::Batch(rows)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn reject(&mut self, batch: &RecordBatch, bad: Vec<RejectedRow>) -> Result<(), Stop> {
        if bad.is_empty() {
            return Ok(());
        }
        let times = self.plan.input.times(batch).ok();
        let time_of = |row: usize| {
            times.as_ref().filter(|times| times.is_valid(row)).map_or(0, |times| times.value(row))
        };
        let times_us = bad.iter().map(|bad| time_of(bad.row)).collect();
        let bad: Vec<_> = bad.into_iter().map(|bad| bad_row(batch, bad)).collect();
        let rows = rejects(&self.plan.node, &bad, times_us).map_err(OperatorError::from)?;
        Ok(self.outlets.send(REJECTS_PORT, Event::Batch(rows)).await?)
    }

    /// A barrier or the end, once nothing waits any more.
    async fn pass_on(&mut self) -> Result<(), Stop> {
        if let Some(barrier) = self.barrier.take() {
            self.job.say(Word::Report(barrier.epoch, Report::State(Vec::new()))).await;
            self.outlets.broadcast(&Event::Barrier(barrier)).await?;
            if barrier.then_stop {
                return Err(Stop::Done);
            }
        }
        if self.has_ended {
            self.outlets.stats.set_state("ended");
            self.job.say(Word::Ended(Report::State(Vec::new()))).await;
            self.outlets.broadcast(&Event::End).await?;
            return Err(Stop::Done);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
