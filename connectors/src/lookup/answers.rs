//! Answers as rows, each with the key that it belongs to.

use std::cell::RefCell;

use arrow::array::RecordBatch;
use tidegate_engine::codec::Decoder;
use tidegate_engine::error::RejectedRow;
use tidegate_engine::lookup::{Answers, LookupError};
use tidegate_engine::template::display;

use crate::format::RowFormat;

/// The answers to one request, as they come.
pub(crate) struct Collected {
    decoder: Box<dyn Decoder>,
    of: Vec<usize>,
    /// The keys of rows that do not fit, in the order they came.
    bad: RefCell<Vec<usize>>,
    refused: Vec<RejectedRow>,
}

impl Collected {
    pub(crate) fn new(format: &RowFormat) -> Collected {
        Collected { decoder: format.decoder(), of: Vec::new(), bad: RefCell::default(), refused: Vec::new() }
    }

    /// What is known of a key: JSON objects, or nothing. Keys come in order.
    pub(crate) fn add(&mut self, key: usize, json: &[u8]) {
        let text = json.trim_ascii();
        if text.is_empty() || text == b"null" {
            return;
        }
        let bad = &self.bad;
        let count = self.decoder.decode(text, &|_| {
            bad.borrow_mut().push(key);
            String::new()
        });
        self.of.extend(std::iter::repeat_n(key, count));
    }

    /// The key has an answer that cannot be used.
    pub(crate) fn refuse(&mut self, key: usize, reason: String) {
        self.refused.push(RejectedRow { row: key, reason });
    }

    pub(crate) fn finish(mut self) -> Answers {
        let decoded = self.decoder.finish();
        let bad = self.bad.into_inner().into_iter().zip(decoded.bad);
        self.refused.extend(bad.map(|(row, bad)| RejectedRow {
            row,
            reason: format!("the answer does not fit: {}", bad.reason),
        }));
        Answers { rows: decoded.batch, of: self.of, refused: self.refused }
    }
}

/// The values of each key, as text.
pub(crate) fn key_texts(keys: &RecordBatch) -> Result<Vec<Vec<String>>, LookupError> {
    let row = |row: usize| keys.columns().iter().map(|column| display(column, row)).collect::<Result<_, _>>();
    (0..keys.num_rows())
        .map(row)
        .collect::<Result<_, _>>()
        .map_err(|error| LookupError::Never(error.to_string()))
}
