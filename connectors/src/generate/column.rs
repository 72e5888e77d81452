//! One generated column: its values are a function of seed, column and row, so
//! that any row can be made without those before it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::NodeConfig;
use tidegate_engine::topology::value::{Entry, Table};

/// The keys of a column.
pub(super) const COLUMN_KEYS: &[Key] = &[
    required("kind", Kind::Word(&["sequence", "sine", "random", "words"]), "what its values are"),
    optional("start", Kind::Int(i64::MIN, i64::MAX), "sequence: the first value, default 0"),
    optional("step", Kind::Int(i64::MIN, i64::MAX), "sequence: from one to the next, default 1"),
    optional("mean", Kind::Number, "sine: the middle, default 0"),
    optional("amplitude", Kind::Number, "sine: from the middle to the top, default 1"),
    optional("period", Kind::Duration, "sine: time of one wave in `ts`, default \"60s\""),
    optional("noise", Kind::Number, "sine: random values up to this are added or taken away, default 0"),
    optional("min", Kind::Number, "random: the least value, default 0"),
    optional("max", Kind::Number, "random: the greatest value, default 1"),
    optional("whole", Kind::Bool, "random: whole numbers, `max` included, default false"),
    optional("words", Kind::List(&Kind::Text), "words: which ones"),
    optional("pick", Kind::Word(&["cycle", "random"]), "words: in turn or by chance, default \"cycle\""),
];

/// A column and what its values are.
#[derive(Debug)]
pub(super) struct Column {
    name: String,
    /// Tells columns of one source, and sources of other seeds, apart.
    salt: u64,
    kind: Values,
}

#[derive(Debug)]
enum Values {
    Sequence { start: i64, step: i64 },
    Sine { mean: f64, amplitude: f64, period_us: i64, noise: f64 },
    Random { min: f64, max: f64 },
    Whole { min: i64, count: u64 },
    Words { words: Vec<String>, by_chance: bool },
}

impl Column {
    /// The columns of a node.
    pub(super) fn all(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Vec<Column> {
        let seed = config.table.int_as::<u64>("seed").unwrap_or(0);
        let Some(table) = config.table.table("columns") else {
            return vec![Column { name: "n".into(), salt: 0, kind: Values::Sequence { start: 0, step: 1 } }];
        };
        let mut columns = Vec::new();
        for (index, entry) in (0_u64..).zip(&table.entries) {
            let salt = mixed(seed ^ mixed(index + 1));
            let kind = entry.value.as_table().map(|table| values(entry, table));
            match kind {
                Some(Ok(kind)) => columns.push(Column { name: entry.key.clone(), salt, kind }),
                Some(Err(wrong)) => out.push(wrong),
                None => {}
            }
        }
        columns
    }

    /// The column in Arrow's words.
    pub(super) fn field(&self) -> Field {
        let kind = match &self.kind {
            Values::Sequence { .. } | Values::Whole { .. } => DataType::Int64,
            Values::Sine { .. } | Values::Random { .. } => DataType::Float64,
            Values::Words { .. } => DataType::Utf8,
        };
        Field::new(&self.name, kind, false)
    }

    /// The values of some rows, which are `step_us` apart in time.
    pub(super) fn values(&self, rows: Range<u64>, step_us: i64) -> ArrayRef {
        match &self.kind {
            Values::Sequence { start, step } => {
                let value = |row: u64| start.wrapping_add(step.wrapping_mul(row.cast_signed()));
                Arc::new(Int64Array::from_iter_values(rows.map(value)))
            }
            Values::Sine { mean, amplitude, period_us, noise } => {
                let value = |row: u64| {
                    let phase = i128::from(row) * i128::from(step_us) % i128::from(*period_us);
                    let turn = fraction(phase, *period_us);
                    let noise = noise * (2.0 * self.chance(row) - 1.0);
                    mean + amplitude * (turn * std::f64::consts::TAU).sin() + noise
                };
                Arc::new(Float64Array::from_iter_values(rows.map(value)))
            }
            Values::Random { min, max } => {
                let value = |row: u64| min + (max - min) * self.chance(row);
                Arc::new(Float64Array::from_iter_values(rows.map(value)))
            }
            Values::Whole { min, count } => {
                let value = |row: u64| min.wrapping_add(self.below(row, *count).cast_signed());
                Arc::new(Int64Array::from_iter_values(rows.map(value)))
            }
            Values::Words { words, by_chance } => {
                let count = u64::try_from(words.len()).unwrap_or(1).max(1);
                let word = |row: u64| {
                    let index = if *by_chance { self.below(row, count) } else { row % count };
                    usize::try_from(index).ok().and_then(|index| words.get(index)).map_or("", String::as_str)
                };
                Arc::new(StringArray::from_iter_values(rows.map(word)))
            }
        }
    }

    fn bits(&self, row: u64) -> u64 {
        mixed(self.salt ^ mixed(row))
    }

    /// An even chance from 0 up to and without 1: the upper 53 bits, which is
    /// what a float holds.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn chance(&self, row: u64) -> f64 {
        (self.bits(row) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An even whole number below `count` (Lemire 2019, without his correction
    /// for a bias of count / 2^64).
    fn below(&self, row: u64, count: u64) -> u64 {
        let wide = u128::from(self.bits(row)) * u128::from(count);
        u64::try_from(wide >> 64).unwrap_or(0)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a phase is meant as the nearest float")]
fn fraction(part: i128, whole: i64) -> f64 {
    part as f64 / whole as f64
}

/// SplitMix64's output function (Steele, Lea, Flood 2014): every bit of the
/// input changes half of the bits of the output.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn values(entry: &Entry, table: &Table) -> Result<Values, Diagnostic> {
    let name = &entry.key;
    let wrong = |message: String| Diagnostic::error("TG-C035", message).at(entry.key_span.clone());
    if name == super::TS {
        return Err(wrong("column `ts` is the time, which every row has".into()).help("give it another name"));
    }
    Ok(match table.str("kind") {
        Some("sine") => Values::Sine {
            mean: table.number("mean").unwrap_or(0.0),
            amplitude: table.number("amplitude").unwrap_or(1.0),
            period_us: table.duration("period").map_or(60_000_000, micros).max(1),
            noise: table.number("noise").unwrap_or(0.0),
        },
        Some("random") => {
            let (min, max) = (table.number("min").unwrap_or(0.0), table.number("max").unwrap_or(1.0));
            if min >= max {
                return Err(wrong(format!("column `{name}` has no values from {min} to {max}")));
            }
            if table.bool("whole") == Some(true) {
                whole(table).ok_or_else(|| {
                    let help = "write min = 1, max = 6";
                    wrong(format!("column `{name}` is whole, but its limits are not")).help(help)
                })?
            } else {
                Values::Random { min, max }
            }
        }
        Some("words") => {
            let words: Vec<String> =
                table.texts("words").into_iter().map(|text| text.value.clone()).collect();
            if words.is_empty() {
                return Err(
                    wrong(format!("column `{name}` has no words")).help("write words = [\"a\", \"b\"]")
                );
            }
            Values::Words { words, by_chance: table.str("pick") == Some("random") }
        }
        Some(_) | None => {
            Values::Sequence { start: table.int("start").unwrap_or(0), step: table.int("step").unwrap_or(1) }
        }
    })
}

fn whole(table: &Table) -> Option<Values> {
    let limit = |key: &str, default: i64| match table.get(key) {
        Some(_) => table.int(key),
        None => Some(default),
    };
    let (min, max) = (limit("min", 0)?, limit("max", 1)?);
    Some(Values::Whole { min, count: max.abs_diff(min).saturating_add(1) })
}
