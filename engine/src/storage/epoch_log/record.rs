//! The records of a log of epochs, as bytes. Pure. A record: version (u8), kind
//! (u8), epoch (u64, little-endian), then for rows an Arrow IPC stream.

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;

use crate::storage::ipc;

/// Version of the layout; newer ones are refused.
const VERSION: u8 = 1;
const ROWS: u8 = 1;
const FORGET: u8 = 2;
const BORN: u8 = 3;
const MET: u8 = 4;
const SUMMARY: u8 = 5;
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
    /// What the records before this one come to; their latest epoch.
    Summary(u64),
}

/// What records come to: whoever knows it need not read them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// The latest epoch of rows that are not forgotten.
    pub(super) newest: u64,
    /// As `Head::Born`, until the remote side was seen.
    pub(super) born: Option<u64>,
    /// Records that forget, with the last epoch that they keep.
    pub(super) forgets: Vec<(u64, u64)>,
    /// Records that must not be removed together with those before them.
    pub(super) hinges: Vec<u64>,
}

impl Summary {
    /// A record: head with `newest`, then whether born (u8) and when, the number
    /// of forgets and of hinges, then those, all u64.
    pub(super) fn write(&self) -> Vec<u8> {
        let mut bytes = head(SUMMARY, self.newest);
        bytes.push(u8::from(self.born.is_some()));
        let lengths = [self.born.unwrap_or(0), self.forgets.len() as u64, self.hinges.len() as u64];
        let forgets = self.forgets.iter().flat_map(|(number, epoch)| [*number, *epoch]);
        for number in lengths.into_iter().chain(forgets).chain(self.hinges.iter().copied()) {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// What stands behind the head of a summary.
    ///
    /// # Errors
    /// It is too short.
    pub(super) fn read(newest: u64, rest: &[u8]) -> Result<Summary, String> {
        let short = || "it is too short".to_owned();
        let (is_born, rest) = rest.split_first().ok_or_else(short)?;
        let mut numbers = rest.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next().ok_or_else(short);
        let (born, forgets, hinges) = (next()?, next()?, next()?);
        let forgets = (0..forgets).map(|_| Ok((next()?, next()?))).collect::<Result<_, String>>()?;
        let hinges = (0..hinges).map(|_| next()).collect::<Result<_, String>>()?;
        Ok(Summary { newest, born: (*is_born == 1).then_some(born), forgets, hinges })
    }
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
        SUMMARY => Ok((Head::Summary(epoch), rest)),
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
    ipc::read(bytes)
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
    fn a_summary_is_read_as_it_was_written_and_a_short_one_is_refused() {
        let summaries = [
            Summary::default(),
            Summary { newest: 9, born: Some(0), forgets: vec![(3, 1), (7, 2)], hinges: vec![3, 5, 7] },
        ];
        for summary in summaries {
            let bytes = summary.write();
            let (Head::Summary(newest), rest) = read_head(&bytes).expect("ours") else { panic!("a summary") };
            assert_eq!(Summary::read(newest, rest), Ok(summary));
            assert!((0..rest.len()).all(|length| Summary::read(newest, &rest[..length]).is_err()));
        }
        assert!(Summary::read(0, &[[1; 1].as_slice(), &[255; 24]].concat()).is_err());
    }

    #[test]
    fn what_is_not_ours_is_refused_and_never_panics() {
        assert!(read_head(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 0]).is_err_and(|reason| reason.contains("version 2")));
        assert!(read_head(&[1, 9, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(read_head(&[1]).is_err());
        assert!(read_rows(&[1, 2, 3]).is_err());
    }
}
