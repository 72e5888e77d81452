//! Values of OPC UA as columns: number, text or truth, quality, time.

use opcua::types::{DataValue, DateTime, StatusCode, Variant};
use tidegate_engine::time::Time;

/// How values are read into the column `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueType {
    Float,
    Int,
    Bool,
    Text,
}

/// Every word of `value_type`.
pub(crate) const VALUE_TYPES: &[&str] = &["float64", "int64", "bool", "string"];

impl ValueType {
    pub(crate) fn parse(word: &str) -> ValueType {
        match word {
            "int64" => ValueType::Int,
            "bool" => ValueType::Bool,
            "string" => ValueType::Text,
            _ => ValueType::Float,
        }
    }

    /// Its word in a topology.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ValueType::Float => "float64",
            ValueType::Int => "int64",
            ValueType::Bool => "bool",
            ValueType::Text => "string",
        }
    }

    /// Whether a column of this type can hold the value.
    pub(crate) fn holds(self, value: &Variant) -> bool {
        match self {
            ValueType::Float => number(value).is_some(),
            ValueType::Int => whole(value).is_some(),
            ValueType::Bool => truth(value).is_some(),
            ValueType::Text => text(value).is_some(),
        }
    }
}

/// A number, if the value is one.
#[allow(clippy::cast_precision_loss, reason = "a 64-bit number read as a float is the nearest float")]
#[allow(clippy::wildcard_enum_match_arm, reason = "everything else is no number")]
pub(crate) fn number(value: &Variant) -> Option<f64> {
    Some(match value {
        Variant::Boolean(flag) => f64::from(u8::from(*flag)),
        Variant::SByte(number) => f64::from(*number),
        Variant::Byte(number) => f64::from(*number),
        Variant::Int16(number) => f64::from(*number),
        Variant::UInt16(number) => f64::from(*number),
        Variant::Int32(number) => f64::from(*number),
        Variant::UInt32(number) => f64::from(*number),
        Variant::Int64(number) => *number as f64,
        Variant::UInt64(number) => *number as f64,
        Variant::Float(number) => f64::from(*number),
        Variant::Double(number) => *number,
        _ => return None,
    })
}

/// A whole number, if the value is one.
#[allow(clippy::wildcard_enum_match_arm, reason = "everything else is no whole number")]
pub(crate) fn whole(value: &Variant) -> Option<i64> {
    Some(match value {
        Variant::Boolean(flag) => i64::from(*flag),
        Variant::SByte(number) => i64::from(*number),
        Variant::Byte(number) => i64::from(*number),
        Variant::Int16(number) => i64::from(*number),
        Variant::UInt16(number) => i64::from(*number),
        Variant::Int32(number) => i64::from(*number),
        Variant::UInt32(number) => i64::from(*number),
        Variant::Int64(number) => *number,
        Variant::UInt64(number) => i64::try_from(*number).ok()?,
        _ => return None,
    })
}

/// Text, as the value prints.
#[allow(clippy::wildcard_enum_match_arm, reason = "everything else prints as the library prints it")]
pub(crate) fn text(value: &Variant) -> Option<String> {
    match value {
        Variant::Empty => None,
        Variant::String(text) => text.value().clone(),
        other => Some(other.to_string()),
    }
}

/// A truth, if the value is one.
pub(crate) fn truth(value: &Variant) -> Option<bool> {
    if let Variant::Boolean(flag) = value { Some(*flag) } else { number(value).map(|number| number != 0.0) }
}

/// The word in the column `quality`: severity of the status, and `uncertain`
/// where the server's queue has overflowed and values are missing.
pub(crate) fn quality(status: StatusCode) -> &'static str {
    if status.is_bad() {
        "bad"
    } else if status.is_uncertain() || status.overflow() {
        "uncertain"
    } else {
        "good"
    }
}

/// Which clock a row's time comes from, if it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timestamp {
    Source,
    Server,
    Received,
}

/// The time of a value: the chosen one, else the server's, else arrival.
pub(crate) fn time(value: &DataValue, chosen: Timestamp, received: Time) -> Time {
    let source = value.source_timestamp.as_ref().and_then(instant);
    let server = value.server_timestamp.as_ref().and_then(instant);
    match chosen {
        Timestamp::Source => source.or(server),
        Timestamp::Server => server.or(source),
        Timestamp::Received => None,
    }
    .unwrap_or(received)
}

/// A time that a clock can have shown: not the beginning or end of OPC UA's range.
fn instant(time: &DateTime) -> Option<Time> {
    let micros = time.as_chrono().timestamp_micros();
    // 1990: no device is older; servers send 1601 for "not set".
    (micros > 631_152_000_000_000 && !time.is_null()).then_some(Time(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_width() {
        assert_eq!(number(&Variant::Int16(-3)), Some(-3.0));
        assert_eq!(number(&Variant::String("x".into())), None);
        assert_eq!(whole(&Variant::UInt64(u64::MAX)), None);
        assert_eq!(truth(&Variant::Byte(2)), Some(true));
        assert_eq!(text(&Variant::from("run")), Some("run".into()));
    }

    #[test]
    fn severity_becomes_quality_and_overflow_is_uncertain() {
        assert_eq!(quality(StatusCode::Good), "good");
        assert_eq!(quality(StatusCode::BadSensorFailure), "bad");
        assert_eq!(quality(StatusCode::UncertainLastUsableValue), "uncertain");
        // Bits 10 (data value) and 7 (overflow), OPC UA Part 4, table "StatusCode bits".
        assert_eq!(quality(StatusCode::from(0x0000_0480)), "uncertain");
    }

    #[test]
    fn a_missing_or_impossible_time_falls_back() {
        let received = Time(1_700_000_000_000_000);
        let server =
            DateTime::from(opcua::types::DateTimeUtc::from_timestamp(1_600_000_000, 0).expect("a time"));
        let value = DataValue {
            server_timestamp: Some(server),
            source_timestamp: Some(DateTime::null()),
            ..DataValue::null()
        };
        assert_eq!(time(&value, Timestamp::Source, received), Time(1_600_000_000_000_000));
        assert_eq!(time(&DataValue::null(), Timestamp::Source, received), received);
    }
}
