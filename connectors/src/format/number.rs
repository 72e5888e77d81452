//! Numbers from text: the JSON grammar, exact decimals, floats rounded once.
//! Nothing here may accept what RFC 8259, section 6 does not call a number.

/// A number as written: `mantissa * 10^exponent`, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal {
    mantissa: i128,
    exponent: i32,
}

/// Powers of ten that a `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Largest mantissa that a `f64` holds exactly, with all below it.
const MANTISSA_MAX: u64 = 1 << 53;

/// Digits that always fit into a `u64`.
const DIGITS_MAX: usize = 19;

impl Decimal {
    /// Reads a number of the JSON grammar; `None` if it is none, or has more
    /// digits than 128 bits hold.
    pub(crate) fn parse(text: &[u8]) -> Option<Decimal> {
        if number_length(text)? != text.len() {
            return None;
        }
        let (negative, text) = strip_minus(text);
        let at = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
        let (digits, exponent) = match at {
            Some(at) => (text.get(..at)?, written_exponent(text.get(at + 1..)?)?),
            None => (text, 0),
        };
        let mut value = Decimal { mantissa: 0, exponent };
        let mut fraction = false;
        for &byte in digits {
            if byte == b'.' {
                fraction = true;
                continue;
            }
            let digit = i128::from(byte - b'0');
            value.mantissa = value.mantissa.checked_mul(10)?.checked_add(digit)?;
            value.exponent = value.exponent.checked_sub(i32::from(fraction))?;
        }
        if negative {
            value.mantissa = -value.mantissa;
        }
        Some(value)
    }

    /// The number times `10^scale`, if that is whole and fits.
    pub(crate) fn scaled(self, scale: i32) -> Option<i128> {
        let (value, rest) = self.split(scale)?;
        (rest == 0).then_some(value)
    }

    /// The number times `10^scale`, rounded towards minus infinity.
    pub(crate) fn scaled_floor(self, scale: i32) -> Option<i128> {
        self.split(scale).map(|(value, _)| value)
    }

    /// Floor and remainder of the number times `10^scale`.
    fn split(self, scale: i32) -> Option<(i128, i128)> {
        let power = self.exponent.checked_add(scale)?;
        if self.mantissa == 0 {
            return Some((0, 0));
        }
        if power >= 0 {
            let factor = 10_i128.checked_pow(power.unsigned_abs())?;
            return Some((self.mantissa.checked_mul(factor)?, 0));
        }
        match 10_i128.checked_pow(power.unsigned_abs()) {
            Some(factor) => Some((self.mantissa.div_euclid(factor), self.mantissa.rem_euclid(factor))),
            // Nearer to zero than any unit: the remainder is what matters.
            None => Some((if self.mantissa < 0 { -1 } else { 0 }, 1)),
        }
    }
}

fn strip_minus(text: &[u8]) -> (bool, &[u8]) {
    text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest))
}

fn written_exponent(text: &[u8]) -> Option<i32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes of the JSON number that `text` begins with.
pub(crate) fn number_length(text: &[u8]) -> Option<usize> {
    let (negative, rest) = strip_minus(text);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.first() == Some(&b'0')) {
        return None;
    }
    let mut length = usize::from(negative) + whole;
    if text.get(length) == Some(&b'.') {
        let fraction = digits(text.get(length + 1..)?);
        if fraction == 0 {
            return None;
        }
        length += 1 + fraction;
    }
    if let Some(b'e' | b'E') = text.get(length) {
        let signed = matches!(text.get(length + 1), Some(b'+' | b'-'));
        length += 1 + usize::from(signed);
        let exponent = digits(text.get(length..)?);
        if exponent == 0 {
            return None;
        }
        length += exponent;
    }
    Some(length)
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The finite `f64` nearest to a JSON number.
pub(crate) fn float64(text: &[u8]) -> Option<f64> {
    let value: f64 = whole_number(text)?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// The finite `f32` nearest to a JSON number, rounded once.
pub(crate) fn float32(text: &[u8]) -> Option<f32> {
    let value: f32 = whole_number(text)?.parse().ok()?;
    value.is_finite().then_some(value)
}

fn whole_number(text: &[u8]) -> Option<&str> {
    (number_length(text)? == text.len()).then_some(())?;
    std::str::from_utf8(text).ok()
}

/// The whole number that a JSON number is, however it is written (`1e5`,
/// `100.0`).
pub(crate) fn integer(text: &[u8]) -> Option<i128> {
    Decimal::parse(text)?.scaled(0)
}

/// Reads the digits at the beginning of `text`: how many, and their value
/// (meaningless beyond 19 digits).
#[inline]
fn scan_digits(text: &[u8], mut value: u64) -> (usize, u64) {
    let mut count = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        count += 1;
    }
    (count, value)
}

