//! The quick way to read a JSON row: each row is expected to name its members
//! in the order and spacing of the one before, so that a whole
//! `,"device":` is compared at once; values go straight into the columns.
//!
//! It never judges a row: whatever it does not expect (an escape, a duplicate,
//! a wrong type, bad syntax) it answers with `None`, and the general way reads
//! the row again. It must accept nothing that the general way would not read
//! to the same values.

use crate::format::build::RowBuilder;
use crate::format::column::{Column, Data};
use crate::format::json::DEPTH_MAX;
use crate::format::json::shape::{Shapes, Target};
use crate::format::number::{number_length, scan_float, scan_integer};
use crate::format::value::Written;

/// What is known of earlier rows.
#[derive(Debug)]
pub(super) struct Quick {
    /// For each shape the bytes before each member's value.
    hints: Vec<Vec<Hint>>,
}

/// The bytes from the end of one value to the next, `{"a":` or `,"b":`.
#[derive(Debug)]
struct Hint {
    bytes: Vec<u8>,
    target: Target,
}

/// Members whose layout is remembered; the rest of a row is looked up.
const HINTS_MAX: usize = 256;

/// What stands where a member was expected.
enum Member<'a> {
    /// Its target, and the text from its value on.
    Value(Target, &'a [u8]),
    /// The end of an empty object.
    End(&'a [u8]),
}

impl Quick {
    pub(super) fn new(shapes: &Shapes) -> Quick {
        Quick { hints: (0..shapes.count()).map(|_| Vec::new()).collect() }
    }

    /// Reads the object at the beginning of `text`, which is UTF-8, into the
    /// columns, and answers the text after it. `place` is the object's shape
    /// and its depth in the row. On `None` the caller must roll the row back.
    pub(super) fn object<'a>(
        &mut self,
        mut text: &'a [u8],
        shapes: &Shapes,
        place: (usize, usize),
        build: &mut RowBuilder,
    ) -> Option<&'a [u8]> {
        let (shape, depth) = place;
        let mut index = 0;
        loop {
            let expected = self.hints.get(shape)?.get(index).and_then(|hint| {
                let rest = text.strip_prefix(hint.bytes.as_slice())?;
                Some((hint.target, rest))
            });
            let (target, value) = match expected {
                Some(found) => found,
                None => match self.member(text, shapes, shape, index)? {
                    Member::Value(target, value) => (target, value),
                    Member::End(rest) => return Some(rest),
                },
            };
            let rest = match target {
                Target::Column(column) => put(value, column, build)?,
                Target::Inside(inner) if value.first() == Some(&b'{') => {
                    self.object(value, shapes, (inner, depth + 1), build)?
                }
                Target::Unknown if build.spec.extra_rejects => return None,
                Target::Inside(_) | Target::Unknown => skip(value, depth)?,
            };
            let rest = blanks(rest);
            match rest.split_first()? {
                (b'}', after) => return Some(after),
                (b',', _) => text = rest,
                (_, _) => return None,
            }
            index += 1;
        }
    }

    /// Reads up to a member's value without expecting anything, and remembers
    /// it for the next row.
    fn member<'a>(
        &mut self,
        text: &'a [u8],
        shapes: &Shapes,
        shape: usize,
        index: usize,
    ) -> Option<Member<'a>> {
        let (first, rest) = text.split_first()?;
        if *first != if index == 0 { b'{' } else { b',' } {
            return None;
        }
        let rest = blanks(rest);
        if let (0, Some(after)) = (index, rest.strip_prefix(b"}")) {
            return Some(Member::End(after));
        }
        let (name, rest) = string(rest)?;
        let rest = blanks(blanks(rest).strip_prefix(b":")?);
        let target = shapes.target(shape, name);
        let bytes = text.get(..text.len() - rest.len())?;
        let hints = self.hints.get_mut(shape)?;
        let known = hints.len();
        match hints.get_mut(index) {
            Some(hint) => {
                hint.target = target;
                hint.bytes.clear();
                hint.bytes.extend_from_slice(bytes);
            }
            None if known == index && index < HINTS_MAX => {
                hints.push(Hint { bytes: bytes.to_vec(), target });
            }
            None => {}
        }
        Some(Member::Value(target, rest))
    }
}

/// Reads a value into a column that has none for this row yet.
#[inline]
fn put<'a>(text: &'a [u8], index: usize, build: &mut RowBuilder) -> Option<&'a [u8]> {
    let rows = build.rows();
    let column = build.columns.get_mut(index).filter(|column| column.len() == rows)?;
    let rest = match &mut column.data {
        Data::Float64(values) if is_number(text) => {
            let (value, rest) = scan_float(text)?;
            values.push(value);
            rest
        }
        Data::Int(values, kind) if is_number(text) => {
            let (value, rest) = scan_integer(text)?;
            let (low, high) = kind.range();
            values.push(Some(value).filter(|value| (low..=high).contains(value))?);
            rest
        }
        Data::Time(values, Some(unit)) if is_number(text) => {
            let (value, rest) = scan_integer(text)?;
            values.push(unit.micros(value)?);
            rest
        }
        Data::Text(bytes) if text.first() == Some(&b'"') => {
            let (value, rest) = string(text)?;
            bytes.push(value)?;
            rest
        }
        Data::Bool(_)
        | Data::Int(..)
        | Data::UInt64(_)
        | Data::Float32(_)
        | Data::Float64(_)
        | Data::Text(_)
        | Data::Bytes(_)
        | Data::Time(..)
        | Data::Date(_)
        | Data::Decimal(..) => return put_other(text, column),
    };
    column.validity.append_non_null();
    Some(rest)
}

