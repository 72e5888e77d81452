//! The marker of a sink that writes exactly once: how far it is, written in the
//! same transaction as its rows, to one partition of a compacted topic.
//!
//! Offsets of a consumer group would need no topic. But brokers forget the
//! offsets of a group without members after a week (`offsets.retention.minutes`,
//! KIP-211), and a sink that stood still over the holidays would write rows
//! twice. Kafka Connect keeps its sources' offsets as it is done here (KIP-618).
//!
//! Beside the marker stands its owner: the process that began to write last.
//! The brokers say "fenced" alike to a producer whose transaction has timed out
//! and to one whose place another process has taken; the owner tells which. A
//! process that has lost the marker to another never takes it back.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Table;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{is_topic, wrong_topic};
use crate::sink_log::RemoteError;

/// The only partition that is used: order tells which marker is the last one.
pub(super) const PARTITION: i32 = 0;
/// The topic, if none is named.
const TOPIC: &str = "_tidegate_epochs";
/// Shortest time-out of a transaction that librdkafka takes.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// What is not compacted yet is read at each connection.
const SEGMENT_BYTES: &str = "16777216";
/// Longest wait for one answer about the topic: three of them in one connection.
const ASK_MAX: Duration = Duration::from_secs(2);
/// How long one look for messages takes.
const POLL: Duration = Duration::from_millis(100);

/// Where a sink's marker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: String,
    /// The transactional id, which is the marker's key.
    pub(super) id: String,
}

/// What the topic says of one sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The last epoch that was committed; 0 if none.
    pub(super) epoch: u64,
    /// Who began to write last.
    pub(super) owner: Option<String>,
}

pub(super) fn is_exactly_once(table: &Table) -> bool {
    table.str("delivery") == Some("exactly_once")
}

/// The place of a sink's marker; `None` if it has none. Keys that contradict
/// each other are told.
pub(super) fn place(
    config: &NodeConfig,
    context: &BuildContext,
    problems: &mut Vec<Diagnostic>,
) -> Option<Place> {
    let table = &config.table;
    let mut wrong = |key: &str, message: String, help: &str| {
        let problem = Diagnostic::error("TG-K007", message).at(table.span_of(key));
        problems.push(problem.help(help.to_owned()));
    };
    if !is_exactly_once(table) {
        for key in ["transactional_id", "marker_topic"] {
            if table.text(key).is_some() {
                let message = format!("`{key}` is used with `delivery = \"exactly_once\"` only");
                wrong(key, message, "write delivery = \"exactly_once\", or remove the key");
            }
        }
        return None;
    }
    if table.bool("idempotent") == Some(false) {
        let message = "`delivery = \"exactly_once\"` needs a producer that is idempotent".to_owned();
        wrong("idempotent", message, "remove `idempotent`, or write delivery = \"at_least_once\"");
    }
    if table.duration("delivery_timeout").is_some_and(|timeout| timeout < TIMEOUT_MIN) {
        let message = "a transaction has at least 1 s of time".to_owned();
        wrong("delivery_timeout", message, "write delivery_timeout = \"1m\", or remove the key");
    }
    let id = table.str("transactional_id").map(str::to_owned);
    if id.as_deref().is_some_and(str::is_empty) {
        let message = "`transactional_id` is empty".to_owned();
        wrong("transactional_id", message, "choose a name that no other sink of the cluster has");
    }
    let topic = table.str("marker_topic").unwrap_or(TOPIC).to_owned();
    if table.str("topic") == Some(topic.as_str()) {
        let message = format!("`{topic}` is the topic of the markers, and keeps no rows");
        wrong("topic", message, "choose another topic for the rows");
    }
    let id = id.unwrap_or_else(|| format!("{}/{}", context.topology, config.name));
    let brokers: Vec<_> = table.texts("brokers").into_iter().map(|broker| broker.value.as_str()).collect();
    let name = format!("{id} at {}", brokers.join(","));
    let user = context.shared.get_or_insert(&name, || IdUser(config.name.clone()));
    if user.0 != config.name {
        let message = format!("`{}` has the transactional id `{id}` too: each would fence the other", user.0);
        wrong("transactional_id", message, "give each sink its own `transactional_id`");
    }
    if let Some(text) = table.text("marker_topic").filter(|text| !is_topic(&text.value)) {
        problems.push(wrong_topic(text));
    }
    Some(Place { topic, id })
}

/// The sink that has a transactional id.
struct IdUser(String);

impl Place {
    /// Key of the record that names the owner.
    pub(super) fn owner_key(&self) -> String {
        format!("{} owner", self.id)
    }

