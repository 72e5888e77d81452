//! The life of a subscription: connect, subscribe, publish, ask again for what
//! was missed, start anew when the server has forgotten us. Values are lost
//! only where a gap is told.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use opcua::client::services::{Publish, Republish};
use opcua::client::{Session, SessionConnectMode, UARequest};
use opcua::types::{
    DataChangeNotification, DataValue, DateTime, NotificationMessage, PublishResponse,
    StatusChangeNotification, StatusCode,
};
use tidegate_engine::error::ConnectorError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connect::Server;
use super::held::Held;
use super::items::Handles;
use super::nodes::{Item, Selection};
use super::poll::poll;
use super::session::{Change, Connection, is_about_the_line};
use super::subscription::{Acknowledgements, Acks, sequence};

/// Publish requests kept waiting at the server.
const PUBLISHES_OUTSTANDING: usize = 3;
/// So many publish requests in a row unanswered, while the session lives: the
/// server has lost the subscription.
const PUBLISHES_UNANSWERED_MAX: usize = 4 * PUBLISHES_OUTSTANDING;
/// Items that the server refused are tried again after this time.
const RETRY_REFUSED_AFTER: Duration = Duration::from_secs(60);
/// First and longest pause before a subscription that could not be made is
/// tried again.
const ANEW_PAUSE_MIN: Duration = Duration::from_secs(1);
const ANEW_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After a publish request that failed for no reason we know.
const PUBLISH_PAUSE: Duration = Duration::from_millis(50);

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
    /// Values came before this link was made: what it missed is a gap, unless
    /// the subscription of then can be taken over.
    pub(crate) gap: Option<String>,
    pub(crate) held: Option<Held>,
    /// Whether a subscription is left at the server for the next process.
    pub(crate) holds: bool,
}

/// What the link tells the source. The first news is always `Connected`.
#[derive(Debug)]
pub(crate) enum News {
    /// Whether values can come at present.
    Connected(bool),
    /// Values with the item they belong to, and what must be acknowledged, if
    /// anything: the ticket and the message's number.
    Values { values: Vec<(Arc<Item>, DataValue)>, ticket: Option<(u64, u32)> },
    /// From here on this subscription is the one that may be taken over.
    Held(Option<Held>),
    /// Values may be missing for these items before their next ones, and why.
    Gap { items: Vec<Arc<Item>>, reason: String },
    /// These items have no value now, and why.
    Unread { items: Vec<Arc<Item>>, reason: String },
}

/// Runs until the reader of the news is gone, the one poll is done, or
/// everything must begin from the beginning.
pub(crate) async fn run(
    server: Server,
    wanted: Wanted,
    acknowledgements: Acknowledgements,
    news: mpsc::Sender<News>,
) -> Result<(), ConnectorError> {
    let gone = news.clone();
    let mut connection = tokio::select! {
        () = gone.closed() => return Ok(()),
        connection = server.connect() => connection?,
    };
    if let Some(every) = wanted.poll {
        let result = tokio::select! {
            () = gone.closed() => Ok(()),
            result = poll(&mut connection, &wanted, every, &news) => result,
        };
        connection.leave(None).await;
        return result;
    }
    let (gap_owed, held) = (wanted.gap.clone(), wanted.held.clone());
    let session = Arc::clone(&connection.session);
    let mut link = Link {
        session,
        wanted,
        acknowledgements,
        news,
        subscription: None,
        handles: Handles::default(),
        gap_owed,
        held,
        is_held: false,
        new_held: None,
        server_started: None,
        connected: false,
        anew: None,
        unanswered: 0,
    };
    let result = tokio::select! {
        () = gone.closed() => Ok(()),
        result = link.subscribe(&mut connection) => result,
    };
    // Also one that is not taken over yet.
    if link.is_held || link.held.is_some() {
        connection.leave_it_there().await;
    } else {
        connection.leave(link.subscription.map(|subscription| subscription.id)).await;
    }
    result
}

/// A subscription at the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subscription {
    pub(crate) id: u32,
    /// The server says something at least this often.
    pub(crate) keep_alive: Duration,
}

pub(crate) struct Link {
    pub(crate) session: Arc<Session>,
    pub(crate) wanted: Wanted,
    pub(crate) acknowledgements: Acknowledgements,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) handles: Handles,
    /// A gap that is told as soon as the items are known.
    pub(crate) gap_owed: Option<String>,
    /// The subscription of an earlier process, until it is taken over or not.
    held: Option<Held>,
    /// Whether the next process may take our subscription over.
    pub(crate) is_held: bool,
    /// That subscription, until the source is told.
    pub(crate) new_held: Option<Held>,
    /// When the server was started: another time is another server.
    pub(crate) server_started: Option<DateTime>,
    pub(crate) connected: bool,
    /// When a new subscription is tried again, and the pause after that.
    anew: Option<(Instant, Duration)>,
    unanswered: usize,
}

/// Nobody reads the news any more.
const GONE: ConnectorError = ConnectorError::Lost(String::new());