#[inline]
fn is_number(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'-' | b'0'..=b'9'))
}

/// Values of the rarer types.
fn put_other<'a>(text: &'a [u8], column: &mut Column) -> Option<&'a [u8]> {
    let (written, rest) = match text.first()? {
        b'n' => (Written::Null, text.strip_prefix(b"null")?),
        b't' => (Written::Bool(true), text.strip_prefix(b"true")?),
        b'f' => (Written::Bool(false), text.strip_prefix(b"false")?),
        b'"' => {
            let (value, rest) = string(text)?;
            (Written::Text(std::str::from_utf8(value).ok()?.into()), rest)
        }
        _ => {
            let (number, rest) = text.split_at_checked(number_length(text)?)?;
            (Written::Number(std::str::from_utf8(number).ok()?), rest)
        }
    };
    column.push(&written, false).ok()?;
    Some(rest)
}

/// The text after the value at the beginning of `text`.
fn skip(text: &[u8], depth: usize) -> Option<&[u8]> {
    match text.first()? {
        b'"' => string(text).map(|(_, rest)| rest),
        b'n' => text.strip_prefix(b"null"),
        b't' => text.strip_prefix(b"true"),
        b'f' => text.strip_prefix(b"false"),
        b'{' | b'[' if depth < DEPTH_MAX => skip_nested(text, depth),
        b'{' | b'[' => None,
        _ => text.get(number_length(text)?..),
    }
}

fn skip_nested(text: &[u8], depth: usize) -> Option<&[u8]> {
    let (open, rest) = text.split_first()?;
    let object = *open == b'{';
    let close = if object { b'}' } else { b']' };
    let mut rest = blanks(rest);
    if rest.first() == Some(&close) {
        return rest.get(1..);
    }
    loop {
        if object {
            let (_, after) = string(rest)?;
            rest = blanks(blanks(after).strip_prefix(b":")?);
        }
        rest = blanks(skip(rest, depth + 1)?);
        let (next, after) = rest.split_first()?;
        if *next == close {
            return Some(after);
        }
        if *next != b',' {
            return None;
        }
        rest = blanks(after);
    }
}

/// The text after spaces and tabs. Line ends are none of them: a row of a file
/// is one line.
#[inline]
pub(super) fn blanks(text: &[u8]) -> &[u8] {
    match text.first() {
        Some(b' ' | b'\t') => {
            let count = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
            text.get(count..).unwrap_or_default()
        }
        Some(_) | None => text,
    }
}

/// The string at the beginning of `text`, without its quotes, and the text
/// after it; `None` if it has an escape or a control character.
#[inline]
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let length = plain_length(inside)?;
    let (value, rest) = inside.split_at_checked(length)?;
    Some((value, rest.strip_prefix(b"\"")?))
}

/// Bytes before the first quote, backslash or control character.
///
/// Eight bytes at a time: `(w ^ c) - 1` borrows from a byte's top bit exactly
/// where the byte is `c`, `w - 0x20` where it is below 0x20; the lowest such
/// bit is never a false one (Hacker's Delight, 6-1).
#[inline]
fn plain_length(text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, tail) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = zero(word ^ (ONES * 0x22));
        let escape = zero(word ^ (ONES * 0x5c));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let found = (quote | escape | control) & TOPS;
        if found != 0 {
            return usize::try_from(found.trailing_zeros() / 8).ok().map(|byte| index * 8 + byte);
        }
    }
    let found = tail.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
    Some(words.len() * 8 + found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_end_of_a_string_at_every_place() {
        for length in 0..40 {
            for end in [b'"', b'\\', b'\n', 0, 0x1f] {
                let mut text = vec![b'a'; length];
                text.push(end);
                text.extend_from_slice(&[0xff, b'"', 0x7f, 0x80, b'!']);
                assert_eq!(plain_length(&text), Some(length), "{end}");
            }
            // Neighbours of the special bytes are plain.
            let plain: Vec<u8> = [0x20, 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xff].repeat(length);
            assert_eq!(plain_length(&plain), None);
        }
    }

    #[test]
    fn skips_what_is_json_and_nothing_else() {
        for good in ["1", "-0.5e3", "\"a\"", "null", "[]", "[1,[2, {}]]", "{\"a\" : {\"b\":[true]}}"] {
            assert_eq!(skip(format!("{good},").as_bytes(), 0), Some(&b","[..]), "{good}");
        }
        for bad in ["", "[1,]", "{\"a\"}", "{\"a\":1,}", "[1 2]", "{1:2}", "nul", "[", "\"a", "tru"] {
            assert_eq!(skip(bad.as_bytes(), 0), None, "{bad}");
        }
        let deep = "[".repeat(10_000);
        assert_eq!(skip(deep.as_bytes(), 0), None);
    }
}
