//! The columns an MQTT source adds to those of the payload: levels of the
//! topic by name, and facts of the message that the file asks for.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, StringBuilder, UInt8Builder};
use arrow::datatypes::{DataType, Field};
use bytes::Bytes;

use super::link::Incoming;
use super::topic::Pattern;

/// The words of `columns = [..]`.
pub(super) const COLUMN_NAMES: &[&str] = &["topic", "qos", "retain"];

/// Topics whose levels are remembered; with more, the memory starts anew.
const TOPICS_MAX: usize = 10_000;

/// One of our own columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// The whole topic.
    Topic,
    /// The QoS it came with.
    Qos,
    /// Whether the broker had kept it.
    Retain,
    /// A level of the topic; NULL where the topic's pattern does not name it.
    Level(String),
}

impl Column {
    /// The column that a word of `columns` asks for.
    pub(super) fn from_word(word: &str) -> Option<Column> {
        Some(match word {
            "topic" => Column::Topic,
            "qos" => Column::Qos,
            "retain" => Column::Retain,
            _ => return None,
        })
    }

    /// Name, type and nullability.
    pub(super) fn field(&self) -> Field {
        match self {
            Column::Topic => Field::new("topic", DataType::Utf8, false),
            Column::Qos => Field::new("qos", DataType::UInt8, false),
            Column::Retain => Field::new("retain", DataType::Boolean, false),
            Column::Level(name) => Field::new(name, DataType::Utf8, true),
        }
    }
}

/// Levels of a topic, one for each `Column::Level`, in their order; `None` for
/// a topic that the file does not mean.
type Levels = Option<Arc<[Option<String>]>>;

/// Finds the levels of topics.
#[derive(Debug)]
pub(super) struct TopicReader {
    patterns: Vec<Pattern>,
    names: Vec<String>,
    known: HashMap<Bytes, Levels>,
}

impl TopicReader {
    /// For these patterns; `names` are the level columns.
    pub(super) fn new(patterns: Vec<Pattern>, columns: &[Column]) -> TopicReader {
        let name = |column: &Column| if let Column::Level(name) = column { Some(name.clone()) } else { None };
        TopicReader { patterns, names: columns.iter().filter_map(name).collect(), known: HashMap::new() }
    }

    /// The levels of a topic by the first pattern that means it.
    pub(super) fn levels(&mut self, topic: &Bytes) -> Levels {
        if let Some(levels) = self.known.get(topic) {
            return levels.clone();
        }
        let levels = self.find(&String::from_utf8_lossy(topic));
        if self.known.len() >= TOPICS_MAX {
            self.known.clear();
        }
        // A copy of its own: the bytes that came belong to a large read buffer.
        self.known.insert(Bytes::copy_from_slice(topic), levels.clone());
        levels
    }

    fn find(&self, topic: &str) -> Levels {
        let (pattern, captured) =
            self.patterns.iter().find_map(|pattern| Some((pattern, pattern.captures(topic)?)))?;
        let named: Vec<(&str, &str)> = pattern.names().zip(captured).collect();
        let level =
            |name: &String| named.iter().find(|(other, _)| other == name).map(|(_, word)| (*word).to_owned());
        Some(self.names.iter().map(level).collect())
    }
}

/// Gathers the values of our own columns beside the decoder's rows.
#[derive(Debug)]
pub(super) struct OwnRows {
    builders: Vec<Builder>,
}

#[derive(Debug)]
enum Builder {
    Topic(StringBuilder),
    Qos(UInt8Builder),
    Retain(BooleanBuilder),
    Level(usize, StringBuilder),
}

impl OwnRows {
    /// Empty columns.
    pub(super) fn new(columns: &[Column]) -> OwnRows {
        let mut level = 0;
        let builder = |column: &Column| match column {
            Column::Topic => Builder::Topic(StringBuilder::new()),
            Column::Qos => Builder::Qos(UInt8Builder::new()),
            Column::Retain => Builder::Retain(BooleanBuilder::new()),
            Column::Level(_) => {
                level += 1;
                Builder::Level(level - 1, StringBuilder::new())
            }
        };
        OwnRows { builders: columns.iter().map(builder).collect() }
    }

    /// Adds the message's values `rows` times.
    pub(super) fn append(&mut self, message: &Incoming, levels: &[Option<String>], rows: usize) {
        for builder in &mut self.builders {
            for _ in 0..rows {
                match builder {
                    Builder::Topic(all) => all.append_value(String::from_utf8_lossy(&message.topic)),
                    Builder::Qos(all) => all.append_value(message.qos),
                    Builder::Retain(all) => all.append_value(message.retain),
                    Builder::Level(index, all) => {
                        all.append_option(levels.get(*index).and_then(Option::as_deref));
                    }
                }
            }
        }
    }

    /// The columns gathered since the last call.
    pub(super) fn finish(&mut self) -> Vec<ArrayRef> {
        let finish = |builder: &mut Builder| -> ArrayRef {
            match builder {
                Builder::Topic(all) | Builder::Level(_, all) => Arc::new(all.finish()),
                Builder::Qos(all) => Arc::new(all.finish()),
                Builder::Retain(all) => Arc::new(all.finish()),
            }
        };
        self.builders.iter_mut().map(finish).collect()
    }
}
