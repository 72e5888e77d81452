//! The life of a session: connect, subscribe, publish, republish what was
//! missed, start anew when the server has forgotten us.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, pin_mut};
use opcua::client::services::{
    CreateMonitoredItems, CreateSubscription, DeleteSubscriptions, Publish, Republish,
};
use opcua::client::{Session, SessionConnectMode, SessionPollResult, UARequest};
use opcua::types::{
    DataChangeFilter, DataChangeNotification, DataChangeTrigger, DataValue, ExtensionObject,
    MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NotificationMessage, ReadValueId,
    StatusChangeNotification, StatusCode, TimestampsToReturn,
};
use tidegate_engine::error::ConnectorError;
use tokio::sync::mpsc;

use super::connect::{Server, describe};
use super::nodes::{Item, Selection, resolve};
use super::subscription::Sequence;

/// Publish requests kept waiting at the server.
const PUBLISHES_OUTSTANDING: usize = 3;
/// Items in one create or read request.
const ITEMS_CHUNK: usize = 1_000;
/// Items that the server refused are tried again after this time.
const RETRY_REFUSED_AFTER: Duration = Duration::from_secs(60);
/// Publishing intervals without data before the server says it is alive.
const KEEP_ALIVE_COUNT: u32 = 10;
/// Publishing intervals without a publish request before the server forgets us.
const LIFETIME_COUNT: u32 = 600;

/// How values are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) selections: Vec<Selection>,
    pub(crate) tag_names: Vec<String>,
    pub(crate) sampling_ms: f64,
    pub(crate) publishing: Duration,
    pub(crate) queue_size: u32,
    /// Type (1 absolute, 2 percent) and value.
    pub(crate) deadband: Option<(u32, f64)>,
    /// Read at this interval instead of subscribing.
    pub(crate) poll: Option<Duration>,
    /// One poll, then the end.
    pub(crate) once: bool,
}

/// What the link tells the source.
#[derive(Debug)]
pub(crate) enum News {
    /// Values with the item they belong to, and the ticket to acknowledge.
    Values { values: Vec<(Arc<Item>, DataValue)>, ticket: u64 },
    /// Values may be missing for these items, and why.
    Gap { items: Vec<Arc<Item>>, reason: String },
}

/// Sequence numbers, shared with the committer.
pub(crate) type Acknowledgements = Arc<Mutex<Sequence>>;

/// Locks the sequence numbers.
pub(crate) fn sequence(shared: &Acknowledgements) -> std::sync::MutexGuard<'_, Sequence> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs until the reader of the news is gone, the one poll is done, or the
/// session cannot be kept alive by the library.
pub(crate) async fn run(
    server: Server,
    wanted: Wanted,
    acknowledgements: Acknowledgements,
    news: mpsc::Sender<News>,
) -> Result<(), ConnectorError> {
    let (session, event_loop) = server.session().await?;
    let (events_in, mut events) = mpsc::channel(64);
    let endpoint = server.endpoint.clone();
    let driver = tokio::spawn(async move {
        let stream = event_loop.enter();
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let told = match event {
                Ok(SessionPollResult::Reconnected(mode)) => Some(Ok(mode)),
                Ok(SessionPollResult::ReconnectFailed(status)) => {
                    tracing::warn!("{}; trying again", describe(status, &endpoint));
                    None
                }
                Ok(_) => None,
                Err(status) => Some(Err(status)),
            };
            if let Some(told) = told
                && events_in.send(told).await.is_err()
            {
                break;
            }
        }
    });
    let mut link = Link {
        session: Arc::clone(&session),
        wanted,
        acknowledgements,
        news,
        subscription: None,
        items: HashMap::new(),
        refused: Vec::new(),
        was_connected: false,
    };
    let result = match link.wanted.poll {
        Some(every) => link.poll(every, &mut events).await,
        None => link.subscribe(&mut events).await,
    };
    link.leave().await;
    driver.abort();
    result
}

type Events = mpsc::Receiver<Result<SessionConnectMode, StatusCode>>;

