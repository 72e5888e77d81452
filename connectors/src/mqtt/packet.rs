//! The packets of MQTT, whatever the version of the protocol: what a
//! connection does is written once, in `wire`; `v4` and `v5` only spell.

use bytes::BytesMut;

use super::link::{Broken, Incoming, Outgoing, Refusal, Welcome};

/// A packet that goes.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    /// The first one.
    Connect,
    /// Its id, the filters, the QoS.
    Subscribe(u16, Vec<String>, u8),
    /// Its id and the filter.
    Unsubscribe(u16, String),
    /// Its id, 0 for QoS 0.
    Publish(u16, Outgoing),
    /// A QoS 1 message is ours now.
    PubAck(u16),
    /// A QoS 2 message is ours now.
    PubRec(u16),
    /// The broker may forget that it has received this message.
    PubRel(u16),
    /// We have forgotten that we received this message.
    PubComp(u16),
    /// Are you there?
    Ping,
    /// Good-bye.
    Disconnect,
}

/// A packet that came.
#[derive(Debug)]
pub(super) enum Answer {
    /// The connection stands.
    Connected(Welcome),
    /// A message.
    Message(Incoming),
    /// Its id, and for each filter the granted QoS, or why not.
    Subscribed(u16, Vec<Result<u8, String>>),
    /// Its id.
    Unsubscribed(u16),
    /// The broker has a QoS 1 message, or refuses it.
    PubAck(u16, Option<Refusal>),
    /// The broker has a QoS 2 message, or refuses it.
    PubRec(u16, Option<Refusal>),
    /// We may forget that we received this message.
    PubRel(u16),
    /// The broker has forgotten that it received this message.
    PubComp(u16),
    /// The broker is there.
    Pong,
    /// The broker ends the connection, or refuses it.
    Broken(Broken),
}

/// How a version of the protocol spells packets.
pub(super) trait Spelling: Send + Sync + 'static {
    /// Appends a packet.
    ///
    /// # Errors
    /// The packet cannot be spelled.
    fn write(&self, packet: Packet, output: &mut BytesMut) -> Result<(), Broken>;

    /// Takes a packet out, if all of it is there; else makes room for the rest.
    ///
    /// # Errors
    /// It is too large, or no packet that a broker may send.
    fn read(&self, input: &mut BytesMut) -> Result<Option<Answer>, Broken>;
}
