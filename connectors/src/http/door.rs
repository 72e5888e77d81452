//! What a request meets before it is read: a limit of connections, so that
//! senders that never let go leave descriptors for checkpoints, and a limit of
//! the bytes of all bodies whose rows are not durable yet, so that a spike
//! makes its senders wait and not this process grow.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at a time; a process has 1,024 descriptors where nobody gave it
/// more. Further ones wait with the system.
const CONNECTIONS_MAX: usize = 512;
/// A connection on which a sender says nothing for so long is closed; longer
/// than any request waits for its answer.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Bytes of bodies that are read or not durable yet: they are decoded, encoded
/// for the log and written, so the process holds a few times as much.
const BODIES_BYTES: usize = 16 << 20;
/// Bodies are counted in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;
/// Longest wait for room, and longest time for a body to come in.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// A listener that takes so many connections at a time.
pub(super) struct Limited {
    listener: TcpListener,
    node: String,
    places: Arc<Semaphore>,
    is_told: bool,
}

impl Limited {
    pub(super) fn new(listener: TcpListener, node: &str) -> Limited {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Limited { listener, node: node.to_owned(), places, is_told: false }
    }

    /// One line about it, until there is room again.
    fn tell(&mut self) {
        let is_full = self.places.available_permits() == 0;
        if is_full && !self.is_told {
            let node = &self.node;
            tracing::warn!(%node, "{CONNECTIONS_MAX} connections are open; further senders wait");
        }
        self.is_told = is_full;
    }
}

impl Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.tell();
        // Never closed, so there is a place sooner or later.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let silence = Box::pin(tokio::time::sleep(SILENCE_MAX));
        (Connection { stream, silence, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that holds a place, and not for ever.
pub(super) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if read.is_ready() {
            this.silence.as_mut().reset(Instant::now() + SILENCE_MAX);
            return read;
        }
        this.silence.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Room for bodies, shared by all requests.
pub(super) struct Bodies {
    units: Arc<Semaphore>,
    units_max: usize,
    body_bytes_max: usize,
}

/// A body, and its room until that is dropped.
pub(super) struct Taken {
    pub(super) body: Bytes,
    pub(super) room: OwnedSemaphorePermit,
}

impl Bodies {
    /// Room for bodies of so many bytes each.
    pub(super) fn new(body_bytes_max: usize) -> Bodies {
        let units_max = units(BODIES_BYTES.max(body_bytes_max)).min(Semaphore::MAX_PERMITS);
        Bodies { units: Arc::new(Semaphore::new(units_max)), units_max, body_bytes_max }
    }

    /// Reads a body when there is room for it; answers what to say if not.
    pub(super) async fn take(&self, request: Request) -> Result<Taken, Box<Response>> {
        let said = length(request.headers());
        if said.is_some_and(|length| length > self.body_bytes_max) {
            return Err(Box::new(StatusCode::PAYLOAD_TOO_LARGE.into_response()));
        }
        // Who does not say how much comes may send as much as is allowed.
        let most = self.units_of(said.unwrap_or(self.body_bytes_max));
        let waiting = Arc::clone(&self.units).acquire_many_owned(most);
        let Ok(Ok(mut room)) = tokio::time::timeout(BODY_WITHIN, waiting).await else {
            return Err(Box::new(unavailable("too many bytes are waiting")));
        };
        let read = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, &()));
        let body = match read.await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => return Err(Box::new(error.into_response())),
            Err(_) => return Err(Box::new(StatusCode::REQUEST_TIMEOUT.into_response())),
        };
        let needed = self.units_of(body.len());
        drop(room.split(usize::try_from(most.saturating_sub(needed)).unwrap_or(0)));
        Ok(Taken { body, room })
    }

    /// At least one: a request costs something though its body is empty.
    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(units(bytes).clamp(1, self.units_max)).unwrap_or(u32::MAX)
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What a sender hears that had better come again.
pub(super) fn unavailable(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], why).into_response()
}