struct Link {
    session: Arc<Session>,
    wanted: Wanted,
    acknowledgements: Acknowledgements,
    news: mpsc::Sender<News>,
    subscription: Option<u32>,
    /// Items by client handle.
    items: HashMap<u32, Arc<Item>>,
    refused: Vec<Arc<Item>>,
    was_connected: bool,
}

/// Nobody reads the news any more.
const GONE: ConnectorError = ConnectorError::Lost(String::new());

fn lost(what: &str) -> impl Fn(opcua::types::Error) -> ConnectorError + '_ {
    move |error| ConnectorError::Lost(format!("{what}: {error}"))
}

impl Link {
    /// The publish loop.
    async fn subscribe(&mut self, events: &mut Events) -> Result<(), ConnectorError> {
        let mut outstanding = FuturesUnordered::new();
        let mut retry = tokio::time::interval(RETRY_REFUSED_AFTER);
        retry.tick().await;
        loop {
            while let Some(subscription) =
                self.subscription.filter(|_| outstanding.len() < PUBLISHES_OUTSTANDING)
            {
                let acks = sequence(&self.acknowledgements).take_acknowledgements();
                outstanding.push(publish(Arc::clone(&self.session), subscription, acks));
            }
            tokio::select! {
                biased;
                () = self.news.closed() => return Ok(()),
                event = events.recv() => {
                    // What was outstanding belongs to the old connection.
                    outstanding.clear();
                    match event {
                        Some(Ok(mode)) => self.on_connected(mode).await?,
                        Some(Err(status)) => return Err(ConnectorError::Lost(status.to_string())),
                        None => return Err(ConnectorError::Lost("the session has ended".into())),
                    }
                }
                Some((result, acks)) = outstanding.next(), if !outstanding.is_empty() => match result {
                    Ok(response) => {
                        if Some(response.subscription_id) == self.subscription {
                            self.on_message(response.notification_message).await?;
                        }
                    }
                    Err(error) => {
                        sequence(&self.acknowledgements).give_back(acks);
                        self.on_publish_failed(&error).await?;
                    }
                },
                _ = retry.tick(), if !self.refused.is_empty() => {
                    let refused = std::mem::take(&mut self.refused);
                    self.create_items(refused).await?;
                }
            }
        }
    }

    async fn on_connected(&mut self, mode: SessionConnectMode) -> Result<(), ConnectorError> {
        match (mode, self.subscription) {
            (SessionConnectMode::ReactivatedSession(_), Some(subscription)) => {
                tracing::info!("session reactivated; asking for what was missed");
                self.republish_all(subscription).await
            }
            (SessionConnectMode::ReactivatedSession(_) | SessionConnectMode::NewSession(_), _) => {
                self.start_anew("the server has forgotten the session").await
            }
        }
    }

    async fn on_publish_failed(&mut self, error: &opcua::types::Error) -> Result<(), ConnectorError> {
        match error.status() {
            // The subscription's lifetime is over at the server.
            StatusCode::BadNoSubscription | StatusCode::BadSubscriptionIdInvalid => {
                self.start_anew("the server has dropped the subscription").await
            }
            _ => {
                // A lost connection is told by the event loop; others pass.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(())
            }
        }
    }

    /// Makes a new subscription; what came in between is a gap.
    async fn start_anew(&mut self, reason: &str) -> Result<(), ConnectorError> {
        if self.was_connected {
            let items = self.items.values().cloned().collect();
            let gap = News::Gap { items, reason: reason.to_owned() };
            self.news.send(gap).await.map_err(|_| GONE)?;
        }
        self.subscription = None;
        let items = resolve(&self.session, &self.wanted.selections, &self.wanted.tag_names).await?;
        let created = CreateSubscription::new(&self.session)
            .publishing_interval(self.wanted.publishing)
            .max_lifetime_count(LIFETIME_COUNT)
            .max_keep_alive_count(KEEP_ALIVE_COUNT)
            .publishing_enabled(true)
            .send(self.session.channel())
            .await
            .map_err(lost("cannot subscribe"))?;
        sequence(&self.acknowledgements).restart();
        self.subscription = Some(created.subscription_id);
        self.items.clear();
        self.refused.clear();
        let count = items.len();
        self.create_items(items.into_iter().map(Arc::new).collect()).await?;
        self.was_connected = true;
        tracing::info!("subscribed to {} of {count} nodes", count - self.refused.len());
        Ok(())
    }

