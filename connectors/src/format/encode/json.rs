//! JSON lines. Members stand in the order of the columns; NULL is written, so
//! that every row of a stream has the same members.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use arrow::error::ArrowError;
use arrow::util::display::ArrayFormatter;
use tidegate_engine::codec::Encoder;
use tidegate_engine::time::Time;

use crate::format::encode::{plain, printer, push_hex};

/// Writes an object a line.
#[derive(Debug)]
pub(super) struct JsonEncoder;

impl Encoder for JsonEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), String> {
        let members = Members::of(
            batch.schema_ref().fields().iter().map(|field| field.name().as_str()),
            batch.columns(),
        )?;
        let plain_columns = members.plain_columns;
        let cells: Vec<Cell<'_>> =
            plain_columns.iter().map(Cell::new).collect::<Result<_, _>>().map_err(say)?;
        for row in 0..batch.num_rows() {
            object(&members.prefixes, &cells, row, out)?;
            out.push(b'\n');
        }
        Ok(())
    }
}

fn say(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Names and columns of an object.
struct Members {
    /// `{"a":`, `,"b":` …
    prefixes: Vec<Vec<u8>>,
    plain_columns: Vec<ArrayRef>,
}

impl Members {
    fn of<'n>(names: impl Iterator<Item = &'n str>, columns: &[ArrayRef]) -> Result<Members, String> {
        let mut prefixes = Vec::new();
        for (index, name) in names.enumerate() {
            let mut prefix = vec![if index == 0 { b'{' } else { b',' }];
            serde_json::to_writer(&mut prefix, name).map_err(say)?;
            prefix.push(b':');
            prefixes.push(prefix);
        }
        let plain_columns = columns.iter().map(plain).collect::<Result<_, _>>().map_err(say)?;
        Ok(Members { prefixes, plain_columns })
    }
}

fn object(prefixes: &[Vec<u8>], cells: &[Cell<'_>], row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if cells.is_empty() {
        out.push(b'{');
    }
    for (prefix, cell) in prefixes.iter().zip(cells) {
        out.extend_from_slice(prefix);
        cell.write(row, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// A column as JSON sees it.
enum Cell<'a> {
    Null,
    Bool(&'a arrow::array::BooleanArray),
    Int(&'a arrow::array::Int64Array),
    UInt(&'a arrow::array::UInt64Array),
    Float32(&'a arrow::array::Float32Array),
    Float64(&'a arrow::array::Float64Array),
    Text(&'a arrow::array::StringArray),
    Bytes(&'a arrow::array::BinaryArray),
    Time(&'a arrow::array::TimestampMicrosecondArray),
    /// Numbers that print as such: decimals.
    Number(&'a dyn Array, ArrayFormatter<'a>),
    List(&'a dyn Array, Box<dyn Fn(usize) -> ArrayRef + 'a>),
    Struct(&'a arrow::array::StructArray),
    /// Anything else as text.
    Other(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Cell<'a> {
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "Arrow's list of types is open; the rest print as text"
    )]
    fn new(column: &'a ArrayRef) -> Result<Cell<'a>, ArrowError> {
        Ok(match column.data_type() {
            DataType::Null => Cell::Null,
            DataType::Boolean => Cell::Bool(column.as_boolean()),
            DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>()),
            DataType::UInt64 => Cell::UInt(column.as_primitive::<UInt64Type>()),
            DataType::Float32 => Cell::Float32(column.as_primitive::<Float32Type>()),
            DataType::Float64 => Cell::Float64(column.as_primitive::<Float64Type>()),
            DataType::Utf8 => Cell::Text(column.as_string::<i32>()),
            DataType::Binary => Cell::Bytes(column.as_binary::<i32>()),
            DataType::Timestamp(..) => Cell::Time(column.as_primitive::<TimestampMicrosecondType>()),
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Cell::Number(column, printer(column)?),
            DataType::List(_) => Cell::List(column, Box::new(|row| column.as_list::<i32>().value(row))),
            DataType::LargeList(_) => Cell::List(column, Box::new(|row| column.as_list::<i64>().value(row))),
            DataType::FixedSizeList(..) => {
                Cell::List(column, Box::new(|row| column.as_fixed_size_list().value(row)))
            }
            DataType::Struct(_) => Cell::Struct(column.as_struct()),
            _ => Cell::Other(column, printer(column)?),
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cell::Null => true,
            Cell::Bool(column) => column.is_null(row),
            Cell::Int(column) => column.is_null(row),
            Cell::UInt(column) => column.is_null(row),
            Cell::Float32(column) => column.is_null(row) || !column.value(row).is_finite(),
            Cell::Float64(column) => column.is_null(row) || !column.value(row).is_finite(),
            Cell::Text(column) => column.is_null(row),
            Cell::Bytes(column) => column.is_null(row),
            Cell::Time(column) => column.is_null(row),
            Cell::Struct(column) => column.is_null(row),
            Cell::Number(column, _) | Cell::List(column, _) | Cell::Other(column, _) => column.is_null(row),
        }
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        if self.is_null(row) {
            out.extend_from_slice(b"null");
            return Ok(());
        }
        match self {
            Cell::Null => {}
            Cell::Bool(column) => out.extend_from_slice(if column.value(row) { b"true" } else { b"false" }),
            Cell::Int(column) => serde_json::to_writer(out, &column.value(row)).map_err(say)?,
            Cell::UInt(column) => serde_json::to_writer(out, &column.value(row)).map_err(say)?,
            Cell::Float32(column) => serde_json::to_writer(out, &column.value(row)).map_err(say)?,
            Cell::Float64(column) => serde_json::to_writer(out, &column.value(row)).map_err(say)?,
            Cell::Text(column) => serde_json::to_writer(out, column.value(row)).map_err(say)?,
            Cell::Bytes(column) => {
                out.push(b'"');
                push_hex(column.value(row), out);
                out.push(b'"');
            }
            Cell::Time(column) => write!(out, "\"{}\"", Time(column.value(row))).map_err(say)?,
            Cell::Number(_, printer) => {
                printer.value(row).write(&mut Text(out)).map_err(say)?;
            }
            Cell::List(_, values) => write_list(&values(row), out)?,
            Cell::Struct(column) => {
                let members = Members::of(column.column_names().into_iter(), column.columns())?;
                let cells: Vec<Cell<'_>> =
                    members.plain_columns.iter().map(Cell::new).collect::<Result<_, _>>().map_err(say)?;
                object(&members.prefixes, &cells, row, out)?;
            }
            Cell::Other(_, printer) => {
                serde_json::to_writer(out, &printer.value(row).to_string()).map_err(say)?;
            }
        }
        Ok(())
    }
}

fn write_list(values: &ArrayRef, out: &mut Vec<u8>) -> Result<(), String> {
    let values = plain(values).map_err(say)?;
    let cell = Cell::new(&values).map_err(say)?;
    out.push(b'[');
    for row in 0..values.len() {
        if row > 0 {
            out.push(b',');
        }
        cell.write(row, out)?;
    }
    out.push(b']');
    Ok(())
}

/// Bytes that take formatted text.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
