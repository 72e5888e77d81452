//! From rows to messages: topic, key, headers, time and payload of each. A row
//! whose expressions fail is found by halving; only that row is refused.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::util::IntoOpaque;
use tidegate_engine::error::OperatorError;
use tidegate_engine::expression::Expression;
use tidegate_engine::template::{Template, display};

use super::is_topic_char;
use crate::row_encoder::RowEncoder;

/// What a message is made of.
pub(super) struct Recipe {
    /// The topic.
    pub(super) topic: Template,
    /// The key, if messages have one.
    pub(super) key: Option<Arc<dyn Expression>>,
    /// Headers by name.
    pub(super) headers: Vec<(String, Template)>,
    /// The column whose time is the message's time.
    pub(super) time: Option<usize>,
    /// The payload's form.
    pub(super) encoder: RowEncoder,
}

/// Messages of a batch, column by column.
pub(super) struct Messages {
    /// Rows of the batch that these messages are.
    pub(super) rows: Range<usize>,
    /// One topic for all, or one for each row.
    topics: Vec<String>,
    keys: Vec<Option<Vec<u8>>>,
    headers: Vec<(String, Vec<String>)>,
    times: Vec<Option<i64>>,
    payload: Vec<u8>,
    ends: Vec<usize>,
}

/// One message.
pub(super) struct OneMessage<'a> {
    /// Where to.
    pub(super) topic: &'a str,
    /// Its key.
    pub(super) key: Option<&'a [u8]>,
    /// Milliseconds since 1970.
    pub(super) time: Option<i64>,
    /// Its bytes.
    pub(super) payload: &'a [u8],
}

impl Messages {
    /// The message of the row with this index within `rows`.
    pub(super) fn get(&self, index: usize) -> Option<OneMessage<'_>> {
        let topic = self.topics.get(if self.topics.len() == 1 { 0 } else { index })?;
        let from = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        Some(OneMessage {
            topic,
            key: self.keys.get(index).and_then(Option::as_deref),
            time: self.times.get(index).copied().flatten(),
            payload: self.payload.get(from..*self.ends.get(index)?)?,
        })
    }

    /// The same as the client takes it; the delivery report carries `opaque`.
    pub(super) fn record<O: IntoOpaque>(
        &self,
        index: usize,
        opaque: O,
    ) -> Option<BaseRecord<'_, [u8], [u8], O>> {
        let message = self.get(index)?;
        let mut record = BaseRecord::with_opaque_to(message.topic, opaque).payload(message.payload);
        record.key = message.key;
        record.timestamp = message.time;
        let mut headers = self.headers(index).peekable();
        if headers.peek().is_some() {
            let all = headers.fold(OwnedHeaders::new(), |all, (key, value)| {
                all.insert(Header { key, value: Some(value) })
            });
            record.headers = Some(all);
        }
        Some(record)
    }

    /// Names and values of a row's headers.
    pub(super) fn headers(&self, index: usize) -> impl Iterator<Item = (&str, &str)> {
        self.headers
            .iter()
            .filter_map(move |(name, values)| Some((name.as_str(), values.get(index)?.as_str())))
    }
}

impl Recipe {
    /// The messages of these rows of a batch.
    ///
    /// # Errors
    /// A row, not named here, on which an expression fails.
    pub(super) fn render(
        &mut self,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<Messages, OperatorError> {
        let part = batch.slice(rows.start, rows.len());
        let topics = match self.topic.as_literal() {
            Some(topic) => vec![topic],
            None => self.topic.render(&part, &as_topic_part)?,
        };
        let keys = match &self.key {
            Some(key) => key_bytes(&key.evaluate(&part)?)?,
            None => Vec::new(),
        };
        let mut headers = Vec::with_capacity(self.headers.len());
        for (name, template) in &self.headers {
            headers.push((name.clone(), template.render(&part, &str::to_owned)?));
        }
        let times = self.time.and_then(|index| part.columns().get(index)).map(millis).unwrap_or_default();
        let (mut payload, mut ends) = (Vec::new(), Vec::with_capacity(rows.len()));
        self.encoder.encode(&part, &mut payload, &mut ends).map_err(OperatorError)?;
        Ok(Messages { rows, topics, keys, headers, times, payload, ends })
    }
}

/// Inserted values may not leave Kafka's alphabet of topic names.
fn as_topic_part(value: &str) -> String {
    value.chars().map(|c| if is_topic_char(c) { c } else { '_' }).collect()
}

/// Bytes as they are, everything else as text; NULL is no key.
fn key_bytes(keys: &ArrayRef) -> Result<Vec<Option<Vec<u8>>>, OperatorError> {
    let binary = (keys.data_type() == &DataType::Binary).then(|| keys.as_binary::<i32>());
    (0..keys.len())
        .map(|row| match binary {
            _ if keys.is_null(row) => Ok(None),
            Some(binary) => Ok(Some(binary.value(row).to_vec())),
            None => display(keys, row).map(|text| Some(text.into_bytes())),
        })
        .collect()
}

/// Event times as Kafka has them; times before 1970 have no form there.
fn millis(times: &ArrayRef) -> Vec<Option<i64>> {
    let Some(times) = times.as_primitive_opt::<TimestampMicrosecondType>() else { return Vec::new() };
    times
        .iter()
        .map(|time| time.map(|micros| micros.div_euclid(1_000)).filter(|millis| *millis >= 0))
        .collect()
}
