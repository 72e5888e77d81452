//! Registers to numbers and back: every type, every order of bytes.

/// How a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A coil or discrete input, or one bit of a register.
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    F32,
    I64,
    U64,
    F64,
    /// Four binary-coded decimal digits a register.
    Bcd16,
    Bcd32,
    /// This many bytes of text.
    Text(u16),
}

/// Every type name, for messages.
pub(crate) const TYPE_WORDS: &[&str] =
    &["bool", "i8", "u8", "i16", "u16", "i32", "u32", "f32", "i64", "u64", "f64", "bcd16", "bcd32", "string"];

impl Type {
    /// The type of a word; `string` needs its length in bytes.
    pub(crate) fn parse(word: &str, length: Option<u16>) -> Option<Type> {
        Some(match word {
            "bool" => Type::Bool,
            "i8" => Type::I8,
            "u8" => Type::U8,
            "i16" => Type::I16,
            "u16" => Type::U16,
            "i32" => Type::I32,
            "u32" => Type::U32,
            "f32" => Type::F32,
            "i64" => Type::I64,
            "u64" => Type::U64,
            "f64" => Type::F64,
            "bcd16" => Type::Bcd16,
            "bcd32" => Type::Bcd32,
            "string" => Type::Text(length?),
            _ => return None,
        })
    }

    /// How many registers it takes.
    pub(crate) fn registers(self) -> u16 {
        match self {
            Type::Bool | Type::I8 | Type::U8 | Type::I16 | Type::U16 | Type::Bcd16 => 1,
            Type::I32 | Type::U32 | Type::F32 | Type::Bcd32 => 2,
            Type::I64 | Type::U64 | Type::F64 => 4,
            Type::Text(bytes) => bytes.div_ceil(2),
        }
    }

    /// How many bytes its order says the order of.
    fn ordered_bytes(self) -> usize {
        match self {
            Type::Bool | Type::I8 | Type::U8 | Type::I16 | Type::U16 | Type::Bcd16 | Type::Text(_) => 2,
            Type::I32 | Type::U32 | Type::F32 | Type::Bcd32 => 4,
            Type::I64 | Type::U64 | Type::F64 => 8,
        }
    }
}

/// The order in which a value's bytes come over the wire: `ABCD` is big-endian,
/// `A` the most significant byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order(Vec<usize>);

impl Order {
    /// Big-endian, as the Modbus specification has it.
    pub(crate) fn big_endian(value: Type) -> Order {
        Order((0..value.ordered_bytes()).collect())
    }

    /// An order such as `AB`, `CDAB` or `GHEFCDAB`: each letter once.
    pub(crate) fn parse(text: &str, value: Type) -> Result<Order, String> {
        let count = value.ordered_bytes();
        let order: Option<Vec<usize>> = text
            .bytes()
            .map(|letter| letter.checked_sub(b'A').map(usize::from).filter(|index| *index < count))
            .collect();
        let order =
            order.filter(|order| order.len() == count && (0..count).all(|index| order.contains(&index)));
        order.map(Order).ok_or_else(|| {
            let example = match count {
                2 => "AB or BA",
                4 => "ABCD, CDAB, BADC or DCBA",
                _ => "ABCDEFGH, GHEFCDAB, BADCFEHG or HGFEDCBA",
            };
            format!("`{text}` is no order of {count} bytes; write e.g. {example}")
        })
    }

    /// Bytes as they came to most significant first.
    fn restore<const N: usize>(&self, wire: &[u8]) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        for (at, significance) in self.0.iter().enumerate() {
            *bytes.get_mut(*significance)? = *wire.get(at)?;
        }
        Some(bytes)
    }

    /// Most significant first to bytes as they go.
    fn arrange(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.iter().filter_map(|significance| bytes.get(*significance).copied()).collect()
    }
}

/// A decoded value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

