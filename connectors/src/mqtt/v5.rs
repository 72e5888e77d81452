//! How MQTT 5 spells packets, by rumqttc.

use std::fmt::Debug;
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter, Login,
    Packet as Raw, PingReq, PubAck, PubAckReason, PubComp, PubRec, PubRecReason, PubRel, Publish,
    PublishProperties, RetainForwardRule, Subscribe, SubscribeReasonCode, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};

use super::link::{Broken, Incoming, Outgoing, Refusal, Welcome};
use super::packet::{Answer, Packet, Spelling};
use super::settings::Resolved;

/// MQTT 5.
pub(super) struct V5 {
    connect: Connect,
    login: Option<Login>,
    packet_bytes_max: u32,
}

impl V5 {
    /// For a connection with these settings.
    pub(super) fn new(settings: &Resolved) -> V5 {
        let expiry = settings.session_expiry;
        let properties = ConnectProperties {
            session_expiry_interval: expiry.map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
            receive_maximum: Some(settings.receive_maximum),
            max_packet_size: Some(settings.packet_bytes_max),
            ..ConnectProperties::new()
        };
        let connect = Connect {
            keep_alive: settings.keep_alive_s(),
            client_id: settings.client_id.clone(),
            clean_start: expiry.is_none(),
            properties: Some(properties),
        };
        let login =
            settings.login.as_ref().map(|(user, password)| Login::new(user.clone(), password.expose()));
        V5 { connect, login, packet_bytes_max: settings.packet_bytes_max }
    }
}

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Spelling for V5 {
    fn write(&self, packet: Packet, output: &mut BytesMut) -> Result<(), Broken> {
        let raw = match packet {
            Packet::Connect => Raw::Connect(self.connect.clone(), None, self.login.clone()),
            Packet::Subscribe(id, filters, qos) => {
                let filters = filters.into_iter().map(|path| filter(path, qos));
                Raw::Subscribe(Subscribe { pkid: id, ..Subscribe::new_many(filters, None) })
            }
            Packet::Unsubscribe(id, filter) => {
                Raw::Unsubscribe(Unsubscribe { pkid: id, ..Unsubscribe::new(filter, None) })
            }
            Packet::Publish(id, message) => Raw::Publish(publish(id, message)),
            Packet::PubAck(id) => Raw::PubAck(PubAck::new(id, None)),
            Packet::PubRec(id) => Raw::PubRec(PubRec::new(id, None)),
            Packet::PubRel(id) => Raw::PubRel(PubRel::new(id, None)),
            Packet::PubComp(id) => Raw::PubComp(PubComp::new(id, None)),
            Packet::Ping => Raw::PingReq(PingReq),
            Packet::Disconnect => Raw::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)),
        };
        raw.write(output, None).map(drop).map_err(broken)
    }

    fn read(&self, input: &mut BytesMut) -> Result<Option<Answer>, Broken> {
        let before = input.len();
        match Raw::read(input, Some(self.packet_bytes_max)) {
            Ok(raw) => answer(raw).map(Some),
            // The library says so too of a packet that is there and whose inside is
            // longer; it has taken it out.
            Err(Error::InsufficientBytes(_)) if input.len() < before => {
                Err(Broken::Lost("the broker sends no MQTT 5: a packet is shorter than what is in it".into()))
            }
            Err(Error::InsufficientBytes(missing)) => {
                input.reserve(missing);
                Ok(None)
            }
            Err(error) => Err(broken(error)),
        }
    }
}

fn filter(path: String, qos: u8) -> Filter {
    let mut filter = Filter::new(path, qos_of(qos));
    // Kept messages come for a new subscription, not again at every reconnect.
    filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
    filter
}

