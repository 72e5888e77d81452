//! One file that is read row by row, to its end or as it grows. Knows where it
//! stands to the byte; notices when the file is cut or replaced.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidegate_engine::codec::{BadRow, Decoded};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::format::{REJECT_BYTES_MAX, StreamDecoder};

/// Bytes read at once: some thousand rows, enough to make a system call cheap.
pub(super) const CHUNK_BYTES: usize = 1024 * 1024;

/// UTF-8's byte order mark, which some programs write before the first row.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where a file has been read to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The file, by device and inode: a name may come to mean another file.
    pub(super) file: (u64, u64),
    /// Bytes read.
    pub(super) offset: u64,
    /// Lines read.
    pub(super) line: u64,
    /// How many of its first bytes `head` covers, and their FNV-1a hash: an
    /// inode may come to mean another file too.
    pub(super) head: (u64, u64),
    /// Whether `offset` stands inside a row that was rejected for its length.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) inside: bool,
}

/// First bytes of a file that tell it from another one.
const HEAD_BYTES: usize = 256;

/// What a look at a file gave.
#[derive(Debug)]
pub(super) enum Found {
    /// Rows.
    Rows(Decoded),
    /// Bytes, and no whole row yet: look again at once.
    More,
    /// Nothing new at present.
    Nothing,
}

/// An open file.
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) mark: Mark,
    /// Nobody will write to it any more: it is read to its end and closed.
    pub(super) ending: bool,
    file: File,
    decoder: Box<dyn StreamDecoder>,
    /// Bytes from `mark.offset` on that hold no whole row yet.
    buffer: Vec<u8>,
    wants_header: bool,
    row_bytes_max: usize,
    /// When the file was last seen to change.
    changed: (i64, i64),
}