    /// Takes one record of the topic; those of other sinks mean nothing here.
    fn take(&self, seen: &mut Seen, key: &[u8], value: Option<&[u8]>) -> Result<(), RemoteError> {
        if key == self.id.as_bytes() {
            seen.epoch = match value {
                None => 0,
                Some(value) => text(value).parse().map_err(|_| {
                    let (topic, id) = (&self.topic, &self.id);
                    RemoteError::Fatal(format!(
                        "the marker `{id}` in the topic {topic} is `{}`, and no epoch",
                        text(value)
                    ))
                })?,
            };
        } else if key == self.owner_key().as_bytes() {
            seen.owner = value.map(text);
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads the topic from its beginning, what is committed only.
pub(super) struct Reader {
    consumer: BaseConsumer<Quiet>,
    place: Place,
    pub(super) seen: Seen,
}

impl Reader {
    /// Blocks until the topic answers; makes it if it is not there.
    ///
    /// # Errors
    /// `Lost`, also for a topic in which markers would expire.
    pub(super) fn open(
        config: &ClientConfig,
        place: &Place,
        is_checked: bool,
    ) -> Result<Reader, RemoteError> {
        let mut config = config.clone();
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        config.set("enable.auto.commit", "false").set("auto.offset.reset", "earliest");
        // It joins no group; without a name nothing can be assigned.
        config.set("group.id", &place.id).set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer<Quiet> =
            config.create_with_context(Quiet).map_err(|error| lost(&error))?;
        let reader = Reader { consumer, place: place.clone(), seen: Seen::default() };
        if !is_checked {
            reader.prepare(&config)?;
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&place.topic, PARTITION, Offset::Beginning)
            .map_err(|error| lost(&error))?;
        reader.consumer.assign(&list).map_err(|error| lost(&error))?;
        Ok(reader)
    }

    /// Reads what is committed now. What stands behind a transaction that is
    /// under way is not seen.
    ///
    /// # Errors
    /// `Lost`; `Fatal` for a marker that is none.
    pub(super) fn read_to_end(&mut self, until: Instant) -> Result<(), RemoteError> {
        self.read(until, |_, is_end| is_end)
    }

    /// Reads until this owner is seen: every earlier transaction is over then.
    ///
    /// # Errors
    /// As `read_to_end`.
    pub(super) fn read_to_owner(&mut self, owner: &str, until: Instant) -> Result<(), RemoteError> {
        self.read(until, |seen, _| seen.owner.as_deref() == Some(owner))
    }

    fn read(&mut self, until: Instant, is_done: impl Fn(&Seen, bool) -> bool) -> Result<(), RemoteError> {
        let mut reason = "a transaction of another sink is under way there".to_owned();
        while Instant::now() < until {
            let is_end = match self.consumer.poll(POLL) {
                None => false,
                Some(Err(KafkaError::PartitionEOF(_))) => true,
                Some(Err(error)) => {
                    reason = error.to_string();
                    false
                }
                Some(Ok(message)) => {
                    self.place.take(&mut self.seen, message.key().unwrap_or_default(), message.payload())?;
                    false
                }
            };
            if is_done(&self.seen, is_end) {
                return Ok(());
            }
        }
        let topic = &self.place.topic;
        Err(RemoteError::Lost(format!(
            "kafka: the marker topic {topic} is not read to its end yet: {reason}"
        )))
    }

    fn exists(&self) -> Result<bool, RemoteError> {
        let topic = &self.place.topic;
        let metadata = self.consumer.fetch_metadata(Some(topic), ASK_MAX).map_err(|error| lost(&error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(false);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(found.partitions().iter().any(|partition| partition.id() == PARTITION)),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(false),
            Some(error) => Err(RemoteError::Lost(format!("kafka: the marker topic {topic}: {error}"))),
        }
    }

    /// Makes the topic if it is missing, and looks whether its markers stay.
    fn prepare(&self, config: &ClientConfig) -> Result<(), RemoteError> {
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(|error| lost(&error))?;
        let options = AdminOptions::new().request_timeout(Some(ASK_MAX)).operation_timeout(Some(ASK_MAX));
        let topic = self.place.topic.as_str();
        if !self.exists()? {
            let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1))
                .set("cleanup.policy", "compact")
                .set("segment.bytes", SEGMENT_BYTES);
            let made = Handle::current().block_on(admin.create_topics(&[new], &options));
            let made = made.map_err(|error| lost(&error))?;
            // Another sink may have made it at the same moment.
            let is_failure = |error: &RDKafkaErrorCode| *error != RDKafkaErrorCode::TopicAlreadyExists;
            let failed = made.into_iter().filter_map(Result::err).map(|(_, error)| error).find(is_failure);
            if let Some(error) = failed {
                return Err(RemoteError::Lost(format!(
                    "kafka: the marker topic {topic} is not there and cannot be made: {error}; make it with one \
                     partition and cleanup.policy=compact"
                )));
            }
        }
        let asked = [ResourceSpecifier::Topic(topic)];
        let told = Handle::current().block_on(admin.describe_configs(&asked, &options));
        let policy = told.ok().and_then(|told| told.into_iter().next()).and_then(Result::ok);
        let policy = policy.and_then(|settings| settings.get("cleanup.policy")?.value.clone());
        match policy.as_deref() {
            Some("compact") => Ok(()),
            None => {
                tracing::warn!(
                    topic,
                    "the brokers do not tell whether markers of sinks expire in this topic"
                );
                Ok(())
            }
            Some(policy) => Err(RemoteError::Lost(format!(
                "kafka: markers would expire in the topic {topic}, whose cleanup.policy is {policy}: set it to compact"
            ))),
        }
    }
}

/// A consumer whose errors are told where it is read.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, line: &str) {
        tracing::debug!(facility, "librdkafka: {line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("librdkafka: {error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}

pub(super) fn lost(error: &KafkaError) -> RemoteError {
    RemoteError::Lost(format!("kafka: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build_context, node};

    #[test]
    fn the_last_record_of_a_sink_counts_and_those_of_others_do_not() {
        let place = Place { topic: "m".into(), id: "press/out".into() };
        let mut seen = Seen::default();
        let records: [(&str, Option<&str>); 6] = [
            ("press/out", Some("7")),
            ("press/out owner", Some("a 0")),
            ("press/out2", Some("99")),
            ("press/out", Some("12")),
            ("press/out2 owner", Some("b 0")),
            ("", Some("x")),
        ];
        for (key, value) in records {
            place.take(&mut seen, key.as_bytes(), value.map(str::as_bytes)).expect("is read");
        }
        assert_eq!(seen, Seen { epoch: 12, owner: Some("a 0".into()) });
        place.take(&mut seen, b"press/out", None).expect("a tombstone");
        assert_eq!(seen.epoch, 0);
        let wrong = place.take(&mut seen, b"press/out", Some(b"many"));
        assert!(matches!(wrong, Err(RemoteError::Fatal(reason)) if reason.contains("`many`")));
    }

    fn placed(body: &str) -> (Option<Place>, Vec<(&'static str, Option<String>)>) {
        let text = format!("[sink.out]\ntype = \"kafka\"\nfrom = \"s\"\ntopic = \"t\"\n{body}");
        let mut problems = Vec::new();
        let place = place(&node(&text), &build_context(), &mut problems);
        let told = |problem: Diagnostic| {
            let at = problem.span.map(|span| text.get(span).unwrap_or_default().to_owned());
            (problem.code, at)
        };
        (place, problems.into_iter().map(told).collect())
    }

    #[test]
    fn keys_that_contradict_each_other_are_told() {
        assert_eq!(placed(""), (None, Vec::new()));
        let found = placed("delivery = \"exactly_once\"\n");
        assert_eq!(found, (Some(Place { topic: TOPIC.into(), id: "test/out".into() }), Vec::new()));
        let own = "delivery = \"exactly_once\"\ntransactional_id = \"x\"\nmarker_topic = \"m\"\n";
        assert_eq!(placed(own).0, Some(Place { topic: "m".into(), id: "x".into() }));
        for (body, code) in [
            ("transactional_id = \"x\"\n", "TG-K007"),
            ("delivery = \"at_least_once\"\nmarker_topic = \"m\"\n", "TG-K007"),
            ("delivery = \"exactly_once\"\nidempotent = false\n", "TG-K007"),
            ("delivery = \"exactly_once\"\ndelivery_timeout = \"999ms\"\n", "TG-K007"),
            ("delivery = \"exactly_once\"\ntransactional_id = \"\"\n", "TG-K007"),
            ("delivery = \"exactly_once\"\nmarker_topic = \"t\"\n", "TG-K007"),
            ("delivery = \"exactly_once\"\nmarker_topic = \"a b\"\n", "TG-K005"),
        ] {
            let (_, problems) = placed(body);
            assert_eq!(problems.iter().map(|(code, _)| *code).collect::<Vec<_>>(), [code], "{body}");
        }
    }
}
