//! What is heard on a line whose frames carry no number and no length that can
//! be trusted: silence ends a frame. Never lets bytes through that came before
//! the request they would be taken to answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A line is silent when nothing came for this long: 3.5 characters at 1,200
/// baud are 32 ms.
const SILENCE: Duration = Duration::from_millis(50);
/// A frame with a hole this long is broken off: 1.5 characters are allowed, a
/// USB adapter and a gateway add some ten milliseconds.
const HOLE_MAX: Duration = Duration::from_millis(150);
/// A line that is never silent is given up after this time.
const NOISE_MAX: Duration = Duration::from_secs(1);

/// A stream that tells when bytes come, and throws away what came before a
/// request was sent.
pub(crate) struct Ear<S> {
    inner: S,
    heard: watch::Sender<Heard>,
}

/// The first bytes since a request was sent.
#[derive(Debug, Default)]
struct Heard {
    first: [u8; 2],
    count: usize,
}

/// The other end of an ear.
pub(crate) struct Listening(watch::Receiver<Heard>);

impl<S> Ear<S> {
    pub(crate) fn new(inner: S) -> (Ear<S>, Listening) {
        let (heard, listening) = watch::channel(Heard::default());
        (Ear { inner, heard }, Listening(listening))
    }
}

impl Listening {
    /// The first two bytes since the last request.
    pub(crate) fn began_with(&self) -> Option<[u8; 2]> {
        let heard = self.0.borrow();
        (heard.count >= heard.first.len()).then_some(heard.first)
    }

    /// Waits until bytes have come and then no more.
    pub(crate) async fn broken_off(&mut self) {
        self.0.mark_unchanged();
        if self.0.changed().await.is_err() {
            return std::future::pending().await;
        }
        while timeout(HOLE_MAX, self.0.changed()).await.is_ok_and(|heard| heard.is_ok()) {}
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ear<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        let new = buffer.filled().get(before..).unwrap_or_default();
        if !new.is_empty() {
            self.heard.send_modify(|heard| {
                let places = heard.first.iter_mut().skip(heard.count);
                places.zip(new).for_each(|(place, byte)| *place = *byte);
                heard.count += new.len();
            });
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Ear<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut space = [0; 256];
        let mut unwanted = ReadBuf::new(&mut space);
        while let Poll::Ready(read) = Pin::new(&mut self.inner).poll_read(context, &mut unwanted) {
            read?;
            if unwanted.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            unwanted.clear();
        }
        self.heard.send_if_modified(|heard| {
            *heard = Heard::default();
            false
        });
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Reads a line until this instant, and on until it is silent: what comes
/// belongs to nobody any more.
pub(crate) async fn drain(line: &mut (impl AsyncRead + Unpin), until: Instant) -> io::Result<()> {
    let mut bytes = [0; 256];
    let give_up = until.max(Instant::now()) + NOISE_MAX;
    loop {
        let now = Instant::now();
        match timeout(SILENCE.max(until.saturating_duration_since(now)), line.read(&mut bytes)).await {
            Err(_) => return Ok(()),
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => drop(read?),
        }
        if now >= give_up {
            return Ok(());
        }
    }
}
