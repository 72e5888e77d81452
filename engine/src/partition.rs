//! How rows are shared among the copies of an operator: by a stable hash of
//! their key, so that rows of one key meet in one copy, today and in ten years.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Float64Type, Int64Type, UInt64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::error::OperatorError;

/// The key of each row, as columns.
pub type KeyOf = Arc<dyn Fn(&RecordBatch) -> Result<Vec<ArrayRef>, OperatorError> + Send + Sync>;

/// Gives each of so many copies its share of the whole states of those that
/// were before, however many.
pub type Reshare =
    Arc<dyn Fn(&[Vec<RecordBatch>], Copies) -> Result<Vec<Vec<RecordBatch>>, OperatorError> + Send + Sync>;

/// What an operator says that may run as several copies.
#[derive(Clone)]
pub struct Partition {
    /// The key of the rows of each input: rows of equal keys belong together.
    pub keys: Vec<KeyOf>,
    /// How saved state is shared anew when the number of copies has changed.
    pub reshare: Reshare,
}

/// What the hash of a key begins with.
const BEGIN: u64 = 0x7469_6465_6761_7465;

/// So many copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copies(pub usize);

impl Copies {
    /// Which copy the rows with these keys belong to. The rule is for ever: saved
    /// state lies where it says.
    ///
    /// # Errors
    /// A column has a type that cannot be a key.
    pub fn of(self, keys: &[ArrayRef], rows: usize) -> Result<Vec<usize>, OperatorError> {
        let mut hashes = vec![BEGIN; rows];
        for key in keys {
            add(key, &mut hashes)?;
        }
        Ok(hashes.into_iter().map(|hash| self.one(hash)).collect())
    }

    fn one(self, hash: u64) -> usize {
        let copies = self.0 as u128;
        usize::try_from((u128::from(hash) * copies) >> 64).unwrap_or(0)
    }
}

/// The key that stands in these columns.
#[must_use]
pub fn columns_of(columns: Vec<usize>) -> KeyOf {
    Arc::new(move |batch: &RecordBatch| {
        let found = columns.iter().map(|index| batch.columns().get(*index).cloned());
        found.collect::<Option<Vec<_>>>().ok_or_else(|| OperatorError::new("a column of the key is missing"))
    })
}

/// Adds a column to hashes; values that are equal count alike, whatever the
/// type's width, and texts whatever their layout.
fn add(column: &ArrayRef, hashes: &mut [u64]) -> Result<(), OperatorError> {
    let Some(simple) = simple_type(column.data_type()) else {
        let texts = ArrayFormatter::try_new(column, &FormatOptions::default())?;
        each(column, hashes, |row| texts.value(row).to_string());
        return Ok(());
    };
    let column = if simple == *column.data_type() { Arc::clone(column) } else { cast(column, &simple)? };
    let wrong = || OperatorError::new(format!("{} cannot be a key", column.data_type()));
    if let Some(values) = column.as_primitive_opt::<Int64Type>() {
        each(&column, hashes, |row| values.value(row).to_le_bytes());
    } else if let Some(values) = column.as_primitive_opt::<UInt64Type>() {
        each(&column, hashes, |row| values.value(row).to_le_bytes());
    } else if let Some(values) = column.as_primitive_opt::<Float64Type>() {
        each(&column, hashes, |row| float_bytes(values.value(row)));
    } else if let Some(values) = column.as_primitive_opt::<Decimal128Type>() {
        each(&column, hashes, |row| values.value(row).to_le_bytes());
    } else if let Some(values) = column.as_primitive_opt::<Decimal256Type>() {
        each(&column, hashes, |row| values.value(row).to_le_bytes());
    } else if let Some(values) = column.as_binary_opt::<i32>() {
        each(&column, hashes, |row| values.value(row));
    } else {
        let values = column.as_string_opt::<i32>().ok_or_else(wrong)?;
        each(&column, hashes, |row| values.value(row).as_bytes());
    }
    Ok(())
}

fn each<B: AsRef<[u8]>>(column: &ArrayRef, hashes: &mut [u64], bytes: impl Fn(usize) -> B) {
    for (row, hash) in hashes.iter_mut().enumerate() {
        *hash = if column.is_null(row) {
            xxh3_64_with_seed(&[], *hash)
        } else {
            xxh3_64_with_seed(bytes(row).as_ref(), *hash)
        };
    }
}

/// All numbers that are not a number are one; so are both zeros.
fn float_bytes(value: f64) -> [u8; 8] {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    value.to_le_bytes()
}

