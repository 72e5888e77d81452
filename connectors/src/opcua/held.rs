//! What a source remembers beyond its own end: the subscription that the server
//! holds for it and how far that was read. A new process takes it over and asks
//! for what came after the last durable row. It never takes over another
//! server's subscription, nor one for other nodes or with a node left out.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use opcua::client::UARequest;
use opcua::client::services::{DeleteSubscriptions, TransferSubscriptions};
use opcua::types::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_engine::error::ConnectorError;

use super::items::Handles;
use super::link::{Link, Subscription, Wanted};
use super::nodes::{Item, resolve};
use super::session::is_about_the_line;
use super::subscription::sequence;

/// Where a source stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Everything up to this ticket was handed on.
    pub(crate) ticket: u64,
    /// When its last rows came, in µs since 1970.
    pub(crate) at: Option<i64>,
    /// The subscription, if it can be taken over.
    pub(crate) held: Option<Held>,
}

/// A subscription at a server, which a later session may take over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) subscription: u32,
    /// The last message that was handed on; 0 for none.
    pub(crate) last: u32,
    /// The server says something at least this often.
    pub(crate) keep_alive: Duration,
    /// When the server was started, in ticks: its numbers are worth nothing to another.
    pub(crate) server_started: i64,
    /// What was asked for, in one number.
    pub(crate) asked: u64,
}

/// Nodes and the way they are asked for, in one number. Another version of the
/// compiler may make another one of them: then a gap is told.
pub(crate) fn asked(wanted: &Wanted, items: &[Arc<Item>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (wanted.sampling_ms.to_bits(), wanted.publishing, wanted.queue_size).hash(&mut hasher);
    wanted.deadband.map(|(kind, value)| (kind, value.to_bits())).hash(&mut hasher);
    for item in items {
        item.node.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

impl Link {
    /// Takes over the subscription of an earlier process; answers why not.
    pub(crate) async fn take_over(&mut self, held: &Held) -> Result<Option<String>, ConnectorError> {
        // A question that fails is asked again: it does not say that the server is another.
        let Some(started) = self.started().await? else {
            return Ok(Some("the server does not say any more when it was started".into()));
        };
        if started.ticks() != held.server_started {
            return Ok(Some("the server was restarted".into()));
        }
        let available = match self.transfer(held.subscription).await {
            Ok(available) => available,
            Err(status) if is_about_the_line(status) => {
                return Err(ConnectorError::Lost(format!("cannot take the subscription over: {status}")));
            }
            Err(status) => {
                return Ok(Some(format!("the server does not give the subscription back ({status})")));
            }
        };
        let found = resolve(&self.session, &self.wanted.selections, &self.wanted.tag_names).await?;
        if !found.absent.is_empty() || asked(&self.wanted, &found.items) != held.asked {
            let delete = DeleteSubscriptions::new(&self.session).subscription(held.subscription);
            if let Err(error) = delete.send(self.session.channel()).await {
                tracing::debug!("cannot delete a subscription for other nodes: {error}");
            }
            return Ok(Some("other nodes are read now, or in another way".into()));
        }
        sequence(&self.acknowledgements).take_over(held.subscription, held.last, &available);
        self.handles = Handles::of(&found.items);
        self.subscription = Some(Subscription { id: held.subscription, keep_alive: held.keep_alive });
        self.server_started = Some(started);
        self.is_held = true;
        tracing::info!(
            subscription = held.subscription,
            last = held.last,
            "the subscription of an earlier process is taken over"
        );
        // Some servers (asyncua) answer the publish requests of the connection on
        // which the session was activated and no others: the next one is that.
        self.connected = false;
        self.session.channel().close_channel().await;
        Ok(None)
    }

    /// Takes a subscription of another session over; answers the messages that
    /// the server still has.
    pub(crate) async fn transfer(&self, subscription: u32) -> Result<Vec<u32>, StatusCode> {
        let request = TransferSubscriptions::new(&self.session).subscription(subscription);
        let answer = request.send(self.session.channel()).await.map_err(|error| error.status())?;
        let result = answer.results.unwrap_or_default().into_iter().next();
        let result = result.ok_or(StatusCode::BadUnexpectedError)?;
        if result.status_code.is_good() {
            Ok(result.available_sequence_numbers.unwrap_or_default())
        } else {
            Err(result.status_code)
        }
    }
}
