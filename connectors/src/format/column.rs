//! One column while its rows are being read: values in plain vectors, ready to
//! become Arrow arrays without a copy. A row that fails is taken back with
//! `truncate`, so a column never holds half a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, NullBufferBuilder, StringArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::format::instant::Unit;
use crate::format::spec::ColumnSpec;

/// A column that is being filled.
#[derive(Debug)]
pub(crate) struct Column {
    pub(super) data: Data,
    pub(super) validity: NullBufferBuilder,
}

/// The values of a column; a NULL has a placeholder.
#[derive(Debug)]
pub(crate) enum Data {
    Bool(BooleanBufferBuilder),
    /// Every integer type but `uint64`, with the type it becomes.
    Int(Vec<i64>, IntType),
    UInt64(Vec<u64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    Text(Bytes),
    Bytes(Bytes),
    /// Microseconds; numbers count the unit, text is RFC 3339.
    Time(Vec<i64>, Option<Unit>),
    Date(Vec<i32>),
    Decimal(Vec<i128>, u8, i8),
}

/// Integer types that are gathered as `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntType {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
}

impl IntType {
    /// Least and greatest value.
    pub(super) fn range(self) -> (i64, i64) {
        match self {
            IntType::I8 => (i8::MIN.into(), i8::MAX.into()),
            IntType::I16 => (i16::MIN.into(), i16::MAX.into()),
            IntType::I32 => (i32::MIN.into(), i32::MAX.into()),
            IntType::I64 => (i64::MIN, i64::MAX),
            IntType::U8 => (0, u8::MAX.into()),
            IntType::U16 => (0, u16::MAX.into()),
            IntType::U32 => (0, u32::MAX.into()),
        }
    }
}

/// Byte strings one after the other, with Arrow's 32-bit offsets.
#[derive(Debug)]
pub(crate) struct Bytes {
    offsets: Vec<i32>,
    values: Vec<u8>,
    /// Whether anybody reads them; else each is kept as an empty one.
    kept: bool,
}

impl Bytes {
    fn new(kept: bool) -> Bytes {
        Bytes { offsets: vec![0], values: Vec::new(), kept }
    }

    /// Appends a value; `None` if the column would exceed 2 GiB.
    #[inline]
    pub(super) fn push(&mut self, value: &[u8]) -> Option<()> {
        let value = if self.kept { value } else { &[] };
        let end = i32::try_from(self.values.len() + value.len()).ok()?;
        self.values.extend_from_slice(value);
        self.offsets.push(end);
        Some(())
    }

    fn push_empty(&mut self) {
        let last = self.offsets.last().copied().unwrap_or(0);
        self.offsets.push(last);
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        let end = self.offsets.last().copied().unwrap_or(0);
        self.values.truncate(usize::try_from(end).unwrap_or(0));
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        // The next batch will be about as long.
        let mut next = Bytes {
            offsets: Vec::with_capacity(self.offsets.len()),
            values: Vec::with_capacity(self.values.len()),
            kept: self.kept,
        };
        next.offsets.push(0);
        let full = std::mem::replace(self, next);
        (OffsetBuffer::new(ScalarBuffer::from(full.offsets)), Buffer::from_vec(full.values))
    }
}

impl Column {
    /// An empty column.
    pub(crate) fn new(spec: &ColumnSpec) -> Column {
        let data = Data::new(&spec.data_type, spec.unit, spec.kept);
        Column { data, validity: NullBufferBuilder::new(0) }
    }

    /// Values so far, NULLs included.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.validity.len()
    }

    /// Appends NULL.
    pub(crate) fn push_null(&mut self) {
        match &mut self.data {
            Data::Bool(values) => values.append(false),
            Data::Int(values, _) | Data::Time(values, _) => values.push(0),
            Data::UInt64(values) => values.push(0),
            Data::Float32(values) => values.push(0.0),
            Data::Float64(values) => values.push(0.0),
            Data::Text(bytes) | Data::Bytes(bytes) => bytes.push_empty(),
            Data::Date(values) => values.push(0),
            Data::Decimal(values, ..) => values.push(0),
        }
        self.validity.append_null();
    }

    /// Takes back everything after the first `rows` values.
    pub(crate) fn truncate(&mut self, rows: usize) {
        match &mut self.data {
            Data::Bool(values) => values.truncate(rows),
            Data::Int(values, _) | Data::Time(values, _) => values.truncate(rows),
            Data::UInt64(values) => values.truncate(rows),
            Data::Float32(values) => values.truncate(rows),
            Data::Float64(values) => values.truncate(rows),
            Data::Text(bytes) | Data::Bytes(bytes) => bytes.truncate(rows),
            Data::Date(values) => values.truncate(rows),
            Data::Decimal(values, ..) => values.truncate(rows),
        }
        if self.validity.len() > rows {
            self.validity.truncate(rows);
        }
    }

    /// The values as an Arrow array; the column is empty afterwards.
    ///
    /// # Errors
    /// Text that is not UTF-8: the reader let something through, which its
    /// tests exclude.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = self.validity.finish();
        Ok(match &mut self.data {
            Data::Bool(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Data::Int(values, kind) => integers(take(values), *kind, nulls),
            Data::UInt64(values) => Arc::new(UInt64Array::new(take(values).into(), nulls)),
            Data::Float32(values) => Arc::new(Float32Array::new(take(values).into(), nulls)),
            Data::Float64(values) => Arc::new(Float64Array::new(take(values).into(), nulls)),
            Data::Text(bytes) => {
                let (offsets, values) = bytes.take();
                Arc::new(StringArray::try_new(offsets, values, nulls)?)
            }
            Data::Bytes(bytes) => {
                let (offsets, values) = bytes.take();
                Arc::new(BinaryArray::try_new(offsets, values, nulls)?)
            }
            Data::Time(values, _) => {
                Arc::new(TimestampMicrosecondArray::new(take(values).into(), nulls).with_timezone("UTC"))
            }
            Data::Date(values) => Arc::new(Date32Array::new(take(values).into(), nulls)),
            Data::Decimal(values, precision, scale) => Arc::new(
                Decimal128Array::new(take(values).into(), nulls)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
        })
    }
}

