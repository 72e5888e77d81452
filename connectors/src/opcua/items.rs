//! Making a subscription and its monitored items; a node that the server
//! refuses does not keep the others from being read.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opcua::client::UARequest;
use opcua::client::services::{CreateMonitoredItems, CreateSubscription, DeleteSubscriptions};
use opcua::types::{
    DataChangeFilter, DataChangeTrigger, DataValue, DateTime, ExtensionObject, MonitoredItemCreateRequest,
    MonitoringMode, MonitoringParameters, NodeId, ReadValueId, StatusCode, TimestampsToReturn, VariableId,
    Variant,
};
use tidegate_engine::error::ConnectorError;

use super::held::{Held, asked};
use super::link::{Link, Subscription, Wanted};
use super::nodes::{Item, Refused, refusal, resolve};
use super::subscription::sequence;

/// Items in one request; fewer where the server says that it is too many.
const ITEMS_CHUNK: usize = 1_000;
/// Publishing intervals without data before the server says it is alive.
const KEEP_ALIVE_COUNT: u32 = 10;
/// Publishing intervals without a publish request before the server forgets us.
const LIFETIME_COUNT: u32 = 600;

/// Items by client handle, and those that the server refuses.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    items: HashMap<u32, Arc<Item>>,
    last: u32,
    refused: Vec<Refused>,
    /// How many of the refused ones have been told of.
    told: usize,
}

impl Handles {
    /// The item of a handle.
    pub(crate) fn item(&self, handle: u32) -> Option<Arc<Item>> {
        self.items.get(&handle).cloned()
    }

    /// Every item that is monitored.
    pub(crate) fn items(&self) -> Vec<Arc<Item>> {
        self.items.values().cloned().collect()
    }

    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Refused items as bad values, once.
    pub(crate) fn take_new_refusals(&mut self) -> Vec<(Arc<Item>, DataValue)> {
        let values = self.refused.iter().skip(self.told).map(refusal).collect();
        self.told = self.refused.len();
        values
    }

    /// As they were made when the server refused none of them.
    pub(crate) fn of(items: &[Arc<Item>]) -> Handles {
        let mut handles = Handles::default();
        for item in items {
            handles.add(item);
        }
        handles
    }

    /// Whether they are those that `of` gives, and none was refused.
    fn is_plain(&self) -> bool {
        self.refused.is_empty() && usize::try_from(self.last).is_ok_and(|last| last == self.items.len())
    }

    /// A handle that no item has had.
    fn add(&mut self, item: &Arc<Item>) -> u32 {
        self.last += 1;
        self.items.insert(self.last, Arc::clone(item));
        self.last
    }

    /// Takes back the handles that were made last, in a request that failed.
    fn take_back(&mut self, handles: &[u32]) {
        for handle in handles {
            self.items.remove(handle);
            self.last -= 1;
        }
    }

    fn refuse(&mut self, handle: u32, status: StatusCode) {
        if let Some(item) = self.items.remove(&handle) {
            self.refused.push((item, status));
        }
    }
}

fn lost(what: &str) -> impl Fn(opcua::types::Error) -> ConnectorError + '_ {
    move |error| ConnectorError::Lost(format!("{what}: {error}"))
}

impl Link {
    /// Whether the server is still the one that made our subscription. A
    /// restarted server may have given its number to somebody else.
    pub(crate) async fn is_same_server(&self) -> bool {
        let started = self.started().await.ok().flatten();
        started.is_some() && started == self.server_started
    }

    /// When the server was started, if it says so.
    pub(crate) async fn started(&self) -> Result<Option<DateTime>, ConnectorError> {
        let node: NodeId = VariableId::Server_ServerStatus_StartTime.into();
        let read = self.session.read(&[ReadValueId::from(node)], TimestampsToReturn::Neither, 0.0).await;
        let read = read.map_err(|status| {
            ConnectorError::Lost(format!("cannot read when the server was started: {status}"))
        })?;
        Ok(read.into_iter().next().and_then(started))
    }