    async fn create_items(&mut self, items: Vec<Arc<Item>>) -> Result<(), ConnectorError> {
        let Some(subscription) = self.subscription else { return Ok(()) };
        for chunk in items.chunks(ITEMS_CHUNK) {
            let mut handles = Vec::new();
            for item in chunk {
                let handle = u32::try_from(self.items.len() + 1).unwrap_or(u32::MAX);
                self.items.insert(handle, Arc::clone(item));
                handles.push(handle);
            }
            let requests =
                chunk.iter().zip(&handles).map(|(item, handle)| self.request(item, *handle)).collect();
            let created = CreateMonitoredItems::new(subscription, &self.session)
                .timestamps_to_return(TimestampsToReturn::Both)
                .items_to_create(requests)
                .send(self.session.channel())
                .await
                .map_err(lost("cannot monitor"))?;
            let results = created.results;
            for ((item, handle), result) in chunk.iter().zip(handles).zip(results) {
                if result.result.status_code.is_bad() {
                    tracing::warn!(node = %item.node, "the server refuses a node: {}", result.result.status_code);
                    // Its handle stays taken, so that handles never mean two items.
                    self.items.insert(handle, Arc::clone(item));
                    self.refused.push(Arc::clone(item));
                }
            }
        }
        Ok(())
    }