/// What asking again for a message came to.
enum Again {
    Delivered,
    /// The server does not have it any more.
    NotThere,
    /// The server does not know the subscription any more.
    Forgotten,
    /// The connection failed: the message may still be there.
    Failed,
}

impl Link {
    /// The publish loop.
    async fn subscribe(&mut self, connection: &mut Connection) -> Result<(), ConnectorError> {
        let mut outstanding = FuturesUnordered::new();
        let mut retry = tokio::time::interval(RETRY_REFUSED_AFTER);
        retry.tick().await;
        loop {
            let ready = self.subscription.filter(|_| self.connected);
            while let Some(subscription) = ready.filter(|_| outstanding.len() < PUBLISHES_OUTSTANDING) {
                let acks = Acks::take(&self.acknowledgements);
                outstanding.push(publish(Arc::clone(&self.session), subscription, acks));
            }
            let before = self.subscription.map(|subscription| subscription.id);
            let again_at = self.anew.map(|(at, _)| at).filter(|_| self.connected);
            tokio::select! {
                biased;
                change = connection.changes.recv() => {
                    // What was outstanding belongs to the old connection.
                    outstanding.clear();
                    self.on_change(change).await?;
                }
                Some(result) = outstanding.next(), if !outstanding.is_empty() => match result {
                    Ok(response) => self.on_published(response).await?,
                    Err(error) => self.on_publish_failed(&error).await?,
                },
                () = until(again_at) => self.start_anew("").await?,
                _ = retry.tick(), if ready.is_some() && self.handles.has_refused() => {
                    self.retry_refused().await;
                }
            }
            if self.subscription.map(|subscription| subscription.id) != before {
                outstanding.clear();
            }
        }
    }

    async fn on_change(&mut self, change: Option<Change>) -> Result<(), ConnectorError> {
        match change {
            Some(Change::Connected(mode)) => {
                self.connected = true;
                self.on_connected(mode).await
            }
            Some(Change::Disconnected) => {
                self.connected = false;
                self.tell(News::Connected(false)).await
            }
            Some(Change::Ended(error)) => Err(error),
            None => Err(ConnectorError::Lost("the session has ended".into())),
        }
    }

    async fn on_connected(&mut self, mode: SessionConnectMode) -> Result<(), ConnectorError> {
        if let Some(held) = self.held.clone() {
            let refused = self.take_over(&held).await?;
            self.held = None;
            let Some(why) = refused else {
                self.gap_owed = None;
                return Ok(());
            };
            let gap = self.gap_owed.take().unwrap_or_default();
            self.gap_owed = Some(format!("{gap}, and {why}"));
        }
        let Some(subscription) = self.subscription else {
            return self.start_anew("the connection was lost while subscribing").await;
        };
        if matches!(mode, SessionConnectMode::NewSession(_)) {
            if !self.is_same_server().await {
                return self.start_anew("the server was restarted").await;
            }
            if self.transfer(subscription.id).await.is_err() {
                return self.start_anew("the server has forgotten the session").await;
            }
        }
        tracing::info!("connected again; asking for what was missed");
        self.republish_all().await?;
        self.tell(News::Connected(true)).await
    }

    async fn on_publish_failed(&mut self, error: &opcua::types::Error) -> Result<(), ConnectorError> {
        match error.status() {
            // The subscription's lifetime is over at the server.
            StatusCode::BadNoSubscription | StatusCode::BadSubscriptionIdInvalid => {
                self.start_anew("the server has dropped the subscription").await
            }
            StatusCode::BadTimeout if self.unanswered + 1 >= PUBLISHES_UNANSWERED_MAX => {
                self.start_anew("the server does not publish any more").await
            }
            StatusCode::BadTimeout => {
                self.unanswered += 1;
                Ok(())
            }
            _ => {
                // A lost connection is told by the session; others pass.
                tracing::debug!("cannot publish: {error}");
                tokio::time::sleep(PUBLISH_PAUSE).await;
                Ok(())
            }
        }
    }

    /// Makes a new subscription; what came in between is a gap. What fails is
    /// tried again, except for the very first time.
    async fn start_anew(&mut self, reason: &str) -> Result<(), ConnectorError> {
        let first = self.server_started.is_none();
        if !first && !reason.is_empty() {
            tracing::warn!("{reason}; subscribing anew");
            self.gap_owed.get_or_insert_with(|| reason.to_owned());
        }
        self.subscription = None;
        self.unanswered = 0;
        match self.create_subscription().await {
            Ok(()) => {
                self.anew = None;
                self.tell_of_the_new_subscription().await
            }
            Err(error) if first || matches!(error, ConnectorError::Fatal(_)) => Err(error),
            Err(error) => {
                let pause = self.anew.map_or(ANEW_PAUSE_MIN, |(_, pause)| pause);
                tracing::warn!("{error}; trying again in {pause:?}");
                self.anew = Some((Instant::now() + pause, (pause * 2).min(ANEW_PAUSE_MAX)));
                Ok(())
            }
        }
    }

