//! The source `mqtt`: one connection after the other, each a link of its own.
//! A message is acknowledged when the engine says its rows are durable, also
//! one that gave no row; what was not acknowledged comes again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate_engine::codec::{BadRow, Decoder};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Committer, Polled, Position, Silence, Source};
use tidegate_engine::time::Clock;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::acks::{Acks, MqttCommitter, Place};
use super::columns::{OwnRows, TopicReader};
use super::heard::Heard;
use super::link::{Broken, Requests};
use super::memory::{Memory, Subscriptions};
use super::session::{Arrived, MESSAGE_OVERHEAD_BYTES, Session};
use super::settings::Settings;
use crate::format::{Origin, RowFormat};

/// Messages that become one batch.
const MESSAGES_MAX: usize = 8_192;

/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Faults of one kind within `STRIKE_SPAN` that end the waiting: they would go
/// on for ever.
const STRIKES_MAX: usize = 3;
const STRIKE_SPAN: Duration = Duration::from_secs(300);

/// A connection that lives shorter than this and is closed by the broker counts
/// as a sign of two clients with one id. MQTT 3.1.1 has no word for it, so more
/// of them are waited for.
const SHORT_LIFE: Duration = Duration::from_secs(10);
const SHORT_LIVES_MAX: usize = 6;

/// Why messages may be missing.
const LOST_SESSION: &str = "the broker has lost our session";
const NOT_KEPT: &str = "we were away, and the broker keeps nothing for us (qos 0, or not persistent)";

/// Reads topics of an MQTT broker.
pub(super) struct MqttSource {
    pub(super) node: String,
    pub(super) settings: Settings,
    pub(super) wanted: Subscriptions,
    pub(super) memory: Option<Memory>,
    /// Bytes that may wait for `next`.
    pub(super) buffer_bytes: usize,
    pub(super) format: RowFormat,
    pub(super) decoder: Box<dyn Decoder>,
    pub(super) topics: TopicReader,
    pub(super) own: OwnRows,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) faults: Faults,
    pub(super) connections: u64,
    /// There was a connection before, in this life.
    pub(super) was_connected: bool,
    /// What was begun with this connection is to be remembered before any message.
    pub(super) has_begun: bool,
    /// Why messages may be missing before the next ones: to be told.
    pub(super) gap: Option<&'static str>,
    pub(super) running: Option<Running>,
}

/// One connection.
pub(super) struct Running {
    requests: Arc<dyn Requests>,
    arrivals: mpsc::Receiver<Arrived>,
    acks: Arc<Acks>,
    heard: Arc<Heard>,
    task: JoinHandle<Broken>,
    since: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Faults that repeat.
#[derive(Debug, Default)]
pub(super) struct Faults {
    taken_over: Strikes,
    too_large: Strikes,
    short_lives: Strikes,
}

#[derive(Debug, Default)]
struct Strikes(VecDeque<Instant>);

impl Strikes {
    /// Counts one; answers how many there were lately.
    fn add(&mut self) -> usize {
        let now = Instant::now();
        self.0.retain(|at| now.duration_since(*at) < STRIKE_SPAN);
        self.0.push_back(now);
        self.0.len()
    }
}

impl Faults {
    /// What a broken connection means: try again, or stop with a sentence that
    /// says what to change.
    fn judge(&mut self, broken: &Broken, life: Duration, client_id: &str) -> ConnectorError {
        let id = || {
            format!("another client uses the client id `{client_id}` too; give each one its own `client_id`")
        };
        match broken {
            Broken::TakenOver if self.taken_over.add() >= STRIKES_MAX => {
                ConnectorError::Fatal(format!("mqtt: {}", id()))
            }
            Broken::ClosedByPeer if life < SHORT_LIFE && self.short_lives.add() >= SHORT_LIVES_MAX => {
                ConnectorError::Fatal(format!(
                    "mqtt: the broker closes every connection within {SHORT_LIFE:?}; perhaps {}",
                    id()
                ))
            }
            Broken::TooLarge(reason) if self.too_large.add() >= STRIKES_MAX => {
                ConnectorError::Fatal(format!(
                    "mqtt: the broker keeps sending a packet larger than `packet_max` ({reason}); raise `packet_max`"
                ))
            }
            Broken::TakenOver | Broken::ClosedByPeer | Broken::TooLarge(_) | Broken::Lost(_) => {
                ConnectorError::Lost(broken.to_string())
            }
        }
    }
}

impl MqttSource {
    fn start(&mut self) -> Result<(Running, oneshot::Receiver<bool>), ConnectorError> {
        let (requests, link) = self.settings.link()?;
        self.connections += 1;
        // As many as the buffer can hold: `send` waits for room in bytes only.
        let (sender, arrivals) = mpsc::channel(self.buffer_bytes / MESSAGE_OVERHEAD_BYTES + 1);
        let (ready, is_ready) = oneshot::channel();
        let heard = Arc::new(Heard::new());
        let session = Session {
            node: self.node.clone(),
            link,
            requests: Arc::clone(&requests),
            wanted: self.wanted.clone(),
            memory: self.memory.clone(),
            arrivals: sender,
            room: Arc::new(Semaphore::new(self.buffer_bytes)),
            room_bytes: self.buffer_bytes,
            watchdog: self.settings.watchdog(),
            heard: Arc::clone(&heard),
            ready: Some(ready),
            has_gap: false,
            count: 0,
        };
        let acks = Arc::new(Acks::new(self.connections, Arc::clone(&requests)));
        let task = tokio::spawn(session.run());
        Ok((Running { requests, arrivals, acks, heard, task, since: Instant::now() }, is_ready))
    }