/// Reads the whole number at the beginning of `text` and answers the rest.
/// `None` sends the caller to the general way: fraction, exponent, overflow.
#[inline]
pub(crate) fn scan_integer(text: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, unsigned) = strip_minus(text);
    let (count, value) = scan_digits(unsigned, 0);
    let leading_zero = count > 1 && unsigned.first() == Some(&b'0');
    if count == 0 || count >= DIGITS_MAX || leading_zero {
        return None;
    }
    let rest = unsigned.get(count..)?;
    if matches!(rest.first(), Some(b'.' | b'e' | b'E')) {
        return None;
    }
    let value = i64::try_from(value).ok()?;
    Some((if negative { -value } else { value }, rest))
}

/// Reads the number at the beginning of `text` as the nearest `f64` and
/// answers the rest.
///
/// A mantissa below 2^53 divided by an exact power of ten is rounded once and
/// so correctly (Clinger 1990); all else goes to the standard library.
#[inline]
pub(crate) fn scan_float(text: &[u8]) -> Option<(f64, &[u8])> {
    let (negative, unsigned) = strip_minus(text);
    let (whole, mantissa) = scan_digits(unsigned, 0);
    let leading_zero = whole > 1 && unsigned.first() == Some(&b'0');
    if whole == 0 || leading_zero {
        return None;
    }
    let rest = unsigned.get(whole..)?;
    let (rest, fraction, mantissa) = match rest.split_first() {
        Some((b'.', after)) => {
            let (count, mantissa) = scan_digits(after, mantissa);
            (after.get(count..)?, count, mantissa)
        }
        Some(_) | None => (rest, 0, mantissa),
    };
    let pointed = unsigned.len() - rest.len() > whole;
    if (pointed && fraction == 0) || matches!(rest.first(), Some(b'e' | b'E')) {
        return scan_float_slowly(text);
    }
    let power = POWERS.get(fraction).filter(|_| whole + fraction <= DIGITS_MAX && mantissa <= MANTISSA_MAX);
    let Some(power) = power else { return scan_float_slowly(text) };
    #[allow(clippy::cast_precision_loss, reason = "the mantissa is at most 2^53")]
    let value = mantissa as f64 / power;
    Some((if negative { -value } else { value }, rest))
}

#[cold]
fn scan_float_slowly(text: &[u8]) -> Option<(f64, &[u8])> {
    let (number, rest) = text.split_at_checked(number_length(text)?)?;
    Some((float64(number)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_numbers_are_numbers() {
        for good in ["0", "-0", "10", "1.5", "-1.5e10", "1E+5", "1e-5", "0.0"] {
            assert_eq!(number_length(good.as_bytes()), Some(good.len()), "{good}");
        }
        for bad in
            ["", "-", "+1", "01", "-01", ".5", "1.", "1.e5", "1e", "1e+", "NaN", "Infinity", "0x10", "١"]
        {
            assert_ne!(number_length(bad.as_bytes()), Some(bad.len()), "{bad}");
            assert_eq!(float64(bad.as_bytes()), None, "{bad}");
            assert_eq!(integer(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn whole_numbers_however_written() {
        for (text, value) in [("1e5", 100_000), ("100.0", 100), ("-0", 0), ("12.50e1", 125), ("1200e-2", 12)]
        {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["1.5", "1e-1", "1e400", "1e99999999999", "1e-400"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(integer(b"18446744073709551615"), Some(i128::from(u64::MAX)));
    }

    #[test]
    fn decimals_scale_exactly() {
        let parse = |text: &str| Decimal::parse(text.as_bytes()).expect("a number");
        assert_eq!(parse("12.34").scaled(2), Some(1234));
        assert_eq!(parse("12.345").scaled(2), None);
        assert_eq!(parse("-1.5").scaled_floor(0), Some(-2));
        assert_eq!(parse("1e-400").scaled_floor(6), Some(0));
        assert_eq!(parse("-1e-400").scaled_floor(6), Some(-1));
    }

    #[test]
    fn quick_and_standard_reading_agree() {
        // Expected values come from the standard library's parser.
        let hard = [
            "0",
            "-0.0",
            "94.787",
            "1e23",
            "9007199254740993",
            "9007199254740992",
            "0.1",
            "123456789012345678901",
            "1.7976931348623157e308",
            "5e-324",
            "2.2250738585072011e-308",
            "179769313486231570814e288",
            "0.000000000000000000000000000001",
            "-12345.6789",
            "8.5e1",
        ];
        for text in hard {
            let expected: f64 = text.parse().expect("a float");
            let (value, rest) = scan_float(text.as_bytes()).expect("reads");
            assert_eq!((value.to_bits(), rest), (expected.to_bits(), &b""[..]), "{text}");
        }
        assert_eq!(scan_float(b"1e999"), None);
        assert_eq!(scan_integer(b"-123,"), Some((-123, &b","[..])));
        for other in ["1.0", "1e5", "01", "", "-", "9999999999999999999"] {
            assert_eq!(scan_integer(other.as_bytes()), None, "{other}");
        }
    }
}
