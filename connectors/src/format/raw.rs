//! Raw payloads: one column, the bytes as they came. A payload is one row; in
//! a stream each line is one.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_engine::codec::{Decoded, Decoder};

use crate::format::StreamDecoder;
use crate::format::build::RowBuilder;
use crate::format::column::{Column, Data};
use crate::format::spec::RowSpec;

/// Reads raw rows.
#[derive(Debug)]
pub(crate) struct RawDecoder {
    by_line: bool,
    build: RowBuilder,
}

impl RawDecoder {
    /// A decoder for streams of lines.
    pub(crate) fn lines(spec: Arc<RowSpec>) -> RawDecoder {
        RawDecoder { by_line: true, build: RowBuilder::new(spec) }
    }

    /// A decoder for whole payloads.
    pub(crate) fn payloads(spec: Arc<RowSpec>) -> RawDecoder {
        RawDecoder { by_line: false, build: RowBuilder::new(spec) }
    }

    fn row(&mut self, row: &[u8], position: &dyn Fn() -> String) {
        let limit = self.build.spec.payload_bytes_max;
        let taken = if row.len() > limit {
            Err(format!("the payload has {} bytes; payload_max is {limit}", row.len()))
        } else {
            self.build.columns.first_mut().map_or(Ok(()), |column| push(column, row))
        };
        if let Err(reason) = taken.and_then(|()| self.build.end_row()) {
            self.build.reject(reason, position(), row);
        }
    }
}

fn push(column: &mut Column, row: &[u8]) -> Result<(), String> {
    let taken = match &mut column.data {
        Data::Bytes(bytes) => bytes.push(row),
        Data::Text(bytes) => {
            let valid = std::str::from_utf8(row).map_err(|error| format!("not UTF-8: {error}"))?;
            bytes.push(valid.as_bytes())
        }
        Data::Bool(_)
        | Data::Int(..)
        | Data::UInt64(_)
        | Data::Float32(_)
        | Data::Float64(_)
        | Data::Time(..)
        | Data::Date(_)
        | Data::Decimal(..) => None,
    };
    taken.ok_or("the batch has more than 2 GiB of payloads")?;
    column.validity.append_non_null();
    Ok(())
}

impl Decoder for RawDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.build.spec.schema
    }

    fn decode(&mut self, payload: &[u8], position: &dyn Fn(usize) -> String) -> usize {
        let before = self.build.rows();
        if self.by_line {
            let lines = payload.strip_suffix(b"\n").unwrap_or(payload).split(|byte| *byte == b'\n');
            for (index, line) in lines.enumerate() {
                self.row(line.strip_suffix(b"\r").unwrap_or(line), &|| position(index));
            }
        } else {
            self.row(payload, &|| position(0));
        }
        self.build.rows() - before
    }

    fn rows(&self) -> usize {
        self.build.rows()
    }

    fn finish(&mut self) -> Decoded {
        self.build.finish()
    }
}

impl StreamDecoder for RawDecoder {
    fn whole_rows(&self, buffer: &[u8]) -> usize {
        memchr::memrchr(b'\n', buffer).map_or(0, |end| end + 1)
    }
}
