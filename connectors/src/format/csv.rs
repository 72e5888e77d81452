//! CSV (RFC 4180) to rows: cells by the header's names or by their order. An
//! empty cell is NULL, `""` is empty text; a line end inside quotes belongs to
//! the row.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_engine::codec::{Decoded, Decoder};

use crate::format::StreamDecoder;
use crate::format::build::RowBuilder;
use crate::format::spec::RowSpec;
use crate::format::value::Written;

/// Reads CSV rows.
#[derive(Debug)]
pub(crate) struct CsvDecoder {
    stream: bool,
    delimiter: u8,
    header: bool,
    /// What each cell of a row is for.
    cells: Vec<Target>,
    build: RowBuilder,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// A column.
    Column(usize),
    /// No column; its name.
    Unknown(String),
}

impl CsvDecoder {
    /// A decoder for streams of lines; the header comes by `set_header`.
    pub(crate) fn lines(spec: Arc<RowSpec>, delimiter: u8, header: bool) -> CsvDecoder {
        CsvDecoder::new(spec, (delimiter, header), true)
    }

    /// A decoder for whole payloads, each with its own header.
    pub(crate) fn payloads(spec: Arc<RowSpec>, delimiter: u8, header: bool) -> CsvDecoder {
        CsvDecoder::new(spec, (delimiter, header), false)
    }

    fn new(spec: Arc<RowSpec>, (delimiter, header): (u8, bool), stream: bool) -> CsvDecoder {
        let cells = targets(&spec).map(|(_, target)| target).collect();
        CsvDecoder { stream, delimiter, header, cells, build: RowBuilder::new(spec) }
    }

    fn decode_rows(&mut self, text: &[u8], position: &dyn Fn(usize) -> String) {
        let mut rest = text;
        let mut line = 0;
        while !rest.is_empty() {
            let (row, after) = rest.split_at_checked(row_length(rest, self.delimiter)).unwrap_or((rest, &[]));
            rest = after;
            let row_lines = memchr::memchr_iter(b'\n', row).count();
            let row = trim_line_end(row);
            if !row.is_empty()
                && let Err(reason) = self.read_row(row)
            {
                self.build.reject(reason, position(line), row);
            }
            line += row_lines;
        }
    }

    fn read_row(&mut self, row: &[u8]) -> Result<(), String> {
        let limit = self.build.spec.payload_bytes_max;
        if row.len() > limit {
            return Err(format!("the row has {} bytes; payload_max is {limit}", row.len()));
        }
        let text = std::str::from_utf8(row).map_err(|error| format!("not UTF-8: {error}"))?;
        if memchr::memchr(0, row).is_some() {
            return Err("the row has a NUL byte".into());
        }
        let mut cells = Cells { rest: Some(text), delimiter: self.delimiter };
        let mut index = 0;
        while let Some(cell) = cells.next_cell()? {
            match self.cells.get(index) {
                Some(Target::Column(column)) => self.build.put(*column, &cell.written())?,
                Some(Target::Unknown(name)) if self.build.spec.extra_rejects => {
                    return Err(format!("field `{name}` is no column"));
                }
                None if self.build.spec.extra_rejects => {
                    return Err(format!("the row has more than {} cells", self.cells.len()));
                }
                Some(Target::Unknown(_)) | None => {}
            }
            index += 1;
        }
        self.build.end_row()
    }
}

/// The names in the header that `text` begins with.
pub(crate) fn column_names(text: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let row = text.get(..row_length(text, delimiter)).unwrap_or_default();
    let row = trim_line_end(row.strip_prefix(b"\xef\xbb\xbf").unwrap_or(row));
    let text = std::str::from_utf8(row).map_err(|error| format!("the header is not UTF-8: {error}"))?;
    let mut cells = Cells { rest: Some(text), delimiter };
    let mut names: Vec<String> = Vec::new();
    while let Some(cell) = cells.next_cell().map_err(|error| format!("in the header {error}"))? {
        let name = cell.text.trim();
        if name.is_empty() {
            return Err(format!("column {} has no name in the header", names.len() + 1));
        }
        if names.iter().any(|known| known == name) {
            return Err(format!("the header has column `{name}` twice"));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// Every declared column with what its cell is for.
fn targets(spec: &RowSpec) -> impl Iterator<Item = (&str, Target)> {
    spec.columns.iter().enumerate().map(|(index, column)| {
        // By name a column may stand elsewhere: `from` names the header's word.
        (column.path.first().map_or("", String::as_str), Target::Column(index))
    })
}

/// One cell of a row.
struct Cell<'a> {
    text: Cow<'a, str>,
    quoted: bool,
}

impl Cell<'_> {
    fn written(&self) -> Written<'_> {
        if self.quoted && self.text.is_empty() { Written::EmptyText } else { Written::Cell(&self.text) }
    }
}

