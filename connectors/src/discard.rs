//! The sink that keeps nothing: rows are counted and forgotten, to try a
//! topology, or to measure one without its outside.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

/// `[sink.x] type = "discard"`.
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "discard",
    summary: "counts rows and forgets them",
    keys: &[],
    example: r#"[source.numbers]
type  = "generate"
count = 10

[sink.nothing]
type = "discard"
from = "numbers"
"#,
    build,
};

fn build(_config: &NodeConfig, _context: &BuildContext, _input: &Input) -> Result<SinkPart, ConfigError> {
    Ok(SinkPart { sink: Box::new(Discard) })
}

struct Discard;

#[async_trait]
impl Sink for Discard {
    /// It keeps no row.
    fn upserts(&self) -> bool {
        true
    }

    fn delivery(&self) -> Delivery {
        Delivery::Local
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, _batch: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}