/// The value in these registers; `None` if they hold none (a digit above 9, a
/// text that is not UTF-8, too few registers).
pub(crate) fn decode(value: Type, order: &Order, bit: Option<u8>, registers: &[u16]) -> Option<Value> {
    let wire: Vec<u8> = registers.iter().flat_map(|register| register.to_be_bytes()).collect();
    Some(match value {
        Type::Bool => {
            let [high, low] = order.restore::<2>(&wire)?;
            Value::Bool((u16::from_be_bytes([high, low]) >> bit.unwrap_or(0)) & 1 == 1)
        }
        Type::U8 => Value::Unsigned(order.restore::<2>(&wire)?[1].into()),
        Type::I8 => Value::Int(i8::from_be_bytes([order.restore::<2>(&wire)?[1]]).into()),
        Type::U16 => Value::Unsigned(u16::from_be_bytes(order.restore(&wire)?).into()),
        Type::I16 => Value::Int(i16::from_be_bytes(order.restore(&wire)?).into()),
        Type::U32 => Value::Unsigned(u32::from_be_bytes(order.restore(&wire)?).into()),
        Type::I32 => Value::Int(i32::from_be_bytes(order.restore(&wire)?).into()),
        Type::F32 => Value::Float(f32::from_be_bytes(order.restore(&wire)?).into()),
        Type::U64 => Value::Unsigned(u64::from_be_bytes(order.restore(&wire)?)),
        Type::I64 => Value::Int(i64::from_be_bytes(order.restore(&wire)?)),
        Type::F64 => Value::Float(f64::from_be_bytes(order.restore(&wire)?)),
        Type::Bcd16 => Value::Unsigned(from_bcd(&order.restore::<2>(&wire)?)?),
        Type::Bcd32 => Value::Unsigned(from_bcd(&order.restore::<4>(&wire)?)?),
        Type::Text(bytes) => {
            let mut text = Vec::with_capacity(wire.len());
            for pair in wire.chunks_exact(2) {
                text.extend(order.restore::<2>(pair)?);
            }
            text.truncate(usize::from(bytes));
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
            text.truncate(end);
            Value::Text(String::from_utf8(text).ok()?.trim_end().to_owned())
        }
    })
}

/// The registers that hold a number; `None` if it does not fit the type.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked before each cast"
)]
pub(crate) fn encode(value: Type, order: &Order, number: f64) -> Option<Vec<u16>> {
    let whole =
        |low: f64, high: f64| (number.fract() == 0.0 && (low..=high).contains(&number)).then_some(number);
    let bytes: Vec<u8> = match value {
        Type::Bool => (whole(0.0, 1.0)? as u16).to_be_bytes().to_vec(),
        Type::U8 => (whole(0.0, 255.0)? as u16).to_be_bytes().to_vec(),
        Type::I8 => i16::from(whole(-128.0, 127.0)? as i8).to_be_bytes().to_vec(),
        Type::U16 => (whole(0.0, f64::from(u16::MAX))? as u16).to_be_bytes().to_vec(),
        Type::I16 => (whole(f64::from(i16::MIN), f64::from(i16::MAX))? as i16).to_be_bytes().to_vec(),
        Type::U32 => (whole(0.0, f64::from(u32::MAX))? as u32).to_be_bytes().to_vec(),
        Type::I32 => (whole(f64::from(i32::MIN), f64::from(i32::MAX))? as i32).to_be_bytes().to_vec(),
        Type::F32 => Some(number as f32).filter(|number| number.is_finite())?.to_be_bytes().to_vec(),
        // Whole numbers above 2^53 cannot be named exactly by a float.
        Type::U64 => (whole(0.0, 9_007_199_254_740_992.0)? as u64).to_be_bytes().to_vec(),
        Type::I64 => {
            (whole(-9_007_199_254_740_992.0, 9_007_199_254_740_992.0)? as i64).to_be_bytes().to_vec()
        }
        Type::F64 => Some(number).filter(|number| number.is_finite())?.to_be_bytes().to_vec(),
        Type::Bcd16 => to_bcd(whole(0.0, 9_999.0)? as u64, 2),
        Type::Bcd32 => to_bcd(whole(0.0, 99_999_999.0)? as u64, 4),
        Type::Text(_) => return None,
    };
    let wire = order.arrange(&bytes);
    Some(wire.chunks_exact(2).filter_map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?))).collect())
}

