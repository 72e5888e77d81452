//! Rows and the marker of their epoch in one transaction of Kafka. Whatever
//! fails, there is one way back: the transaction is aborted, a new producer
//! fences the old one and waits until what was left under way is over, and only
//! then the marker is read. librdkafka cannot resume a prepared transaction, so
//! the rows come again from the sink's log. All steps block, on threads that may.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tidegate_engine::error::{ConnectorError, OperatorError};
use tokio::time::Instant;

use super::client::ClientSettings;
use super::is_topic;
use super::marker::{PARTITION, Place, Reader, lost};
use super::render::{Messages, Recipe};
use super::reports::{Lines, is_final};
use super::suspects::{Suspects, Watch, fingerprint};
use crate::sink_log::{Remote, RemoteError};

/// Whoever calls gives up a connection after 10 s, and a step after 60 s.
const CONNECT_MAX: Duration = Duration::from_secs(9);
const STEP_MAX: Duration = Duration::from_secs(55);
/// Readers are held up until a transaction is aborted; the brokers do it, too.
const ABORT_MAX: Duration = Duration::from_secs(2);
/// How long a full queue is left alone.
const FULL_WAIT: Duration = Duration::from_millis(1);
/// librdkafka's limit of a message, if the file sets none.
const MESSAGE_BYTES_MAX: usize = 1_000_000;
/// What it adds to a message's key and payload.
const MESSAGE_HEAD_BYTES: usize = 36;

/// Settings of the two clients.
pub(super) struct Clients {
    /// Of the one that reads the marker.
    pub(super) reading: ClientSettings,
    pub(super) producing: ClientSettings,
}

/// The remote side.
pub(super) struct Transactions {
    node: String,
    clients: Clients,
    place: Place,
    recipe: Arc<Mutex<Recipe>>,
    suspects: Arc<Suspects>,
    /// Names this process among owners of the marker.
    instance: String,
    openings: u64,
    /// Whether this process has been the owner.
    was_owner: bool,
    /// Whether the topic of markers is known to be right.
    is_checked: bool,
    /// From a look until the connection that follows.
    reader: Option<Reader>,
    /// Lent to a thread that may block while a step is under way.
    session: Option<Session>,
    /// The last transaction was sent carefully; the next one need not be.
    is_slow: bool,
}

impl Transactions {
    pub(super) fn new(node: &str, clients: Clients, place: Place, recipe: Recipe) -> Transactions {
        Transactions {
            node: node.to_owned(),
            clients,
            place,
            recipe: Arc::new(Mutex::new(recipe)),
            suspects: Arc::default(),
            instance: format!("{:016x}", RandomState::new().hash_one(node)),
            openings: 0,
            was_owner: false,
            is_checked: false,
            reader: None,
            session: None,
            is_slow: false,
        }
    }

    /// Does one step where blocking is allowed. What fails or is given up leaves
    /// no session behind; refused rows leave it.
    async fn step<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T, RemoteError> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let Some(mut session) = self.session.take() else {
            return Err(RemoteError::Lost("kafka: there is no producer".into()));
        };
        let (session, done) = on_thread(move || {
            let done = work(&mut session);
            let stays = !matches!(done, Err(RemoteError::Lost(_) | RemoteError::Fatal(_)));
            Ok((stays.then_some(session), done))
        })
        .await?;
        self.session = session;
        done
    }

    async fn open_reader(&mut self) -> Result<Reader, RemoteError> {
        if let Some(reader) = self.reader.take() {
            return Ok(reader);
        }
        let (settings, place) = (resolve(&self.clients.reading)?, self.place.clone());
        let is_checked = self.is_checked;
        let reader = on_thread(move || Reader::open(&settings, &place, is_checked)).await?;
        self.is_checked = true;
        Ok(reader)
    }
}

#[async_trait]
impl Remote for Transactions {
    async fn look(&mut self) -> Result<Option<u64>, RemoteError> {
        if let Some(session) = self.session.take() {
            let_go(session).await?;
        }
        let mut reader = self.open_reader().await?;
        let reader = on_thread(move || {
            reader.read_to_end(Instant::now() + CONNECT_MAX)?;
            Ok(reader)
        });
        let reader = reader.await?;
        let seen = reader.seen.clone();
        self.reader = Some(reader);
        let is_ours = |owner: &String| owner.starts_with(&self.instance);
        if self.was_owner && !seen.owner.as_ref().is_none_or(is_ours) {
            return Err(RemoteError::Fatal(format!(
                "another process writes with the transactional id `{}` since then, and this one must not: stop one of \
                 them, or give one its own `transactional_id`",
                self.place.id
            )));
        }
        Ok(Some(seen.epoch))
    }