fn publish(id: u16, message: Outgoing) -> Publish {
    let Outgoing { topic, payload, qos, retain, properties } = message;
    let has_some = !properties.is_empty();
    let properties = PublishProperties { user_properties: properties, ..PublishProperties::default() };
    Publish { pkid: id, retain, ..Publish::new(topic, qos_of(qos), payload, has_some.then_some(properties)) }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign list of reasons to refuse; one is none")]
fn answer(raw: Raw) -> Result<Answer, Broken> {
    Ok(match raw {
        Raw::ConnAck(accepted) if accepted.code == ConnectReturnCode::Success => {
            Answer::Connected(welcome(&accepted))
        }
        Raw::ConnAck(refused) => Answer::Broken(Broken::refused(&refused.code)),
        Raw::Publish(publish) => Answer::Message(Incoming {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            packet: publish.pkid,
            retain: publish.retain,
        }),
        Raw::SubAck(answer) => {
            let granted = |code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                other => Err(format!("{other:?}")),
            };
            Answer::Subscribed(answer.pkid, answer.return_codes.into_iter().map(granted).collect())
        }
        Raw::UnsubAck(answer) => Answer::Unsubscribed(answer.pkid),
        Raw::PubAck(answer) => Answer::PubAck(answer.pkid, by_puback(answer.reason)),
        Raw::PubRec(answer) => Answer::PubRec(answer.pkid, by_pubrec(answer.reason)),
        Raw::PubRel(answer) => Answer::PubRel(answer.pkid),
        // Any reason in a PUBCOMP means that the broker completed the message before.
        Raw::PubComp(answer) => Answer::PubComp(answer.pkid),
        Raw::PingResp(_) => Answer::Pong,
        Raw::Disconnect(goodbye) if goodbye.reason_code == DisconnectReasonCode::SessionTakenOver => {
            Answer::Broken(Broken::TakenOver)
        }
        Raw::Disconnect(goodbye) => {
            let reason = format!("the broker ends the connection: {:?}", goodbye.reason_code);
            Answer::Broken(Broken::Lost(reason))
        }
        Raw::Auth(_) | Raw::Connect(..) | Raw::Subscribe(_) | Raw::Unsubscribe(_) | Raw::PingReq(_) => {
            return Err(Broken::Lost(format!("the broker sends what we have not asked for: {raw:?}")));
        }
    })
}

fn refusal(reason: &dyn Debug, may_pass: bool) -> Option<Refusal> {
    Some(Refusal { reason: format!("the broker refuses the message: {reason:?}"), may_pass })
}

fn by_puback(reason: PubAckReason) -> Option<Refusal> {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded => refusal(&reason, true),
        PubAckReason::NotAuthorized | PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            refusal(&reason, false)
        }
    }
}

fn by_pubrec(reason: PubRecReason) -> Option<Refusal> {
    match reason {
        PubRecReason::Success | PubRecReason::NoMatchingSubscribers => None,
        PubRecReason::UnspecifiedError
        | PubRecReason::ImplementationSpecificError
        | PubRecReason::PacketIdentifierInUse
        | PubRecReason::QuotaExceeded => refusal(&reason, true),
        PubRecReason::NotAuthorized | PubRecReason::TopicNameInvalid | PubRecReason::PayloadFormatInvalid => {
            refusal(&reason, false)
        }
    }
}

fn welcome(accepted: &ConnAck) -> Welcome {
    let properties = accepted.properties.as_ref();
    let keep_alive = properties.and_then(|all| all.server_keep_alive);
    Welcome {
        session_present: accepted.session_present,
        receive_maximum: properties.and_then(|all| all.receive_max).unwrap_or(u16::MAX),
        packet_bytes_max: properties
            .and_then(|all| all.max_packet_size)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usize::MAX),
        qos_max: properties.and_then(|all| all.max_qos).unwrap_or(2),
        // None at all: the broker wants no pings.
        keep_alive: keep_alive.filter(|s| *s > 0).map(|s| Duration::from_secs(s.into())),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign list of errors; the rest is a lost connection")]
fn broken(error: Error) -> Broken {
    match error {
        Error::PayloadSizeLimitExceeded { pkt_size, .. } => {
            Broken::TooLarge(format!("it has {pkt_size} bytes"))
        }
        other => Broken::Lost(format!("the broker sends no MQTT 5: {other}")),
    }
}
