//! The life of a segment: operators that call each other on a batch while it
//! is hot in the cache. Runs on the computing runtime; waits only for its
//! inputs and for room on its outputs.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use arrow::array::RecordBatch;
use tokio::time::Instant;

use super::align::{Action, Align};
use super::edge::{Closed, EdgeReceiver, EdgeSender};
use super::ledger::Report;
use super::parallel::node_of;
use super::parts::{JobLine, Word};
use super::state_limit::StateLimit;
use super::stats::NodeStats;
use crate::dead_letters::DeadLetters;
use crate::error::OperatorError;
use crate::event::{Barrier, Event, Watermark};
use crate::operator::{Operator, Output, Progress};
use crate::time::Time;

/// One operator of a segment and where its ports lead.
pub(super) struct Slot {
    pub(super) operator: Box<dyn Operator>,
    pub(super) stats: Arc<NodeStats>,
    pub(super) job: JobLine,
    pub(super) ports: Vec<Vec<Target>>,
    /// Where rows go on which the operator panics.
    pub(super) quarantine: DeadLetters,
    pub(super) limit: StateLimit,
}

/// A reader of a port.
pub(super) enum Target {
    /// An operator of the same segment, which has this one input.
    Slot(usize),
    /// An edge to another part.
    Edge(EdgeSender),
}

/// Operators in calling order; the first one reads the inputs.
pub(super) struct Segment {
    pub(super) inputs: Vec<EdgeReceiver>,
    /// Inputs that give tables.
    pub(super) tables: Vec<usize>,
    pub(super) slots: Vec<Slot>,
    /// Its inputs are the copies of one operator.
    pub(super) merges: bool,
}

/// Something still to be done, the next one last on the stack.
enum Work {
    Batch(usize, usize, RecordBatch),
    Advance(usize, Time),
    Cut(usize, Barrier),
    End(usize),
    Resume(usize),
    /// Tell the readers of all ports.
    Forward(usize, Event),
}

enum Stop {
    Done,
    Closed,
    Failed(usize, String),
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Stop {
        Stop::Closed
    }
}