fn from_bcd(bytes: &[u8]) -> Option<u64> {
    let mut number = 0;
    for digit in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]) {
        number = number * 10 + u64::from(Some(digit).filter(|digit| *digit < 10)?);
    }
    Some(number)
}

fn to_bcd(mut number: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    for byte in out.iter_mut().rev() {
        let pair = u8::try_from(number % 100).unwrap_or(0);
        *byte = ((pair / 10) << 4) | (pair % 10);
        number /= 100;
    }
    out
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests {
    use super::*;

    fn registers(bytes: &[u8]) -> Vec<u16> {
        bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect()
    }

    /// 123456.0 as IEEE 754 single is 47 F1 20 00 (worked out by hand).
    #[test]
    fn four_bytes_in_every_order() {
        let wire: [(&str, [u8; 4]); 4] = [
            ("ABCD", [0x47, 0xF1, 0x20, 0x00]),
            ("DCBA", [0x00, 0x20, 0xF1, 0x47]),
            ("BADC", [0xF1, 0x47, 0x00, 0x20]),
            ("CDAB", [0x20, 0x00, 0x47, 0xF1]),
        ];
        for (order, bytes) in wire {
            let order = Order::parse(order, Type::F32).expect("an order");
            assert_eq!(decode(Type::F32, &order, None, &registers(&bytes)), Some(Value::Float(123_456.0)));
        }
    }

    #[test]
    fn every_permutation_of_eight_bytes_reads_back_what_it_wrote() {
        let value = -1_234_567_890_123.0;
        for order in ["ABCDEFGH", "HGFEDCBA", "BADCFEHG", "GHEFCDAB", "CDABGHEF", "EFGHABCD"] {
            let order = Order::parse(order, Type::I64).expect("an order");
            let written = encode(Type::I64, &order, value).expect("fits");
            assert_eq!(decode(Type::I64, &order, None, &written), Some(Value::Int(-1_234_567_890_123)));
        }
        assert!(Order::parse("ABCC", Type::F32).is_err());
        assert!(Order::parse("ABC", Type::F32).is_err());
        assert!(Order::parse("abcd", Type::F32).is_err());
    }

    #[test]
    fn small_types_bits_digits_and_text() {
        let big = Order::big_endian(Type::U16);
        assert_eq!(decode(Type::I8, &big, None, &[0x00FE]), Some(Value::Int(-2)));
        assert_eq!(decode(Type::Bool, &big, Some(3), &[0b1000]), Some(Value::Bool(true)));
        assert_eq!(decode(Type::Bcd16, &big, None, &[0x1234]), Some(Value::Unsigned(1234)));
        assert_eq!(decode(Type::Bcd16, &big, None, &[0x12A4]), None);
        let swapped = Order::parse("BA", Type::Text(5)).expect("an order");
        assert_eq!(
            decode(Type::Text(5), &swapped, None, &[0x6548, 0x6C6C, 0x586F]),
            Some(Value::Text("Hello".into()))
        );
        assert_eq!(decode(Type::Text(2), &big, None, &[0xFFFE]), None, "not UTF-8");
        assert_eq!(decode(Type::U32, &Order::big_endian(Type::U32), None, &[1]), None, "too few registers");
    }

    #[test]
    fn a_number_that_does_not_fit_is_not_written() {
        let order = Order::big_endian(Type::U16);
        assert_eq!(encode(Type::U16, &order, 65_536.0), None);
        assert_eq!(encode(Type::U16, &order, 1.5), None);
        assert_eq!(encode(Type::U16, &order, f64::NAN), None);
        assert_eq!(encode(Type::Bcd16, &order, 1234.0), Some(vec![0x1234]));
        assert_eq!(encode(Type::F32, &Order::big_endian(Type::F32), 1e300), None);
    }
}
