//! The sink that prints rows: a line each, flushed with every batch, so that a
//! person sees a row when it happens and a script can read a pipe.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::codec::Encoder;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::{Delivery, Sink, SinkPart};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::format::encode::{ENCODE_KEYS, EncodeFormat};

/// `[sink.x] type = "stdout"`.
pub(crate) const SINK: Row<BuildSink> = Row {
    name: "stdout",
    summary: "prints rows, a line each",
    keys: &[ENCODE_KEYS],
    example: r#"[source.numbers]
type  = "generate"
count = 10

[sink.out]
type = "stdout"
from = "numbers"
"#,
    build,
};

fn build(config: &NodeConfig, _context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let format = EncodeFormat::from_config(config)?;
    format.header(&input.stream.columns).map_err(|reason| {
        Diagnostic::error("TG-C033", reason)
            .at(config.table.span_of("format"))
            .label("cannot hold this input")
    })?;
    let sink = Lines { encoder: format.encoder(), out: tokio::io::stdout(), text: Vec::new() };
    Ok(SinkPart { sink: Box::new(sink) })
}

/// Writes lines to anything.
struct Lines<W> {
    encoder: Box<dyn Encoder>,
    out: W,
    text: Vec<u8>,
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> Sink for Lines<W> {
    fn delivery(&self) -> Delivery {
        Delivery::Local
    }

    async fn open(&mut self) -> Result<(), ConnectorError> {
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.text.clear();
        self.encoder.encode(batch, &mut self.text).map_err(ConnectorError::Fatal)?;
        // Nobody reads any more: that will not get better.
        let gone = |error: std::io::Error| ConnectorError::Fatal(format!("cannot print rows: {error}"));
        self.out.write_all(&self.text).await.map_err(gone)?;
        self.out.flush().await.map_err(gone)
    }

    async fn flush(&mut self, _epoch: u64) -> Result<(), ConnectorError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn rows_are_there_when_write_returns() {
        let (out, mut reader) = tokio::io::duplex(1024);
        let mut sink = Lines { encoder: EncodeFormat::Json.encoder(), out, text: Vec::new() };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(1), None]))),
            ("x", Arc::new(Float64Array::from(vec![f64::NAN, 0.1]))),
            ("s", Arc::new(StringArray::from(vec!["a\"\n", "é"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("equal lengths");
        let expected = "{\"n\":1,\"x\":null,\"s\":\"a\\\"\\n\"}\n{\"n\":null,\"x\":0.1,\"s\":\"é\"}\n";
        let mut text = vec![0; expected.len()];
        tokio::time::timeout(Duration::from_secs(10), async {
            sink.write(&batch).await.expect("is read");
            reader.read_exact(&mut text).await.expect("is written");
        })
        .await
        .expect("in time");
        assert_eq!(String::from_utf8(text).expect("text"), expected);
        drop(reader);
        assert!(matches!(sink.write(&batch).await, Err(ConnectorError::Fatal(_))));
    }
}
