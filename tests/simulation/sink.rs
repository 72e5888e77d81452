//! A remote system that holds what was flushed until its epoch is committed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::world::World;

#[allow(clippy::unnecessary_wraps, reason = "the shape of a build function")]
pub(crate) fn remote(node: &NodeConfig, context: &BuildContext, _: &Input) -> Result<SinkPart, ConfigError> {
    let world = crate::life::world(context);
    let sink = Remote { name: node.name.clone(), world, written: Vec::new(), is_first: true };
    Ok(SinkPart { sink: Box::new(sink) })
}

struct Remote {
    name: String,
    world: Arc<World>,
    written: Vec<String>,
    is_first: bool,
}

fn lost(what: &str) -> ConnectorError {
    ConnectorError::Lost(what.into())
}

#[async_trait]
impl Sink for Remote {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.written.clear();
        if self.world.lock().fault(10) { Err(lost("nobody answers")) } else { Ok(()) }
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        if self.world.lock().fault(2) {
            return Err(lost("the line broke"));
        }
        let options = FormatOptions::default();
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("can be shown"))
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            self.written.push(values.join(" "));
        }
        Ok(())
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let mut state = self.world.lock();
        if state.fault(3) {
            return Err(lost("the line broke"));
        }
        let note = format!("{} flushes {} rows for {epoch}", self.name, self.written.len());
        state.note(note);
        let prepared = state.prepared.entry(self.name.clone()).or_default();
        prepared.entry(epoch).or_default().append(&mut self.written);
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        let mut state = self.world.lock();
        if state.fault(5) {
            return Err(lost("the line broke"));
        }
        let prepared = state.prepared.entry(self.name.clone()).or_default();
        let later = prepared.split_off(&(epoch + 1));
        let rows: Vec<String> = std::mem::take(prepared).into_values().flatten().collect();
        if !std::mem::take(&mut self.is_first) {
            *prepared = later;
        }
        let note = format!("{} publishes {} rows of {epoch}", self.name, rows.len());
        state.note(note);
        state.published.entry(self.name.clone()).or_default().extend(rows);
        Ok(())
    }
}
