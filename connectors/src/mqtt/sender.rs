//! A connection that sends, with a clean session: what a message came to is
//! known by our own list of packet ids, and after a break the caller sends
//! again whatever was not reported. A message is never called delivered
//! without the broker's word (QoS 0: without having been sent).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_engine::error::ConnectorError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::link::{Broken, Event, Link, Outgoing, Refusal, Requests, Welcome};
use super::settings::Settings;
use crate::deliveries::Deliveries;

/// How long the good-bye may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Fixed header, topic length, packet id, and the length of properties.
const PACKET_OVERHEAD_BYTES: usize = 16;

/// A connection.
pub(super) struct Sender {
    requests: Arc<dyn Requests>,
    state: Arc<State>,
    task: JoinHandle<()>,
    welcome: Welcome,
    in_flight_max: usize,
}

/// Shared with the task that polls.
struct State {
    deliveries: Arc<Deliveries>,
    /// Rows in the order of their requests, not yet sent.
    queued: Mutex<VecDeque<usize>>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Sender {
    /// Connects.
    ///
    /// # Errors
    /// `Lost`: no broker; `Fatal`: unreadable secrets, or a broker that takes
    /// no messages of this QoS.
    pub(super) async fn connect(
        settings: &Settings,
        qos: u8,
        deliveries: Arc<Deliveries>,
    ) -> Result<Sender, ConnectorError> {
        let (requests, link) = settings.link()?;
        let state = Arc::new(State { deliveries, queued: Mutex::default() });
        let (ready, is_ready) = oneshot::channel();
        let task = tokio::spawn(poll(link, Arc::clone(&state), settings.watchdog(), ready));
        let answer = tokio::time::timeout(settings.handshake_max(), is_ready).await;
        let welcome = match answer {
            Ok(Ok(Ok(welcome))) => welcome,
            Ok(Ok(Err(broken))) => return Err(ConnectorError::Lost(broken.to_string())),
            Ok(Err(_)) | Err(_) => {
                task.abort();
                return Err(ConnectorError::Lost("mqtt: the broker does not answer".into()));
            }
        };
        let in_flight_max = usize::from(settings.in_flight_max.min(welcome.receive_maximum).max(1));
        let sender = Sender { requests, state, task, welcome, in_flight_max };
        if welcome.qos_max < qos {
            let reason = format!("mqtt: the broker takes messages of QoS {} at most", welcome.qos_max);
            return Err(ConnectorError::Fatal(reason));
        }
        Ok(sender)
    }

    /// Waits until a message may be sent.
    ///
    /// # Errors
    /// `Lost`: the connection has ended.
    pub(super) async fn room(&self) -> Result<(), ConnectorError> {
        loop {
            if let Some(reason) = self.state.deliveries.lost() {
                return Err(ConnectorError::Lost(reason));
            }
            if self.state.deliveries.open() < self.in_flight_max {
                return Ok(());
            }
            self.state.deliveries.progress().await;
        }
    }

    /// Sends a message; `row` comes back in the deliveries.
    ///
    /// # Errors
    /// Why the message alone is refused.
    pub(super) fn send(&self, message: Outgoing, row: usize) -> Result<(), String> {
        let properties: usize =
            message.properties.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
        let bytes = message.topic.len() + message.payload.len() + properties + PACKET_OVERHEAD_BYTES;
        if bytes > self.welcome.packet_bytes_max {
            return Err(format!(
                "a message of {bytes} bytes is larger than the {} that the broker takes",
                self.welcome.packet_bytes_max
            ));
        }
        let mut queued = self.state.queued.lock().unwrap_or_else(PoisonError::into_inner);
        self.state.deliveries.sent();
        queued.push_back(row);
        if self.requests.publish(message).is_err() {
            queued.pop_back();
            self.state.deliveries.unsent();
            self.state.deliveries.lose("mqtt: the connection has ended".into());
        }
        Ok(())
    }

    /// Says good-bye.
    pub(super) async fn close(mut self) {
        if self.requests.disconnect().is_ok()
            && tokio::time::timeout(CLOSE_MAX, &mut self.task).await.is_err()
        {
            tracing::debug!("the broker did not take the good-bye in time");
        }
    }
}

/// Polls until the connection ends.
async fn poll(
    mut link: Box<dyn Link>,
    state: Arc<State>,
    watchdog: Duration,
    ready: oneshot::Sender<Result<Welcome, Broken>>,
) {
    let mut ready = Some(ready);
    let mut in_flight: HashMap<u16, usize> = HashMap::new();
    let mut events = VecDeque::new();
    loop {
        match tokio::time::timeout(watchdog, link.poll(&mut events)).await {
            Ok(Ok(())) => {}
            ended => {
                let hangs =
                    || Broken::Lost(format!("the connection hangs: no sign of life for {watchdog:?}"));
                let broken = ended.map_or_else(|_| hangs(), |event| event.err().unwrap_or_else(hangs));
                state.deliveries.lose(broken.to_string());
                answer(&mut ready, Err(broken));
                return;
            }
        }
        for event in events.drain(..) {
            match event {
                Event::Connected(welcome) => answer(&mut ready, Ok(welcome)),
                Event::Sent(packet) => on_sent(&state, packet, &mut in_flight),
                Event::Acknowledged { packet, refused } => {
                    if let Some(row) = in_flight.remove(&packet) {
                        acknowledged(&state, row, refused);
                    }
                }
                // Until the broker has closed the connection: then it has read everything.
                Event::Closed | Event::Message(_) | Event::Subscribed(_) | Event::Heard => {}
            }
        }
    }
}

fn on_sent(state: &State, packet: u16, in_flight: &mut HashMap<u16, usize>) {
    let row = state.queued.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    match row {
        Some(row) if packet == 0 => state.deliveries.done(row, None),
        Some(row) => drop(in_flight.insert(packet, row)),
        None => {}
    }
}

fn answer(ready: &mut Option<oneshot::Sender<Result<Welcome, Broken>>>, said: Result<Welcome, Broken>) {
    if ready.take().is_some_and(|ready| ready.send(said).is_err()) {
        tracing::debug!("nobody waits for the connection any more");
    }
}

fn acknowledged(state: &State, row: usize, refused: Option<Refusal>) {
    let Some(Refusal { reason, may_pass }) = refused else { return state.deliveries.done(row, None) };
    if may_pass {
        state.deliveries.lose(format!("mqtt: {reason}"));
        state.deliveries.done(row, None);
    } else {
        state.deliveries.done(row, Some(reason));
    }
}
