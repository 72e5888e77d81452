//! How far a queue has been delivered, on disk: magic, version (u8), number of
//! the record (u64, little-endian), checksum (u32). Whole or not there; when it
//! cannot be read, what is kept goes out again.

use std::io;
use std::path::{Path, PathBuf};

use crate::storage::vfs::{Vfs, write_atomically};

const MAGIC: &[u8; 4] = b"TGQC";
const VERSION: u8 = 1;
const NAME: &str = "cursor";

/// The number that was saved last; 0 if there is none.
///
/// # Errors
/// A newer version, or the disk does not answer.
pub(in crate::runtime) fn read(vfs: &dyn Vfs, folder: &Path) -> Result<u64, String> {
    let path = path(folder);
    let bytes = match vfs.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    match decode(&bytes) {
        Ok(number) => Ok(number),
        Err(version @ 2..) => {
            Err(format!("{}: version {version} is newer than this program's {VERSION}", path.display()))
        }
        Err(_) => {
            tracing::error!("{} is damaged; what the queue keeps goes out again", path.display());
            Ok(0)
        }
    }
}

/// Saves it, durably.
pub(super) fn write(vfs: &dyn Vfs, folder: &Path, number: u64) -> io::Result<()> {
    write_atomically(vfs, &path(folder), &[&encode(number)])
}

fn path(folder: &Path) -> PathBuf {
    folder.join(NAME)
}

pub(crate) fn encode(number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.push(VERSION);
    bytes.extend(number.to_le_bytes());
    let sum = crc32c::crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// The number, or the version that wrote it; 0 is damage.
pub(crate) fn decode(bytes: &[u8]) -> Result<u64, u8> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(0)?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Err(0);
    }
    let (version, number) = match body.strip_prefix(MAGIC) {
        Some([version, number @ ..]) => (*version, number),
        Some(_) | None => return Err(0),
    };
    if version != VERSION {
        return Err(version);
    }
    number.try_into().map(u64::from_le_bytes).map_err(|_| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_layout_is_read_for_ever_and_no_damage_passes() {
        let bytes = encode(258);
        let head = [b'T', b'G', b'Q', b'C', 1, 2, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[..13], head);
        assert_eq!(bytes[13..], crc32c::crc32c(&head).to_le_bytes());
        assert_eq!(decode(&bytes), Ok(258));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(decode(&damaged), Err(0), "byte {at}");
            assert_eq!(decode(&bytes[..at]), Err(0), "{at} bytes");
        }
        let mut newer = bytes[..13].to_vec();
        newer[4] = 2;
        newer.extend(crc32c::crc32c(&newer).to_le_bytes());
        assert_eq!(decode(&newer), Err(2));
    }
}
