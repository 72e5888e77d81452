//! One connection to a broker, over rumqttc's packets and a loop of our own.
//! The crate's own loop sends every acknowledgement with a system call of its
//! own and reads ten packets for each (0.25.1): a broker with a backlog then
//! runs away from its window. Here everything that waits goes out in one
//! write, before the next read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::in_flight::{Awaits, InFlight};
use super::link::{Broken, Event, Link, Outgoing, QueueFull, Requests, Welcome};
use super::packet::{Answer, Packet, Spelling};
use super::settings::{Halves, Resolved};

/// Requests that can wait for a connection: more than there are packet ids, so
/// that an acknowledgement always finds room.
const REQUESTS_MAX: usize = 70_000;

/// Bytes that are read at a time, if there are as many.
const READ_BYTES: usize = 64 << 10;
/// Bytes that wait to be written before the next request is taken.
const WRITE_BYTES: usize = 64 << 10;

/// A connection that is made by the first `poll`.
pub(super) fn connect(spelling: impl Spelling, settings: &Resolved) -> Halves {
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let address = Address {
        host: settings.host.trim_matches(['[', ']']).to_owned(),
        port: settings.port,
        tls: settings.tls.clone(),
        connect_timeout: settings.connect_timeout,
        keep_alive: settings.keep_alive,
    };
    (Arc::new(Queue(sender)), Box::new(Wire { spelling, address, requests, line: None }))
}

/// What is asked of a connection.
enum Request {
    Subscribe(Vec<String>, u8),
    Unsubscribe(String),
    Publish(Outgoing),
    Acknowledge(u16, u8),
    Disconnect,
}

/// The outgoing half.
struct Queue(mpsc::Sender<Request>);

impl Queue {
    fn ask(&self, request: Request) -> Result<(), QueueFull> {
        self.0.try_send(request).map_err(|_| QueueFull)
    }
}

impl Requests for Queue {
    fn subscribe(&self, filters: &[String], qos: u8) -> Result<(), QueueFull> {
        self.ask(Request::Subscribe(filters.to_vec(), qos))
    }
    fn unsubscribe(&self, filter: &str) -> Result<(), QueueFull> {
        self.ask(Request::Unsubscribe(filter.to_owned()))
    }
    fn publish(&self, message: Outgoing) -> Result<(), QueueFull> {
        self.ask(Request::Publish(message))
    }
    fn acknowledge(&self, packet: u16, qos: u8) -> Result<(), QueueFull> {
        self.ask(Request::Acknowledge(packet, qos))
    }
    fn disconnect(&self) -> Result<(), QueueFull> {
        self.ask(Request::Disconnect)
    }
}

/// Where the broker is and how it is reached.
struct Address {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    connect_timeout: Duration,
    keep_alive: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Address {
    async fn dial(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(tokio_rustls::TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await?))
    }
}

/// The incoming half.
struct Wire<S> {
    spelling: S,
    address: Address,
    requests: mpsc::Receiver<Request>,
    line: Option<Line>,
}

/// The connection, once it stands.
struct Line {
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    /// Something was written, and may still be in a buffer below.
    is_unflushed: bool,
    /// What `output` will have done when it is out.
    going: VecDeque<Event>,
    in_flight: InFlight,
    ping: Interval,
    /// A ping has no answer yet.
    is_asked: bool,
}

#[async_trait]
impl<S: Spelling> Link for Wire<S> {
    async fn poll(&mut self, events: &mut VecDeque<Event>) -> Result<(), Broken> {
        if let Some(line) = self.line.as_mut() {
            while events.is_empty() {
                line.turn(&self.spelling, &mut self.requests, Some(events)).await?;
            }
            return Ok(());
        }
        let (line, welcome) = timeout(self.address.connect_timeout, self.open())
            .await
            .map_err(|_| Broken::Lost("the broker does not answer the connection".into()))??;
        self.line = Some(line);
        events.push_back(Event::Connected(welcome));
        Ok(())
    }

    async fn hold(&mut self) -> Broken {
        loop {
            let Some(line) = self.line.as_mut() else { return std::future::pending().await };
            if let Err(broken) = line.turn(&self.spelling, &mut self.requests, None).await {
                return broken;
            }
        }
    }
}

impl<S: Spelling> Wire<S> {
    async fn open(&mut self) -> Result<(Line, Welcome), Broken> {
        let stream = self.address.dial().await.map_err(|error| lost(&error))?;
        let (reader, writer) = tokio::io::split(stream);
        let mut line = Line {
            reader,
            writer,
            input: BytesMut::with_capacity(READ_BYTES),
            output: BytesMut::new(),
            is_unflushed: false,
            going: VecDeque::new(),
            in_flight: InFlight::default(),
            ping: pings(self.address.keep_alive),
            is_asked: false,
        };
        line.write(&self.spelling, Packet::Connect)?;
        push(&mut line.writer, &mut line.output).await?;
        line.is_unflushed = false;
        loop {
            match self.spelling.read(&mut line.input)? {
                Some(Answer::Connected(welcome)) => {
                    let least = welcome
                        .keep_alive
                        .map_or(self.address.keep_alive, |said| said.min(self.address.keep_alive));
                    line.ping = pings(least);
                    return Ok((line, welcome));
                }
                Some(Answer::Broken(broken)) => return Err(broken),
                Some(other) => {
                    return Err(Broken::Lost(format!(
                        "the broker does not answer the connection: {other:?}"
                    )));
                }
                None => read(&mut line.reader, &mut line.input).await?,
            }
        }
    }
}

