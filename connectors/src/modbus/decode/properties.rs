//! B10 of the fault list: every type in every order of its bytes. What goes
//! over the wire is built here from the standard library's big-endian bytes
//! and the letters of the order, not by the code that is tested.

use proptest::prelude::*;

use super::*;

/// A permutation of the first letters, such as `CDAB`.
fn orders(count: u8) -> impl Strategy<Value = String> {
    let letters: Vec<char> = (b'A'..b'A' + count).map(char::from).collect();
    Just(letters).prop_shuffle().prop_map(|letters| letters.into_iter().collect())
}

/// The registers that hold these most significant first bytes in this order.
fn wire(bytes: &[u8], order: &str) -> Vec<u16> {
    let sent: Vec<u8> = order.bytes().map(|letter| bytes[usize::from(letter - b'A')]).collect();
    sent.chunks(2).map(|pair| u16::from(pair[0]) << 8 | u16::from(pair[1])).collect()
}

fn read(value: Type, order: &str, registers: &[u16]) -> Option<Value> {
    decode(value, &Order::parse(order, value).expect("an order"), None, registers)
}

fn written(value: Type, order: &str, number: f64) -> Option<Vec<u16>> {
    encode(value, &Order::parse(order, value).expect("an order"), number)
}

/// Binary-coded decimal digits, read off the number's text.
fn bcd(number: u32, digits: usize) -> u32 {
    u32::from_str_radix(&format!("{number:0digits$}"), 16).expect("digits are hex digits")
}

proptest! {
    #[test]
    fn two_bytes(bits: u16, order in orders(2), bit in 0..16_u8) {
        let registers = wire(&bits.to_be_bytes(), &order);
        let (low, signed) = (bits.to_be_bytes()[1], bits.cast_signed());
        prop_assert_eq!(read(Type::U16, &order, &registers), Some(Value::Unsigned(bits.into())));
        prop_assert_eq!(read(Type::I16, &order, &registers), Some(Value::Int(signed.into())));
        prop_assert_eq!(read(Type::U8, &order, &registers), Some(Value::Unsigned(low.into())));
        prop_assert_eq!(read(Type::I8, &order, &registers), Some(Value::Int(low.cast_signed().into())));
        let parsed = Order::parse(&order, Type::Bool).expect("an order");
        let is_set = bits / 2_u16.pow(bit.into()) % 2 == 1;
        prop_assert_eq!(decode(Type::Bool, &parsed, Some(bit), &registers), Some(Value::Bool(is_set)));
        prop_assert_eq!(written(Type::U16, &order, bits.into()), Some(registers.clone()));
        prop_assert_eq!(written(Type::I16, &order, signed.into()), Some(registers));
    }

    #[test]
    fn four_bytes(bits: u32, order in orders(4)) {
        let registers = wire(&bits.to_be_bytes(), &order);
        let signed = bits.cast_signed();
        prop_assert_eq!(read(Type::U32, &order, &registers), Some(Value::Unsigned(bits.into())));
        prop_assert_eq!(read(Type::I32, &order, &registers), Some(Value::Int(signed.into())));
        prop_assert_eq!(written(Type::U32, &order, bits.into()), Some(registers.clone()));
        prop_assert_eq!(written(Type::I32, &order, signed.into()), Some(registers.clone()));
        let float = f32::from_bits(bits);
        match read(Type::F32, &order, &registers) {
            Some(Value::Float(found)) if float.is_nan() => prop_assert!(found.is_nan()),
            found => prop_assert_eq!(found, Some(Value::Float(float.into()))),
        }
        let expected = float.is_finite().then_some(registers);
        prop_assert_eq!(written(Type::F32, &order, float.into()), expected);
    }

    #[test]
    fn eight_bytes(bits: u64, order in orders(8), whole in -9_007_199_254_740_992_i64..=9_007_199_254_740_992) {
        let registers = wire(&bits.to_be_bytes(), &order);
        prop_assert_eq!(read(Type::U64, &order, &registers), Some(Value::Unsigned(bits)));
        prop_assert_eq!(read(Type::I64, &order, &registers), Some(Value::Int(bits.cast_signed())));
        let float = f64::from_bits(bits);
        match read(Type::F64, &order, &registers) {
            Some(Value::Float(found)) if float.is_nan() => prop_assert!(found.is_nan()),
            found => prop_assert_eq!(found, Some(Value::Float(float))),
        }
        prop_assert_eq!(written(Type::F64, &order, float), float.is_finite().then_some(registers));
        #[allow(clippy::cast_precision_loss, reason = "floats hold every whole number up to 2^53")]
        let number = whole as f64;
        let registers = wire(&whole.to_be_bytes(), &order);
        prop_assert_eq!(written(Type::I64, &order, number), Some(registers.clone()));
        prop_assert_eq!(written(Type::U64, &order, number), (whole >= 0).then_some(registers));
    }

    #[test]
    fn decimal_digits(number in 0..100_000_000_u32, two in orders(2), four in orders(4)) {
        let small = number % 10_000;
        let bytes = u16::try_from(bcd(small, 4)).expect("four digits").to_be_bytes();
        let registers = wire(&bytes, &two);
        prop_assert_eq!(read(Type::Bcd16, &two, &registers), Some(Value::Unsigned(small.into())));
        prop_assert_eq!(written(Type::Bcd16, &two, small.into()), Some(registers));
        let registers = wire(&bcd(number, 8).to_be_bytes(), &four);
        prop_assert_eq!(read(Type::Bcd32, &four, &registers), Some(Value::Unsigned(number.into())));
        prop_assert_eq!(written(Type::Bcd32, &four, number.into()), Some(registers));
    }

    #[test]
    fn text_with_and_without_swapped_bytes(text in "[!-~]([ -~]{0,18}[!-~])?", order in orders(2)) {
        let mut bytes = text.clone().into_bytes();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        let registers: Vec<u16> = bytes.chunks(2).flat_map(|pair| wire(pair, &order)).collect();
        let length = u16::try_from(text.len()).expect("short");
        prop_assert_eq!(read(Type::Text(length), &order, &registers), Some(Value::Text(text)));
    }

    #[test]
    fn nothing_that_registers_hold_panics(registers in prop::collection::vec(any::<u16>(), 0..6), kind in 0..TYPE_WORDS.len()) {
        let value = Type::parse(TYPE_WORDS[kind], Some(7)).expect("a type");
        let decoded = decode(value, &Order::big_endian(value), None, &registers);
        prop_assert!(registers.len() >= usize::from(value.registers()) || decoded.is_none() || matches!(value, Type::Text(_)));
    }
}