impl Segment {
    /// Runs until its inputs have ended, a barrier stops it or it fails.
    pub(super) async fn run(mut self) {
        for slot in &self.slots {
            slot.stats.set_state("running");
        }
        let stop = match self.serve().await {
            Ok(()) => return,
            Err(stop) => stop,
        };
        match stop {
            Stop::Done | Stop::Closed => {}
            Stop::Failed(index, message) => {
                if let Some(slot) = self.slots.get(index) {
                    slot.stats.set_state(format!("failed: {message}"));
                    slot.job.say(Word::Failed(message)).await;
                }
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Stop> {
        let inputs = self.inputs.len();
        let mut align = if self.merges { Align::of_copies(inputs) } else { Align::new(inputs) };
        self.tables.iter().for_each(|input| align.set_aside(*input));
        let mut turn = 0;
        // The readers have yet to hear that all inputs are silent.
        let mut owes_idle = false;
        loop {
            owes_idle &= align.is_idle();
            if owes_idle && !self.waits() {
                owes_idle = false;
                self.work(Work::Forward(0, Event::Watermark(Watermark::Idle))).await?;
            }
            if !self.tables.is_empty() {
                let operator = self.slots.first().map(|slot| &slot.operator);
                let accepts = |input| operator.is_none_or(|operator| operator.accepts(input));
                (0..self.inputs.len()).for_each(|input| align.set_accepted(input, accepts(input)));
            }
            let (input, event) = next_event(&mut self.inputs, &align, &mut turn).await;
            let actions = match event {
                // A sender that went without an end has failed; its job knows.
                None => return Err(Stop::Closed),
                Some(Event::Batch(batch)) => {
                    align.on_batch(input);
                    self.work(Work::Batch(0, input, batch)).await?;
                    // Rows that have waited for a table held the watermark back.
                    if let Some(time) = align.emitted().filter(|_| self.tables.contains(&input)) {
                        self.work(Work::Forward(0, Event::Watermark(Watermark::Time(time)))).await?;
                        // A time says that it is not silent.
                        owes_idle = true;
                    }
                    continue;
                }
                Some(Event::Watermark(watermark)) => align.on_watermark(input, watermark),
                Some(Event::Barrier(barrier)) => align.on_barrier(input, barrier),
                Some(Event::End) => align.on_end(input),
            };
            for action in actions {
                match action {
                    Action::Advance(time) => self.work(Work::Advance(0, time)).await?,
                    Action::Idle => owes_idle = true,
                    Action::Cut(barrier) => {
                        self.work(Work::Cut(0, barrier)).await?;
                        if barrier.then_stop {
                            return Ok(());
                        }
                    }
                    Action::End => {
                        self.work(Work::End(0)).await?;
                        return Err(Stop::Done);
                    }
                }
            }
        }
    }

    /// Whether rows wait for a table.
    fn waits(&self) -> bool {
        self.slots.first().is_some_and(|slot| slot.operator.waits())
    }

    /// Does a piece of work and all that follows from it, depth first.
    async fn work(&mut self, first: Work) -> Result<(), Stop> {
        let mut stack = vec![first];
        while let Some(work) = stack.pop() {
            match work {
                Work::Forward(index, event) => self.forward(index, &event, &mut stack).await?,
                Work::Cut(index, barrier) => {
                    self.snapshot(index, barrier).await;
                    stack.push(Work::Forward(index, Event::Barrier(barrier)));
                }
                Work::Batch(..) | Work::Advance(..) | Work::End(_) | Work::Resume(_) => {
                    self.call(work, &mut stack).await?;
                }
            }
        }
        Ok(())
    }

    /// Calls an operator and sends what it emitted.
    async fn call(&mut self, work: Work, stack: &mut Vec<Work>) -> Result<(), Stop> {
        let (index, then) = match &work {
            Work::Advance(index, time) => (*index, Some(Event::Watermark(Watermark::Time(*time)))),
            Work::End(index) => (*index, Some(Event::End)),
            Work::Batch(index, _, _) | Work::Resume(index) | Work::Cut(index, _) => (*index, None),
            Work::Forward(index, _) => (*index, None),
        };
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let mut out = Output::default();
        let started = Instant::now();
        // A bug in an operator ends its topology by name, and no other.
        let guarded = catch_unwind(AssertUnwindSafe(|| run_operator(slot, &work, &mut out)));
        slot.stats.busy(started.elapsed());
        let progress = match guarded {
            Ok(progress) => progress.map_err(|error| Stop::Failed(index, error.0))?,
            Err(panic) => {
                let message = format!("it panicked: {}", words_of(panic.as_ref()));
                if let Work::Batch(_, _, batch) = &work {
                    slot.quarantine.quarantine(&message, batch).await;
                }
                return Err(Stop::Failed(index, message));
            }
        };
        if let Work::Batch(_, _, batch) = &work {
            let within = slot.limit.on_batch(slot.operator.as_ref(), batch.num_rows());
            within.map_err(|message| Stop::Failed(index, message))?;
        }
        if let Some(event) = then {
            stack.push(Work::Forward(index, event));
        }
        if progress == Progress::More {
            stack.push(Work::Resume(index));
        }
        let first_child = stack.len();
        for (port, batch) in out.drain() {
            slot.stats.sent(port, batch.num_rows());
            let targets = slot.ports.get(port).map(Vec::as_slice).unwrap_or_default();
            for target in targets {
                match target {
                    Target::Slot(child) => stack.push(Work::Batch(*child, 0, batch.clone())),
                    Target::Edge(edge) => slot.stats.blocked(edge.send(Event::Batch(batch.clone())).await?),
                }
            }
        }
        if let Some(children) = stack.get_mut(first_child..) {
            children.reverse();
        }
        Ok(())
    }

    /// Tells every reader of a slot; children are told after what they already got.
    async fn forward(&mut self, index: usize, event: &Event, stack: &mut Vec<Work>) -> Result<(), Stop> {
        let Some(slot) = self.slots.get_mut(index) else { return Ok(()) };
        let event = match event {
            Event::Watermark(Watermark::Time(time)) => {
                let held = slot.operator.output_watermark(*time);
                slot.stats.watermark(held);
                Event::Watermark(Watermark::Time(held))
            }
            Event::End => {
                // Whole: this one counts for all later epochs.
                let state = slot.operator.snapshot().map_err(|error| Stop::Failed(index, error.0))?;
                slot.stats.set_state("ended");
                slot.job.say(Word::Ended(Report::State(state))).await;
                Event::End
            }
            Event::Watermark(Watermark::Idle) | Event::Barrier(_) | Event::Batch(_) => event.clone(),
        };
        for target in slot.ports.iter().flatten() {
            match target {
                Target::Edge(edge) => slot.stats.blocked(edge.send(event.clone()).await?),
                Target::Slot(child) => stack.push(match &event {
                    Event::Watermark(Watermark::Time(time)) => Work::Advance(*child, *time),
                    Event::Barrier(barrier) => Work::Cut(*child, *barrier),
                    Event::End => Work::End(*child),
                    Event::Watermark(Watermark::Idle) | Event::Batch(_) => {
                        Work::Forward(*child, event.clone())
                    }
                }),
            }
        }
        Ok(())
    }

    async fn snapshot(&mut self, index: usize, barrier: Barrier) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let started = Instant::now();
        let report =
            if barrier.light { Ok(Report::State(Vec::new())) } else { report(slot.operator.as_mut()) };
        if let Err(message) = slot.limit.measure(slot.operator.as_ref()) {
            slot.job.say(Word::Failed(message)).await;
            return;
        }
        metrics::histogram!("tidegate_snapshot_seconds", "node" => node_of(&slot.job.part).to_owned())
            .record(started.elapsed().as_secs_f64());
        match report {
            Ok(report) => slot.job.say(Word::Report(barrier.epoch, report)).await,
            Err(error) => slot.job.say(Word::Failed(format!("cannot snapshot: {error}"))).await,
        }
    }
}

/// What has changed, if the operator can tell; else everything.
fn report(operator: &mut dyn Operator) -> Result<Report, OperatorError> {
    match operator.changes()? {
        Some(changes) => Ok(Report::Changes(changes)),
        None => operator.snapshot().map(Report::State),
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

fn run_operator(slot: &mut Slot, work: &Work, out: &mut Output) -> Result<Progress, OperatorError> {
    match work {
        Work::Batch(_, input, batch) => {
            slot.stats.received(batch.num_rows());
            slot.operator.on_batch(*input, batch, out)
        }
        Work::Advance(_, time) => slot.operator.on_watermark(*time, out),
        Work::End(_) => slot.operator.on_end(out),
        Work::Resume(_) => slot.operator.resume(out),
        Work::Cut(..) | Work::Forward(..) => Ok(Progress::Done),
    }
}

/// The next event of any open input, taking turns.
async fn next_event(inputs: &mut [EdgeReceiver], align: &Align, turn: &mut usize) -> (usize, Option<Event>) {
    poll_fn(|context| {
        let count = inputs.len();
        for step in 0..count {
            let index = (*turn + step) % count;
            if !align.is_open(index) {
                continue;
            }
            if let Some(input) = inputs.get_mut(index)
                && let Poll::Ready(event) = input.poll_recv(context)
            {
                *turn = index + 1;
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