    async fn connect(&mut self) -> Result<u64, RemoteError> {
        let until = Instant::now() + CONNECT_MAX;
        let mut reader = self.open_reader().await?;
        let mut settings = resolve(&self.clients.producing)?;
        settings.set("transactional.id", &self.place.id);
        let is_careful = self.suspects.prepare(&mut settings);
        let (lines, suspects) = (Lines::new(&self.node), Arc::clone(&self.suspects));
        let watch = Watch::new(lines, suspects, is_careful);
        let owner = format!("{} {}", self.instance, self.openings);
        self.openings += 1;
        let place = self.place.clone();
        let session = on_thread(move || {
            let mut session = Session::open(&settings, watch, place)?;
            session.own(&owner, until)?;
            reader.read_to_owner(&owner, until)?;
            session.marker = reader.seen.epoch;
            Ok(session)
        });
        let session = session.await?;
        let marker = session.marker;
        self.session = Some(session);
        self.was_owner = true;
        self.is_slow = is_careful;
        Ok(marker)
    }

    async fn begin(&mut self) -> Result<u64, RemoteError> {
        if self.session.is_none() && self.is_slow {
            self.connect().await?;
        }
        self.step(Session::begin).await
    }

    async fn insert(&mut self, rows: &RecordBatch) -> Result<(), RemoteError> {
        let (recipe, suspects, rows) = (Arc::clone(&self.recipe), Arc::clone(&self.suspects), rows.clone());
        self.step(move |session| {
            let messages = {
                let mut recipe = recipe.lock().unwrap_or_else(PoisonError::into_inner);
                recipe.render(&rows, 0..rows.num_rows())
            };
            let messages = messages.map_err(|OperatorError(reason)| RemoteError::Refused(reason))?;
            session.insert(&messages, &suspects)
        })
        .await
    }

    async fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        self.step(move |session| session.commit(epoch)).await?;
        self.suspects.committed();
        if self.is_slow
            && let Some(slow) = self.session.take()
        {
            let_go(slow).await?;
        }
        Ok(())
    }

    fn marker_place(&self) -> String {
        let Place { topic, id } = &self.place;
        format!(
            "this sink's marker: write a record without a value and with the key `{id}` to the topic {topic}"
        )
    }
}

impl Drop for Transactions {
    /// What is under way is aborted, where that may block.
    fn drop(&mut self) {
        let (session, reader) = (self.session.take(), self.reader.take());
        let dropping = std::thread::Builder::new().name("kafka-abort".into());
        if let Err(error) = dropping.spawn(move || drop((session, reader))) {
            tracing::warn!(node = self.node, %error, "a transaction may be left under way: no thread to abort it");
        }
    }
}

/// A producer that no newer one has fenced, as far as it knows.
struct Session {
    producer: ThreadedProducer<Watch>,
    place: Place,
    marker: u64,
    is_under_way: bool,
    message_bytes_max: usize,
}

impl Session {
    /// Fences whoever wrote before, and ends what it has left under way.
    fn open(settings: &ClientConfig, watch: Watch, place: Place) -> Result<Session, RemoteError> {
        let limit = settings.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let message_bytes_max = limit.unwrap_or(MESSAGE_BYTES_MAX);
        let failed =
            |error: KafkaError| RemoteError::Fatal(format!("kafka: the producer cannot be made: {error}"));
        let producer = settings.create_with_context(watch).map_err(failed)?;
        Ok(Session { producer, place, marker: 0, is_under_way: false, message_bytes_max })
    }

    /// Becomes the owner of the marker. The record that says so is committed,
    /// so whoever reads it has seen every transaction before.
    fn own(&mut self, owner: &str, until: Instant) -> Result<(), RemoteError> {
        self.producer.init_transactions(left(until)).map_err(|error| self.lost(&error))?;
        self.begin()?;
        self.write(&self.place.owner_key(), owner, until)?;
        self.end(until)
    }

    fn begin(&mut self) -> Result<u64, RemoteError> {
        self.producer.begin_transaction().map_err(|error| self.lost(&error))?;
        self.is_under_way = true;
        Ok(self.marker)
    }