    async fn tell_of_the_new_subscription(&mut self) -> Result<(), ConnectorError> {
        self.tell(News::Connected(true)).await?;
        if let Some(reason) = self.gap_owed.take() {
            self.tell(News::Gap { items: self.handles.items(), reason }).await?;
        }
        // After the gap: with this one in its place a new process would not tell it.
        let held = self.new_held.take();
        self.tell(News::Held(held)).await?;
        // A node that cannot be read is a bad value, not silence.
        let values = self.handles.take_new_refusals();
        if !values.is_empty() {
            self.tell(News::Values { values, ticket: None }).await?;
        }
        Ok(())
    }

    async fn on_published(&mut self, response: PublishResponse) -> Result<(), ConnectorError> {
        self.unanswered = 0;
        if self.subscription.is_none_or(|subscription| subscription.id != response.subscription_id) {
            return Ok(());
        }
        let message = response.notification_message;
        let number = message.sequence_number;
        // A keep-alive carries the next number and does not use it up, so what
        // is missing before it is missing just the same.
        let missing = sequence(&self.acknowledgements).missing_before(number);
        let mut lost = Vec::new();
        for wanted in missing {
            match self.republish(wanted).await? {
                Again::Delivered => {}
                Again::NotThere => lost.push(wanted),
                // This message is not acknowledged, so it comes again as well.
                Again::Failed => return Ok(()),
                Again::Forgotten => return self.start_anew("the server has dropped the subscription").await,
            }
        }
        if let Some((first, last)) = lost.first().zip(lost.last()) {
            let reason = format!("{} messages are lost, numbers {first} to {last}", lost.len());
            self.tell(News::Gap { items: self.handles.items(), reason }).await?;
        }
        if has_data(&message) && !sequence(&self.acknowledgements).is_repeat(number) {
            self.deliver(message).await?;
        }
        Ok(())
    }

    /// Asks for every message after the last one seen, until there are no more.
    async fn republish_all(&mut self) -> Result<(), ConnectorError> {
        loop {
            let expected = sequence(&self.acknowledgements).expected();
            match self.republish(expected).await? {
                Again::Delivered => {}
                Again::NotThere | Again::Failed => return Ok(()),
                Again::Forgotten => return self.start_anew("the server has dropped the subscription").await,
            }
        }
    }

    /// Asks for one message again.
    async fn republish(&mut self, number: u32) -> Result<Again, ConnectorError> {
        let Some(subscription) = self.subscription else { return Ok(Again::Forgotten) };
        let request = Republish::new(subscription.id, number, &self.session);
        match request.send(self.session.channel()).await {
            // Some servers answer with another, empty message instead of an error.
            Ok(answer)
                if answer.notification_message.sequence_number == number
                    && has_data(&answer.notification_message) =>
            {
                self.deliver(answer.notification_message).await?;
                Ok(Again::Delivered)
            }
            Ok(_) => Ok(Again::NotThere),
            Err(error) if error.status() == StatusCode::BadMessageNotAvailable => Ok(Again::NotThere),
            Err(error) if error.status() == StatusCode::BadSubscriptionIdInvalid => Ok(Again::Forgotten),
            Err(error) => {
                tracing::warn!("cannot ask for message {number} again: {error}");
                Ok(if is_about_the_line(error.status()) { Again::Failed } else { Again::NotThere })
            }
        }
    }

    async fn deliver(&mut self, message: NotificationMessage) -> Result<(), ConnectorError> {
        let mut values = Vec::new();
        for data in message.notification_data.unwrap_or_default() {
            if let Some(status) = data.inner_as::<StatusChangeNotification>() {
                tracing::warn!("the subscription's status is now {}", status.status);
            } else if let Some(changes) = data.into_inner_as::<DataChangeNotification>() {
                for change in changes.monitored_items.into_iter().flatten() {
                    if let Some(item) = self.handles.item(change.client_handle) {
                        values.push((item, change.value));
                    }
                }
            }
        }
        let number = message.sequence_number;
        let ticket = sequence(&self.acknowledgements).seen(number);
        self.tell(News::Values { values, ticket: Some((ticket, number)) }).await
    }

    pub(crate) async fn tell(&self, news: News) -> Result<(), ConnectorError> {
        self.news.send(news).await.map_err(|_| GONE)
    }
}

fn has_data(message: &NotificationMessage) -> bool {
    message.notification_data.as_ref().is_some_and(|data| !data.is_empty())
}

/// Never, if there is no such moment.
pub(crate) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn publish(
    session: Arc<Session>,
    subscription: Subscription,
    acks: Acks,
) -> Result<PublishResponse, opcua::types::Error> {
    // Each of the requests waits for as many keep-alives as there are requests.
    let requests = u32::try_from(PUBLISHES_OUTSTANDING).unwrap_or(u32::MAX);
    let limit = subscription.keep_alive.saturating_mul(requests + 1).max(Duration::from_secs(5));
    let request = Publish::new(&session).timeout(limit);
    let request =
        acks.numbers.iter().fold(request, |request, number| request.ack(acks.subscription, *number));
    let result = request.send(session.channel()).await;
    if result.is_ok() {
        acks.arrived();
    }
    result
}
