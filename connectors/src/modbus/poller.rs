//! Polls the units of one line at an interval: each poll of a unit is a row,
//! also one that failed. It never polls faster to make up for lost time.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::time::{Clock, Time};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::bus::Bus;
use super::decode::Value;
use super::point::Point;
use super::unit::{Quality, Unit};

/// First and longest pause after a line could not be reached.
pub(super) const LINE_PAUSE_MIN: Duration = Duration::from_millis(500);
const LINE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a poller tells.
pub(super) enum News {
    Reading(Reading),
    /// From now on units of this line answer, or none does.
    Answering {
        line: usize,
        yes: bool,
    },
}

/// One poll of one unit.
pub(super) struct Reading {
    pub(super) at: Time,
    pub(super) device: Arc<str>,
    pub(super) unit: u8,
    pub(super) quality: Quality,
    pub(super) values: Vec<Option<Value>>,
}

/// Polls the units of one line.
pub(super) struct Poller {
    pub(super) line: usize,
    /// Whether a unit answered in the last round.
    pub(super) answering: bool,
    /// Values before the first poll are missing: to be told.
    pub(super) has_gap: bool,
    pub(super) source: String,
    pub(super) device: Arc<str>,
    pub(super) bus: Arc<Bus>,
    pub(super) units: Vec<Unit>,
    pub(super) points: Arc<[Point]>,
    pub(super) every: Duration,
    pub(super) skip_failures: bool,
    pub(super) once: bool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) sender: mpsc::Sender<News>,
    pub(super) line_pause: Duration,
    pub(super) line_down_until: Option<Instant>,
}

impl Poller {
    /// Until nobody reads the rows any more, or once.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let overruns = metrics::counter!("tidegate_modbus_overruns_total", "node" => self.source.clone());
        if self.has_gap && self.tell_gap().await.is_err() {
            return;
        }
        loop {
            let due = ticks.tick().await;
            if self.poll_all().await.is_err() || self.once {
                return;
            }
            if due.elapsed() > self.every {
                overruns.increment(1);
            }
        }
    }

    /// Polls each unit once; `Err` when nobody reads the rows any more.
    async fn poll_all(&mut self) -> Result<(), ()> {
        let mut units = std::mem::take(&mut self.units);
        let mut gone = false;
        let mut answered = false;
        for unit in &mut units {
            let line_down = self.line_down_until.is_some_and(|until| Instant::now() < until);
            let polled = if line_down {
                None
            } else {
                let polled = unit.poll(&self.bus, &self.points, &self.device).await;
                self.note_line(polled.line_down);
                answered |= polled.answered;
                // Before the row: it is the first of a line that answers.
                gone |= answered && self.tell(true).await.is_err();
                Some(polled)
            };
            let (quality, values) = polled.map_or_else(
                || (Quality::Bad, vec![None; self.points.len()]),
                |polled| (polled.quality, polled.values),
            );
            if self.send(unit.id, quality, values).await.is_err() {
                gone = true;
                break;
            }
        }
        self.units = units;
        gone |= !answered && self.tell(false).await.is_err();
        if gone { Err(()) } else { Ok(()) }
    }

    /// A row of each unit that says that values are missing before it.
    async fn tell_gap(&self) -> Result<(), ()> {
        for unit in &self.units {
            self.send(unit.id, Quality::Bad, vec![None; self.points.len()]).await?;
        }
        Ok(())
    }

    /// Sends a row, unless it is one that is not wanted.
    async fn send(&self, unit: u8, quality: Quality, values: Vec<Option<Value>>) -> Result<(), ()> {
        if quality == Quality::Bad && self.skip_failures {
            return Ok(());
        }
        let (at, device) = (self.clock.now(), Arc::clone(&self.device));
        self.sender.send(News::Reading(Reading { at, device, unit, quality, values })).await.map_err(|_| ())
    }

    /// Tells whether units of the line answer, when that changes.
    async fn tell(&mut self, yes: bool) -> Result<(), ()> {
        if self.answering == yes {
            return Ok(());
        }
        self.answering = yes;
        self.sender.send(News::Answering { line: self.line, yes }).await.map_err(|_| ())
    }

    fn note_line(&mut self, down: bool) {
        if down {
            self.line_down_until = Some(Instant::now() + self.line_pause);
            self.line_pause = (self.line_pause * 2).min(LINE_PAUSE_MAX);
        } else {
            self.line_down_until = None;
            self.line_pause = LINE_PAUSE_MIN;
        }
    }
}