fn pings(every: Duration) -> Interval {
    let mut pings = interval_at(Instant::now() + every, every);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

fn lost(error: &io::Error) -> Broken {
    Broken::Lost(error.to_string())
}

/// Cancel-safe: what was written is gone from `output`.
async fn push(writer: &mut WriteHalf<Box<dyn Stream>>, output: &mut BytesMut) -> Result<(), Broken> {
    writer.write_all_buf(output).await.map_err(|error| lost(&error))?;
    writer.flush().await.map_err(|error| lost(&error))
}

/// Cancel-safe: what was read is in `input`.
async fn read(reader: &mut ReadHalf<Box<dyn Stream>>, input: &mut BytesMut) -> Result<(), Broken> {
    if input.spare_capacity_mut().len() < READ_BYTES / 16 {
        input.reserve(READ_BYTES);
    }
    match reader.read_buf(input).await {
        Ok(0) => Err(Broken::ClosedByPeer),
        Ok(_) => Ok(()),
        Err(error) => Err(lost(&error)),
    }
}

impl Line {
    /// Takes the requests that wait, then does the next thing that can be done.
    /// Without `events` nothing is read.
    async fn turn<S: Spelling>(
        &mut self,
        spelling: &S,
        requests: &mut mpsc::Receiver<Request>,
        events: Option<&mut VecDeque<Event>>,
    ) -> Result<(), Broken> {
        while self.output.len() < WRITE_BYTES
            && let Ok(request) = requests.try_recv()
        {
            self.take(spelling, request)?;
        }
        let reads = events.is_some();
        tokio::select! {
            pushed = push(&mut self.writer, &mut self.output), if self.is_unflushed => {
                pushed?;
                self.is_unflushed = false;
            }
            request = requests.recv(), if self.output.len() < WRITE_BYTES => match request {
                Some(request) => self.take(spelling, request)?,
                // Nobody can ask for anything any more.
                None => return Err(Broken::Lost("the connection is not wanted any more".into())),
            },
            got = read(&mut self.reader, &mut self.input), if reads => got?,
            _ = self.ping.tick() => self.ask(spelling, reads)?,
        }
        let Some(events) = events else { return Ok(()) };
        if self.output.is_empty() {
            events.append(&mut self.going);
        }
        while let Some(answer) = spelling.read(&mut self.input)? {
            self.is_asked = false;
            events.push_back(self.on_answer(spelling, answer)?);
        }
        Ok(())
    }

    fn write<S: Spelling>(&mut self, spelling: &S, packet: Packet) -> Result<(), Broken> {
        self.is_unflushed = true;
        spelling.write(packet, &mut self.output)
    }

    /// A ping is due. Without reading there is no answer to miss.
    fn ask<S: Spelling>(&mut self, spelling: &S, reads: bool) -> Result<(), Broken> {
        if std::mem::replace(&mut self.is_asked, reads) && reads {
            return Err(Broken::Lost("the connection hangs: a ping has no answer".into()));
        }
        self.write(spelling, Packet::Ping)
    }

    fn take<S: Spelling>(&mut self, spelling: &S, request: Request) -> Result<(), Broken> {
        let packet = match request {
            Request::Subscribe(filters, qos) => {
                Packet::Subscribe(self.in_flight.take(Awaits::SubAck)?, filters, qos)
            }
            Request::Unsubscribe(filter) => {
                Packet::Unsubscribe(self.in_flight.take(Awaits::UnsubAck)?, filter)
            }
            Request::Publish(message) => {
                let id = match message.qos {
                    0 => 0,
                    1 => self.in_flight.take(Awaits::PubAck)?,
                    _ => self.in_flight.take(Awaits::PubRec)?,
                };
                self.going.push_back(Event::Sent(id));
                Packet::Publish(id, message)
            }
            Request::Acknowledge(id, 2) => Packet::PubRec(id),
            Request::Acknowledge(id, _) => Packet::PubAck(id),
            Request::Disconnect => {
                self.going.push_back(Event::Closed);
                Packet::Disconnect
            }
        };
        self.write(spelling, packet)
    }

    fn on_answer<S: Spelling>(&mut self, spelling: &S, answer: Answer) -> Result<Event, Broken> {
        let mut answered = |id, what, next| self.in_flight.answered(id, what, next);
        match answer {
            Answer::Message(message) => return Ok(Event::Message(message)),
            Answer::Subscribed(id, granted) => {
                answered(id, Awaits::SubAck, None)?;
                return Ok(Event::Subscribed(granted));
            }
            Answer::Unsubscribed(id) => answered(id, Awaits::UnsubAck, None)?,
            Answer::PubAck(packet, refused) => {
                answered(packet, Awaits::PubAck, None)?;
                return Ok(Event::Acknowledged { packet, refused });
            }
            Answer::PubRec(packet, refused @ Some(_)) => {
                answered(packet, Awaits::PubRec, None)?;
                return Ok(Event::Acknowledged { packet, refused });
            }
            Answer::PubRec(packet, None) => {
                answered(packet, Awaits::PubRec, Some(Awaits::PubComp))?;
                self.write(spelling, Packet::PubRel(packet))?;
            }
            Answer::PubComp(packet) => {
                answered(packet, Awaits::PubComp, None)?;
                return Ok(Event::Acknowledged { packet, refused: None });
            }
            // Also of a message that an earlier connection of the session received.
            Answer::PubRel(packet) => self.write(spelling, Packet::PubComp(packet))?,
            Answer::Pong => {}
            Answer::Broken(broken) => return Err(broken),
            Answer::Connected(_) => return Err(Broken::Lost("the broker welcomes us twice".into())),
        }
        Ok(Event::Heard)
    }
}
