//! MQTT 5 by rumqttc. What that crate does at a reconnect (0.25.1 forgets
//! requests, keeps collisions) does not matter: a link is never reconnected.

use std::collections::VecDeque;

use async_trait::async_trait;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, DisconnectReasonCode, Filter, Packet, PubAckReason, PubRecReason, Publish, PublishProperties,
    RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use rumqttc::v5::{AsyncClient, ConnectionError, Event as Raw, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing as Went, TlsConfiguration, Transport};

use super::link::{Broken, Event, Incoming, Link, Outgoing, QueueFull, Refusal, Requests, Welcome};
use super::settings::{REQUESTS_MAX, Resolved};

/// A connection that is made by the first `poll`.
pub(super) fn connect(settings: &Resolved) -> (V5Requests, V5Link) {
    let mut options = MqttOptions::new(settings.client_id.clone(), settings.host.clone(), settings.port);
    options.set_keep_alive(settings.keep_alive);
    options.set_connection_timeout(settings.connect_timeout.as_secs().max(1));
    options.set_clean_start(settings.session_expiry.is_none());
    options.set_session_expiry_interval(
        settings.session_expiry.map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
    );
    options.set_outgoing_inflight_upper_limit(settings.in_flight_max);
    options.set_receive_maximum(Some(settings.receive_maximum));
    options.set_max_packet_size(Some(settings.packet_bytes_max));
    options.set_manual_acks(true);
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user.clone(), password.expose());
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    if settings.resumes_qos2 {
        expect_releases(&mut events);
    }
    (V5Requests(client), V5Link(events))
}

/// A session that goes on may release (PUBREL) messages that an earlier
/// connection received. The crate would call that an error at every connect,
/// for ever; after this every packet id counts as received.
fn expect_releases(events: &mut EventLoop) {
    for pkid in 1..=u16::MAX {
        let publish = Publish { qos: QoS::ExactlyOnce, pkid, ..Publish::default() };
        if events.state.handle_incoming_packet(Packet::Publish(publish)).is_err() {
            tracing::debug!(pkid, "a release of this packet will not be expected");
        }
        events.state.events.clear();
    }
}

/// The outgoing half.
pub(super) struct V5Requests(AsyncClient);

/// The incoming half.
pub(super) struct V5Link(EventLoop);

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Requests for V5Requests {
    fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), QueueFull> {
        let filters = filters.iter().map(|path| {
            let mut filter = Filter::new(path.clone(), qos_of(qos));
            // Kept messages come for a new subscription, not again at every reconnect.
            filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
            filter
        });
        self.0.try_subscribe_many(filters).map_err(|_| QueueFull)
    }

    fn unsubscribe(&self, filter: &str) -> Result<(), QueueFull> {
        self.0.try_unsubscribe(filter).map_err(|_| QueueFull)
    }

    fn publish(&self, message: Outgoing) -> Result<(), QueueFull> {
        let Outgoing { topic, payload, qos, retain, properties } = message;
        let properties = PublishProperties { user_properties: properties, ..PublishProperties::default() };
        let queued = self.0.try_publish_with_properties(topic, qos_of(qos), retain, payload, properties);
        queued.map_err(|_| QueueFull)
    }

    fn acknowledge(&self, packet: u16, qos: u8) -> Result<(), QueueFull> {
        let publish = Publish { qos: qos_of(qos), pkid: packet, ..Publish::default() };
        self.0.try_ack(&publish).map_err(|_| QueueFull)
    }

    fn disconnect(&self) -> Result<(), QueueFull> {
        self.0.try_disconnect().map_err(|_| QueueFull)
    }
}

#[async_trait]
impl Link for V5Link {
    async fn poll(&mut self, events: &mut VecDeque<Event>) -> Result<(), Broken> {
        while events.is_empty() {
            events.extend(event(self.0.poll().await.map_err(broken)?));
            // One read brings many packets: they need no turn of the loop each.
            while let Some(raw) = self.0.state.events.pop_front() {
                events.extend(event(raw));
            }
        }
        Ok(())
    }
}

fn event(raw: Raw) -> Option<Event> {
    match raw {
        Raw::Incoming(packet) => Some(incoming(packet)),
        Raw::Outgoing(went) => outgoing(&went),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "packets of a foreign list; only these concern us")]
fn incoming(packet: Packet) -> Event {
    match packet {
        Packet::ConnAck(accepted) => Event::Connected(welcome(&accepted)),
        Packet::Publish(publish) => Event::Message(Incoming {
            topic: publish.topic,
            payload: publish.payload,
            qos: publish.qos as u8,
            packet: publish.pkid,
            retain: publish.retain,
        }),
        Packet::SubAck(answer) => {
            let granted = |code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                other => Err(format!("{other:?}")),
            };
            Event::Subscribed(answer.return_codes.into_iter().map(granted).collect())
        }
        Packet::PubAck(answer) => {
            Event::Acknowledged { packet: answer.pkid, refused: by_puback(answer.reason) }
        }
        Packet::PubRec(answer) => match by_pubrec(answer.reason) {
            None => Event::Heard,
            refused => Event::Acknowledged { packet: answer.pkid, refused },
        },
        // Any reason in a PUBCOMP means that the broker completed the message before.
        Packet::PubComp(answer) => Event::Acknowledged { packet: answer.pkid, refused: None },
        _ => Event::Heard,
    }
}

fn by_puback(reason: PubAckReason) -> Option<Refusal> {
    let may_pass = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return None,
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded => true,
        PubAckReason::NotAuthorized | PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid => {
            false
        }
    };
    Some(Refusal { reason: format!("the broker refuses the message: {reason:?}"), may_pass, leaks: false })
}

fn by_pubrec(reason: PubRecReason) -> Option<Refusal> {
    let may_pass = match reason {
        PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return None,
        PubRecReason::UnspecifiedError
        | PubRecReason::ImplementationSpecificError
        | PubRecReason::PacketIdentifierInUse
        | PubRecReason::QuotaExceeded => true,
        PubRecReason::NotAuthorized | PubRecReason::TopicNameInvalid | PubRecReason::PayloadFormatInvalid => {
            false
        }
    };
    Some(Refusal { reason: format!("the broker refuses the message: {reason:?}"), may_pass, leaks: true })
}

fn welcome(accepted: &ConnAck) -> Welcome {
    let properties = accepted.properties.as_ref();
    Welcome {
        session_present: accepted.session_present,
        receive_maximum: properties.and_then(|all| all.receive_max).unwrap_or(u16::MAX),
        packet_bytes_max: properties
            .and_then(|all| all.max_packet_size)
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(usize::MAX),
        qos_max: properties.and_then(|all| all.max_qos).unwrap_or(2),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign list; only these concern us")]
fn outgoing(went: &Went) -> Option<Event> {
    match went {
        Went::Publish(packet) => Some(Event::Sent(*packet)),
        Went::Disconnect => Some(Event::Closed),
        _ => None,
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "a foreign list of errors; the rest is a lost connection")]
fn broken(error: ConnectionError) -> Broken {
    match error {
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => Broken::TakenOver,
        ConnectionError::MqttState(StateError::ConnectionAborted) => Broken::ClosedByPeer,
        ConnectionError::MqttState(StateError::Deserialization(Error::PayloadSizeLimitExceeded {
            pkt_size,
            ..
        })) => Broken::TooLarge(format!("it has {pkt_size} bytes")),
        ConnectionError::ConnectionRefused(code) => {
            Broken::Lost(format!("the broker refuses the connection: {code:?}"))
        }
        other => Broken::Lost(other.to_string()),
    }
}