    /// Makes a subscription with an item for each node.
    pub(crate) async fn create_subscription(&mut self) -> Result<(), ConnectorError> {
        let found = resolve(&self.session, &self.wanted.selections, &self.wanted.tag_names).await?;
        let started = self.started().await.ok().flatten();
        let created = CreateSubscription::new(&self.session)
            .publishing_interval(self.wanted.publishing)
            .max_lifetime_count(LIFETIME_COUNT)
            .max_keep_alive_count(KEEP_ALIVE_COUNT)
            .publishing_enabled(true)
            .send(self.session.channel())
            .await
            .map_err(lost("cannot subscribe"))?;
        let interval = Duration::from_secs_f64(created.revised_publishing_interval.clamp(0.0, 1e9) / 1e3);
        let subscription = Subscription {
            id: created.subscription_id,
            keep_alive: interval.saturating_mul(created.revised_max_keep_alive_count),
        };
        self.handles = Handles { refused: found.absent, ..Handles::default() };
        let count = found.items.len() + self.handles.refused.len();
        if let Err(error) = self.create_items(subscription.id, &found.items).await {
            let delete = DeleteSubscriptions::new(&self.session).subscription(subscription.id);
            if let Err(error) = delete.send(self.session.channel()).await {
                tracing::debug!("cannot delete a subscription that is not complete: {error}");
            }
            return Err(error);
        }
        sequence(&self.acknowledgements).restart(subscription.id);
        self.subscription = Some(subscription);
        self.server_started = Some(started.unwrap_or_default());
        // A server that does not say when it was started cannot be told from another.
        let holds = self.wanted.holds && started.is_some() && self.handles.is_plain();
        self.is_held = holds;
        self.new_held = holds.then(|| Held {
            subscription: subscription.id,
            last: 0,
            keep_alive: subscription.keep_alive,
            server_started: started.unwrap_or_default().ticks(),
            asked: asked(&self.wanted, &found.items),
        });
        tracing::info!("subscribed to {} of {count} nodes", self.handles.items.len());
        Ok(())
    }

    /// Asks once more for what was refused: it may be there by now.
    pub(crate) async fn retry_refused(&mut self) {
        let Some(subscription) = self.subscription else { return };
        let refused = std::mem::take(&mut self.handles.refused);
        let items: Vec<Arc<Item>> = refused.iter().map(|(item, _)| Arc::clone(item)).collect();
        if let Err(error) = self.create_items(subscription.id, &items).await {
            tracing::debug!("{error}");
            self.handles.refused = refused;
        }
        self.handles.told = self.handles.refused.len();
    }

    async fn create_items(&mut self, subscription: u32, items: &[Arc<Item>]) -> Result<(), ConnectorError> {
        let mut rest = items;
        let mut most = ITEMS_CHUNK;
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(most.min(rest.len()));
            let handles: Vec<u32> = chunk.iter().map(|item| self.handles.add(item)).collect();
            let requests =
                chunk.iter().zip(&handles).map(|(item, handle)| request(&self.wanted, item, *handle));
            let created = CreateMonitoredItems::new(subscription, &self.session)
                .timestamps_to_return(TimestampsToReturn::Both)
                .items_to_create(requests.collect())
                .send(self.session.channel())
                .await;
            match created {
                Ok(created) => {
                    for ((item, handle), result) in chunk.iter().zip(handles).zip(created.results) {
                        let status = result.result.status_code;
                        if status.is_bad() {
                            tracing::warn!(node = %item.node, "the server refuses a node: {status}");
                            self.handles.refuse(handle, status);
                        }
                    }
                    rest = after;
                }
                Err(error) if error.status() == StatusCode::BadTooManyOperations && most > 1 => {
                    self.handles.take_back(&handles);
                    most = (most.min(rest.len()) / 2).max(1);
                }
                Err(error) => return Err(lost("cannot monitor")(error)),
            }
        }
        Ok(())
    }
}

/// A time that says something: null is no time.
fn started(value: DataValue) -> Option<DateTime> {
    match value.value {
        Some(Variant::DateTime(time)) if !time.is_null() => Some(*time),
        Some(_) | None => None,
    }
}

fn request(wanted: &Wanted, item: &Item, handle: u32) -> MonitoredItemCreateRequest {
    let filter = match wanted.deadband {
        Some((deadband_type, deadband_value)) => ExtensionObject::from_message(DataChangeFilter {
            trigger: DataChangeTrigger::StatusValue,
            deadband_type,
            deadband_value,
        }),
        None => ExtensionObject::null(),
    };
    MonitoredItemCreateRequest {
        item_to_monitor: ReadValueId::from(item.node.clone()),
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: handle,
            sampling_interval: wanted.sampling_ms,
            filter,
            queue_size: wanted.queue_size,
            discard_oldest: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_at_no_time_says_nothing() {
        let of = |time: DateTime| started(DataValue { value: Some(time.into()), ..DataValue::default() });
        assert_eq!(of(DateTime::null()), None);
        assert_eq!(of(DateTime::ymd(2026, 1, 2)), Some(DateTime::ymd(2026, 1, 2)));
        assert_eq!(started(DataValue { value: Some(Variant::Int32(1)), ..DataValue::default() }), None);
    }
}
