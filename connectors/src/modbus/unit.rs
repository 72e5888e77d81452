//! One unit of a line: what is read of it, what it has refused, and how long
//! it is left alone after it failed.

use std::time::Duration;

use tokio::time::Instant;
use tokio_modbus::ExceptionCode;

use super::blocks::{Block, Extent, Limits, bisect, plan};
use super::bus::{Bus, BusError, Cells, Urgency};
use super::decode::Value;
use super::point::Point;

/// Registers that do not exist are asked for again after this time.
const REPROBE_AFTER: Duration = Duration::from_secs(60);
/// Longest time a silent unit is left alone.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a poll of a unit gave.
#[derive(Debug)]
pub(crate) struct Polled {
    /// A value for each point, or nothing.
    pub(crate) values: Vec<Option<Value>>,
    pub(crate) quality: Quality,
    /// Nobody on this line can be reached.
    pub(crate) line_down: bool,
    /// The unit said something, if only that it refuses.
    pub(crate) answered: bool,
}

/// How much of a row can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quality {
    /// Every point was read.
    Good,
    /// Some points are NULL.
    Uncertain,
    /// No point was read.
    Bad,
}

impl Quality {
    /// The word in the column `quality`.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Quality::Good => "good",
            Quality::Uncertain => "uncertain",
            Quality::Bad => "bad",
        }
    }
}

pub(crate) struct Unit {
    pub(crate) id: u8,
    blocks: Vec<Block>,
    /// Points that the unit says it does not have, and when to ask again.
    missing: Vec<(usize, Instant)>,
    failures: u32,
    alone_until: Option<Instant>,
    trouble: Option<String>,
}

impl Unit {
    pub(crate) fn new(id: u8, extents: &[Extent], limits: Limits) -> Unit {
        let blocks = plan(extents, limits);
        Unit { id, blocks, missing: Vec::new(), failures: 0, alone_until: None, trouble: None }
    }

    /// Reads every block once.
    pub(crate) async fn poll(&mut self, bus: &Bus, points: &[Point], name: &str) -> Polled {
        let mut values: Vec<Option<Value>> = vec![None; points.len()];
        if self.alone_until.is_some_and(|until| Instant::now() < until) {
            return Polled { values, quality: Quality::Bad, line_down: false, answered: false };
        }
        self.reprobe(points);
        let mut todo: Vec<Block> = std::mem::take(&mut self.blocks);
        todo.reverse();
        let mut failure = None;
        let mut answered = false;
        while let Some(block) = todo.pop() {
            let read = bus.read(self.id, block.start, block.count, Urgency::Poll).await;
            answered |= matches!(read, Ok(_) | Err(BusError::Exception(_)));
            match read {
                Ok(cells) => {
                    fill(&mut values, points, &block, &cells);
                    self.blocks.push(block);
                }
                Err(BusError::Exception(code)) if is_about_the_address(code) => {
                    let extents: Vec<Extent> = points.iter().map(Point::extent).collect();
                    match bisect(&block, &extents) {
                        Some(parts) => todo.extend(parts.into_iter().rev()),
                        None => self.lacks(&block, points, name, code),
                    }
                }
                Err(error @ BusError::Exception(_)) => {
                    // A normal answer: the next block may be readable.
                    self.blocks.push(block);
                    failure = Some(error);
                }
                Err(error) => {
                    self.blocks.push(block);
                    self.blocks.extend(todo.drain(..).rev());
                    failure = Some(error);
                }
            }
        }
        let line_down = matches!(failure, Some(BusError::Unreachable(_)));
        self.note(failure.as_ref(), bus, name);
        Polled { quality: quality(&values), values, line_down, answered }
    }

    /// A register that does not exist: its points are NULL until asked again.
    fn lacks(&mut self, block: &Block, points: &[Point], name: &str, code: ExceptionCode) {
        for index in &block.points {
            if let Some(point) = points.get(*index) {
                tracing::warn!(
                    device = name,
                    "unit {} refuses {} (`{}`): {code}",
                    self.id,
                    point.address,
                    point.name
                );
            }
            self.missing.push((*index, Instant::now() + REPROBE_AFTER));
        }
    }

    fn reprobe(&mut self, points: &[Point]) {
        let now = Instant::now();
        let due: Vec<usize> =
            self.missing.iter().filter(|(_, again)| *again <= now).map(|(index, _)| *index).collect();
        self.missing.retain(|(_, again)| *again > now);
        for index in due {
            if let Some((start, count)) = points.get(index).map(Point::extent) {
                self.blocks.push(Block { start, count, points: vec![index] });
            }
        }
    }

    /// Remembers how the poll went, tells once when that changes.
    fn note(&mut self, failure: Option<&BusError>, bus: &Bus, name: &str) {
        let Some(failure) = failure else {
            if self.trouble.take().is_some() {
                tracing::info!(device = name, "unit {} answers again", self.id);
            }
            self.failures = 0;
            self.alone_until = None;
            return;
        };
        self.failures = self.failures.saturating_add(1);
        let leave_alone = match failure {
            BusError::Timeout(_) => true,
            BusError::Exception(code) => {
                matches!(code, ExceptionCode::GatewayPathUnavailable | ExceptionCode::GatewayTargetDevice)
            }
            // The line's own pause or a fresh connection is enough.
            BusError::Unreachable(_) | BusError::Garbled(_) => self.failures >= 3,
        };
        if leave_alone {
            let wait = bus.timeout().saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
            self.alone_until = Some(Instant::now() + wait);
        }
        let trouble = failure.to_string();
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!(device = name, "unit {}: {trouble}", self.id);
            self.trouble = Some(trouble);
        }
    }
}

fn fill(values: &mut [Option<Value>], points: &[Point], block: &Block, cells: &Cells) {
    for index in &block.points {
        if let (Some(value), Some(point)) = (values.get_mut(*index), points.get(*index)) {
            *value = point.value_in(block.start.offset, cells);
        }
    }
}

fn quality(values: &[Option<Value>]) -> Quality {
    match values.iter().filter(|value| value.is_some()).count() {
        0 => Quality::Bad,
        read if read == values.len() => Quality::Good,
        _ => Quality::Uncertain,
    }
}

/// Exceptions 1, 2 and 3: this address, function or count, not this moment.
fn is_about_the_address(code: ExceptionCode) -> bool {
    matches!(
        code,
        ExceptionCode::IllegalFunction | ExceptionCode::IllegalDataAddress | ExceptionCode::IllegalDataValue
    )
}
