//! Three kinds of sources: `list` goes back to any position; `peer` sends
//! again what was not acknowledged, keeps a window, and is logged; `quick` does
//! so without a log and wants its acknowledgement soon.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Committer, Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::time_type;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::scenario::Kind;
use crate::world::{Row, World};

/// Unacknowledged rows of a `peer`.
const WINDOW: usize = 25;
/// How far rows are out of order at most.
pub(crate) const DISORDER: Duration = Duration::from_secs(2);

pub(crate) fn list(node: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    Ok(part(node, context, Kind::List))
}

pub(crate) fn peer(node: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    Ok(part(node, context, Kind::Peer))
}

pub(crate) fn quick(node: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    Ok(part(node, context, Kind::Quick))
}

fn part(node: &NodeConfig, context: &BuildContext, kind: Kind) -> SourcePart {
    let fields = vec![
        Field::new("n", DataType::Int64, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("ts", time_type(), false),
    ];
    let stream = StreamSchema::new(fields, Some("ts"));
    let world = crate::life::world(context);
    let redelivers = kind != Kind::List;
    let source = Sim { name: node.name.clone(), world, next: 0, redelivers, stream: stream.clone() };
    let watermark = WatermarkPolicy {
        delay: DISORDER,
        // In silence event time follows the clock: no recomputation knows of it.
        idle: Duration::from_secs(3_600 * 24 * 365),
        max_future: None,
        drift: None,
    };
    SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: !redelivers,
        commit_quickly: kind == Kind::Quick,
        logged: kind == Kind::Peer,
    }
}

struct Sim {
    name: String,
    world: Arc<World>,
    next: usize,
    redelivers: bool,
    stream: StreamSchema,
}

fn lost(what: &str) -> ConnectorError {
    ConnectorError::Lost(what.into())
}

#[async_trait]
impl Source for Sim {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        let mut state = self.world.lock();
        if state.fault(10) {
            return Err(lost("nobody answers"));
        }
        self.next = match resume {
            _ if self.redelivers => state.sources[&self.name].acknowledged,
            Some(position) => position.read()?,
            None => 0,
        };
        state.note(format!("{} opens at {}", self.name, self.next));
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        loop {
            let pause = {
                let mut state = self.world.lock();
                let most = state.sources[&self.name].pause_ms;
                state.seed.below(most) as u64
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let world = Arc::clone(&self.world);
            let news = world.news.notified();
            {
                let mut state = world.lock();
                if state.fault(3) {
                    return Err(lost("the line broke"));
                }
                let outside = &state.sources[&self.name];
                let (all, acknowledged) = (outside.rows.len(), outside.acknowledged);
                let room = if self.redelivers { acknowledged + WINDOW } else { usize::MAX };
                let most = all.min(room).saturating_sub(self.next);
                if most > 0 {
                    let count = 1 + state.seed.below(most.min(12));
                    let rows = state.sources[&self.name].rows[self.next..self.next + count].to_vec();
                    state.note(format!("{} gives {count} rows at {}", self.name, self.next));
                    return Ok(self.rows(&rows));
                }
                if self.next >= all && state.is_calm && (!self.redelivers || acknowledged >= all) {
                    return Ok(Polled::End);
                }
            }
            // Until something is acknowledged; a quiet peer is looked at now and then.
            tokio::time::timeout(Duration::from_secs(5), news).await.ok();
        }
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        Some(Box::new(Told { name: self.name.clone(), world: Arc::clone(&self.world) }))
    }
}

impl Sim {
    fn rows(&mut self, rows: &[Row]) -> Polled {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.number))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.key.as_str()))),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.time_us))
                    .with_timezone("UTC"),
            ),
        ];
        self.next += rows.len();
        let batch = RecordBatch::try_new(Arc::clone(&self.stream.columns), columns).expect("its schema");
        let position = Position::of(&self.next);
        Polled::Rows(Rows { partition: 0, batch, rejects: None, position, received: None })
    }
}

struct Told {
    name: String,
    world: Arc<World>,
}

#[async_trait]
impl Committer for Told {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        let told: usize = position.read()?;
        let mut state = self.world.lock();
        if state.fault(3) {
            return Err(lost("the acknowledgement was cut off"));
        }
        if let Some(outside) = state.sources.get_mut(&self.name) {
            outside.acknowledged = outside.acknowledged.max(told);
        }
        state.note(format!("{} is told {told}", self.name));
        self.world.news.notify_waiters();
        Ok(())
    }
}
