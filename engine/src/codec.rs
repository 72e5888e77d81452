//! The contract of a format: bytes to record batches and back.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Turns payloads into rows of one schema. A payload may hold any number of
/// rows (lines of a file) or none.
pub trait Decoder: Send {
    /// The columns it fills.
    fn schema(&self) -> &SchemaRef;

    /// Decodes one payload; bad rows are kept aside, the rest goes on.
    /// `position` is called for a bad row only, with the index of the row in
    /// this payload.
    ///
    /// Answers how many good rows the payload gave, so that the caller can
    /// repeat its own columns (topic, key, offset) as often.
    fn decode(&mut self, payload: &[u8], position: &dyn Fn(usize) -> String) -> usize;

    /// Rows decoded so far.
    fn rows(&self) -> usize;

    /// The good rows decoded since the last call, and the bad ones.
    fn finish(&mut self) -> Decoded;
}

/// What a decoder gathered.
#[derive(Debug)]
pub struct Decoded {
    /// Good rows.
    pub batch: RecordBatch,
    /// Bad rows, as they came.
    pub bad: Vec<BadRow>,
}

/// A row that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Why, naming the column and the value.
    pub reason: String,
    /// Where it stood, e.g. `rows.jsonl:17`.
    pub position: String,
    /// Its bytes.
    pub payload: Arc<[u8]>,
}

/// Turns rows into bytes.
pub trait Encoder: Send {
    /// Appends every row of `batch` to `out`, each ended as the format ends
    /// rows (JSON and CSV: a line feed).
    ///
    /// # Errors
    /// A sentence naming the column that has no form in this format.
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String>;
}
