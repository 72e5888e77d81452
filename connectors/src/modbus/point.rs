//! A named value of a device: where it is, how it is stored, what it becomes.

use arrow::datatypes::{DataType, Field};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::value::Table;

use super::address::{Address, parse};
use super::blocks::Extent;
use super::bus::Cells;
use super::decode::{Order, TYPE_WORDS, Type, Value, decode};

/// Keys of an entry of `points`.
pub(crate) const POINT_KEYS: &[Key] = &[
    required("name", Kind::Text, "the column's name"),
    required(
        "register",
        Kind::Text,
        "\"holding:0\", \"input:0\", \"coil:0\", \"discrete:0\", or a number such as \"40001\"",
    ),
    optional(
        "type",
        Kind::Word(TYPE_WORDS),
        "how it is stored; bool for coils and discrete inputs, u16 for registers if left out",
    ),
    optional("order", Kind::Text, "order of the bytes on the wire, \"ABCD\" (big-endian) if left out"),
    optional("bit", Kind::Int(0, 15), "the bit of a register, 0 is the least significant"),
    optional("length", Kind::Int(1, 250), "bytes of a string"),
    optional("scale", Kind::Number, "the value is multiplied by this"),
    optional("add", Kind::Number, "and this is added"),
    optional("eu", Kind::Text, "engineering unit, for people"),
];

/// A checked point.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) value: Type,
    pub(crate) order: Order,
    pub(crate) bit: Option<u8>,
    /// Factor and summand, if the value is scaled.
    scale: Option<(f64, f64)>,
}

impl Point {
    /// Reads an entry of `points`.
    pub(crate) fn read(table: &Table) -> Result<Point, Diagnostic> {
        let wrong = |key: &str, message: String| Diagnostic::error("TG-M001", message).at(table.span_of(key));
        let name = table.str("name").unwrap_or_default().to_owned();
        let register = table.str("register").unwrap_or_default();
        let address = parse(register).map_err(|message| wrong("register", message))?;
        let bit = table.int_as::<u8>("bit");
        let default = if address.area.is_bits() || bit.is_some() { "bool" } else { "u16" };
        let word = table.str("type").unwrap_or(default);
        let value = Type::parse(word, table.int_as("length")).ok_or_else(|| {
            wrong("type", format!("point `{name}` of type `{word}` needs `length`, its number of bytes"))
        })?;
        if address.area.is_bits() && value != Type::Bool {
            let message =
                format!("point `{name}`: a {} is one bit and cannot be `{word}`", address.area.word());
            return Err(wrong("type", message).help("leave `type` out, or read it from `holding` or `input`"));
        }
        if !address.area.is_bits() && (value == Type::Bool) != bit.is_some() {
            let message = format!("point `{name}`: a bit of a register needs both type = \"bool\" and `bit`");
            return Err(wrong("register", message));
        }
        let end = u32::from(address.offset) + u32::from(cells_of(address, value));
        if end > 65_536 {
            return Err(wrong(
                "register",
                format!("point `{name}` would reach beyond the last register, 65535"),
            ));
        }
        let order = match table.str("order") {
            Some(text) => Order::parse(text, value).map_err(|message| wrong("order", message))?,
            None => Order::big_endian(value),
        };
        let scale = match (table.number("scale"), table.number("add")) {
            (None, None) => None,
            (scale, add) => Some((scale.unwrap_or(1.0), add.unwrap_or(0.0))),
        };
        if scale.is_some() && matches!(value, Type::Bool | Type::Text(_)) {
            return Err(wrong("scale", format!("point `{name}` is no number and cannot be scaled")));
        }
        Ok(Point { name, address, value, order, bit, scale })
    }

    /// Its cells.
    pub(crate) fn extent(&self) -> Extent {
        (self.address, cells_of(self.address, self.value))
    }

    /// Its column; NULL where it could not be read.
    pub(crate) fn field(&self) -> Field {
        let data_type = match (self.value, self.scale) {
            (_, Some(_)) => DataType::Float64,
            (Type::Bool, None) => DataType::Boolean,
            (Type::I8 | Type::I16 | Type::I32 | Type::I64, None) => DataType::Int64,
            (Type::U8 | Type::U16 | Type::U32 | Type::Bcd16 | Type::Bcd32, None) => DataType::Int64,
            (Type::U64, None) => DataType::UInt64,
            (Type::F32 | Type::F64, None) => DataType::Float64,
            (Type::Text(_), None) => DataType::Utf8,
        };
        Field::new(&self.name, data_type, true)
    }

    /// Its value in the cells of a block that begins at `start`.
    #[allow(clippy::cast_precision_loss, reason = "a scaled value is a float by choice")]
    pub(crate) fn value_in(&self, start: u16, cells: &Cells) -> Option<Value> {
        let at = usize::from(self.address.offset.checked_sub(start)?);
        let (_, count) = self.extent();
        let value = match cells {
            Cells::Bits(bits) => Value::Bool(*bits.get(at)?),
            Cells::Registers(words) => {
                decode(self.value, &self.order, self.bit, words.get(at..at + usize::from(count))?)?
            }
        };
        let Some((factor, summand)) = self.scale else { return Some(value) };
        let number = match value {
            Value::Int(number) => number as f64,
            Value::Unsigned(number) => number as f64,
            Value::Float(number) => number,
            Value::Bool(_) | Value::Text(_) => return None,
        };
        Some(Value::Float(number * factor + summand))
    }
}

fn cells_of(address: Address, value: Type) -> u16 {
    if address.area.is_bits() { 1 } else { value.registers() }
}
