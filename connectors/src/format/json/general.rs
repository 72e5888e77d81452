//! The general way to read a JSON row: any layout, escapes, duplicates, and a
//! reason for everything that is refused. Syntax is serde_json's; this file
//! only finds where a row ends and which value belongs to which column.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::format::build::RowBuilder;
use crate::format::json::DEPTH_MAX;
use crate::format::json::shape::{Shapes, Target};
use crate::format::value::Written;

/// Bytes of the object or array that `text` begins with, by its brackets; what
/// is inside is not checked.
///
/// # Errors
/// Why it has no end. Reads at most up to the place it names.
pub(super) fn extent(text: &[u8]) -> Result<usize, String> {
    let mut depth = 0_usize;
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(format!("nested deeper than {DEPTH_MAX} levels"));
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Ok(at + 1);
                }
            }
            b'"' => loop {
                match bytes.next() {
                    Some((_, b'"')) => break,
                    Some((_, b'\\')) => {
                        bytes.next();
                    }
                    Some((at, b'\n')) => return Err(format!("a string does not end before byte {at}")),
                    Some(_) => {}
                    None => return Err("not JSON: it ends inside a string".into()),
                }
            },
            _ => {}
        }
    }
    Err(format!("not JSON: it ends with {depth} brackets open"))
}

/// Reads a row, which is one object, into the columns.
///
/// # Errors
/// Why it is rejected; the caller must roll the row back.
pub(super) fn row(text: &[u8], shapes: &Shapes, build: &mut RowBuilder) -> Result<(), String> {
    let mut found = Found { values: vec![None; build.columns.len()], unknown: None };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let object = Object { shapes, shape: 0, found: &mut found };
    object
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|error| format!("not JSON: {error}"))?;
    if let (true, Some(name)) = (build.spec.extra_rejects, found.unknown) {
        return Err(format!("field `{}` is no column", name.chars().take(60).collect::<String>()));
    }
    for (index, raw) in found.values.into_iter().enumerate() {
        if let Some(raw) = raw {
            let value = written(raw.get()).map_err(|error| format!("not JSON: {error}"))?;
            build.put(index, &value)?;
        }
    }
    build.end_row()
}

/// The raw values of a row's columns; the last of duplicates stays.
struct Found<'a> {
    values: Vec<Option<&'a RawValue>>,
    unknown: Option<String>,
}

/// Reads an object of a shape.
struct Object<'s, 'f, 'a> {
    shapes: &'s Shapes,
    shape: usize,
    found: &'f mut Found<'a>,
}

impl<'a> DeserializeSeed<'a> for Object<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = members.next_key()? {
            let raw: &'a RawValue = members.next_value()?;
            match self.shapes.target(self.shape, name.as_bytes()) {
                Target::Column(index) => {
                    if let Some(value) = self.found.values.get_mut(index) {
                        *value = Some(raw);
                    }
                }
                Target::Inside(shape) if raw.get().starts_with('{') => {
                    let mut reader = serde_json::Deserializer::from_str(raw.get());
                    let object = Object { shapes: self.shapes, shape, found: &mut *self.found };
                    object.deserialize(&mut reader).map_err(serde::de::Error::custom)?;
                }
                Target::Unknown => self.found.unknown = Some(name.into_owned()),
                Target::Inside(_) => {}
            }
        }
        Ok(())
    }
}

/// A member's name, borrowed where it has no escape.
struct Name<'a>(Cow<'a, str>);

impl<'a> serde::Deserialize<'a> for Name<'a> {
    fn deserialize<D: Deserializer<'a>>(reader: D) -> Result<Name<'a>, D::Error> {
        struct Text;
        impl<'a> Visitor<'a> for Text {
            type Value = Name<'a>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Name<'a>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'a>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        reader.deserialize_str(Text)
    }
}

/// A value of checked syntax as its kind.
fn written(raw: &str) -> Result<Written<'_>, serde_json::Error> {
    Ok(match raw.as_bytes().first() {
        Some(b'"') => {
            let Name(text) = serde_json::from_str(raw)?;
            Written::Text(text)
        }
        Some(b'{' | b'[') => Written::Nested(raw),
        Some(b't') => Written::Bool(true),
        Some(b'f') => Written::Bool(false),
        Some(b'n') | None => Written::Null,
        Some(_) => Written::Number(raw),
    })
}
