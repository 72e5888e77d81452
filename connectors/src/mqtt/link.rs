//! One connection to a broker, whatever the version of the protocol: events
//! come in, requests go out. A link lives for one connection: after an error
//! it is thrown away with everything it remembers, so that no packet id of an
//! old connection ever meets a new one.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// The incoming half.
#[async_trait]
pub(super) trait Link: Send {
    /// Adds what happens next, at least one event and all that came with it;
    /// sends what was asked for meanwhile.
    ///
    /// # Errors
    /// The connection has ended.
    async fn poll(&mut self, events: &mut VecDeque<Event>) -> Result<(), Broken>;

    /// Keeps the connection without reading from it: sends what was asked for,
    /// and signs of life. Cancel-safe. Answers how the connection ended.
    async fn hold(&mut self) -> Broken;
}

/// The outgoing half. Requests are queued and never wait; they are sent in order.
pub(super) trait Requests: Send + Sync {
    /// Asks for messages of these filters.
    fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), QueueFull>;
    /// Wants no more messages of this filter.
    fn unsubscribe(&self, filter: &str) -> Result<(), QueueFull>;
    /// Sends a message; `Event::Sent` follows in the order of the requests.
    fn publish(&self, message: Outgoing) -> Result<(), QueueFull>;
    /// The message with this id is ours now: PUBACK, or PUBREC for QoS 2.
    fn acknowledge(&self, packet: u16, qos: u8) -> Result<(), QueueFull>;
    /// Says good-bye; `Event::Closed` follows when it was sent, and the end of
    /// the link when the broker has read it.
    fn disconnect(&self) -> Result<(), QueueFull>;
}

/// The request queue is full, or the connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// What happened on a link.
#[derive(Debug)]
pub(super) enum Event {
    /// The broker accepted the connection.
    Connected(Welcome),
    /// A message came.
    Message(Incoming),
    /// The answer to `subscribe`, one for each filter: granted QoS, or why not.
    Subscribed(Vec<Result<u8, String>>),
    /// A message went out; its packet id, 0 for QoS 0.
    Sent(u16),
    /// The broker has a message of ours, or refuses it.
    Acknowledged {
        /// Its packet id.
        packet: u16,
        /// Why it was refused.
        refused: Option<Refusal>,
    },
    /// Our good-bye was sent.
    Closed,
    /// The broker gave a sign of life, and that is all.
    Heard,
}

/// Why a broker refused a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The broker's reason.
    pub(super) reason: String,
    /// Whether the same message may be taken later (quota, no reason given).
    pub(super) may_pass: bool,
}

/// What the broker said when it accepted the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Welcome {
    /// It still has our session.
    pub(super) session_present: bool,
    /// Unacknowledged messages it takes at a time.
    pub(super) receive_maximum: u16,
    /// Largest packet it takes, in bytes.
    pub(super) packet_bytes_max: usize,
    /// Highest QoS it takes.
    pub(super) qos_max: u8,
    /// How long it lets a connection be silent, if it says so.
    pub(super) keep_alive: Option<Duration>,
}

/// A message that came.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// Its topic.
    pub(super) topic: Bytes,
    /// Its bytes.
    pub(super) payload: Bytes,
    /// 0, 1 or 2.
    pub(super) qos: u8,
    /// Its packet id, 0 for QoS 0.
    pub(super) packet: u16,
    /// Whether the broker had kept it.
    pub(super) retain: bool,
}

/// A message that goes.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    /// Its topic.
    pub(super) topic: String,
    /// Its bytes.
    pub(super) payload: Bytes,
    /// 0, 1 or 2.
    pub(super) qos: u8,
    /// Whether the broker keeps it for later subscribers.
    pub(super) retain: bool,
    /// MQTT 5 user properties; 3.1.1 has none and leaves them out.
    pub(super) properties: Vec<(String, String)>,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The network or the broker went away, or refused.
    Lost(String),
    /// The broker closed the connection without a word.
    ClosedByPeer,
    /// Another client connected with our client id.
    TakenOver,
    /// A packet larger than `packet_max` came.
    TooLarge(String),
}

impl Broken {
    /// The broker refuses the connection.
    pub(super) fn refused(code: &dyn Debug) -> Broken {
        Broken::Lost(format!("the broker refuses the connection: {code:?}"))
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Lost(reason) => write!(out, "mqtt: {reason}"),
            Broken::ClosedByPeer => out.write_str("mqtt: the broker closed the connection"),
            Broken::TakenOver => out.write_str("mqtt: another client took the client id over"),
            Broken::TooLarge(reason) => write!(out, "mqtt: a packet is larger than `packet_max`: {reason}"),
        }
    }
}
