//! Keys as numbers. Equal keys have equal hashes; for a single whole number or
//! time the reverse is true as well, so that nobody has to compare them.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use tidegate_engine::error::OperatorError;

/// Any number; nothing of it is kept.
const SEED: u64 = 0x7469_6465;

/// Whether keys of these types are told apart by their hashes.
pub(super) fn is_exact(types: &[DataType]) -> bool {
    use DataType::{Int8, Int16, Int32, Int64, Timestamp, UInt8, UInt16, UInt32};
    match types {
        [] => true,
        [only] => {
            matches!(only, Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | Timestamp(..))
        }
        _ => false,
    }
}

/// The hash of each row's keys, none of which is NULL.
pub(super) fn hashes(keys: &[ArrayRef], is_exact: bool, rows: usize) -> Result<Vec<u64>, OperatorError> {
    let mut hashes = vec![0; rows];
    match keys {
        [] => {}
        [only] if is_exact => {
            let numbers = cast(only, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>().values();
            for (hash, number) in hashes.iter_mut().zip(numbers) {
                *hash = mixed(number.cast_unsigned());
            }
        }
        many => {
            let done = create_hashes(many, &RandomState::with_seed(SEED), &mut hashes);
            done.map_err(|error| OperatorError::new(error.strip_backtrace()))?;
        }
    }
    Ok(hashes)
}

/// The finalizer of MurmurHash3 (fmix64): no two numbers have one result.
fn mixed(mut number: u64) -> u64 {
    number ^= number >> 33;
    number = number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^= number >> 33;
    number = number.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}