impl Data {
    #[allow(clippy::wildcard_enum_match_arm, reason = "Arrow's list of types is open; `parse_type` is not")]
    fn new(data_type: &DataType, unit: Option<Unit>, kept: bool) -> Data {
        let int = |kind| Data::Int(Vec::new(), kind);
        match data_type {
            DataType::Boolean => Data::Bool(BooleanBufferBuilder::new(0)),
            DataType::Int8 => int(IntType::I8),
            DataType::Int16 => int(IntType::I16),
            DataType::Int32 => int(IntType::I32),
            DataType::Int64 => int(IntType::I64),
            DataType::UInt8 => int(IntType::U8),
            DataType::UInt16 => int(IntType::U16),
            DataType::UInt32 => int(IntType::U32),
            DataType::UInt64 => Data::UInt64(Vec::new()),
            DataType::Float32 => Data::Float32(Vec::new()),
            DataType::Float64 => Data::Float64(Vec::new()),
            DataType::Binary => Data::Bytes(Bytes::new(kept)),
            DataType::Timestamp(..) => Data::Time(Vec::new(), unit),
            DataType::Date32 => Data::Date(Vec::new()),
            DataType::Decimal128(precision, scale) => Data::Decimal(Vec::new(), *precision, *scale),
            _ => Data::Text(Bytes::new(kept)),
        }
    }

    /// The type's word in messages.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Data::Bool(_) => "bool",
            Data::Int(_, kind) => match kind {
                IntType::I8 => "int8",
                IntType::I16 => "int16",
                IntType::I32 => "int32",
                IntType::I64 => "int64",
                IntType::U8 => "uint8",
                IntType::U16 => "uint16",
                IntType::U32 => "uint32",
            },
            Data::UInt64(_) => "uint64",
            Data::Float32(_) => "float32",
            Data::Float64(_) => "float64",
            Data::Text(_) => "string",
            Data::Bytes(_) => "bytes (hexadecimal)",
            Data::Time(_, None) => "RFC 3339 timestamp",
            Data::Time(_, Some(Unit::Seconds)) => "timestamp in s",
            Data::Time(_, Some(Unit::Millis)) => "timestamp in ms",
            Data::Time(_, Some(Unit::Micros)) => "timestamp in us",
            Data::Time(_, Some(Unit::Nanos)) => "timestamp in ns",
            Data::Date(_) => "date",
            Data::Decimal(..) => "decimal of its precision",
        }
    }
}

/// The values; the next batch will be about as long.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let next = Vec::with_capacity(values.len());
    std::mem::replace(values, next)
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "each value was checked against the range of the type when it was appended"
)]
fn integers(values: Vec<i64>, kind: IntType, nulls: Option<NullBuffer>) -> ArrayRef {
    match kind {
        IntType::I8 => Arc::new(Int8Array::new(values.iter().map(|v| *v as i8).collect(), nulls)),
        IntType::I16 => Arc::new(Int16Array::new(values.iter().map(|v| *v as i16).collect(), nulls)),
        IntType::I32 => Arc::new(Int32Array::new(values.iter().map(|v| *v as i32).collect(), nulls)),
        IntType::I64 => Arc::new(Int64Array::new(values.into(), nulls)),
        IntType::U8 => Arc::new(UInt8Array::new(values.iter().map(|v| *v as u8).collect(), nulls)),
        IntType::U16 => Arc::new(UInt16Array::new(values.iter().map(|v| *v as u16).collect(), nulls)),
        IntType::U32 => Arc::new(UInt32Array::new(values.iter().map(|v| *v as u32).collect(), nulls)),
    }
}
