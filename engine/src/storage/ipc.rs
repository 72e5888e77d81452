//! Rows as bytes of an Arrow IPC stream, read back. The library's reader
//! believes every length that it finds: it would allocate what a damaged one
//! names, or panic. So lengths are compared with the bytes first, and a panic
//! of the library is an error here. Pure.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{self, root_as_message};

/// What a message begins with, before its length.
const CONTINUES: [u8; 4] = [0xff; 4];

/// The batches of a stream.
///
/// # Errors
/// They cannot be read.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<RecordBatch>, String> {
    check(bytes)?;
    // The library asserts much that a damaged head does not keep (alignment,
    // kinds of types, offsets of text).
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader = StreamReader::try_new(bytes, None)?;
        reader.collect::<Result<_, _>>()
    }));
    read.map_err(|_| "rows that are none".to_owned())?.map_err(|error: ArrowError| error.to_string())
}

/// Whether every length fits the bytes.
fn check(mut bytes: &[u8]) -> Result<(), String> {
    let damaged = || "a length that does not fit its rows".to_owned();
    while let Some((mut length, mut rest)) = bytes.split_first_chunk::<4>() {
        if *length == CONTINUES {
            (length, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        }
        let length = usize::try_from(i32::from_le_bytes(*length)).map_err(|_| damaged())?;
        if length == 0 {
            return Ok(());
        }
        let (head, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let message = root_as_message(head).map_err(|error| error.to_string())?;
        let length = usize::try_from(message.bodyLength()).map_err(|_| damaged())?;
        let (body, rest) = rest.split_at_checked(length).ok_or_else(damaged)?;
        let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
        let batch = message.header_as_record_batch().or(dictionary);
        let mut buffers = batch.and_then(|batch| batch.buffers()).into_iter().flatten();
        if !buffers.all(|buffer| fits(buffer, body.len())) {
            return Err(damaged());
        }
        bytes = rest;
    }
    Ok(())
}

fn fits(buffer: &ipc::Buffer, bytes: usize) -> bool {
    let end = buffer.offset().checked_add(buffer.length()).and_then(|end| usize::try_from(end).ok());
    buffer.offset() >= 0 && buffer.length() >= 0 && end.is_some_and(|end| end <= bytes)
}
