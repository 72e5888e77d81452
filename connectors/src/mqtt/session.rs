//! The receiving task of one connection: subscribes, takes messages in, pings.
//! It waits for room only with messages that the broker would send again; a
//! QoS 0 message without room is dropped and counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::heard::Heard;
use super::link::{Broken, Event, Incoming, Link, Requests};
use super::memory::{Memory, Plan, Subscriptions, plan};

/// What a message costs in the buffer beside its bytes.
pub(super) const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// A message on its way to `next`.
pub(super) struct Arrived {
    /// Its number on this connection, from 1.
    pub(super) number: u64,
    /// The message.
    pub(super) message: Incoming,
    /// Its place in the buffer, free again when this is dropped.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The task.
pub(super) struct Session {
    pub(super) node: String,
    pub(super) link: Box<dyn Link>,
    pub(super) requests: Arc<dyn Requests>,
    pub(super) wanted: Subscriptions,
    /// `None` for a clean session, which has nothing to remember.
    pub(super) memory: Option<Memory>,
    pub(super) arrivals: mpsc::Sender<Arrived>,
    /// Bytes that may wait for `next`.
    pub(super) room: Arc<Semaphore>,
    pub(super) room_bytes: usize,
    pub(super) watchdog: Duration,
    pub(super) heard: Arc<Heard>,
    /// Told once, when messages can come: whether some may be missing, because
    /// the broker has lost our session.
    pub(super) ready: Option<oneshot::Sender<bool>>,
    pub(super) has_gap: bool,
    pub(super) count: u64,
}

impl Session {
    /// Until the connection ends.
    pub(super) async fn run(mut self) -> Broken {
        let mut events = VecDeque::new();
        loop {
            match tokio::time::timeout(self.watchdog, self.link.poll(&mut events)).await {
                Ok(Ok(())) => {}
                Ok(Err(broken)) => return broken,
                Err(_) => {
                    return Broken::Lost(format!(
                        "the connection hangs: no sign of life for {:?}",
                        self.watchdog
                    ));
                }
            }
            for event in events.drain(..) {
                if let Some(broken) = self.on_event(event).await {
                    return broken;
                }
            }
        }
    }

    async fn on_event(&mut self, event: Event) -> Option<Broken> {
        if !matches!(event, Event::Sent(_) | Event::Closed) {
            self.heard.now();
        }
        match event {
            Event::Connected(welcome) => self.on_connected(welcome.session_present),
            Event::Subscribed(answers) => self.on_subscribed(&answers),
            Event::Message(message) => self.on_message(message).await,
            // The broker closes the connection when it has read our good-bye, and all
            // acknowledgements before it: the next connection must not overtake them.
            Event::Closed | Event::Sent(_) | Event::Acknowledged { .. } | Event::Heard => None,
        }
    }

    fn on_connected(&mut self, session_present: bool) -> Option<Broken> {
        let before = self.memory.as_ref().and_then(Memory::read);
        let Plan { unsubscribe, subscribe } = plan(before.as_ref(), &self.wanted, session_present);
        tracing::info!(node = self.node, session_present, subscribe, "mqtt connected");
        self.has_gap = !session_present && before.is_some_and(|before| before.is_of(&self.wanted));
        if self.has_gap {
            metrics::counter!("tidegate_mqtt_sessions_lost_total", "node" => self.node.clone()).increment(1);
            tracing::warn!(node = self.node, "the broker has lost our session; messages may be missing");
        }
        let changed = !unsubscribe.is_empty();
        let mut asked = Ok(());
        for filter in unsubscribe {
            tracing::warn!(
                node = self.node,
                "`{filter}` is not in the file any more: what the broker holds of it is not wanted"
            );
            asked = asked.and_then(|()| self.requests.unsubscribe(&filter));
        }
        if subscribe {
            asked = asked.and_then(|()| self.requests.subscribe(&self.wanted.filters, self.wanted.qos));
        } else {
            if changed {
                self.remember();
            }
            self.say_ready();
        }
        asked.err().map(|_| Broken::Lost("the request queue is full at the start".into()))
    }

    fn on_subscribed(&mut self, answers: &[Result<u8, String>]) -> Option<Broken> {
        for (filter, answer) in self.wanted.filters.iter().zip(answers) {
            match answer {
                Err(reason) => return Some(Broken::Lost(format!("the broker refuses `{filter}`: {reason}"))),
                Ok(granted) if *granted < self.wanted.qos => tracing::warn!(
                    node = self.node,
                    filter,
                    granted,
                    "the broker grants a lower QoS than the topology asks for"
                ),
                Ok(_) => {}
            }
        }
        self.remember();
        self.say_ready();
        None
    }

    fn remember(&self) {
        if let Some(Err(error)) = self.memory.as_ref().map(|memory| memory.write(&self.wanted)) {
            tracing::warn!(
                node = self.node,
                error,
                "topics that are taken out later will not be unsubscribed"
            );
        }
    }

    fn say_ready(&mut self) {
        if self.ready.take().is_some_and(|ready| ready.send(self.has_gap).is_err()) {
            tracing::debug!(node = self.node, "nobody waits for the connection any more");
        }
    }

    async fn on_message(&mut self, message: Incoming) -> Option<Broken> {
        self.count += 1;
        let bytes = message.topic.len() + message.payload.len() + MESSAGE_OVERHEAD_BYTES;
        let cost = u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX);
        let room = match Arc::clone(&self.room).try_acquire_many_owned(cost) {
            Ok(room) => room,
            Err(_) if message.qos == 0 => {
                metrics::counter!("tidegate_mqtt_dropped_total", "node" => self.node.clone()).increment(1);
                return None;
            }
            Err(_) => {
                // Messages wait for a reader: there is one only after `open`.
                self.say_ready();
                // Nothing more is read, but acknowledgements and signs of life go out.
                let acquired = tokio::select! {
                    acquired = Arc::clone(&self.room).acquire_many_owned(cost) => acquired,
                    broken = self.link.hold() => return Some(broken),
                };
                match acquired {
                    Ok(room) => room,
                    Err(_) => return Some(Broken::Lost("the buffer was closed".into())),
                }
            }
        };
        let arrived = Arrived { number: self.count, message, _room: room };
        if self.arrivals.send(arrived).await.is_err() {
            // The source is closing: the broker sends it again, the last acknowledgements still go out.
            tracing::debug!(node = self.node, "a message came after the last read");
        }
        None
    }
}
