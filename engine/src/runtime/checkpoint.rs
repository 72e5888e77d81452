//! A checkpoint as bytes: whole and checked, or not used.
//!
//! Layout: `TGCP`, version (u32), length of the head (u64), head (JSON), then
//! one Arrow IPC stream for each state listed in the head, then crc32c of all
//! bytes before it (u32). Numbers are little-endian. Version 2 may name earlier
//! files whose states come before; without any, version 1 is written.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;

use super::ledger::Report;
use crate::planted;
use crate::source::Position;
use crate::storage::ipc;
use crate::time::Time;

/// First bytes of a checkpoint file.
const MAGIC: &[u8; 4] = b"TGCP";
/// Version of the layout; newer ones are refused.
const VERSION: u32 = 2;

/// Everything a topology needs to go on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    /// The epoch it belongs to; 0 if there is none yet.
    pub epoch: u64,
    /// Position and watermark of each source.
    pub sources: BTreeMap<String, (Option<Position>, Option<Time>)>,
    /// What the port `received` of each source has told, if it is read.
    pub received: BTreeMap<String, Time>,
    /// State of each operator.
    pub operators: BTreeMap<String, OperatorState>,
    /// Which outside each source and sink had, as its fingerprint says; versions
    /// before this was kept say nothing.
    pub outsides: BTreeMap<String, String>,
}

