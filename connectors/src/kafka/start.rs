//! Where a partition begins that neither a checkpoint nor the group knows. The
//! answer is an explicit offset wherever it can be, so that a partition never
//! jumps to its end by itself.

use std::collections::HashMap;
use std::time::Duration;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::value::{Data, Table};

/// How long one question to the brokers may take: twice a leader election.
const ASK_MAX: Duration = Duration::from_secs(10);

/// Kinds of the key `start`.
pub(super) const START: Kind = Kind::AnyOf(&[Kind::Word(&["earliest", "latest"]), Kind::Table(START_KEYS)]);

const START_KEYS: &[Key] = &[
    optional("time", Kind::Text, "first message of this time or later, as RFC 3339"),
    optional(
        "offsets",
        Kind::Map(&Kind::Int(0, i64::MAX)),
        "offsets by partition, e.g. { \"orders/0\" = 1042 }; others begin at their earliest",
    ),
];

/// The meaning of `start`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The oldest message kept.
    Earliest,
    /// What comes from now on.
    Latest,
    /// The first message at or after this time, in milliseconds since 1970.
    Time(i64),
    /// These offsets; other partitions as `Earliest`.
    Offsets(HashMap<(String, i32), i64>),
}

impl Start {
    /// Reads the key `start` of a node.
    pub(super) fn from_table(table: &Table, problems: &mut Vec<Diagnostic>) -> Start {
        if let Some(inner) = table.table("start") {
            return Start::from_inner(inner, problems);
        }
        match table.str("start") {
            Some("latest") => Start::Latest,
            _ => Start::Earliest,
        }
    }

    fn from_inner(inner: &Table, problems: &mut Vec<Diagnostic>) -> Start {
        match (inner.text("time"), inner.table("offsets")) {
            (Some(time), None) => {
                // Nanoseconds hold the years 1677 to 2262.
                if let Ok(nanos) = string_to_timestamp_nanos(&time.value) {
                    return Start::Time(nanos.div_euclid(1_000_000));
                }
                let message = format!("`{}` is not a time", time.value);
                let problem = Diagnostic::error("TG-K004", message).at(time.span.clone());
                problems.push(problem.help("write RFC 3339, e.g. \"2026-11-23T12:00:00Z\""));
            }
            (None, Some(offsets)) => return Start::Offsets(named_offsets(offsets, problems)),
            (_, _) => {
                let problem = Diagnostic::error("TG-K004", "`start` is either `time` or `offsets`");
                problems.push(problem.at(inner.span.clone()));
            }
        }
        Start::Earliest
    }

    /// Sets the offset of every partition of `list` that has none: what the
    /// group committed, else what this start means.
    ///
    /// # Errors
    /// The brokers did not answer in time.
    pub(super) fn place<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        list: &mut TopicPartitionList,
    ) -> KafkaResult<()> {
        if list.count() == 0 {
            return Ok(());
        }
        let committed = consumer.committed_offsets(list.clone(), ASK_MAX)?;
        let mut asked = TopicPartitionList::new();
        for place in committed.elements() {
            if let known @ Offset::Offset(_) = place.offset() {
                list.set_partition_offset(place.topic(), place.partition(), known)?;
            } else {
                self.place_one(consumer, place.topic(), place.partition(), list, &mut asked)?;
            }
        }
        if asked.count() == 0 {
            return Ok(());
        }
        for place in consumer.offsets_for_times(asked, ASK_MAX)?.elements() {
            list.set_partition_offset(place.topic(), place.partition(), place.offset())?;
        }
        Ok(())
    }

    fn place_one<C: ConsumerContext>(
        &self,
        consumer: &BaseConsumer<C>,
        topic: &str,
        partition: i32,
        list: &mut TopicPartitionList,
        asked: &mut TopicPartitionList,
    ) -> KafkaResult<()> {
        let offset = match self {
            Start::Earliest => Offset::Beginning,
            Start::Latest => Offset::Offset(consumer.fetch_watermarks(topic, partition, ASK_MAX)?.1),
            Start::Time(millis) => {
                return asked.add_partition_offset(topic, partition, Offset::Offset(*millis));
            }
            Start::Offsets(offsets) => {
                let named = offsets.get(&(topic.to_owned(), partition));
                named.map_or(Offset::Beginning, |offset| Offset::Offset(*offset))
            }
        };
        list.set_partition_offset(topic, partition, offset)
    }
}

fn named_offsets(offsets: &Table, problems: &mut Vec<Diagnostic>) -> HashMap<(String, i32), i64> {
    let mut named = HashMap::new();
    for entry in &offsets.entries {
        let partition =
            entry.key.rsplit_once('/').and_then(|(topic, number)| Some((topic, number.parse::<i32>().ok()?)));
        match (partition, &entry.value.data) {
            (Some((topic, number)), Data::Int(offset)) if !topic.is_empty() && number >= 0 => {
                named.insert((topic.to_owned(), number), *offset);
            }
            (_, _) => {
                let message = format!("`{}` does not name a partition", entry.key);
                let problem = Diagnostic::error("TG-K004", message).at(entry.key_span.clone());
                problems.push(problem.help("write topic/partition, e.g. \"orders/0\" = 1042"));
            }
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::node;

    fn read(line: &str) -> (Start, usize) {
        let config = node(&format!("[source.s]\ntype = \"kafka\"\n{line}\n"));
        let mut problems = Vec::new();
        (Start::from_table(&config.table, &mut problems), problems.len())
    }

    #[test]
    fn reads_every_kind_of_start() {
        assert_eq!(read(""), (Start::Earliest, 0));
        assert_eq!(read("start = \"latest\""), (Start::Latest, 0));
        // `date -d 2026-11-23T12:00:00Z +%s` prints 1795435200.
        assert_eq!(read("start = { time = \"2026-11-23T12:00:00Z\" }"), (Start::Time(1_795_435_200_000), 0));
        let offsets = HashMap::from([(("orders".to_owned(), 3), 1042)]);
        assert_eq!(read("start = { offsets = { \"orders/3\" = 1042 } }"), (Start::Offsets(offsets), 0));
    }

    #[test]
    fn wrong_starts_are_messages() {
        assert_eq!(read("start = { time = \"yesterday\" }").1, 1);
        assert_eq!(read("start = { offsets = { orders = 1, \"x/-1\" = 2 } }").1, 2);
        assert_eq!(read("start = { }").1, 1);
    }
}
