//! Messages that wait for their acknowledgement: sent when their rows are
//! durable, in the order of receipt (MQTT 5, section 4.6), and only on the
//! connection that brought them. A packet id of an old connection may mean
//! another message now.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidegate_engine::error::ConnectorError;
use tidegate_engine::source::{Committer, Position};

use super::link::Requests;

/// Where a source stands: the connection, counted since the start, and the
/// number of the last message of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place(pub(super) u64, pub(super) u64);

/// The unacknowledged messages of one connection.
pub(super) struct Acks {
    connection: u64,
    requests: Arc<dyn Requests>,
    waiting: Mutex<VecDeque<Waiting>>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: u64,
    packet: u16,
    qos: u8,
}

impl Acks {
    /// None yet.
    pub(super) fn new(connection: u64, requests: Arc<dyn Requests>) -> Acks {
        Acks { connection, requests, waiting: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection they belong to.
    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    /// A message with a packet id was received; numbers grow.
    pub(super) fn expect(&self, number: u64, packet: u16, qos: u8) {
        if qos > 0 {
            self.lock().push_back(Waiting { number, packet, qos });
        }
    }

    /// Acknowledges everything up to this message.
    fn up_to(&self, place: Place) -> Result<(), ConnectorError> {
        if place.0 != self.connection {
            return Ok(());
        }
        let mut waiting = self.lock();
        while let Some(first) = waiting.front().copied().filter(|first| first.number <= place.1) {
            let sent = self.requests.acknowledge(first.packet, first.qos);
            sent.map_err(|_| {
                ConnectorError::Lost("mqtt: the connection has ended before the commit".into())
            })?;
            waiting.pop_front();
        }
        Ok(())
    }
}

/// The engine's side.
pub(super) struct MqttCommitter(pub(super) Arc<Acks>);

#[async_trait]
impl Committer for MqttCommitter {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        // What is no place of ours comes from an earlier version or another kind
        // of source that had this name: there is nothing to acknowledge for it.
        position.read().map_or(Ok(()), |place| self.0.up_to(place))
    }
}

#[cfg(test)]
mod tests {
    use super::super::link::{Outgoing, QueueFull};
    use super::*;

    /// Writes down what is acknowledged.
    #[derive(Default)]
    struct Paper(Mutex<Vec<(u16, u8)>>);

    impl Requests for Paper {
        fn subscribe(&self, _: &[String], _: u8) -> Result<(), QueueFull> {
            Ok(())
        }
        fn unsubscribe(&self, _: &str) -> Result<(), QueueFull> {
            Ok(())
        }
        fn publish(&self, _: Outgoing) -> Result<(), QueueFull> {
            Ok(())
        }
        fn acknowledge(&self, packet: u16, qos: u8) -> Result<(), QueueFull> {
            self.0.lock().map(|mut all| all.push((packet, qos))).map_err(|_| QueueFull)
        }
        fn disconnect(&self) -> Result<(), QueueFull> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn acknowledges_in_order_of_receipt_and_never_across_connections() {
        let paper = Arc::new(Paper::default());
        let acks = Arc::new(Acks::new(2, Arc::clone(&paper) as Arc<dyn Requests>));
        for (number, packet, qos) in [(1, 9, 1), (2, 0, 0), (3, 4, 2), (4, 7, 1)] {
            acks.expect(number, packet, qos);
        }
        let mut committer = MqttCommitter(Arc::clone(&acks));
        let seen = || paper.0.lock().map(|all| all.clone()).unwrap_or_default();
        // A position of the connection before: its packet ids mean nothing here.
        committer.commit(&Position::of(&Place(1, 99))).await.expect("is ignored");
        committer.commit(&Position::of(&"another source's")).await.expect("is ignored");
        assert_eq!(seen(), []);
        committer.commit(&Position::of(&Place(2, 3))).await.expect("is sent");
        assert_eq!(seen(), [(9, 1), (4, 2)]);
        committer.commit(&Position::of(&Place(2, 4))).await.expect("is sent");
        assert_eq!(seen(), [(9, 1), (4, 2), (7, 1)]);
    }
}
