//! What the tests of this folder share: nodes built from a topology's text,
//! sources read until enough rows came, each with a time limit.

#![allow(dead_code, reason = "not every test file uses every helper")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

pub(crate) mod certificates;
pub(crate) mod job;
pub(crate) mod kafka;
pub(crate) mod kafka_real;
pub(crate) mod metrics;
pub(crate) mod mosquitto;
pub(crate) mod mqtt_fake;
pub(crate) mod parts;
pub(crate) mod topology;

use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use tidegate_connectors::{SINKS, SOURCES};
use tidegate_engine::operator::Input;
use tidegate_engine::sink::SinkPart;
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart};
use tidegate_engine::topology::node::BuildContext;

/// Longest that anything in a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Builds `[source.s]` with these keys.
pub(crate) fn source(kind: &str, keys: &str, context: &BuildContext) -> SourcePart {
    let config = topology::node(&format!("[source.s]\ntype = \"{kind}\"\n{keys}"));
    let row = SOURCES.iter().find(|row| row.name == kind).expect("the source is in the table");
    (row.build)(&config, context).expect("the source builds")
}

/// Builds `[sink.k]` with these keys for rows like those of `batch`.
pub(crate) fn sink(kind: &str, keys: &str, input: &Input, context: &BuildContext) -> SinkPart {
    let config = topology::node(&format!("[sink.k]\ntype = \"{kind}\"\nfrom = \"s\"\n{keys}"));
    let row = SINKS.iter().find(|row| row.name == kind).expect("the sink is in the table");
    (row.build)(&config, context, input).expect("the sink builds")
}

/// What a source gave.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Every item, in order.
    pub(crate) items: Vec<Rows>,
    /// Whether it ended.
    pub(crate) ended: bool,
    /// The partitions that it named last.
    pub(crate) partitions: Vec<u32>,
}

impl Read {
    /// Good rows.
    pub(crate) fn rows(&self) -> usize {
        self.items.iter().map(|item| item.batch.num_rows()).sum()
    }

    /// Rejected rows.
    pub(crate) fn rejects(&self) -> usize {
        self.items.iter().filter_map(|item| item.rejects.as_ref()).map(RecordBatch::num_rows).sum()
    }

    /// The values of a text column, in order.
    pub(crate) fn texts(&self, column: &str) -> Vec<String> {
        let of = |item: &Rows| {
            let values = item.batch.column_by_name(column).expect("the column is there");
            let values = values.as_string::<i32>().iter();
            values.map(|value| value.unwrap_or("NULL").to_owned()).collect::<Vec<_>>()
        };
        self.items.iter().flat_map(of).collect()
    }

    /// A text column of the rejected rows, in order.
    pub(crate) fn rejected(&self, column: &str) -> Vec<String> {
        let of = |batch: &RecordBatch| {
            let values = batch.column_by_name(column).expect("the column is there");
            values.as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
        };
        self.items.iter().filter_map(|item| item.rejects.as_ref()).flat_map(of).collect()
    }

    /// The values of a whole-number column, in order.
    pub(crate) fn numbers(&self, column: &str) -> Vec<i64> {
        let of = |item: &Rows| {
            let values = item.batch.column_by_name(column).expect("the column is there");
            values.as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
        };
        self.items.iter().flat_map(of).collect()
    }

    /// The position after everything read.
    pub(crate) fn position(&self) -> Position {
        self.items.last().expect("something was read").position.clone()
    }
}

/// Reads until `rows` good and bad rows came or the source ended.
pub(crate) async fn read(source: &mut dyn Source, rows: usize) -> Read {
    let mut read = Read::default();
    let reading = async {
        while read.rows() + read.rejects() < rows {
            match source.next().await.expect("the source reads") {
                Polled::Rows(item) => read.items.push(item),
                Polled::Partitions(ours) => read.partitions = ours,
                Polled::End => {
                    read.ended = true;
                    break;
                }
            }
        }
    };
    let outcome = tokio::time::timeout(LIMIT, reading).await;
    assert!(outcome.is_ok(), "{} of {rows} rows came in {LIMIT:?}", read.rows() + read.rejects());
    read
}

/// Reads until the source ends.
pub(crate) async fn read_to_end(source: &mut dyn Source) -> Read {
    let all = read(source, usize::MAX).await;
    assert!(all.ended);
    all
}

/// Whether no rows come for this long.
pub(crate) async fn is_silent(source: &mut dyn Source, span: Duration) -> bool {
    let anything = async { while let Ok(Polled::Partitions(_)) = source.next().await {} };
    tokio::time::timeout(span, anything).await.is_err()
}

/// Rows that come within this time.
pub(crate) async fn within(source: &mut dyn Source, span: Duration) -> Read {
    let mut read = Read::default();
    let next = async {
        loop {
            match source.next().await.expect("the source reads") {
                Polled::Rows(item) => return read.items.push(item),
                Polled::Partitions(ours) => read.partitions = ours,
                Polled::End => panic!("the source has ended"),
            }
        }
    };
    // Nothing in time is an answer too.
    tokio::time::timeout(span, next).await.ok();
    read
}

/// Each number of the range once, in any order.
pub(crate) fn assert_each_once(numbers: impl IntoIterator<Item = i64>, range: std::ops::Range<i64>) {
    let mut numbers: Vec<i64> = numbers.into_iter().collect();
    numbers.sort_unstable();
    let doubled: Vec<_> = numbers.windows(2).filter(|pair| pair[0] == pair[1]).take(5).collect();
    assert!(doubled.is_empty(), "came twice, among others: {doubled:?}");
    let missing: Vec<_> = range.clone().filter(|n| numbers.binary_search(n).is_err()).collect();
    assert!(missing.is_empty(), "{} of {range:?} missing, first {:?}", missing.len(), missing.first());
    assert_eq!(numbers.len(), range.count(), "more than was asked for");
}

/// Waits until `is` holds.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waiting).await.is_ok(), "{what} within {LIMIT:?}");
}