    /// Sends all of these messages, or none: what was sent cannot be taken back,
    /// so everything is looked at before the first one leaves.
    fn insert(&mut self, messages: &Messages, suspects: &Suspects) -> Result<(), RemoteError> {
        let until = Instant::now() + STEP_MAX;
        let knows_refused = !suspects.is_empty();
        for index in 0..messages.rows.len() {
            self.check(messages, index, knows_refused.then_some(suspects)).map_err(RemoteError::Refused)?;
        }
        for index in 0..messages.rows.len() {
            let record = messages.record(index, ());
            let record = record.ok_or_else(|| RemoteError::Lost("a row has no message".into()))?;
            let (topic, key, payload) = (record.topic, record.key, record.payload);
            if let Err(error) = self.send(record, until) {
                if is_final(&error) {
                    suspects.note(fingerprint(topic, key, payload), format!("kafka: {error}"), true);
                }
                return Err(self.lost(&error));
            }
        }
        Ok(())
    }

    fn lost(&self, error: &KafkaError) -> RemoteError {
        match self.producer.context().reason() {
            Some(reason) => RemoteError::Lost(format!("kafka: {reason}")),
            None => lost(error),
        }
    }

    fn check(&self, messages: &Messages, index: usize, suspects: Option<&Suspects>) -> Result<(), String> {
        let message = messages.get(index).ok_or("the row has no message")?;
        if !is_topic(message.topic) {
            return Err(format!("kafka: `{}` cannot be the name of a topic", message.topic));
        }
        let bytes = message.key.map_or(0, <[u8]>::len) + message.payload.len() + MESSAGE_HEAD_BYTES;
        if bytes > self.message_bytes_max {
            let limit = self.message_bytes_max;
            return Err(format!("kafka: a message of {bytes} bytes, and message.max.bytes is {limit}"));
        }
        let print = || fingerprint(message.topic, message.key, Some(message.payload));
        suspects.and_then(|suspects| suspects.refusal(print())).map_or(Ok(()), Err)
    }

    /// Writes the marker beside the rows, and commits both.
    fn commit(&mut self, epoch: u64) -> Result<(), RemoteError> {
        let until = Instant::now() + STEP_MAX;
        self.write(&self.place.id, &epoch.to_string(), until)?;
        self.end(until)?;
        self.marker = epoch;
        Ok(())
    }

    fn write(&self, key: &str, value: &str, until: Instant) -> Result<(), RemoteError> {
        let record = BaseRecord::to(&self.place.topic).partition(PARTITION);
        let record = record.key(key.as_bytes()).payload(value.as_bytes());
        self.send(record, until).map_err(|error| self.lost(&error))
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>, until: Instant) -> Result<(), KafkaError> {
        let mut unsent = record;
        loop {
            let Err((error, back)) = self.producer.send(unsent) else { return Ok(()) };
            let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            let is_hopeless = self.producer.context().reason().is_some() || Instant::now() >= until;
            if !is_full || is_hopeless {
                return Err(error);
            }
            unsent = back;
            std::thread::park_timeout(FULL_WAIT);
        }
    }

    fn end(&mut self, until: Instant) -> Result<(), RemoteError> {
        // The library's own wait for reports takes a tenth of a second, and does
        // not end when the transaction fails and the rest is never sent.
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            if let Some(reason) = self.producer.context().reason() {
                return Err(RemoteError::Lost(format!("kafka: {reason}")));
            }
            std::thread::park_timeout(FULL_WAIT);
        }
        loop {
            match self.producer.commit_transaction(left(until)) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
                Err(error) => return Err(self.lost(&error)),
            }
        }
        self.is_under_way = false;
        Ok(())
    }
}

impl Drop for Session {
    /// May block.
    fn drop(&mut self) {
        if self.is_under_way
            && let Err(error) = self.producer.abort_transaction(ABORT_MAX)
        {
            tracing::debug!("a transaction is left to the brokers: {error}");
        }
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

fn resolve(settings: &ClientSettings) -> Result<ClientConfig, RemoteError> {
    settings.resolve().map_err(|error| match error {
        ConnectorError::Lost(reason) => RemoteError::Lost(reason),
        error @ (ConnectorError::Fatal(_) | ConnectorError::Rejected(_)) => {
            RemoteError::Fatal(error.to_string())
        }
    })
}

/// Drops it where that may block.
async fn let_go(session: Session) -> Result<(), RemoteError> {
    on_thread(move || {
        drop(session);
        Ok(())
    })
    .await
}

/// Works on a thread that may block; what it holds is dropped there.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RemoteError> + Send + 'static,
) -> Result<T, RemoteError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|error| Err(RemoteError::Lost(error.to_string())))
}
