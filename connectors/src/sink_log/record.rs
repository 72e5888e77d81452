//! The records of a sink's log, as bytes. Pure. A record: version (u8), kind
//! (u8), epoch (u64, little-endian), then for rows an Arrow IPC stream.

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// Version of the layout; newer ones are refused.
const VERSION: u8 = 1;
const ROWS: u8 = 1;
const FORGET: u8 = 2;
const BORN: u8 = 3;
const MET: u8 = 4;
/// Bytes before the rows.
const HEAD_BYTES: usize = 10;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Rows of this epoch.
    Rows(u64),
    /// Rows of later epochs that stand before this record come again, and are
    /// not to be delivered from here.
    Forget(u64),
    /// The log, or a life over it, began when the topology was at this epoch.
    Born(u64),
    /// Since then the remote side has been seen, with no marker beyond it.
    Met,
}

/// A record that forgets epochs after `epoch`.
pub(super) fn forget(epoch: u64) -> Vec<u8> {
    head(FORGET, epoch)
}

/// A record that tells the beginning of a log or a life.
pub(super) fn born(epoch: u64) -> Vec<u8> {
    head(BORN, epoch)
}

/// A record that the remote side has been seen.
pub(super) fn met() -> Vec<u8> {
    head(MET, 0)
}

/// A record of rows of one shape.
///
/// # Errors
/// What Arrow says: more than it can count, or batches of different shape.
pub(super) fn rows(epoch: u64, batches: &[RecordBatch]) -> Result<Vec<u8>, String> {
    let mut bytes = head(ROWS, epoch);
    let Some(first) = batches.first() else { return Ok(bytes) };
    let mut writer =
        StreamWriter::try_new(&mut bytes, first.schema_ref()).map_err(|error| error.to_string())?;
    for batch in batches {
        writer.write(batch).map_err(|error| error.to_string())?;
    }
    writer.finish().map_err(|error| error.to_string())?;
    drop(writer);
    Ok(bytes)
}

fn head(kind: u8, epoch: u64) -> Vec<u8> {
    let mut bytes = vec![VERSION, kind];
    bytes.extend(epoch.to_le_bytes());
    bytes
}

/// What a record is, and its rows as bytes.
///
/// # Errors
/// It is of a newer version, or none of ours.
pub(super) fn read_head(record: &[u8]) -> Result<(Head, &[u8]), String> {
    let (head, rest) = record.split_at_checked(HEAD_BYTES).ok_or("it is too short")?;
    let [version, kind, epoch @ ..] = head else { return Err("it is too short".into()) };
    if *version != VERSION {
        return Err(format!("version {version} is not known; this program writes {VERSION}"));
    }
    let epoch = epoch.try_into().map(u64::from_le_bytes).map_err(|_| "it is too short")?;
    match *kind {
        ROWS => Ok((Head::Rows(epoch), rest)),
        FORGET => Ok((Head::Forget(epoch), rest)),
        BORN => Ok((Head::Born(epoch), rest)),
        MET => Ok((Head::Met, rest)),
        other => Err(format!("a record of the unknown kind {other}")),
    }
}

/// The rows behind a head.
///
/// # Errors
/// They cannot be read.
pub(super) fn read_rows(bytes: &[u8]) -> Result<Vec<RecordBatch>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let reader = StreamReader::try_new(bytes, None).map_err(|error| error.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let columns: [(&str, ArrayRef); 2] = [
            ("id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("name", Arc::new(StringArray::from(vec!["a", "", "ç"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("equal lengths");
        let parts = [batch.slice(0, 1), batch.slice(1, 2)];
        let bytes = rows(7, &parts).expect("encodes");
        assert_eq!(bytes[..10], [1, 1, 7, 0, 0, 0, 0, 0, 0, 0]);
        let (head, rest) = read_head(&bytes).expect("ours");
        assert_eq!(head, Head::Rows(7));
        assert_eq!(read_rows(rest).expect("rows"), parts);
        assert_eq!(read_head(&forget(258)), Ok((Head::Forget(258), &[][..])));
    }

    #[test]
    fn what_is_not_ours_is_refused_and_never_panics() {
        assert!(read_head(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err_and(|reason| reason.contains("version 2")));
        assert!(read_head(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(read_head(&[1]).is_err());
        assert!(read_rows(&[1, 2, 3]).is_err());
    }
}