/// The one type that stands for all whose values may be equal; `None`: lists and
/// structs count as the texts that they are shown as.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "Arrow's list of types is open; whatever else comes is shown as text"
)]
fn simple_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::Boolean | DataType::Date32 => DataType::Int64,
        DataType::Date64 | DataType::Timestamp(..) | DataType::Duration(_) => DataType::Int64,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Int64,
        DataType::UInt64 => DataType::UInt64,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Decimal128(..) | DataType::Decimal256(..) => data_type.clone(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Dictionary(_, values) => return simple_type(values),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        BooleanArray, Decimal128Array, Float32Array, Float64Array, Int32Array, Int64Array, StringArray,
        StringViewArray, TimestampMicrosecondArray,
    };

    use super::*;

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut hashes = vec![BEGIN; columns[0].len()];
        for column in columns {
            add(column, &mut hashes).expect("a key");
        }
        hashes
    }

    fn of(column: impl Array + 'static) -> Vec<u64> {
        hashes(&[Arc::new(column)])
    }

    /// Saved state lies where these numbers say; they come from another
    /// implementation of the hash.
    #[test]
    fn hashes_are_for_ever() {
        assert_eq!(
            of(Int64Array::from(vec![Some(0), Some(-1), None])),
            [1_350_652_571_605_885_453, 10_081_820_503_186_870_437, 17_467_874_848_261_537_648]
        );
        assert_eq!(
            of(StringArray::from(vec!["", "press-7"])),
            [17_467_874_848_261_537_648, 2_976_280_370_465_095_951]
        );
        assert_eq!(of(Float64Array::from(vec![1.5])), [7_019_033_965_771_986_369]);
        assert_eq!(of(BooleanArray::from(vec![true])), [1_309_978_113_614_123_360]);
        let many: [ArrayRef; 2] =
            [Arc::new(StringArray::from(vec!["a"])), Arc::new(Int64Array::from(vec![7]))];
        assert_eq!(hashes(&many), [14_343_690_781_569_335_408]);
        assert_eq!(of(Decimal128Array::from(vec![125])), [8_052_708_223_728_768_941]);
    }

    #[test]
    fn equal_values_have_equal_hashes_whatever_their_type() {
        let long = of(Int64Array::from(vec![Some(41), None]));
        assert_eq!(long, of(Int32Array::from(vec![Some(41), None])));
        assert_eq!(long, of(TimestampMicrosecondArray::from(vec![Some(41), None]).with_timezone("UTC")));
        assert_eq!(of(StringArray::from(vec!["x"])), of(StringViewArray::from(vec!["x"])));
        assert_eq!(of(Float32Array::from(vec![0.5])), of(Float64Array::from(vec![0.5])));
        let odd = of(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        assert!(odd[0] == odd[1] && odd[2] == odd[3] && odd[0] != odd[2]);
    }

    /// A key that a node takes when it runs alone is one for its copies too.
    #[test]
    fn every_type_has_a_hash() {
        use arrow::array::new_null_array;
        use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};
        let item = Arc::new(Field::new("item", DataType::Int64, true));
        let types = [
            DataType::Time32(TimeUnit::Second),
            DataType::Time32(TimeUnit::Millisecond),
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Date64,
            DataType::Duration(TimeUnit::Second),
            DataType::Interval(IntervalUnit::DayTime),
            DataType::Float16,
            DataType::Decimal32(5, 2),
            DataType::Decimal256(50, 2),
            DataType::FixedSizeBinary(3),
            DataType::BinaryView,
            DataType::LargeUtf8,
            DataType::Null,
            DataType::List(Arc::clone(&item)),
            DataType::Struct(vec![item].into()),
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        ];
        for data_type in types {
            let keys = new_null_array(&data_type, 2);
            let shares = Copies(2).of(&[keys], 2);
            assert!(shares.is_ok_and(|shares| shares[0] == shares[1]), "{data_type}");
        }
    }

    #[test]
    fn keys_of_several_columns_are_told_apart() {
        let pair = |a: &str, b: &str| -> u64 {
            let columns: [ArrayRef; 2] =
                [Arc::new(StringArray::from(vec![a])), Arc::new(StringArray::from(vec![b]))];
            hashes(&columns)[0]
        };
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
        assert_ne!(pair("a", ""), pair("", "a"));
    }

    #[test]
    fn keys_are_spread_evenly() {
        for copies in [2, 3, 7] {
            let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
            let shares = Copies(copies).of(&[keys], 10_000).expect("numbers");
            for copy in 0..copies {
                let share = shares.iter().filter(|share| **share == copy).count();
                assert!((share * copies).abs_diff(10_000) < 600, "{share} of {copies}");
            }
        }
    }
}
