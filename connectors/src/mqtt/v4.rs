//! MQTT 3.1.1 by rumqttc. As in `v5`, a link is never reconnected.

use std::collections::VecDeque;

use async_trait::async_trait;
use rumqttc::{
    AsyncClient, ConnectionError, Event as Raw, EventLoop, MqttOptions, Outgoing as Went, Packet, Publish,
    QoS, StateError, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};

use super::link::{Broken, Event, Incoming, Link, Outgoing, QueueFull, Requests, Welcome};
use super::settings::{REQUESTS_MAX, Resolved};

/// The protocol's own limit: four bytes of seven bits, and the header.
const PROTOCOL_PACKET_BYTES_MAX: usize = 268_435_455 + 5;

/// A connection that is made by the first `poll`.
pub(super) fn connect(settings: &Resolved) -> (V4Requests, V4Link) {
    let mut options = MqttOptions::new(settings.client_id.clone(), settings.host.clone(), settings.port);
    options.set_keep_alive(settings.keep_alive);
    options.set_clean_session(settings.session_expiry.is_none());
    let bytes_max = usize::try_from(settings.packet_bytes_max).unwrap_or(usize::MAX);
    // Outgoing packets are limited by the broker, not by us.
    options.set_max_packet_size(bytes_max, PROTOCOL_PACKET_BYTES_MAX);
    options.set_inflight(settings.in_flight_max);
    options.set_manual_acks(true);
    if let Some((user, password)) = &settings.login {
        options.set_credentials(user.clone(), password.expose());
    }
    if let Some(tls) = &settings.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut events) = AsyncClient::new(options, REQUESTS_MAX);
    let mut network = events.network_options();
    network.set_connection_timeout(settings.connect_timeout.as_secs().max(1));
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    if settings.resumes_qos2 {
        expect_releases(&mut events);
    }
    (V4Requests(client), V4Link(events))
}

/// As in `v5`: a session that goes on may release what an earlier connection received.
fn expect_releases(events: &mut EventLoop) {
    for pkid in 1..=u16::MAX {
        let mut publish = Publish::new("", QoS::ExactlyOnce, Vec::new());
        publish.pkid = pkid;
        if events.state.handle_incoming_packet(Packet::Publish(publish)).is_err() {
            tracing::debug!(pkid, "a release of this packet will not be expected");
        }
        events.state.events.clear();
    }
}

/// The outgoing half.
pub(super) struct V4Requests(AsyncClient);

/// The incoming half.
pub(super) struct V4Link(EventLoop);

fn qos_of(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

impl Requests for V4Requests {
    fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), QueueFull> {
        let filters = filters.iter().map(|path| SubscribeFilter::new(path.clone(), qos_of(qos)));
        self.0.try_subscribe_many(filters).map_err(|_| QueueFull)
    }

    fn unsubscribe(&self, filter: &str) -> Result<(), QueueFull> {
        self.0.try_unsubscribe(filter).map_err(|_| QueueFull)
    }

    fn publish(&self, message: Outgoing) -> Result<(), QueueFull> {
        let Outgoing { topic, payload, qos, retain, .. } = message;
        self.0.try_publish(topic, qos_of(qos), retain, payload).map_err(|_| QueueFull)
    }

    fn acknowledge(&self, packet: u16, qos: u8) -> Result<(), QueueFull> {
        let mut publish = Publish::new("", qos_of(qos), Vec::new());
        publish.pkid = packet;
        self.0.try_ack(&publish).map_err(|_| QueueFull)
    }

    fn disconnect(&self) -> Result<(), QueueFull> {
        self.0.try_disconnect().map_err(|_| QueueFull)
    }
}

#[async_trait]
impl Link for V4Link {
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
        Packet::ConnAck(accepted) => Event::Connected(Welcome {
            session_present: accepted.session_present,
            receive_maximum: u16::MAX,
            packet_bytes_max: PROTOCOL_PACKET_BYTES_MAX,
            qos_max: 2,
        }),
        Packet::Publish(publish) => Event::Message(Incoming {
            topic: publish.topic.into(),
            payload: publish.payload,
            qos: publish.qos as u8,
            packet: publish.pkid,
            retain: publish.retain,
        }),
        Packet::SubAck(answer) => {
            let granted = |code| match code {
                SubscribeReasonCode::Success(qos) => Ok(qos as u8),
                SubscribeReasonCode::Failure => Err("MQTT 3.1.1 gives no reason".to_owned()),
            };
            Event::Subscribed(answer.return_codes.into_iter().map(granted).collect())
        }
        Packet::PubAck(answer) => Event::Acknowledged { packet: answer.pkid, refused: None },
        Packet::PubComp(answer) => Event::Acknowledged { packet: answer.pkid, refused: None },
        _ => Event::Heard,
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
        ConnectionError::MqttState(StateError::ConnectionAborted) => Broken::ClosedByPeer,
        ConnectionError::MqttState(StateError::Deserialization(
            rumqttc::mqttbytes::Error::PayloadSizeLimitExceeded(bytes),
        )) => Broken::TooLarge(format!("it has {bytes} bytes")),
        ConnectionError::ConnectionRefused(code) => {
            Broken::Lost(format!("the broker refuses the connection: {code:?}"))
        }
        other => Broken::Lost(other.to_string()),
    }
}
