//! Rows of a source as the payload of a log record: partition (u32), length of
//! the first stream (u32), the rows and then the rejects as one Arrow IPC
//! stream each; no rejects, no stream. If the highest bit of the partition is
//! set, the length (u32) and the bytes of the source's own position stand
//! before the rows. Numbers are little-endian.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use crate::source::Position;
use crate::storage::ipc;

/// In the place of the partition: a position follows.
const HAS_POSITION: u32 = 1 << 31;

/// What a record holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Payload {
    pub(crate) partition: u32,
    pub(crate) batch: RecordBatch,
    pub(crate) rejects: Option<RecordBatch>,
    /// Where the source itself stood after them, if it wants to know.
    pub(crate) position: Option<Position>,
}

/// The bytes of rows.
pub(crate) fn encode(
    partition: u32,
    batch: &RecordBatch,
    rejects: Option<&RecordBatch>,
    position: Option<&Position>,
) -> Result<Vec<u8>, ArrowError> {
    if partition & HAS_POSITION != 0 {
        return Err(ArrowError::IpcError(format!("partition {partition} is too large a number")));
    }
    let short = |length: usize| {
        u32::try_from(length).map_err(|_| ArrowError::IpcError("rows of more than 4 GiB at a time".into()))
    };
    let mut bytes = Vec::with_capacity(1_024 + batch.get_array_memory_size());
    let flag = if position.is_some() { HAS_POSITION } else { 0 };
    bytes.extend_from_slice(&(partition | flag).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    if let Some(Position(position)) = position {
        bytes.extend_from_slice(&short(position.len())?.to_le_bytes());
        bytes.extend_from_slice(position);
    }
    let start = bytes.len();
    write(batch, &mut bytes)?;
    let length = short(bytes.len() - start)?;
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
    let partition = u32::from_le_bytes(*partition);
    let (length, rest) = length_of(rest).ok_or_else(short)?;
    let (position, rest) = if partition & HAS_POSITION == 0 {
        (None, rest)
    } else {
        let (length, rest) = length_of(rest).ok_or_else(short)?;
        let (position, rest) = rest.split_at_checked(length).ok_or_else(short)?;
        (Some(Position(position.into())), rest)
    };
    let (rows, rejects) = rest.split_at_checked(length).ok_or_else(short)?;
    let batch = read(rows)?.ok_or_else(short)?;
    let rejects = if rejects.is_empty() { None } else { read(rejects)? };
    Ok(Payload { partition: partition & !HAS_POSITION, batch, rejects, position })
}

/// A length at the beginning, and what follows.
fn length_of(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))
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
        let place = Position::of(&("place", 3));
        for (rejects, position) in [(None, None), (Some(rejects.clone()), Some(place)), (Some(rejects), None)]
        {
            let batch = batch.slice(0, 2);
            let bytes = encode(7, &batch, rejects.as_ref(), position.as_ref()).expect("encodes");
            assert_eq!(decode(&bytes), Ok(Payload { partition: 7, batch, rejects, position }));
        }
        assert!(encode(1 << 31, &batch, None, None).is_err(), "it would be taken for another partition");
        let bytes = encode(7, &batch, None, None).expect("encodes");
        for length in 0..bytes.len() - 8 {
            assert!(decode(&bytes[..length]).is_err() || length > bytes.len() - 16, "{length} bytes");
        }
    }
}
