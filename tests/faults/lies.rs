//! Payloads that are huge, or say that they are: nothing is allocated for them,
//! each is counted and told, and the next one is served. HTTP, MQTT, Kafka.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::cgroup::memory_of;
use crate::kafka_client::{Given, Mock, produce};
use crate::parts::free_port;
use crate::plant::{Plant, post, post_until_taken, status};
use crate::process::LIMIT;

const HTTP: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.orders]
type        = "http"
listen      = "127.0.0.1:PORT"
schema      = { n = "int64" }
payload_max = "1MiB"

[sink.out]
type = "file"
from = "orders"
path = "out/"
"#;

/// What a process may grow by while somebody lies to it.
const GROWTH: u64 = 48 << 20;

fn claim(port: u16, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    stream
        .write_all(format!("POST / HTTP/1.1\r\nHost: plant\r\n{head}\r\n\r\n").as_bytes())
        .expect("is read");
    stream
}

#[test]
fn bodies_that_are_huge_or_say_so_cost_no_memory() {
    let port = free_port();
    let plant = Plant::new(&HTTP.replace("PORT", &port.to_string()));
    let daemon = plant.start();
    plant.until("it listens", || post(port, b"").is_ok());
    let (before, _) = memory_of(daemon.id());
    // Ten gigabytes, and more than a number holds.
    let ten = claim(port, "Connection: close\r\nContent-Length: 10737418240");
    let many = claim(port, "Connection: close\r\nContent-Length: 184467440737095516160");
    for (mut stream, expected) in [(ten, 413), (many, 400)] {
        assert_eq!(status(&mut stream).expect("answers"), expected);
    }
    // Without an end.
    let mut endless = claim(port, "Connection: close\r\nTransfer-Encoding: chunked");
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x1_0000], b"\r\n"].concat();
    let sent = (0..1_000).take_while(|_| endless.write_all(&chunk).is_ok()).count();
    assert!(sent < 900, "{sent} chunks were taken");
    // Says much and sends nothing, many times; an honest sender is served all the same.
    let silent: Vec<TcpStream> = (0..15).map(|_| claim(port, "Content-Length: 1048576")).collect();
    assert_eq!(post(port, b"{\"n\":1}").expect("answers"), 200);
    assert_eq!(post(port, &[b'x'; 2 << 20]).ok().unwrap_or(413), 413);
    let (after, _) = memory_of(daemon.id());
    println!("lies: HTTP took {} MB more", after.saturating_sub(before) >> 20);
    assert!(after < before + GROWTH, "{before} to {after}");
    drop(silent);
    post_until_taken(port, b"{\"n\":2}");
    plant.until_rows("out/", 2);
    plant.stop(daemon);
    assert_eq!(plant.numbers("out/", "n"), [1, 2]);
}

const MQTT: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.messages]
type       = "mqtt"
broker     = "mqtt://127.0.0.1:PORT"
topics     = ["plant/#"]
version    = "3.1.1"
packet_max = "64KiB"
schema     = { n = "int64" }

[sink.out]
type = "file"
from = "messages"
path = "out/"

[source.numbers]
type = "generate"
rate = "100/s"

[sink.beside]
type = "file"
from = "numbers"
path = "beside/"
"#;

/// Answers CONNECT and SUBSCRIBE, then says these bytes.
fn broker_says(listener: &TcpListener, bytes: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("a client comes");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    let mut packet = [0; 512];
    assert_eq!(read_packet(&mut stream, &mut packet) >> 4, 1);
    stream.write_all(&[0x20, 2, 0, 0]).expect("is read");
    assert_eq!(read_packet(&mut stream, &mut packet) >> 4, 8);
    stream.write_all(&[0x90, 3, packet[0], packet[1], 1]).expect("is read");
    // A client that has gone by now is what it is about.
    stream.write_all(bytes).ok();
    stream
}

/// The first byte of a packet; its body is put at the beginning.
fn read_packet(stream: &mut TcpStream, body: &mut [u8]) -> u8 {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a packet");
    stream.read_exact(&mut body[..usize::from(head[1])]).expect("a short packet");
    head[0]
}

#[test]
fn a_broker_that_announces_256_megabytes_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let plant = Plant::new(&MQTT.replace("PORT", &port.to_string()));
    let daemon = plant.start();
    // The longest that the protocol can say: 268,435,455 bytes.
    let lying = broker_says(&listener, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 0, 5, b'p']);
    plant.until("it is told", || {
        plant.log().lines().any(|line| line.contains("messages") && line.contains("packet_max"))
    });
    let (grown, _) = memory_of(daemon.id());
    plant.until_more("beside/", 50);
    drop(lying);
    // It comes back, and an honest broker is read.
    let honest = broker_says(&listener, b"\x32\x12\x00\x07plant/a\x00\x01{\"n\":1}");
    plant.until("a row", || plant.rows("out/").len() == 1);
    println!("lies: MQTT, {} MB in all after 256 MB were announced", grown >> 20);
    assert!(grown < 160 << 20, "{grown}");
    drop(honest);
    plant.stop(daemon);
}

const KAFKA: &str = r#"
[topology]
checkpoint_interval = "100ms"

[source.orders]
type        = "kafka"
BROKERS
topics      = ["orders"]
group       = "g"
start       = "earliest"
schema      = { n = "int64" }
payload_max = "10KiB"

[sink.out]
type = "file"
from = "orders"
path = "out/"
"#;

#[test]
fn messages_that_are_too_large_are_kept_aside_and_their_neighbours_pass() {
    let mock = Mock::new(&[("orders", 1)]);
    let large = [b"{\"n\":".as_slice(), &b" ".repeat(100_000), b"1}"].concat();
    let small = |n: u32| Given::new(0, format!("{{\"n\":{n}}}"));
    let given = (0..30).flat_map(|n| [small(n), Given::new(0, large.clone())]);
    produce(&mock.servers, "orders", given);
    let plant = Plant::new(&KAFKA.replace("BROKERS", mock.brokers().trim()));
    let daemon = plant.start();
    plant.until("the neighbours", || plant.rows("out/").len() == 30);
    plant.until("the large ones", || plant.letters().len() == 30);
    plant.stop(daemon);
    assert_eq!(plant.numbers("out/", "n"), (0..30).collect::<Vec<_>>());
    for letter in plant.letters() {
        assert!(letter["reason"].as_str().expect("text").contains("payload_max is 10240"), "{letter}");
        assert!(letter["position"].as_str().expect("text").contains("orders"), "{letter}");
    }
    assert!(plant.log().contains("payload_max"), "it is not told: {}", plant.log());
}
