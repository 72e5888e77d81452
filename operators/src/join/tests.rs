//! The store: chunks are put together and thinned out, and a number finds its
//! row all the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;

use super::store::{Rows, Store};

/// Rows of these times; their key is the time's last digit, their value the time.
fn rows(times_us: &[i64]) -> Rows {
    let column: ArrayRef = Arc::new(Int64Array::from(times_us.to_vec()));
    Rows {
        batch: RecordBatch::try_from_iter([("n", column)]).expect("one column"),
        hashes: times_us.iter().map(|time| time.rem_euclid(10).cast_unsigned()).collect(),
        times_us: times_us.to_vec(),
        matched: vec![false; times_us.len()],
    }
}

/// Values of the rows of a key from one time to another.
fn found(store: &Store, hash: u64, from_us: i64, to_us: i64) -> Vec<i64> {
    let index = store.index().expect("looked up");
    let numbers: Vec<u64> = index.between(hash, from_us, to_us).map(|entry| entry.number).collect();
    let places = store.places(&numbers);
    assert_eq!(places.len(), numbers.len());
    if places.is_empty() {
        return Vec::new();
    }
    let column = store.gather(&places).expect("gathers").column(0).expect("a column");
    column.as_primitive::<Int64Type>().values().to_vec()
}

#[test]
fn single_rows_make_few_chunks() {
    let mut store = Store::new(true);
    for time in 0..3_000 {
        store.push(rows(&[time ^ 5])).expect("keeps");
    }
    assert!(store.chunk_lens().len() <= 12, "{:?}", store.chunk_lens());
    assert_eq!(found(&store, 3, 100, 130), [103, 113, 123]);
    let left = store.leave(Some(110));
    assert_eq!(left.len(), 110);
    store.sweep().expect("sweeps");
    assert_eq!(found(&store, 3, 100, 130), [113, 123]);
    assert_eq!(store.leave(None).len(), 2_890);
    store.sweep().expect("sweeps");
    assert!(store.is_empty());
}

/// A row of next year must not keep those of its chunk.
#[test]
fn what_is_mostly_gone_becomes_small() {
    let mut store = Store::new(true);
    for chunk in 0..4 {
        let mut times: Vec<i64> = (0..8_000).map(|row| chunk * 8_000 + row).collect();
        times[17] = 1_000_003 + chunk;
        store.push(rows(&times)).expect("keeps");
    }
    assert_eq!(store.chunk_lens(), [8_000; 4]);
    assert_eq!(store.leave(Some(40_000)).len(), 31_996);
    store.sweep().expect("sweeps");
    assert_eq!(store.chunk_lens().iter().sum::<usize>(), 4, "{:?}", store.chunk_lens());
    store.push(rows(&[1_000_013])).expect("keeps");
    assert_eq!(found(&store, 3, 0, i64::MAX), [1_000_003, 1_000_013]);
    assert_eq!(found(&store, 5, 0, i64::MAX), [1_000_005]);
    assert_eq!(store.oldest_unmatched(), Some(1_000_003));
    let first = store.places(&[17]);
    store.set_matched(first[0]);
    assert_eq!(store.oldest_unmatched(), Some(1_000_004));
    store.remove(&store.unmatched());
    store.sweep().expect("sweeps");
    assert_eq!(store.live().expect("rows").iter().map(|(rows, _)| rows.num_rows()).sum::<usize>(), 1);
}
