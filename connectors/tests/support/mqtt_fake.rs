//! A broker that lies: accepts connections and answers what a test scripts,
//! byte by byte (MQTT 5 and 3.1.1 packets, OASIS standards).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A listening broker.
pub(crate) struct Fake {
    listener: TcpListener,
    pub(crate) port: u16,
}

/// One client.
pub(crate) struct Client(pub(crate) TcpStream);

impl Fake {
    pub(crate) async fn new() -> Fake {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it has an address").port();
        Fake { listener, port }
    }

    /// `broker = ".."` for a node.
    pub(crate) fn broker(&self) -> String {
        format!("broker = \"mqtt://127.0.0.1:{}\"\n", self.port)
    }

    /// The next client, its CONNECT read and not yet answered.
    pub(crate) async fn accept(&self) -> Client {
        let (stream, _) = self.listener.accept().await.expect("a client comes");
        let mut client = Client(stream);
        let (kind, _) = client.read().await.expect("it says CONNECT");
        assert_eq!(kind >> 4, 1);
        client
    }

    /// The next client, accepted with MQTT 5.
    pub(crate) async fn welcome(&self, session_present: bool) -> Client {
        let mut client = self.accept().await;
        client.write(&[0x20, 3, u8::from(session_present), 0, 0]).await;
        client
    }
}

impl Client {
    /// The next packet: first byte and body; `None` when the client is gone.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let kind = self.0.read_u8().await.ok()?;
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let byte = self.0.read_u8().await.ok()?;
            length |= usize::from(byte & 127) << shift;
            shift += 7;
            if byte & 128 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        Some((kind, body))
    }

    /// The next packet of this kind; others are skipped.
    pub(crate) async fn read_kind(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let (found, body) = self.read().await.expect("the client is there");
            if found >> 4 == kind {
                return body;
            }
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // A client that has gone by now is what some tests are about.
        self.0.write_all(bytes).await.ok();
    }

    /// Answers the next SUBSCRIBE with these codes (MQTT 5).
    pub(crate) async fn answer_subscribe(&mut self, codes: &[u8]) {
        let body = self.read_kind(8).await;
        let mut answer = vec![0x90, u8::try_from(3 + codes.len()).expect("few"), body[0], body[1], 0];
        answer.extend(codes);
        self.write(&answer).await;
    }

    /// Sends a message (MQTT 5).
    pub(crate) async fn publish(&mut self, qos: u8, packet: u16, topic: &str, payload: &[u8]) {
        let mut body = u16::try_from(topic.len()).expect("short").to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        if qos > 0 {
            body.extend(packet.to_be_bytes());
        }
        body.push(0);
        body.extend(payload);
        let mut bytes = vec![0x30 | (qos << 1)];
        let mut length = body.len();
        loop {
            let low = u8::try_from(length % 128).expect("seven bits");
            length /= 128;
            bytes.push(if length > 0 { low | 128 } else { low });
            if length == 0 {
                break;
            }
        }
        bytes.extend(body);
        self.write(&bytes).await;
    }
}

/// Packet id of a PUBLISH with QoS 1 or 2.
pub(crate) fn packet_id(body: &[u8]) -> [u8; 2] {
    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
    [body[2 + topic], body[3 + topic]]
}