    fn request(&self, item: &Item, handle: u32) -> MonitoredItemCreateRequest {
        let filter = match self.wanted.deadband {
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
                sampling_interval: self.wanted.sampling_ms,
                filter,
                queue_size: self.wanted.queue_size,
                discard_oldest: true,
            },
        }
    }

    async fn on_message(&mut self, message: NotificationMessage) -> Result<(), ConnectorError> {
        let has_data = message.notification_data.as_ref().is_some_and(|data| !data.is_empty());
        let number = message.sequence_number;
        // A keep-alive carries the next number and does not use it up, so what
        // is missing before it is missing just the same.
        let missing = sequence(&self.acknowledgements).missing_before(number);
        for wanted in missing {
            if !self.republish(wanted).await? {
                let items = self.items.values().cloned().collect();
                let gap = News::Gap { items, reason: format!("message {wanted} is lost") };
                self.news.send(gap).await.map_err(|_| GONE)?;
            }
        }
        if has_data && !sequence(&self.acknowledgements).is_repeat(number) {
            self.deliver(message).await?;
        }
        Ok(())
    }

    /// Asks for every message after the last one seen, until there are no more.
    async fn republish_all(&mut self, subscription: u32) -> Result<(), ConnectorError> {
        debug_assert_eq!(Some(subscription), self.subscription, "of this session");
        loop {
            let expected = sequence(&self.acknowledgements).expected();
            if !self.republish(expected).await? {
                return Ok(());
            }
        }
    }

    /// Asks for one message again; `false` if the server no longer has it.
    async fn republish(&mut self, number: u32) -> Result<bool, ConnectorError> {
        let Some(subscription) = self.subscription else { return Ok(false) };
        let answer = Republish::new(subscription, number, &self.session).send(self.session.channel()).await;
        match answer {
            // Some servers answer with another, empty message instead of an error.
            Ok(answer)
                if answer.notification_message.sequence_number == number
                    && answer
                        .notification_message
                        .notification_data
                        .as_ref()
                        .is_some_and(|data| !data.is_empty()) =>
            {
                self.deliver(answer.notification_message).await?;
                Ok(true)
            }
            Ok(_) => Ok(false),
            Err(error) if error.status() == StatusCode::BadMessageNotAvailable => Ok(false),
            Err(error) if error.status() == StatusCode::BadSubscriptionIdInvalid => {
                Box::pin(self.start_anew("the server has dropped the subscription")).await?;
                Ok(false)
            }
            Err(error) => {
                tracing::warn!("cannot ask for message {number} again: {error}");
                Ok(false)
            }
        }
    }

    async fn deliver(&mut self, message: NotificationMessage) -> Result<(), ConnectorError> {
        let mut values = Vec::new();
        for data in message.notification_data.unwrap_or_default() {
            if let Some(changes) = data.inner_as::<DataChangeNotification>() {
                for change in changes.monitored_items.iter().flatten() {
                    if let Some(item) = self.items.get(&change.client_handle) {
                        values.push((Arc::clone(item), change.value.clone()));
                    }
                }
            } else if let Some(status) = data.inner_as::<StatusChangeNotification>() {
                tracing::warn!("the subscription's status is now {}", status.status);
            }
        }
        let ticket = sequence(&self.acknowledgements).seen(message.sequence_number);
        self.news.send(News::Values { values, ticket }).await.map_err(|_| GONE)
    }

    /// Reads all nodes at an interval.
    async fn poll(&mut self, every: Duration, events: &mut Events) -> Result<(), ConnectorError> {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut items: Vec<Arc<Item>> = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = self.news.closed() => return Ok(()),
                event = events.recv() => match event {
                    Some(Ok(_)) => {
                        // Namespaces may have new numbers after every connect.
                        let found = resolve(&self.session, &self.wanted.selections, &self.wanted.tag_names).await?;
                        items = found.into_iter().map(Arc::new).collect();
                        self.was_connected = true;
                    }
                    Some(Err(status)) => return Err(ConnectorError::Lost(status.to_string())),
                    None => return Err(ConnectorError::Lost("the session has ended".into())),
                },
                _ = ticks.tick(), if self.was_connected => {
                    self.read(&items).await?;
                    if self.wanted.once {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn read(&mut self, items: &[Arc<Item>]) -> Result<(), ConnectorError> {
        for chunk in items.chunks(ITEMS_CHUNK) {
            let wanted: Vec<ReadValueId> =
                chunk.iter().map(|item| ReadValueId::from(item.node.clone())).collect();
            let values = match self.session.read(&wanted, TimestampsToReturn::Both, 0.0).await {
                Ok(values) => {
                    values.into_iter().zip(chunk).map(|(value, item)| (Arc::clone(item), value)).collect()
                }
                Err(error) => {
                    let gap = News::Gap { items: chunk.to_vec(), reason: error.to_string() };
                    self.news.send(gap).await.map_err(|_| GONE)?;
                    continue;
                }
            };
            self.news.send(News::Values { values, ticket: 0 }).await.map_err(|_| GONE)?;
        }
        Ok(())
    }

    /// Takes leave, so that the server keeps neither session nor subscription.
    async fn leave(&mut self) {
        let goodbye = async {
            if let Some(subscription) = self.subscription {
                let deleted = DeleteSubscriptions::new(&self.session)
                    .subscription(subscription)
                    .send(self.session.channel())
                    .await;
                if let Err(error) = deleted {
                    tracing::debug!("cannot delete the subscription: {error}");
                }
            }
            if let Err(error) = self.session.disconnect().await {
                tracing::debug!("cannot take leave: {error}");
            }
        };
        if tokio::time::timeout(Duration::from_secs(3), goodbye).await.is_err() {
            tracing::debug!("the server does not answer a goodbye");
        }
    }
}

type PublishResult = Result<opcua::types::PublishResponse, opcua::types::Error>;

async fn publish(session: Arc<Session>, subscription: u32, acks: Vec<u32>) -> (PublishResult, Vec<u32>) {
    let request =
        acks.iter().fold(Publish::new(&session), |request, number| request.ack(subscription, *number));
    (request.send(session.channel()).await, acks)
}
