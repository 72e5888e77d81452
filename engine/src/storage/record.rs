//! The records of a segment file, as bytes. Pure.
//!
//! A segment: `TGSL`, version (u32), number of its first record (u64), crc32c
//! of these (u32); then records. A record: length of the payload (u32), crc32c
//! of everything behind it (u32), its number (u64), the highest number that was
//! durable when it was written (u64), time of receipt in µs (i64), payload.
//! Numbers are little-endian.

use crate::planted;

/// First bytes of a segment.
const MAGIC: &[u8; 4] = b"TGSL";
/// Version of the layout; newer ones are refused.
pub const VERSION: u32 = 1;
/// Bytes before the first record.
pub const HEADER_BYTES: usize = 20;
/// Bytes of a record beside its payload.
pub const RECORD_BYTES: usize = 32;
/// Largest payload; a longer length is damage.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, from 1 without gaps.
    pub number: u64,
    /// The highest number that was durable when it was written.
    pub durable: u64,
    /// Time of receipt in µs since 1970.
    pub received_us: i64,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// What stands at a place of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record, and where the next one begins.
    Record(Record, usize),
    /// Nothing more.
    End,
    /// No whole record.
    Damage,
}

/// The first bytes of a segment.
#[must_use]
pub fn header(first: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    let (body, checksum) = bytes.split_at_mut(HEADER_BYTES - 4);
    let parts = MAGIC.iter().copied().chain(VERSION.to_le_bytes()).chain(first.to_le_bytes());
    for (to, from) in body.iter_mut().zip(parts) {
        *to = from;
    }
    checksum.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes
}

/// Reads the first bytes of a segment: the number of its first record.
///
/// # Errors
/// What is wrong with it.
pub fn read_header(bytes: &[u8]) -> Result<u64, String> {
    let (header, _) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or("too short for a segment")?;
    let (body, checksum) = header.split_last_chunk::<4>().ok_or("too short for a segment")?;
    let (magic, rest) = body.split_first_chunk::<4>().ok_or("too short for a segment")?;
    if magic != MAGIC {
        return Err("not a segment of a log".into());
    }
    let (version, first) = rest.split_first_chunk::<4>().ok_or("too short for a segment")?;
    // First, since a damaged version is no newer one: every version's head ends so.
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err("the checksum of the segment's head does not fit".into());
    }
    let version = u32::from_le_bytes(*version);
    if version > VERSION {
        return Err(format!("written by a newer version ({version}) than this one knows ({VERSION})"));
    }
    let first = first.first_chunk::<8>().ok_or("too short for a segment")?;
    Ok(u64::from_le_bytes(*first))
}

/// Appends a record.
pub fn write(number: u64, durable: u64, received_us: i64, payload: &[u8], to: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    to.reserve(RECORD_BYTES + payload.len());
    to.extend_from_slice(&length.to_le_bytes());
    let checksum_at = to.len();
    to.extend_from_slice(&[0; 4]);
    let body_at = to.len();
    to.extend_from_slice(&number.to_le_bytes());
    to.extend_from_slice(&durable.to_le_bytes());
    to.extend_from_slice(&received_us.to_le_bytes());
    to.extend_from_slice(payload);
    let checksum = crc32c::crc32c(to.get(body_at..).unwrap_or_default());
    if let Some(place) = to.get_mut(checksum_at..body_at) {
        place.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// What stands at `at` of a segment that begins with the number `first`. A
/// number that its bytes have no room for is damage, whatever its checksum says.
#[must_use]
pub fn read_from(first: u64, bytes: &[u8], at: usize) -> Found {
    let most = first.saturating_add((bytes.len() / RECORD_BYTES) as u64);
    match read(bytes, at) {
        Found::Record(record, _) if !(first..=most).contains(&record.number) => Found::Damage,
        found @ (Found::Record(..) | Found::End | Found::Damage) => found,
    }
}

/// What stands at `at`.
#[must_use]
pub fn read(bytes: &[u8], at: usize) -> Found {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Found::End;
    }
    match record(rest) {
        Some(record) => {
            let next = at + RECORD_BYTES + record.payload.len();
            Found::Record(record, next)
        }
        None => Found::Damage,
    }
}

fn record(bytes: &[u8]) -> Option<Record> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let body = rest.get(..RECORD_BYTES - 8 + length)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) && !planted!(LogChecksumIgnored) {
        return None;
    }
    let (number, body) = body.split_first_chunk::<8>()?;
    let (durable, body) = body.split_first_chunk::<8>()?;
    let (received, payload) = body.split_first_chunk::<8>()?;
    Some(Record {
        number: u64::from_le_bytes(*number),
        durable: u64::from_le_bytes(*durable),
        received_us: i64::from_le_bytes(*received),
        payload: payload.to_vec(),
    })
}

/// The first whole record behind damage at `at` whose number is not below
/// `least`, and where it begins.
#[must_use]
pub fn next_whole(bytes: &[u8], at: usize, least: u64) -> Option<(usize, Record)> {
    // Numbers cannot have grown by more than the bytes between have room for.
    let most = least.saturating_add((bytes.len() / RECORD_BYTES) as u64);
    (at + 1..bytes.len().saturating_sub(RECORD_BYTES - 1)).find_map(|place| {
        let number = bytes.get(place + 8..)?.first_chunk::<8>()?;
        if !(least..=most).contains(&u64::from_le_bytes(*number)) {
            return None;
        }
        record(bytes.get(place..)?).map(|record| (place, record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = header(7).to_vec();
        for number in 7..10 {
            write(number, number - 1, 1_000, format!("payload {number}").as_bytes(), &mut bytes);
        }
        bytes
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        let (mut at, mut numbers) = (HEADER_BYTES, Vec::new());
        while let Found::Record(record, next) = read(bytes, at) {
            numbers.push(record.number);
            at = next;
        }
        numbers
    }

    #[test]
    fn reads_what_it_writes() {
        let bytes = three();
        assert_eq!(read_header(&bytes), Ok(7));
        assert_eq!(numbers(&bytes), [7, 8, 9]);
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let whole = three();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x10;
            }
            assert!(read_header(&bytes).is_err() || numbers(&bytes).len() < 3, "byte {at}");
        }
    }

    #[test]
    fn whole_records_behind_damage_are_found() {
        let mut bytes = three();
        let first = HEADER_BYTES;
        if let Some(byte) = bytes.get_mut(first) {
            *byte = 0xff;
        }
        assert_eq!(read(&bytes, first), Found::Damage);
        let (at, record) = next_whole(&bytes, first, 8).expect("two are whole");
        assert_eq!((at, record.number), (first + RECORD_BYTES + 9, 8));
    }
}