/// State of one operator in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OperatorState {
    /// The configuration that wrote it.
    pub fingerprint: String,
    /// Whether it is what has changed since the last report.
    pub is_change: bool,
    /// Epochs of earlier files whose batches come before these, oldest first.
    pub parts: Vec<u64>,
    /// A snapshot and changes behind it, in order.
    pub batches: Vec<RecordBatch>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Head {
    epoch: u64,
    sources: Vec<SourceHead>,
    operators: Vec<OperatorHead>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    outsides: BTreeMap<String, String>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct SourceHead {
    name: String,
    position: Option<String>,
    watermark: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    received: Option<i64>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct OperatorHead {
    name: String,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<u64>,
    /// Length of each of its streams in bytes.
    streams: Vec<u64>,
}

impl Checkpoint {
    /// The checkpoint that a complete epoch's reports make.
    #[must_use]
    pub fn of(
        epoch: u64,
        reports: BTreeMap<String, Report>,
        fingerprints: &BTreeMap<String, String>,
        outsides: &BTreeMap<String, String>,
    ) -> Self {
        let mut checkpoint = Checkpoint { epoch, outsides: outsides.clone(), ..Checkpoint::default() };
        for (name, report) in reports {
            match report {
                Report::Source { position, watermark, received } => {
                    checkpoint.received.extend(received.map(|told| (name.clone(), told)));
                    checkpoint.sources.insert(name, (position, watermark));
                }
                Report::State(batches) => {
                    let fingerprint = fingerprints.get(&name).cloned().unwrap_or_default();
                    let state = OperatorState { fingerprint, batches, ..OperatorState::default() };
                    checkpoint.operators.insert(name, state);
                }
                Report::Changes(batches) => {
                    let fingerprint = fingerprints.get(&name).cloned().unwrap_or_default();
                    let state = OperatorState { fingerprint, is_change: true, parts: Vec::new(), batches };
                    checkpoint.operators.insert(name, state);
                }
                Report::Flushed => {}
            }
        }
        checkpoint
    }

    /// The bytes, and how many of them each operator's state takes.
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, BTreeMap<String, u64>), arrow::error::ArrowError> {
        let mut streams = Vec::new();
        let mut operators = Vec::new();
        let mut sizes = BTreeMap::new();
        for (name, OperatorState { fingerprint, parts, batches, .. }) in &self.operators {
            let mut lengths = Vec::new();
            for batch in batches {
                let start = streams.len();
                let mut writer = StreamWriter::try_new(&mut streams, batch.schema_ref())?;
                writer.write(batch)?;
                writer.finish()?;
                drop(writer);
                lengths.push((streams.len() - start) as u64);
            }
            sizes.insert(name.clone(), lengths.iter().sum());
            let (name, fingerprint, parts) = (name.clone(), fingerprint.clone(), parts.clone());
            operators.push(OperatorHead { name, fingerprint, parts, streams: lengths });
        }
        let sources = self.sources.iter().map(|(name, (position, watermark))| SourceHead {
            name: name.clone(),
            position: position.as_ref().map(|position| hex(&position.0)),
            watermark: watermark.map(|time| time.0),
            received: self.received.get(name).map(|time| time.0),
        });
        let outsides = self.outsides.clone();
        let head = Head { epoch: self.epoch, sources: sources.collect(), operators, outsides };
        let head = serde_json::to_vec(&head)
            .map_err(|error| arrow::error::ArrowError::JsonError(error.to_string()))?;
        let mut bytes = Vec::with_capacity(head.len() + streams.len() + 20);
        bytes.extend_from_slice(MAGIC);
        let version = if self.operators.values().all(|state| state.parts.is_empty()) { 1 } else { VERSION };
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&streams);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        Ok((bytes, sizes))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, String> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or("too short")?;
        let (magic, rest) = body.split_first_chunk::<4>().ok_or("too short")?;
        if magic != MAGIC {
            return Err("not a checkpoint".into());
        }
        let (version, rest) = rest.split_first_chunk::<4>().ok_or("too short")?;
        // First, since a damaged version is no newer one: every version ends so.
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) && !planted!(CheckpointChecksumIgnored) {
            return Err("the checksum does not fit".into());
        }
        let version = u32::from_le_bytes(*version);
        if version > VERSION {
            return Err(format!("written by a newer version ({version}) than this one knows ({VERSION})"));
        }
        let (length, rest) = rest.split_first_chunk::<8>().ok_or("too short")?;
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "head too long")?;
        let (head, mut streams) = rest.split_at_checked(length).ok_or("head too long")?;
        let head: Head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
        let mut checkpoint =
            Checkpoint { epoch: head.epoch, outsides: head.outsides, ..Checkpoint::default() };
        for source in head.sources {
            let position = source.position.map(|text| unhex(&text).ok_or("damaged position")).transpose()?;
            let entry = (position.map(|bytes| Position(bytes.into())), source.watermark.map(Time));
            let received = source.received.map(|told| (source.name.clone(), Time(told)));
            checkpoint.received.extend(received);
            checkpoint.sources.insert(source.name, entry);
        }
        for operator in head.operators {
            let mut batches = Vec::new();
            for length in &operator.streams {
                let length = usize::try_from(*length).map_err(|_| "state too long")?;
                let (stream, rest) = streams.split_at_checked(length).ok_or("state too long")?;
                streams = rest;
                batches.extend(ipc::read(stream)?);
            }
            let OperatorHead { name, fingerprint, parts, .. } = operator;
            checkpoint
                .operators
                .insert(name, OperatorState { fingerprint, is_change: false, parts, batches });
        }
        Ok(checkpoint)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};
    use std::sync::Arc;

    fn checkpoint(epoch: u64) -> Checkpoint {
        let column = Arc::new(Int64Array::from(vec![1, 2, 3])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("n", column)]).expect("one column");
        let position = Some(Position::of(&serde_json::json!({"offset": 17})));
        Checkpoint {
            epoch,
            sources: BTreeMap::from([("rows".into(), (position, Some(Time(-5))))]),
            operators: BTreeMap::from([(
                "window".into(),
                OperatorState {
                    fingerprint: "tumbling 10s".into(),
                    batches: vec![batch],
                    ..OperatorState::default()
                },
            )]),
            ..Checkpoint::default()
        }
    }

    #[test]
    fn a_checkpoint_cut_or_damaged_at_any_byte_is_not_used() {
        let (whole, sizes) = checkpoint(5).encode().expect("encodes");
        assert!(sizes["window"] > 100 && sizes["window"] < whole.len() as u64);
        for length in 0..whole.len() {
            assert!(Checkpoint::decode(&whole[..length]).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert!(Checkpoint::decode(&damaged).is_err(), "damaged at {at}");
        }
    }

    #[test]
    fn the_time_of_receipt_is_kept_and_older_versions_have_none() {
        let mut told = checkpoint(5);
        told.received.insert("rows".into(), Time(77));
        let (bytes, _) = told.encode().expect("encodes");
        assert_eq!(Checkpoint::decode(&bytes), Ok(told));
        assert!(!String::from_utf8_lossy(&checkpoint(5).encode().expect("encodes").0).contains("received"));
    }

    /// Checkpoints of every version that ever was are read for ever, and written
    /// again byte for byte.
    #[test]
    fn the_first_layouts_are_read_and_written_for_ever() {
        let mut second = checkpoint(9);
        second.operators.get_mut("window").expect("is there").parts = vec![3, 7];
        for (file, expected) in [("checkpoint-v1", checkpoint(5)), ("checkpoint-v2", second)] {
            let path = format!("{}/tests/fixtures/{file}", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(&path).expect("the fixture is there");
            assert_eq!(Checkpoint::decode(&bytes), Ok(expected.clone()), "{file}");
            assert_eq!(expected.encode().expect("encodes").0, bytes, "{file}");
        }
    }
}