/// The cells of a row, in order.
struct Cells<'a> {
    rest: Option<&'a str>,
    delimiter: u8,
}

impl<'a> Cells<'a> {
    fn next_cell(&mut self) -> Result<Option<Cell<'a>>, String> {
        let Some(text) = self.rest else { return Ok(None) };
        let delimiter = char::from(self.delimiter);
        let Some(inside) = text.strip_prefix('"') else {
            let (cell, rest) =
                text.split_once(delimiter).map_or((text, None), |(cell, rest)| (cell, Some(rest)));
            self.rest = rest;
            return Ok(Some(Cell { text: Cow::Borrowed(cell), quoted: false }));
        };
        let end = quoted_length(inside.as_bytes()).ok_or("a quoted cell does not end")?;
        let (cell, after) = inside.split_at_checked(end).unwrap_or((inside, ""));
        let after = after.strip_prefix('"').unwrap_or(after);
        self.rest = after.strip_prefix(delimiter);
        if self.rest.is_none() && !after.is_empty() {
            return Err("a quoted cell goes on after its closing quote".into());
        }
        let text =
            if cell.contains('"') { Cow::Owned(cell.replace("\"\"", "\"")) } else { Cow::Borrowed(cell) };
        Ok(Some(Cell { text, quoted: true }))
    }
}

/// Bytes of a quoted cell up to its closing quote; a doubled quote is text.
fn quoted_length(inside: &[u8]) -> Option<usize> {
    let mut quotes = memchr::memchr_iter(b'"', inside).peekable();
    while let Some(at) = quotes.next() {
        if quotes.next_if_eq(&(at + 1)).is_none() {
            return Some(at);
        }
    }
    None
}

/// Bytes of the row that `text` begins with, its line end included; all of
/// `text` if the row has no end.
fn row_length(text: &[u8], delimiter: u8) -> usize {
    complete_row(text, delimiter).unwrap_or(text.len())
}

fn complete_row(text: &[u8], delimiter: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        let cell = text.get(at..)?;
        if let Some(inside) = cell.strip_prefix(b"\"") {
            at += 1 + quoted_length(inside)?;
        }
        let rest = text.get(at..)?;
        let end = memchr::memchr2(delimiter, b'\n', rest)?;
        at += end + 1;
        if rest.get(end) == Some(&b'\n') {
            return Some(at);
        }
    }
}

