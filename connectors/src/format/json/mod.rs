//! JSON to rows: one object per line (files), or payloads that hold an object,
//! objects one after the other, or an array of objects (messages).
//!
//! A row is tried the quick way and, failing that, read again the general way;
//! only the general way rejects. Time is linear in the input, whatever it is.

mod general;
#[cfg(test)]
mod properties;
mod quick;
mod shape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_engine::codec::{Decoded, Decoder};

use crate::format::StreamDecoder;
use crate::format::build::RowBuilder;
use crate::format::json::quick::{Quick, blanks};
use crate::format::json::shape::Shapes;
use crate::format::spec::RowSpec;

/// Deepest nesting of objects and arrays in a row.
const DEPTH_MAX: usize = 64;

/// Reads JSON rows.
#[derive(Debug)]
pub(crate) struct JsonDecoder {
    by_line: bool,
    shapes: Shapes,
    quick: Quick,
    build: RowBuilder,
}

/// Where bad rows of a payload are said to be.
type Place<'p> = &'p dyn Fn(usize) -> String;

impl JsonDecoder {
    /// A decoder for streams of lines.
    pub(crate) fn lines(spec: Arc<RowSpec>) -> JsonDecoder {
        JsonDecoder::new(spec, true)
    }

    /// A decoder for whole payloads.
    pub(crate) fn payloads(spec: Arc<RowSpec>) -> JsonDecoder {
        JsonDecoder::new(spec, false)
    }

    fn new(spec: Arc<RowSpec>, by_line: bool) -> JsonDecoder {
        let shapes = Shapes::new(&spec);
        JsonDecoder { by_line, quick: Quick::new(&shapes), shapes, build: RowBuilder::new(spec) }
    }

    /// Reads the lines of `text`, each its own row.
    fn decode_lines(&mut self, text: &[u8], place: Place<'_>) {
        let trusted = is_utf8(text) && text.len() <= self.build.spec.payload_bytes_max;
        let mut rest = text;
        let mut index = 0;
        while !rest.is_empty() {
            let quick = if trusted { self.quick_line(rest) } else { None };
            rest = quick.unwrap_or_else(|| self.general_line(rest, index, place));
            index += 1;
        }
    }

