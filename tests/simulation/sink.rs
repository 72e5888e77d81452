//! Remote systems. `exact` holds what was flushed until its epoch is committed
//! and refuses to go back behind what it has published; `plain` publishes what
//! is flushed at once, and may get it again.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::world::World;

/// Why a topology may refuse to go on: it would publish again what is published.
pub(crate) const AHEAD: &str = "has published more than the topology knows";

pub(crate) fn exact(node: &NodeConfig, context: &BuildContext, _: &Input) -> Result<SinkPart, ConfigError> {
    Ok(part(node, context, true))
}

pub(crate) fn plain(node: &NodeConfig, context: &BuildContext, _: &Input) -> Result<SinkPart, ConfigError> {
    Ok(part(node, context, false))
}

fn part(node: &NodeConfig, context: &BuildContext, is_exact: bool) -> SinkPart {
    let world = crate::life::world(context);
    let sink = SimSink { name: node.name.clone(), world, written: Vec::new(), is_first: true, is_exact };
    SinkPart { sink: Box::new(sink) }
}

struct SimSink {
    name: String,
    world: Arc<World>,
    written: Vec<String>,
    is_first: bool,
    is_exact: bool,
}

fn lost(what: &str) -> ConnectorError {
    ConnectorError::Lost(what.into())
}

#[async_trait]
impl Sink for SimSink {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.written.clear();
        if self.world.lock().fault(10) { Err(lost("nobody answers")) } else { Ok(()) }
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        if self.world.lock().fault(2) {
            return Err(lost("the line broke"));
        }
        self.written.extend((0..batch.num_rows()).map(|row| text(batch, row)));
        Ok(())
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let mut state = self.world.lock();
        if state.fault(3) {
            return Err(lost("the line broke"));
        }
        state.note(format!("{} flushes {} rows for {epoch}", self.name, self.written.len()));
        let remote = state.remote(&self.name);
        let rows = std::mem::take(&mut self.written);
        if self.is_exact {
            remote.prepared.entry(epoch).or_default().extend(rows);
        } else {
            remote.published.extend(rows);
        }
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let mut state = self.world.lock();
        if state.fault(5) {
            return Err(lost("the line broke"));
        }
        let is_first = std::mem::take(&mut self.is_first);
        if is_first && epoch < state.whole {
            let whole = state.whole;
            let broken = format!("goes_on_from_the_newest_whole_checkpoint: from {epoch}, not {whole}");
            state.broken.push(broken);
        }
        let remote = state.remote(&self.name);
        if self.is_exact && epoch < remote.marker {
            let message = format!("{} {AHEAD}: {} and not {epoch}", self.name, remote.marker);
            return Err(ConnectorError::Fatal(message));
        }
        remote.marker = epoch;
        let later = remote.prepared.split_off(&(epoch + 1));
        let rows: Vec<String> = std::mem::take(&mut remote.prepared).into_values().flatten().collect();
        if !is_first {
            remote.prepared = later;
        }
        let count = rows.len();
        remote.published.extend(rows);
        state.note(format!("{} publishes {count} rows of {epoch}", self.name));
        Ok(())
    }
}

/// A row as words: numbers, times in microseconds, text.
fn text(batch: &RecordBatch, row: usize) -> String {
    let mut text = String::new();
    for column in batch.columns() {
        let word = if column.is_null(row) {
            "NULL".to_owned()
        } else if let Some(numbers) = column.as_primitive_opt::<Int64Type>() {
            numbers.value(row).to_string()
        } else if let Some(times) = column.as_primitive_opt::<TimestampMicrosecondType>() {
            times.value(row).to_string()
        } else if let Some(texts) = column.as_string_opt::<i32>() {
            texts.value(row).replace(' ', "_")
        } else {
            // The bytes of a rejected row.
            "bytes".to_owned()
        };
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&word);
    }
    text
}
