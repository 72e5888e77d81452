//! One payload per row, for sinks that send messages: a format's encoder
//! writes rows one after the other, each ended by a line feed.

use arrow::array::RecordBatch;
use tidegate_engine::codec::Encoder;

use crate::format::encode::EncodeFormat;

/// An encoder and where its rows end.
pub(crate) struct RowEncoder {
    encoder: Box<dyn Encoder>,
}

impl RowEncoder {
    /// For rows in this format; a message of CSV is one line without a header.
    pub(crate) fn new(format: EncodeFormat) -> RowEncoder {
        RowEncoder { encoder: format.encoder_without_header() }
    }

    /// Appends the payload of each row to `out`, without its line feed, and
    /// where it ends to `ends`.
    ///
    /// # Errors
    /// As `Encoder::encode`.
    pub(crate) fn encode(
        &mut self,
        batch: &RecordBatch,
        out: &mut Vec<u8>,
        ends: &mut Vec<usize>,
    ) -> Result<(), String> {
        let mut lines = Vec::new();
        self.encoder.encode(batch, &mut lines)?;
        if memchr::memchr_iter(b'\n', &lines).count() == batch.num_rows() {
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                push(line, out, ends);
            }
            return Ok(());
        }
        // Values with line feeds of their own (quoted in CSV): row by row.
        for row in 0..batch.num_rows() {
            lines.clear();
            self.encoder.encode(&batch.slice(row, 1), &mut lines)?;
            push(&lines, out, ends);
        }
        Ok(())
    }
}

fn push(line: &[u8], out: &mut Vec<u8>, ends: &mut Vec<usize>) {
    out.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
    ends.push(out.len());
}
