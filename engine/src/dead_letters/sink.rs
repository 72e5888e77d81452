//! The reader of a port `rejects` that nobody else reads: its rows become dead
//! letters.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use async_trait::async_trait;

use super::{DeadLetters, Fate, Letter};
use crate::error::ConnectorError;
use crate::sink::{Delivery, Sink};
use crate::storage::log::LogError;

/// Takes rows of `rejects_schema`.
pub(crate) struct UnreadRejects {
    node: String,
    dead: DeadLetters,
    pending: Vec<RecordBatch>,
    is_resumed: bool,
    is_told: bool,
}

impl UnreadRejects {
    /// Of this node.
    pub(crate) fn new(node: &str, dead: DeadLetters) -> UnreadRejects {
        UnreadRejects { node: node.to_owned(), dead, pending: Vec::new(), is_resumed: false, is_told: false }
    }

    async fn keep(&self, epoch: u64, batch: &RecordBatch) -> Result<(), ConnectorError> {
        let foreign = || ConnectorError::Fatal("a port `rejects` with columns of its own".into());
        let text = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        let at = batch.columns().first().and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
        let payload = batch.schema().index_of("payload").map_err(|_| foreign())?;
        let (at, reasons, positions) = (
            at.ok_or_else(foreign)?,
            text("reason").ok_or_else(foreign)?,
            text("position").ok_or_else(foreign)?,
        );
        let letter = |row| Letter {
            at_us: at.value(row),
            reason: reasons.value(row).to_owned(),
            position: positions.value(row).to_owned(),
        };
        let letters: Vec<Letter> = (0..batch.num_rows()).map(letter).collect();
        let rows = batch.project(&[payload]).map_err(|_| foreign())?;
        self.dead.add(epoch, Fate::Rejected, &letters, &rows).await.map_err(|error| fatal(&error))
    }
}

fn fatal(error: &LogError) -> ConnectorError {
    ConnectorError::Fatal(error.to_string())
}

#[async_trait]
impl Sink for UnreadRejects {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        if !self.is_told && batch.num_rows() > 0 {
            self.is_told = true;
            let reasons = batch.column_by_name("reason").and_then(|reasons| reasons.as_string_opt::<i32>());
            let first = reasons.and_then(|reasons| reasons.iter().next().flatten()).unwrap_or_default();
            let node = &self.node;
            tracing::warn!(
                node,
                "rows are rejected, and nobody reads `{node}.rejects`: `tidegate dead list`; the first: {first}"
            );
        }
        self.pending.push(batch.clone());
        Ok(())
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        for batch in std::mem::take(&mut self.pending) {
            self.keep(epoch, &batch).await?;
        }
        Ok(())
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        if std::mem::replace(&mut self.is_resumed, true) {
            return Ok(());
        }
        self.dead.resume(epoch).await.map_err(|error| fatal(&error))
    }

    fn delivery(&self) -> Delivery {
        Delivery::Published
    }
}
