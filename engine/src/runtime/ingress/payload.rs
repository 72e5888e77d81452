//! Rows of a source as the payload of a log record: partition (u32), length of
//! the first stream (u32), the rows and then the rejects as one Arrow IPC
//! stream each; no rejects, no stream. Numbers are little-endian.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use crate::storage::ipc;

/// What a record holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Payload {
    pub(crate) partition: u32,
    pub(crate) batch: RecordBatch,
    pub(crate) rejects: Option<RecordBatch>,
}

/// The bytes of rows.
pub(crate) fn encode(
    partition: u32,
    batch: &RecordBatch,
    rejects: Option<&RecordBatch>,
) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::with_capacity(1_024 + batch.get_array_memory_size());
    bytes.extend_from_slice(&partition.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    let start = bytes.len();
    write(batch, &mut bytes)?;
    let length = u32::try_from(bytes.len() - start)
        .map_err(|_| ArrowError::IpcError("rows of more than 4 GiB at a time".into()))?;
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    if let Some(rejects) = rejects {
        write(rejects, &mut bytes)?;
    }
    Ok(bytes)
}

fn write(batch: &RecordBatch, to: &mut Vec<u8>) -> Result<(), ArrowError> {
    let mut writer = StreamWriter::try_new(to, batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()
}

/// The rows of bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Payload, String> {
    let short = || "a record is too short".to_owned();
    let (partition, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
    let (rows, rejects) = rest.split_at_checked(length).ok_or_else(short)?;
    let batch = read(rows)?.ok_or_else(short)?;
    let rejects = if rejects.is_empty() { None } else { read(rejects)? };
    Ok(Payload { partition: u32::from_le_bytes(*partition), batch, rejects })
}

fn read(bytes: &[u8]) -> Result<Option<RecordBatch>, String> {
    Ok(ipc::read(bytes)?.into_iter().next())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_cut_bytes_do_not_come_at_all() {
        let numbers = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let texts = Arc::new(StringArray::from(vec!["a", "", "ü"]));
        let batch = RecordBatch::try_from_iter([("n", numbers as _), ("t", texts as _)]).expect("fits");
        let rejects = batch.slice(1, 1);
        for rejects in [None, Some(rejects)] {
            let bytes = encode(7, &batch.slice(0, 2), rejects.as_ref()).expect("encodes");
            let expected = Payload { partition: 7, batch: batch.slice(0, 2), rejects };
            assert_eq!(decode(&bytes), Ok(expected));
        }
        let bytes = encode(7, &batch, None).expect("encodes");
        for length in 0..bytes.len() - 8 {
            assert!(decode(&bytes[..length]).is_err() || length > bytes.len() - 16, "{length} bytes");
        }
    }
}
