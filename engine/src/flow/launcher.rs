//! The sink of a trigger: firings into the journal, runs to the scheduler. It
//! must never start anything before its firing is durable, nor anything twice.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;

use super::events::{FlowEvent, What};
use super::firing::{Firing, firings};
use super::journal::{Answer, LaunchRules, Launched, NewFiring, Offer};
use super::scheduler::{NewRun, SchedulerHandle};
use super::spec::TriggerLink;
use crate::error::ConnectorError;
use crate::planted;
use crate::sink::{Delivery, Sink, SinkPart};
use crate::time::Time;
use crate::topology::delivery::RetryPolicy;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::plan::{PortRef, SinkNode};

/// Most firings in one transaction.
const FIRINGS_MAX: usize = 1_024;

/// Most batches of firings that are on their way to the disk.
const PENDING_MAX: usize = 256;
/// Checkpoints that a topology may go on from: this epoch's and so many before.
const OLDER_EPOCHS: u64 = 2;

/// Takes the rows of one trigger's operator.
pub struct Launcher {
    link: TriggerLink,
    rules: Arc<LaunchRules>,
    scheduler: SchedulerHandle,
    /// Firings on their way to the disk.
    pending: VecDeque<Pending>,
    /// Epochs in which something fired, and when the last of it was durable.
    fired: VecDeque<(u64, Time)>,
    /// Something has fired since the last flush.
    unmarked: bool,
}

/// Firings that the journal has not answered yet.
struct Pending {
    firings: Vec<Firing>,
    recorded_at: Time,
    answer: Answer<Vec<Launched>>,
}

impl Launcher {
    /// The sink for a trigger.
    #[must_use]
    pub fn new(link: TriggerLink, scheduler: SchedulerHandle) -> Launcher {
        let flow = &link.flow;
        let rules = LaunchRules {
            topology: flow.topology.clone(),
            trigger: link.trigger.clone(),
            flow: flow.name.clone(),
            revision: flow.revision.clone(),
            mode: flow.mode_word(),
            overlap: flow.overlap,
            cooldown: link.cooldown,
            starts_max: link.starts_max,
        };
        Launcher {
            link,
            rules: Arc::new(rules),
            scheduler,
            pending: VecDeque::new(),
            fired: VecDeque::new(),
            unmarked: false,
        }
    }

    /// The sink as a node of a plan: `TRIGGER.start`, reading the trigger.
    #[must_use]
    pub fn node(link: TriggerLink, scheduler: SchedulerHandle) -> SinkNode {
        let trigger = link.trigger.clone();
        let part = SinkPart { sink: Box::new(Launcher::new(link, scheduler)) };
        SinkNode {
            name: format!("{trigger}.start"),
            part,
            queue: None,
            retry: RetryPolicy::default(),
            input: PortRef { node: trigger, port: 0 },
            fingerprint: Fingerprint::default(),
        }
    }

    /// Hands firings to the journal; nothing of them starts before `settle`.
    async fn launch(&mut self, found: Vec<Firing>) -> Result<(), ConnectorError> {
        self.scheduler.room().await;
        let now = self.scheduler.clock().now();
        let firings: Arc<[NewFiring]> = found.iter().map(|firing| firing.new.clone()).collect();
        let begun = self.scheduler.journal().begin_launch(Arc::clone(&self.rules), firings, now).await;
        let answer = begun.map_err(|error| ConnectorError::Fatal(error.0))?;
        self.pending.push_back(Pending { firings: found, recorded_at: now, answer });
        // What is durable goes on at once; some may be on their way to the disk.
        while self.pending.len() > PENDING_MAX
            || self.pending.front_mut().is_some_and(|first| first.answer.is_there())
        {
            self.settle().await?;
        }
        Ok(())
    }

    /// Waits for the oldest firings on their way, and starts what they start.
    async fn settle(&mut self) -> Result<(), ConnectorError> {
        let Some(Pending { firings, recorded_at, answer }) = self.pending.pop_front() else { return Ok(()) };
        let launched = answer.wait().await.map_err(|error| ConnectorError::Fatal(error.0))?;
        let mut runs = Vec::new();
        let mut stop = Vec::new();
        for (firing, launched) in firings.into_iter().zip(&launched) {
            self.tell(&firing.new, launched);
            stop.extend(launched.stop.iter().cloned());
            if let Some(id) = launched.start {
                runs.push(NewRun {
                    id,
                    run_key: firing.new.run_key,
                    flow: Arc::clone(&self.link.flow),
                    trigger: self.link.trigger.clone(),
                    fired_at: firing.new.fired_at,
                    recorded_at,
                    params: firing.params,
                    rows: vec![firing.rows],
                });
            }
        }
        // A scheduler that has stopped finds them in the journal next time.
        self.scheduler.launched(runs, stop).await;
        Ok(())
    }

    fn tell(&self, firing: &NewFiring, launched: &Launched) {
        if !launched.fresh {
            metrics::counter!("tidegate_firings_replayed_total", "trigger" => self.link.trigger.clone())
                .increment(1);
            return;
        }
        let outcome = launched.outcome;
        metrics::counter!("tidegate_firings_total", "trigger" => self.link.trigger.clone(), "outcome" => outcome.word())
            .increment(1);
        let reason = match &firing.offer {
            Offer::Nothing(_, reason) => reason.clone(),
            Offer::Run { .. } => String::new(),
        };
        self.scheduler.events().say(FlowEvent {
            at: self.scheduler.clock().now(),
            topology: self.link.flow.topology.clone(),
            flow: self.link.flow.name.clone(),
            run: launched.start,
            what: What::Firing {
                trigger: self.link.trigger.clone(),
                key: firing.key.clone(),
                outcome,
                reason,
            },
        });
    }
}

#[async_trait]
impl Sink for Launcher {
    fn delivery(&self) -> Delivery {
        Delivery::Local
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    /// Returns when every firing of the batch is on its way to the journal, in
    /// order: a burst shares fsyncs.
    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let now = self.scheduler.clock().now();
        let found =
            firings(&self.link, batch, now).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        self.unmarked |= !found.is_empty();
        let mut found = found.into_iter().peekable();
        while found.peek().is_some() {
            let part: Vec<Firing> = found.by_ref().take(FIRINGS_MAX).collect();
            self.launch(part).await?;
        }
        Ok(())
    }

    /// Returns when every firing is durable and has started what it starts.
    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        while !self.pending.is_empty() && !planted!(LaunchNotFlushed) {
            self.settle().await?;
        }
        if std::mem::take(&mut self.unmarked) {
            if self.fired.back().is_some_and(|(last, _)| *last == epoch) {
                self.fired.pop_back();
            }
            self.fired.push_back((epoch, self.scheduler.clock().now()));
        }
        Ok(())
    }

    /// What fired in epochs before every checkpoint that is kept cannot come
    /// again: the journal may forget it when its time has come.
    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let mut settled = None;
        while let Some((_, until)) = self.fired.front().filter(|(fired, _)| fired + OLDER_EPOCHS <= epoch) {
            settled = Some(*until);
            self.fired.pop_front();
        }
        let Some(until) = settled else { return Ok(()) };
        let (topology, trigger) = (self.rules.topology.clone(), self.rules.trigger.clone());
        let kept = self.scheduler.journal().settle(topology, trigger, until).await;
        kept.map_err(|error| ConnectorError::Lost(error.0))
    }
}
