//! Record batches as bytes and back: Arrow's IPC stream, readable by any Arrow
//! library.

use std::io::Cursor;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Batches of one schema as bytes; no batches are no bytes.
///
/// # Errors
/// Batches of different schemas.
pub fn to_bytes(batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let mut writer = StreamWriter::try_new(Vec::new(), first.schema_ref())?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

/// The batches behind `to_bytes`.
///
/// # Errors
/// Bytes that are no such stream.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    StreamReader::try_new(Cursor::new(bytes), None)?.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{ArrayRef, Int64Array};

    #[test]
    fn rows_read_back() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let batch = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).expect("one column");
        let batches = [batch.slice(0, 1), batch.slice(1, 1)];
        let bytes = to_bytes(&batches).expect("one schema");
        assert_eq!(from_bytes(&bytes).expect("whole"), batches);
        assert_eq!(from_bytes(&[]).expect("nothing is nothing"), []);
        for cut in 1..bytes.len() {
            // Cut anywhere: an error or fewer batches, never a panic.
            drop(from_bytes(&bytes[..cut]));
        }
    }
}
