//! CSV. NULL is an empty cell, empty text is `""`; a cell is quoted only where
//! it must be. Lists and structs have no form here.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::ArrayFormatter;
use tidegate_engine::codec::Encoder;
use tidegate_engine::time::Time;

use crate::format::encode::{plain, printer, push_hex};

/// Writes RFC 4180 rows.
#[derive(Debug)]
pub(super) struct CsvEncoder {
    delimiter: u8,
    header: bool,
}

impl CsvEncoder {
    pub(super) fn new(delimiter: u8, header: bool) -> CsvEncoder {
        CsvEncoder { delimiter, header }
    }

    fn push_text(&self, text: &[u8], out: &mut Vec<u8>) {
        let special = |byte: &u8| matches!(byte, b'"' | b'\n' | b'\r') || *byte == self.delimiter;
        // A space at an end would be lost by readers that trim.
        let spaced = text.first() == Some(&b' ') || text.last() == Some(&b' ');
        if !text.is_empty() && !spaced && !text.iter().any(special) {
            out.extend_from_slice(text);
            return;
        }
        out.push(b'"');
        for byte in text {
            if *byte == b'"' {
                out.push(b'"');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
}

impl Encoder for CsvEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
        let say = |error: arrow::error::ArrowError| error.to_string();
        for field in batch.schema_ref().fields() {
            if field.data_type().is_nested() {
                return Err(format!(
                    "column `{}` is {}, which csv cannot hold",
                    field.name(),
                    field.data_type()
                ));
            }
        }
        let columns: Vec<ArrayRef> =
            batch.columns().iter().map(plain).collect::<Result<_, _>>().map_err(say)?;
        // Arrow prints named time zones with a feature only; times print themselves.
        let timed = |column: &ArrayRef| matches!(column.data_type(), DataType::Timestamp(..));
        let printers: Vec<Option<ArrayFormatter<'_>>> = columns
            .iter()
            .map(|column| if timed(column) { Ok(None) } else { printer(column).map(Some) })
            .collect::<Result<_, _>>()
            .map_err(say)?;
        if std::mem::take(&mut self.header) {
            for (index, field) in batch.schema_ref().fields().iter().enumerate() {
                separate(index, self.delimiter, out);
                self.push_text(field.name().as_bytes(), out);
            }
            out.push(b'\n');
        }
        for row in 0..batch.num_rows() {
            for (index, (column, printer)) in columns.iter().zip(&printers).enumerate() {
                separate(index, self.delimiter, out);
                self.push_value(column, printer.as_ref(), row, out)?;
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

fn separate(index: usize, delimiter: u8, out: &mut Vec<u8>) {
    if index > 0 {
        out.push(delimiter);
    }
}

impl CsvEncoder {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "Arrow's list of types is open; the rest print as text"
    )]
    fn push_value(
        &self,
        column: &ArrayRef,
        printer: Option<&ArrayFormatter<'_>>,
        row: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        if column.is_null(row) {
            return Ok(());
        }
        match column.data_type() {
            DataType::Utf8 => self.push_text(column.as_string::<i32>().value(row).as_bytes(), out),
            DataType::Binary => {
                let mut text = Vec::new();
                push_hex(column.as_binary::<i32>().value(row), &mut text);
                self.push_text(&text, out);
            }
            DataType::Timestamp(..) => {
                let time = Time(column.as_primitive::<TimestampMicrosecondType>().value(row));
                write!(out, "{time}").map_err(|error| error.to_string())?;
            }
            _ => {
                let text = printer.map(|printer| printer.value(row).to_string());
                self.push_text(text.unwrap_or_default().as_bytes(), out);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::{format, shown};

    #[test]
    fn reads_back_what_it_wrote() {
        let config = "format = \"csv\"\nschema = { a = \"string\", b = \"float64\", t = \"timestamp\", x = \"bytes\", d = \"decimal(6,2)\" }";
        let text = "a,b,t,x,d\n\"q\"\"u,o\nte\",1.5,2024-02-29T12:34:56.000001Z,00ff,-1.10\n,,,,\n\"\",-0.0,1969-12-31T23:59:59.999999Z,,0.00\n";
        let mut decoder = format(config).decoder();
        assert_eq!(decoder.decode(text.as_bytes(), &|line| line.to_string()), 3);
        let first = decoder.finish();
        assert_eq!(first.bad, []);
        let mut written = Vec::new();
        CsvEncoder::new(b',', true).encode(&first.batch, &mut written).expect("flat columns");
        assert_eq!(String::from_utf8_lossy(&written), text);
        decoder.decode(&written, &|line| line.to_string());
        assert_eq!(shown(&decoder.finish().batch), shown(&first.batch));
    }
}
