//! Register addresses as people write them.

use std::fmt;

/// One of the four tables of a Modbus device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Area {
    /// Read and write, one bit.
    Coil,
    /// Read only, one bit.
    Discrete,
    /// Read only, 16 bits.
    Input,
    /// Read and write, 16 bits.
    Holding,
}

impl Area {
    /// Whether a cell is a bit.
    pub(crate) fn is_bits(self) -> bool {
        matches!(self, Area::Coil | Area::Discrete)
    }

    /// The word in front of the colon.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Area::Coil => "coil",
            Area::Discrete => "discrete",
            Area::Input => "input",
            Area::Holding => "holding",
        }
    }
}

/// A place in a table; 0 is the first cell, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) area: Area,
    pub(crate) offset: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.area.word(), self.offset)
    }
}

/// Reads `holding:0` (first cell 0, as on the wire) or the traditional number
/// `40001` / `400001` (first cell 1), which mean the same.
///
/// Source of the numbers: Modbus Application Protocol V1.1b3, section 4.4, and
/// the custom of writing the table as a leading digit (0 coil, 1 discrete
/// input, 3 input register, 4 holding register).
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    if let Some((area, offset)) = text.split_once(':') {
        let area = match area {
            "coil" => Area::Coil,
            "discrete" => Area::Discrete,
            "input" => Area::Input,
            "holding" => Area::Holding,
            other => {
                return Err(format!(
                    "there is no table `{other}`; the tables are coil, discrete, input, holding"
                ));
            }
        };
        let offset = offset.parse().map_err(|_| format!("`{offset}` is no address from 0 to 65535"))?;
        return Ok(Address { area, offset });
    }
    let help = "write e.g. \"holding:0\" or \"40001\"";
    if !(5..=6).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("`{text}` is no register; {help}"));
    }
    let (digit, number) = text.split_at_checked(1).ok_or(help)?;
    let area = match digit {
        "0" => Area::Coil,
        "1" => Area::Discrete,
        "3" => Area::Input,
        "4" => Area::Holding,
        other => return Err(format!("`{text}`: no table begins with {other}; {help}")),
    };
    let number: u32 = number.parse().map_err(|_| format!("`{text}` is no register; {help}"))?;
    let offset = number.checked_sub(1).and_then(|offset| u16::try_from(offset).ok());
    let offset =
        offset.ok_or_else(|| format!("`{text}`: the number after the first digit goes from 1 to 65536"))?;
    Ok(Address { area, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_writing_mean_the_same() {
        for (left, right) in [
            ("holding:0", "40001"),
            ("input:99", "30100"),
            ("coil:4", "00005"),
            ("discrete:0", "100001"),
            ("holding:65535", "465536"),
        ] {
            assert_eq!(parse(left), parse(right), "{left}");
        }
    }

    #[test]
    fn refuses_what_is_no_register() {
        for wrong in ["40000", "20001", "holding:65536", "holdin:1", "holding:", "4", "4000x", "465537", ""] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