/// What a file is called in reasons and positions.
pub(super) fn display(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Device and inode of what a path means now.
pub(super) async fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = tokio::fs::metadata(path).await?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Tail {
    /// Opens a file at `mark`, if that is a mark of this file, or at its
    /// beginning.
    pub(super) async fn open(
        path: &Path,
        mark: Option<&Mark>,
        decoder: Box<dyn StreamDecoder>,
        row_bytes_max: usize,
    ) -> io::Result<Tail> {
        let mut file = File::open(path).await?;
        file.set_max_buf_size(CHUNK_BYTES);
        let metadata = file.metadata().await?;
        if metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
        }
        let identity = (metadata.dev(), metadata.ino());
        let fresh = Mark { file: identity, offset: 0, line: 0, head: (0, fnv1a(&[])), inside: false };
        let mut tail = Tail {
            path: path.to_owned(),
            mark: fresh,
            ending: false,
            file,
            wants_header: decoder.wants_header(),
            decoder,
            buffer: Vec::new(),
            row_bytes_max,
            changed: (0, 0),
        };
        let known = mark.filter(|mark| mark.file == identity && (1..=metadata.len()).contains(&mark.offset));
        if let Some(mark) = known {
            tail.go_on_at(mark).await?;
        }
        Ok(tail)
    }

    async fn go_on_at(&mut self, mark: &Mark) -> io::Result<()> {
        self.fill().await?;
        let head = usize::try_from(mark.head.0).ok().and_then(|length| self.buffer.get(..length));
        if head.is_none_or(|head| fnv1a(head) != mark.head.1) {
            return Ok(());
        }
        self.read_header_again().await?;
        self.mark = mark.clone();
        self.buffer.clear();
        self.file.seek(SeekFrom::Start(mark.offset)).await?;
        Ok(())
    }

    /// The header stands at the beginning, wherever reading goes on.
    async fn read_header_again(&mut self) -> io::Result<()> {
        while self.wants_header && self.buffer.len() <= self.row_bytes_max {
            if !self.take_header()? && self.fill().await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Reads on. With `to_end` an unfinished last row counts as whole.
    pub(super) async fn look(&mut self, to_end: bool) -> io::Result<Found> {
        let count = self.fill().await?;
        self.skip_mark();
        if self.wants_header && !self.take_header()? {
            if count > 0 && self.buffer.len() <= self.row_bytes_max {
                return Ok(Found::More);
            }
            let too_long = "the header is longer than payload_max";
            return if count > 0 {
                Err(io::Error::new(io::ErrorKind::InvalidData, too_long))
            } else {
                Ok(Found::Nothing)
            };
        }
        if self.mark.inside && !self.leave_long_row() {
            return Ok(if count > 0 { Found::More } else { Found::Nothing });
        }
        let mut whole = self.decoder.whole_rows(&self.buffer);
        if whole == 0 && self.buffer.len() > self.row_bytes_max {
            return Ok(Found::Rows(self.reject_long_row()));
        }
        if whole == 0 && count == 0 && to_end {
            whole = self.buffer.len();
        }
        if whole == 0 {
            return Ok(if count > 0 { Found::More } else { Found::Nothing });
        }
        let rows = self.buffer.get(..whole).unwrap_or_default();
        let (name, line) = (display(&self.path), self.mark.line);
        self.decoder.decode(rows, &|index| format!("{name}:{}", line + 1 + as_u64(index)));
        self.consume(whole);
        Ok(Found::Rows(self.decoder.finish()))
    }

    /// Whether the file was cut or written anew: it is shorter than what was
    /// read of it, or begins otherwise.
    pub(super) async fn is_cut(&mut self) -> io::Result<bool> {
        let metadata = self.file.metadata().await?;
        let read = self.read_to();
        let changed = (metadata.mtime(), metadata.mtime_nsec());
        if metadata.len() < read {
            return Ok(true);
        }
        if std::mem::replace(&mut self.changed, changed) == changed {
            return Ok(false);
        }
        let (length, hash) = self.mark.head;
        let mut head = Vec::new();
        self.file.seek(SeekFrom::Start(0)).await?;
        (&mut self.file).take(length).read_to_end(&mut head).await?;
        self.file.seek(SeekFrom::Start(read)).await?;
        Ok(fnv1a(&head) != hash)
    }

    fn read_to(&self) -> u64 {
        self.mark.offset + as_u64(self.buffer.len())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(CHUNK_BYTES);
        let mut chunk = (&mut self.file).take(as_u64(CHUNK_BYTES));
        chunk.read_buf(&mut self.buffer).await
    }

    /// Takes the header from the buffer; answers whether it was whole.
    fn take_header(&mut self) -> io::Result<bool> {
        let Some(length) = self.decoder.first_row(&self.buffer) else { return Ok(false) };
        let header = self.buffer.get(..length).unwrap_or_default();
        self.decoder
            .set_header(header)
            .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        self.wants_header = false;
        self.consume(length);
        Ok(true)
    }

    /// Forgets `count` bytes of the buffer, which are done with.
    fn consume(&mut self, count: usize) {
        self.mark_head();
        let done = self.buffer.get(..count).unwrap_or_default();
        let unfinished = usize::from(done.last().is_some_and(|last| *last != b'\n'));
        self.mark.line += as_u64(memchr::memchr_iter(b'\n', done).count() + unfinished);
        self.mark.offset += as_u64(count);
        self.buffer.drain(..count);
    }

    /// Sets a row aside that is too long to be kept in memory, as far as it is
    /// known; the rest of it is passed over.
    fn reject_long_row(&mut self) -> Decoded {
        let reason = format!("the row has more than {} bytes, which is payload_max", self.row_bytes_max);
        let position = format!("{}:{}", display(&self.path), self.mark.line + 1);
        let payload = self.buffer.get(..REJECT_BYTES_MAX).unwrap_or(&self.buffer).into();
        self.mark_head();
        self.mark.offset += as_u64(self.buffer.len());
        self.mark.inside = true;
        self.buffer.clear();
        let mut decoded = self.decoder.finish();
        decoded.bad.push(BadRow { reason, position, payload });
        decoded
    }

    /// Passes over the rest of a row that was rejected for its length; answers
    /// whether its end was found.
    fn leave_long_row(&mut self) -> bool {
        let end = memchr::memchr(b'\n', &self.buffer);
        self.mark.inside = end.is_none();
        let done = end.map_or(self.buffer.len(), |end| end + 1);
        self.mark.offset += as_u64(done);
        self.mark.line += u64::from(end.is_some());
        self.buffer.drain(..done);
        end.is_some()
    }

    /// Remembers how the file begins, the first time bytes of it are done with.
    fn mark_head(&mut self) {
        if self.mark.offset == 0 {
            let head = self.buffer.get(..HEAD_BYTES).unwrap_or(&self.buffer);
            self.mark.head = (as_u64(head.len()), fnv1a(head));
        }
    }

    /// Drops a byte order mark before the first row.
    fn skip_mark(&mut self) {
        if self.mark.offset == 0 && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.mark_head();
            self.mark.offset += as_u64(BYTE_ORDER_MARK.len());
            self.buffer.drain(..BYTE_ORDER_MARK.len());
        }
    }
}

/// The hash of Fowler, Noll and Vo, 64 bits, variant 1a: stable for ever, and
/// good enough to tell the beginnings of two files apart.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Lengths fit: a `usize` has at most 64 bits here.
fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