    /// Reads the row at the beginning of `text` and answers the next line.
    #[inline]
    fn quick_line<'a>(&mut self, text: &'a [u8]) -> Option<&'a [u8]> {
        let rest = self.quick.object(text, &self.shapes, (0, 1), &mut self.build)?;
        let next = match rest.split_first() {
            Some((b'\n', next)) => next,
            Some(_) => {
                let rest = blanks(rest);
                let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
                if rest.is_empty() { rest } else { rest.strip_prefix(b"\n")? }
            }
            None => rest,
        };
        self.build.end_row().ok()?;
        Some(next)
    }

    /// Reads the line at the beginning of `text` and answers the next line.
    #[cold]
    fn general_line<'a>(&mut self, text: &'a [u8], index: usize, place: Place<'_>) -> &'a [u8] {
        self.build.rollback();
        let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
        let (line, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
        let limit = self.build.spec.payload_bytes_max;
        if line.len() > limit {
            let reason = format!("the row has {} bytes; payload_max is {limit}", line.len());
            self.build.reject(reason, place(index), line);
        } else if json_start(line).starts_with(b"{") {
            self.general_object(json_start(line), &|| place(index));
        } else {
            self.decode_sequence(line, &|_| place(index));
        }
        rest.get(1..).unwrap_or_default()
    }

    /// Reads a line that is one object.
    fn general_object(&mut self, line: &[u8], position: &dyn Fn() -> String) {
        let read = general::extent(line).and_then(|length| {
            if !json_start(line.get(length..).unwrap_or_default()).is_empty() {
                return Err(format!("the line goes on after its object, at byte {length}"));
            }
            general::row(line, &self.shapes, &mut self.build)
        });
        if let Err(reason) = read {
            self.build.reject(reason, position(), line);
        }
    }

    /// Reads objects and arrays of objects, one after the other.
    fn decode_sequence(&mut self, text: &[u8], place: Place<'_>) {
        let mut rest = json_start(text);
        let trusted = is_utf8(rest);
        let mut in_array = false;
        let mut index = 0;
        while let Some(first) = rest.first() {
            let read = match (first, in_array) {
                (b'{', _) => self.decode_object(rest, trusted, &|| place(index)),
                (b'[', false) => {
                    in_array = true;
                    rest = json_start(rest.get(1..).unwrap_or_default());
                    if rest.first() != Some(&b']') {
                        continue;
                    }
                    Ok(rest)
                }
                (_, _) => Err(format!("expected an object, found `{}`", first.escape_ascii())),
            };
            rest = match read {
                Ok(after) => json_start(after),
                Err(reason) => {
                    in_array = false;
                    self.give_up(rest, reason, place(index))
                }
            };
            if in_array {
                rest = array_goes_on(rest, &mut in_array).unwrap_or_else(|reason| {
                    in_array = false;
                    self.give_up(rest, reason, place(index + 1))
                });
            }
            index += 1;
        }
        if in_array {
            self.build.reject("not JSON: the array does not end".into(), place(index), &[]);
        }
    }

    /// Rejects text that cannot be read up to where the next row may begin,
    /// and answers the text from there.
    fn give_up<'a>(&mut self, text: &'a [u8], reason: String, position: String) -> &'a [u8] {
        let (bad, rest) = if self.by_line { (text, &[][..]) } else { next_start(text) };
        self.build.reject(reason, position, bad);
        json_start(rest)
    }

    /// Reads the object at the beginning of `text`, rejects it if it does not
    /// fit, and answers the text after it.
    ///
    /// # Errors
    /// Why it has no end.
    fn decode_object<'a>(
        &mut self,
        text: &'a [u8],
        trusted: bool,
        position: &dyn Fn() -> String,
    ) -> Result<&'a [u8], String> {
        if trusted
            && let Some(rest) = self.quick.object(text, &self.shapes, (0, 1), &mut self.build)
            && self.build.end_row().is_ok()
        {
            return Ok(rest);
        }
        self.build.rollback();
        let (object, rest) = text.split_at_checked(general::extent(text)?).unwrap_or((text, &[]));
        if let Err(reason) = general::row(object, &self.shapes, &mut self.build) {
            self.build.reject(reason, position(), object);
        }
        Ok(rest)
    }
}

/// The text after what JSON calls white space (a form feed is none).
fn json_start(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let count = text.iter().take_while(|byte| blank(byte)).count();
    text.get(count..).unwrap_or_default()
}

/// Whether text is UTF-8; quick where it is ASCII.
fn is_utf8(text: &[u8]) -> bool {
    text.is_ascii() || std::str::from_utf8(text).is_ok()
}

/// The next element of an array, or what follows its end.
fn array_goes_on<'a>(text: &'a [u8], in_array: &mut bool) -> Result<&'a [u8], String> {
    match text.split_first() {
        Some((b']', rest)) => {
            *in_array = false;
            Ok(json_start(rest))
        }
        Some((b',', rest)) => {
            let rest = json_start(rest);
            if rest.first() == Some(&b'{') { Ok(rest) } else { Err("expected an object after `,`".into()) }
        }
        Some((other, _)) => Err(format!("expected `,` or `]`, found `{}`", other.escape_ascii())),
        None => Ok(text),
    }
}

/// Splits a broken payload before the next line that begins a row.
fn next_start(text: &[u8]) -> (&[u8], &[u8]) {
    let starts = |end: &usize| matches!(text.get(end + 1), Some(b'{' | b'['));
    let end = memchr::memchr_iter(b'\n', text).find(starts).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> &SchemaRef {
        &self.build.spec.schema
    }

    fn decode(&mut self, payload: &[u8], position: &dyn Fn(usize) -> String) -> usize {
        let before = self.build.rows();
        let limit = self.build.spec.payload_bytes_max;
        if self.by_line {
            self.decode_lines(payload, position);
        } else if payload.len() > limit {
            let reason = format!("the payload has {} bytes; payload_max is {limit}", payload.len());
            self.build.reject(reason, position(0), payload);
        } else if json_start(payload).is_empty() {
            self.build.reject("the payload is empty".into(), position(0), payload);
        } else {
            self.decode_sequence(payload, position);
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

impl StreamDecoder for JsonDecoder {
    fn whole_rows(&self, buffer: &[u8]) -> usize {
        memchr::memrchr(b'\n', buffer).map_or(0, |end| end + 1)
    }
}