fn trim_line_end(row: &[u8]) -> &[u8] {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    row.strip_suffix(b"\r").unwrap_or(row)
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.build.spec.schema
    }

    fn decode(&mut self, payload: &[u8], position: &dyn Fn(usize) -> String) -> usize {
        let before = self.build.rows();
        let limit = self.build.spec.payload_bytes_max;
        if self.stream {
            self.decode_rows(payload, position);
        } else if payload.len() > limit {
            let reason = format!("the payload has {} bytes; payload_max is {limit}", payload.len());
            self.build.reject(reason, position(0), payload);
        } else if self.header {
            let (first, rows) =
                payload.split_at_checked(row_length(payload, self.delimiter)).unwrap_or_default();
            match self.set_header(first) {
                Ok(()) => self.decode_rows(rows, &|line| position(line + 1)),
                Err(reason) => self.build.reject(reason, position(0), payload),
            }
        } else {
            self.decode_rows(payload, position);
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

impl StreamDecoder for CsvDecoder {
    fn whole_rows(&self, buffer: &[u8]) -> usize {
        if memchr::memchr(b'"', buffer).is_none() {
            return memchr::memrchr(b'\n', buffer).map_or(0, |end| end + 1);
        }
        let mut whole = 0;
        while let Some(length) = buffer.get(whole..).and_then(|rest| complete_row(rest, self.delimiter)) {
            whole += length;
        }
        whole
    }

    fn first_row(&self, buffer: &[u8]) -> Option<usize> {
        complete_row(buffer, self.delimiter)
    }

    fn wants_header(&self) -> bool {
        self.header
    }

    fn set_header(&mut self, row: &[u8]) -> Result<(), String> {
        let row = trim_line_end(row.strip_prefix(b"\xef\xbb\xbf").unwrap_or(row));
        let text = std::str::from_utf8(row).map_err(|error| format!("the header is not UTF-8: {error}"))?;
        let mut cells = Cells { rest: Some(text), delimiter: self.delimiter };
        let mut found = Vec::new();
        while let Some(cell) = cells.next_cell().map_err(|error| format!("in the header {error}"))? {
            let name = cell.text.trim();
            let target =
                targets(&self.build.spec).find(|(column, _)| *column == name).map(|(_, target)| target);
            let target = target.unwrap_or_else(|| Target::Unknown(name.to_owned()));
            if matches!(target, Target::Column(_)) && found.contains(&target) {
                return Err(format!("the header has column `{name}` twice"));
            }
            found.push(target);
        }
        if !found.iter().any(|target| matches!(target, Target::Column(_))) {
            return Err("the header names none of the columns; without one say header = false".into());
        }
        self.cells = found;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::format;

    fn read(options: &str, text: &[u8]) -> (Vec<String>, Vec<(String, String)>) {
        let config = format!("format = \"csv\"\nschema = {{ id = \"int64\", name = \"string\" }}\n{options}");
        let mut decoder = format(&config).decoder();
        decoder.decode(text, &|line| line.to_string());
        let decoded = decoder.finish();
        let shown = crate::format::testing::shown(&decoded.batch);
        (shown, decoded.bad.into_iter().map(|row| (row.position, row.reason)).collect())
    }

    #[test]
    fn cells_go_to_the_columns_that_the_header_names() {
        let text = b"\xef\xbb\xbfname,other,id\r\n\"a \"\"b\"\", c\nd\",x,1\r\n\r\n,,2\n\"\",y,3";
        let (rows, bad) = read("", text);
        assert_eq!(rows, ["1|a \"b\", c\nd", "2|NULL", "3|"]);
        assert_eq!(bad, []);
    }

    #[test]
    fn a_bad_row_is_named_by_its_line_and_the_rest_goes_on() {
        let text = b"1,\"x\ny\"\nz,2\n3,\"a\"b\n4,\xff\n5,\x00\n6,f,g\n7\n8,\"open\n9,lost\n";
        let (rows, bad) = read("header = false\nextra = \"reject\"\nmissing = \"reject\"", text);
        assert_eq!(rows, ["1|x\ny"]);
        let lines: Vec<&str> = bad.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(lines, ["2", "3", "4", "5", "6", "7", "8"]);
        assert!(bad[0].1.contains("\"z\" is no int64"), "{bad:?}");
        assert!(bad[5].1.contains("`name` is missing"), "{bad:?}");
    }

    #[test]
    fn whole_rows_end_outside_of_quotes() {
        let spec = format("format = \"csv\"\nschema = { a = \"string\" }").stream_decoder();
        assert_eq!(spec.whole_rows(b"a,b\nc"), 4);
        assert_eq!(spec.whole_rows(b"a,\"b\n\"\n\"c\nd"), 7);
        assert_eq!(spec.whole_rows(b"\"a\n"), 0);
    }

    #[test]
    fn cells_are_those_of_another_reader() {
        // The oracle is the crate `csv`, on text that both call well formed.
        let mut random = proptest::test_runner::TestRunner::deterministic();
        let text = proptest::string::string_regex("((\"([a-c,\n]|\"\"){0,5}\"|[a-c]{0,3})[,\n]){0,40}")
            .expect("a pattern");
        let result = random.run(&text, |text| {
            let reader =
                ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
            let expected: Vec<Vec<String>> = reader
                .into_records()
                .map(|row| row.expect("reads").iter().map(str::to_owned).collect())
                .collect();
            let mut found = Vec::new();
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (row, after) = rest.split_at(row_length(rest, b','));
                rest = after;
                if trim_line_end(row).is_empty() {
                    continue;
                }
                let row = std::str::from_utf8(trim_line_end(row)).expect("cut between characters");
                let mut cells = Cells { rest: Some(row), delimiter: b',' };
                let mut texts = Vec::new();
                while let Some(cell) = cells.next_cell().expect("well formed") {
                    texts.push(cell.text.into_owned());
                }
                found.push(texts);
            }
            proptest::prop_assert_eq!(found, expected);
            Ok(())
        });
        result.expect("the same cells");
    }
}
