//! How MQTT 3.1.1 spells packets, by rumqttc.

use bytes::BytesMut;
use rumqttc::mqttbytes::Error;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    Connect, ConnectReturnCode, Login, Packet as Raw, PubAck, PubComp, PubRec, PubRel, Publish, Subscribe,
    SubscribeFilter, SubscribeReasonCode, Unsubscribe,
};

use super::link::{Broken, Incoming, Welcome};
use super::packet::{Answer, Packet, Spelling};
use super::settings::Resolved;

/// The protocol's own limit: four bytes of seven bits, and the header.
const PROTOCOL_PACKET_BYTES_MAX: usize = 268_435_455 + 5;

/// MQTT 3.1.1.
pub(super) struct V4 {
    connect: Connect,
    packet_bytes_max: usize,
}

impl V4 {
    /// For a connection with these settings.
    pub(super) fn new(settings: &Resolved) -> V4 {
        let mut connect = Connect::new(settings.client_id.clone());
        connect.keep_alive = settings.keep_alive_s();
        connect.clean_session = settings.session_expiry.is_none();
        connect.login =
            settings.login.as_ref().map(|(user, password)| Login::new(user.clone(), password.expose()));
        let packet_bytes_max = usize::try_from(settings.packet_bytes_max).unwrap_or(usize::MAX);
        V4 { connect, packet_bytes_max }
    }
}

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Spelling for V4 {
    fn write(&self, packet: Packet, output: &mut BytesMut) -> Result<(), Broken> {
        let raw = match packet {
            Packet::Connect => Raw::Connect(self.connect.clone()),
            Packet::Subscribe(id, filters, qos) => {
                let filters = filters.into_iter().map(|path| SubscribeFilter::new(path, qos_of(qos)));
                Raw::Subscribe(Subscribe { pkid: id, ..Subscribe::new_many(filters) })
            }
            Packet::Unsubscribe(id, filter) => {
                Raw::Unsubscribe(Unsubscribe { pkid: id, ..Unsubscribe::new(filter) })
            }
            Packet::Publish(id, message) => {
                let publish = Publish::from_bytes(message.topic, qos_of(message.qos), message.payload);
                Raw::Publish(Publish { pkid: id, retain: message.retain, ..publish })
            }
            Packet::PubAck(id) => Raw::PubAck(PubAck::new(id)),
            Packet::PubRec(id) => Raw::PubRec(PubRec::new(id)),
            Packet::PubRel(id) => Raw::PubRel(PubRel::new(id)),
            Packet::PubComp(id) => Raw::PubComp(PubComp::new(id)),
            Packet::Ping => Raw::PingReq,
            Packet::Disconnect => Raw::Disconnect,
        };
        // Packets that go are limited by the broker, not by us.
        raw.write(output, PROTOCOL_PACKET_BYTES_MAX).map(drop).map_err(broken)
    }

    fn read(&self, input: &mut BytesMut) -> Result<Option<Answer>, Broken> {
        let before = input.len();
        match Raw::read(input, self.packet_bytes_max) {
            Ok(raw) => answer(raw).map(Some),
            // The library says so too of a packet that is there and whose inside is
            // longer; it has taken it out.
            Err(Error::InsufficientBytes(_)) if input.len() < before => Err(Broken::Lost(
                "the broker sends no MQTT 3.1.1: a packet is shorter than what is in it".into(),
            )),
            Err(Error::InsufficientBytes(missing)) => {
                input.reserve(missing);
                Ok(None)
            }
            Err(error) => Err(broken(error)),
        }
    }
}

fn answer(raw: Raw) -> Result<Answer, Broken> {
    Ok(match raw {
        Raw::ConnAck(accepted) if accepted.code == ConnectReturnCode::Success => Answer::Connected(Welcome {
            session_present: accepted.session_present,
            receive_maximum: u16::MAX,
            packet_bytes_max: PROTOCOL_PACKET_BYTES_MAX,
            qos_max: 2,
            keep_alive: None,
        }),
        Raw::ConnAck(refused) => Answer::Broken(Broken::refused(&refused.code)),
        Raw::Publish(publish) => Answer::Message(Incoming {
            topic: publish.topic.into(),
            payload: publish.payload,
            qos: publish.qos as u8,
            packet: publish.pkid,
            retain: publish.retain,
        }),
        Raw::SubAck(answer) => {
            let granted = |code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err("MQTT 3.1.1 gives no reason".to_owned()),
            };
            Answer::Subscribed(answer.pkid, answer.return_codes.into_iter().map(granted).collect())
        }
        Raw::UnsubAck(answer) => Answer::Unsubscribed(answer.pkid),
        Raw::PubAck(answer) => Answer::PubAck(answer.pkid, None),
        Raw::PubRec(answer) => Answer::PubRec(answer.pkid, None),
        Raw::PubRel(answer) => Answer::PubRel(answer.pkid),
        Raw::PubComp(answer) => Answer::PubComp(answer.pkid),
        Raw::PingResp => Answer::Pong,
        Raw::Connect(_) | Raw::Subscribe(_) | Raw::Unsubscribe(_) | Raw::PingReq | Raw::Disconnect => {
            return Err(Broken::Lost(format!("the broker sends what only a client may send: {raw:?}")));
        }
    })
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign list of errors; the rest is a lost connection")]
fn broken(error: Error) -> Broken {
    match error {
        Error::PayloadSizeLimitExceeded(bytes) => Broken::TooLarge(format!("it has {bytes} bytes")),
        other => Broken::Lost(format!("the broker sends no MQTT 3.1.1: {other}")),
    }
}