    /// Why the connection ended, judged.
    async fn ended(&mut self) -> ConnectorError {
        let Some(mut running) = self.running.take() else {
            return ConnectorError::Lost("the mqtt source is not open".into());
        };
        let life = running.since.elapsed();
        let broken = match (&mut running.task).await {
            Ok(broken) => broken,
            Err(error) => {
                return ConnectorError::Fatal(format!("the mqtt session met a fault of its own: {error}"));
            }
        };
        let kind = match &broken {
            Broken::Lost(_) => "lost",
            Broken::ClosedByPeer => "closed",
            Broken::TakenOver => "taken_over",
            Broken::TooLarge(_) => "too_large",
        };
        metrics::counter!("tidegate_mqtt_disconnects_total", "node" => self.node.clone(), "reason" => kind)
            .increment(1);
        self.faults.judge(&broken, life, &self.settings.client_id)
    }

    /// No rows, where a connection begins, and a reject that marks where some may be missing.
    fn beginning(&mut self, gap: Option<&str>) -> Result<Polled, ConnectorError> {
        let mut decoded = self.decoder.finish();
        decoded.bad.extend(gap.map(|why| BadRow {
            reason: format!("gap: {why}; messages may be missing here"),
            position: format!("{}, connection {}", self.wanted.broker, self.connections),
            payload: Arc::from([]),
        }));
        let position = Position::of(&Place(self.connections, 0));
        let origin = Origin { node: &self.node, partition: 0, position, now: self.clock.now() };
        self.format.rows(decoded, self.own.finish(), origin).map(Polled::Rows)
    }

    /// Rows of the messages; those that give none count all the same.
    fn rows(&mut self, messages: &[Arrived], acks: &Acks) -> Result<Polled, ConnectorError> {
        let mut unwanted = 0;
        let mut last = 0;
        for Arrived { number, message, .. } in messages {
            last = *number;
            acks.expect(*number, message.packet, message.qos);
            let Some(levels) = self.topics.levels(&message.topic) else {
                // Left over from a topic that the file named earlier.
                unwanted += 1;
                continue;
            };
            let place = |_| format!("{}@{number}", String::from_utf8_lossy(&message.topic));
            let rows = self.decoder.decode(&message.payload, &place);
            self.own.append(message, &levels, rows);
        }
        if unwanted > 0 {
            metrics::counter!("tidegate_mqtt_unwanted_total", "node" => self.node.clone())
                .increment(unwanted);
        }
        let position = Position::of(&Place(acks.connection(), last));
        let origin = Origin { node: &self.node, partition: 0, position, now: self.clock.now() };
        self.format.rows(self.decoder.finish(), self.own.finish(), origin).map(Polled::Rows)
    }
}

#[async_trait]
impl Source for MqttSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        self.close().await?;
        // An old position must not be taken for one of this connection.
        let before = resume.and_then(|position| position.read::<Place>().ok());
        self.connections = self.connections.max(before.map_or(0, |Place(connection, _)| connection));
        let was_away = resume.is_some() || self.was_connected;
        let (running, is_ready) = self.start()?;
        self.running = Some(running);
        match tokio::time::timeout(self.settings.handshake_max(), is_ready).await {
            Ok(Ok(has_gap)) => {
                self.was_connected = true;
                let keeps = self.wanted.qos > 0 && self.memory.is_some();
                // The next process tells a gap only if it finds a place of this one.
                self.has_begun = !was_away && !keeps;
                self.gap = match (has_gap, was_away && !keeps) {
                    (true, _) => Some(LOST_SESSION),
                    (_, true) => Some(NOT_KEPT),
                    (false, false) => self.gap,
                };
                Ok(())
            }
            Ok(Err(_)) => Err(self.ended().await),
            Err(_) => {
                self.running = None;
                Err(ConnectorError::Lost("mqtt: the broker does not answer the subscription".into()))
            }
        }
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let has_begun = std::mem::take(&mut self.has_begun);
        if let Some(why) = self.gap.take() {
            return self.beginning(Some(why));
        }
        if has_begun {
            return self.beginning(None);
        }
        let mut messages = Vec::new();
        let Some(running) = self.running.as_mut() else {
            return Err(ConnectorError::Lost("the mqtt source is not open".into()));
        };
        if running.arrivals.recv_many(&mut messages, MESSAGES_MAX).await == 0 {
            return Err(self.ended().await);
        }
        let acks = Arc::clone(&running.acks);
        self.rows(&messages, &acks)
    }

    fn remembers(&self) -> bool {
        true
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        let running = self.running.as_ref()?;
        Some(Box::new(MqttCommitter(Arc::clone(&running.acks))))
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        let running = self.running.as_ref()?;
        Some(Arc::clone(&running.heard) as Arc<dyn Silence>)
    }

    /// The last acknowledgements go out before the good-bye; the broker keeps
    /// the session.
    async fn close(&mut self) -> Result<(), ConnectorError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        if running.requests.disconnect().is_err() {
            return Ok(());
        }
        // A session that waits for room would not send it.
        running.arrivals.close();
        while running.arrivals.try_recv().is_ok() {}
        if tokio::time::timeout(CLOSE_MAX, &mut running.task).await.is_err() {
            tracing::debug!(node = self.node, "the broker did not take the good-bye in time");
        }
        Ok(())
    }
}
