//! A broker that may say anything: its bytes to answers. The first byte chooses
//! the version, the second one how the bytes come in pieces.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a target panics to say that a promise is broken"
)]

use std::time::Duration;

use bytes::BytesMut;
use tidegate_engine::topology::value::Text;

use super::columns::{Column, TopicReader};
use super::link::{Incoming, Outgoing};
use super::packet::{Answer, Packet, Spelling};
use super::settings::Resolved;
use super::topic::{Pattern, can_be_sent_to};
use super::v4::V4;
use super::v5::V5;

/// Largest packet that is taken.
const PACKET_BYTES_MAX: u32 = 64 << 10;

/// Everything a broker sends is the same however it comes in pieces; a message
/// that is sent on is the same again, and its topic has the levels that it has.
pub fn mqtt(bytes: &[u8]) {
    let [version, piece, bytes @ ..] = bytes else { return };
    let settings = Resolved {
        host: "broker".into(),
        port: 1_883,
        client_id: "c".into(),
        login: None,
        tls: None,
        keep_alive: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
        packet_bytes_max: PACKET_BYTES_MAX,
        receive_maximum: 100,
        session_expiry: None,
    };
    let piece = usize::from(*piece) + 1;
    if version % 2 == 0 {
        check(&V4::new(&settings), bytes, piece)
    } else {
        check(&V5::new(&settings), bytes, piece)
    }
}

fn check(spelling: &impl Spelling, bytes: &[u8], piece: usize) {
    let at_once = answers(spelling, bytes, usize::MAX);
    let in_pieces = answers(spelling, bytes, piece);
    assert_eq!(format!("{in_pieces:?}"), format!("{at_once:?}"), "pieces make a difference");
    let mut topics = TopicReader::new(
        ["fleet/{truck}/{sensor}", "$SYS/#", "+/{truck}/#"]
            .map(|topic| Pattern::parse(&Text::loose(topic)).expect("a topic"))
            .to_vec(),
        &[Column::Level("truck".into()), Column::Level("sensor".into())],
    );
    for answer in at_once.0 {
        let Answer::Message(message) = answer else { continue };
        let levels = topics.levels(&message.topic);
        assert!(levels.is_none_or(|levels| levels.len() == 2), "other levels than were asked for");
        check_sent_on(spelling, &message);
    }
}

/// A message that is sent as it came is read as it came.
fn check_sent_on(spelling: &impl Spelling, message: &Incoming) {
    let Ok(topic) = String::from_utf8(message.topic.to_vec()) else { return };
    if !can_be_sent_to(&topic) {
        return;
    }
    let (payload, qos, retain) = (message.payload.clone(), message.qos, message.retain);
    let outgoing = Outgoing { topic, payload, qos, retain, properties: Vec::new() };
    let mut output = BytesMut::new();
    spelling.write(Packet::Publish(message.packet, outgoing), &mut output).expect("is spelled");
    // A version may need more bytes for the same message than the other side did.
    if output.len() > PACKET_BYTES_MAX as usize {
        return;
    }
    let (mut again, end) = answers(spelling, &output, usize::MAX);
    let Some(Answer::Message(again)) = again.pop() else { panic!("no message comes back: {end}") };
    let facts = |message: &Incoming| {
        (message.topic.clone(), message.payload.clone(), message.retain, message.qos, message.packet)
    };
    assert_eq!(facts(&again), facts(message), "another message comes back");
}

/// Every answer, and how it ended.
fn answers(spelling: &impl Spelling, mut bytes: &[u8], piece: usize) -> (Vec<Answer>, String) {
    let mut input = BytesMut::new();
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (now, later) = bytes.split_at(piece.min(bytes.len()));
        bytes = later;
        input.extend_from_slice(now);
        loop {
            let before = input.len();
            match spelling.read(&mut input) {
                Ok(None) => break,
                Ok(Some(answer)) => all.push(answer),
                Err(broken) => return (all, broken.to_string()),
            }
            assert!(input.len() < before, "an answer out of no bytes");
        }
    }
    (all, "no more".into())
}
