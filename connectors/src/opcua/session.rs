//! A session with a server: which of its endpoints, whether its certificate is
//! trusted, and the loop that keeps the session alive. Never trusts a
//! certificate by itself; never closes a session because its connection is
//! silent, so that the server keeps what we have not seen.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use opcua::client::services::DeleteSubscriptions;
use opcua::client::transport::{
    Connector, RequestRecv, SecureChannelState, TcpConnector, TcpTransport, TransportConfiguration,
};
use opcua::client::{
    Client, ConnectionSource, IdentityToken, Session, SessionActivity, SessionConnectMode, SessionEventLoop,
    SessionPollResult, UARequest,
};
use opcua::core::comms::url::hostname_from_url;
use opcua::crypto::{CertificateStore, SecurityPolicy, X509};
use opcua::types::{EndpointDescription, Error, MessageSecurityMode, StatusCode, UserTokenType};
use tidegate_engine::error::ConnectorError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::connect::Server;

/// A connection is given up and made anew after this many unanswered
/// keep-alives, and left altogether after twice as many.
const KEEP_ALIVES_FAILED_MAX: u32 = 2;
/// After this many refusals in a row, endpoints, certificate and password are
/// looked up again: the server may have been set up anew.
const REFUSALS_MAX: u32 = 3;
/// A server has at least this long from its hello to a session.
const GREETING_MAX_MIN: Duration = Duration::from_secs(10);
/// Longest goodbye.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// What happens to a connection.
pub(crate) enum Change {
    /// Requests can be sent; values may have been missed before.
    Connected(SessionConnectMode),
    /// It is lost and made again by itself.
    Disconnected,
    /// It is not made again: begin from the beginning.
    Ended(ConnectorError),
}

/// A session and the task that drives it, which ends with the value.
pub(crate) struct Connection {
    pub(crate) session: Arc<Session>,
    pub(crate) changes: mpsc::Receiver<Change>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Server {
    /// Looks for the endpoint and begins to connect to it; the first change
    /// says how that went.
    pub(crate) async fn connect(&self) -> Result<Connection, ConnectorError> {
        let identity = self.identity()?;
        let endpoint = self.find_endpoint(&identity).await?;
        let client = self.client(-1).await?;
        let (answered, dialled) = watch::channel(None);
        let dialling = Dialling { limit: self.request_timeout, answered };
        let builder = client.session_builder().with_connector(dialling);
        let built = builder
            .connect_to_endpoint_directly(endpoint)
            .map(|builder| builder.user_identity_token(identity))
            .and_then(|builder| builder.build(Arc::clone(client.certificate_store())));
        let (session, event_loop) = built.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        let (sender, changes) = mpsc::channel(64);
        let driver = Driver {
            session: Arc::clone(&session),
            endpoint: self.endpoint.clone(),
            dialled,
            greeting_max: (self.request_timeout * 3).max(GREETING_MAX_MIN),
        };
        let driver = tokio::spawn(driver.run(event_loop, sender));
        Ok(Connection { session, changes, driver })
    }

    /// The endpoint with our policy, mode and kind of user. Our own address is
    /// kept: the one that a server advertises may not be reachable from here.
    async fn find_endpoint(&self, identity: &IdentityToken) -> Result<EndpointDescription, ConnectorError> {
        let client = self.client(0).await?;
        let dialling = Dialling { limit: self.request_timeout, answered: watch::channel(None).0 };
        let dialler =
            dialling.dialler(&self.endpoint).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        let asked = timeout(self.request_timeout * 2, client.get_endpoints(dialler, &[], &[])).await;
        let offered = asked
            .map_err(|_| ConnectorError::Lost(format!("{}: no answer", self.endpoint)))?
            .map_err(|error| ConnectorError::Lost(describe(&error, &self.endpoint)))?;
        let Some(mut endpoint) = choose(&offered, self.policy(), self.mode, identity) else {
            return Err(ConnectorError::Lost(format!(
                "{}: the server offers no {} with mode {} for {}; it offers {}",
                self.endpoint,
                self.policy(),
                self.mode,
                if matches!(identity, IdentityToken::Anonymous) {
                    "anybody"
                } else {
                    "users with a password"
                },
                offered.iter().map(in_words).collect::<Vec<_>>().join(", ")
            )));
        };
        if self.mode != MessageSecurityMode::None {
            self.check_certificate(&client, &endpoint)?;
        }
        endpoint.endpoint_url = self.endpoint.as_str().into();
        Ok(endpoint)
    }

    /// Whether a person has trusted the server's certificate. An unknown one is
    /// put into `rejected/` for them to look at.
    fn check_certificate(
        &self,
        client: &Client,
        endpoint: &EndpointDescription,
    ) -> Result<(), ConnectorError> {
        let refused = |reason: &dyn std::fmt::Display| {
            let message = format!("{}: the server's certificate is refused: {reason}", self.endpoint);
            ConnectorError::Lost(message)
        };
        let certificate =
            X509::from_byte_string(&endpoint.server_certificate).map_err(|error| refused(&error))?;
        let host = hostname_from_url(&self.endpoint).map_err(|error| refused(&error))?;
        let uri = endpoint.server.application_uri.as_ref();
        let checked = client.certificate_store().read().validate_or_reject_application_instance_cert(
            &certificate,
            self.policy(),
            Some(&host),
            Some(uri),
        );
        checked.map_err(|error| {
            let name = CertificateStore::cert_file_name(&certificate);
            let pki = self.pki.display();
            if self.pki.join("rejected").join(&name).exists() {
                refused(&format!(
                    "nobody has trusted it; if it is the right one, move `{name}` from {pki}/rejected to {pki}/trusted"
                ))
            } else {
                refused(&error)
            }
        })
    }
}

impl Connection {
    /// Waits until requests can be sent.
    pub(crate) async fn ready(&mut self) -> Result<(), ConnectorError> {
        loop {
            match self.changes.recv().await {
                Some(Change::Connected(_)) => return Ok(()),
                Some(Change::Disconnected) => {}
                Some(Change::Ended(error)) => return Err(error),
                None => return Err(ConnectorError::Lost("the session has ended".into())),
            }
        }
    }

    /// Takes leave, so that the server keeps neither session nor subscription.
    pub(crate) async fn leave(self, subscription: Option<u32>) {
        self.say_goodbye(subscription, false).await;
    }

    /// Takes leave, so that the server keeps the subscription for who comes next.
    pub(crate) async fn leave_it_there(self) {
        self.say_goodbye(None, true).await;
    }

    async fn say_goodbye(self, subscription: Option<u32>, keeps: bool) {
        let goodbye = async {
            if let Some(subscription) = subscription {
                let deleted = DeleteSubscriptions::new(&self.session)
                    .subscription(subscription)
                    .send(self.session.channel())
                    .await;
                if let Err(error) = deleted {
                    tracing::debug!("cannot delete the subscription: {error}");
                }
            }
            let left = if keeps {
                self.session.disconnect_without_delete_subscriptions().await
            } else {
                self.session.disconnect().await
            };
            if let Err(error) = left {
                tracing::debug!("cannot take leave: {error}");
            }
        };
        if timeout(LEAVE_MAX, goodbye).await.is_err() {
            tracing::debug!("the server does not answer a goodbye");
        }
    }
}

/// Drives the session and tells what changes, until nobody listens.
struct Driver {
    session: Arc<Session>,
    endpoint: String,
    /// When somebody answered, if so, the last time we dialled.
    dialled: watch::Receiver<Option<Instant>>,
    /// Longest time from there to a session.
    greeting_max: Duration,
}

/// What a driver remembers.
#[derive(Default)]
struct History {
    connected: bool,
    ever_connected: bool,
    /// Attempts in a row that somebody answered and refused.
    refusals: u32,
    /// Keep-alives in a row that nobody answered.
    unanswered: u32,
}

impl Driver {
    async fn run(self, event_loop: SessionEventLoop<Dialler>, changes: mpsc::Sender<Change>) {
        let events = event_loop.enter();
        pin_mut!(events);
        let mut history = History::default();
        loop {
            let change = tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.on_event(event, &mut history).await,
                    None => break,
                },
                // The library alone waits for half a minute.
                () = self.is_deaf(), if !history.connected => Some(self.ended(StatusCode::BadTimeout, "no answer")),
            };
            if let Some(change) = change
                && changes.send(change).await.is_err()
            {
                break;
            }
        }
    }

    /// Waits for somebody who says hello and then nothing: he cannot read what
    /// is encrypted for another certificate.
    async fn is_deaf(&self) {
        let mut dialled = self.dialled.clone();
        loop {
            let answered = *dialled.borrow_and_update();
            let too_long = async {
                match answered {
                    Some(at) => tokio::time::sleep_until(at + self.greeting_max).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = too_long => return,
                changed = dialled.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn on_event(
        &self,
        event: Result<SessionPollResult, StatusCode>,
        history: &mut History,
    ) -> Option<Change> {
        match event {
            Ok(SessionPollResult::Reconnected(mode)) => {
                *history = History { connected: true, ever_connected: true, ..History::default() };
                Some(Change::Connected(mode))
            }
            Ok(SessionPollResult::ConnectionLost(status)) => {
                history.connected = false;
                tracing::warn!("{}: the connection is lost ({status}); trying again", self.endpoint);
                Some(Change::Disconnected)
            }
            Ok(SessionPollResult::ReconnectFailed(status)) => {
                history.refusals += u32::from(self.dialled.borrow().is_some());
                if !history.ever_connected || history.refusals >= REFUSALS_MAX {
                    return Some(self.ended(status, "cannot connect"));
                }
                tracing::warn!("{}: cannot connect ({status}); trying again", self.endpoint);
                None
            }
            Ok(SessionPollResult::SessionActivity(SessionActivity::KeepAliveSucceeded)) => {
                history.unanswered = 0;
                None
            }
            Ok(SessionPollResult::SessionActivity(SessionActivity::KeepAliveFailed(status))) => {
                history.unanswered += 1;
                if history.unanswered == KEEP_ALIVES_FAILED_MAX {
                    // The channel only: what waits in the session is still wanted.
                    self.session.channel().close_channel().await;
                }
                let hopeless = history.unanswered >= 2 * KEEP_ALIVES_FAILED_MAX;
                hopeless.then(|| self.ended(status, "no answer"))
            }
            Ok(_) => None,
            Err(status) => Some(self.ended(status, "the session has ended")),
        }
    }

    fn ended(&self, status: StatusCode, what: &str) -> Change {
        Change::Ended(ConnectorError::Lost(describe(&Error::new(status, what), &self.endpoint)))
    }
}

/// The first endpoint that has everything we ask for.
fn choose(
    offered: &[EndpointDescription],
    policy: SecurityPolicy,
    mode: MessageSecurityMode,
    identity: &IdentityToken,
) -> Option<EndpointDescription> {
    let user = if matches!(identity, IdentityToken::Anonymous) {
        UserTokenType::Anonymous
    } else {
        UserTokenType::UserName
    };
    let fits = |endpoint: &&EndpointDescription| {
        endpoint.security_mode == mode
            && SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref()) == policy
            && endpoint.user_identity_tokens.iter().flatten().any(|token| token.token_type == user)
    };
    offered.iter().find(fits).cloned()
}

/// An endpoint as a person would write it.
fn in_words(endpoint: &EndpointDescription) -> String {
    let policy = SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref());
    let users: Vec<String> = endpoint
        .user_identity_tokens
        .iter()
        .flatten()
        .map(|token| format!("{:?}", token.token_type))
        .collect();
    format!("{policy} with mode {} for {}", endpoint.security_mode, users.join(" or "))
}

/// An error as a sentence that names the cure where there is one.
pub(crate) fn describe(error: &Error, endpoint: &str) -> String {
    let hint = match error.status() {
        StatusCode::BadSecurityChecksFailed
        | StatusCode::BadCertificateUntrusted
        | StatusCode::BadCertificateUriInvalid
        | StatusCode::BadCertificateInvalid => {
            ": the server refuses our certificate; let it trust `own/cert.der` of the pki folder"
        }
        StatusCode::BadIdentityTokenRejected
        | StatusCode::BadUserAccessDenied
        | StatusCode::BadIdentityTokenInvalid => ": user or password are refused",
        _ => "",
    };
    format!("{endpoint}: {error}{hint}")
}

/// Whether nobody answered, as against somebody who refused.
pub(crate) fn is_about_the_line(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadCommunicationError
            | StatusCode::BadConnectionClosed
            | StatusCode::BadConnectionRejected
            | StatusCode::BadNotConnected
            | StatusCode::BadNoCommunication
            | StatusCode::BadRequestTimeout
            | StatusCode::BadSecureChannelClosed
            | StatusCode::BadServerNotConnected
            | StatusCode::BadTimeout
    )
}

/// How connections are made.
struct Dialling {
    limit: Duration,
    answered: watch::Sender<Option<Instant>>,
}

impl Dialling {
    fn dialler(&self, endpoint: &str) -> Result<Dialler, Error> {
        let inner = TcpConnector::new(endpoint)?;
        Ok(Dialler { inner, limit: self.limit, answered: self.answered.clone() })
    }
}

impl ConnectionSource for Dialling {
    type Builder = Dialler;

    fn get_connector(&self, endpoint: &EndpointDescription) -> Result<Dialler, Error> {
        self.dialler(endpoint.endpoint_url.as_ref())
    }
}

/// The library's TCP connector with a limit: alone it waits for ever for a
/// peer that takes the connection and says nothing.
struct Dialler {
    inner: TcpConnector,
    limit: Duration,
    answered: watch::Sender<Option<Instant>>,
}

impl Connector for Dialler {
    type Transport = TcpTransport;

    async fn connect(
        &self,
        channel: Arc<SecureChannelState>,
        outgoing: RequestRecv,
        config: TransportConfiguration,
    ) -> Result<TcpTransport, Error> {
        self.answered.send_replace(None);
        let dialled = timeout(self.limit, self.inner.connect(channel, outgoing, config)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(Error::new(StatusCode::BadTimeout, "no answer")));
        self.answered.send_replace(dialled.is_ok().then(Instant::now));
        dialled
    }

    fn default_endpoint(&self) -> EndpointDescription {
        self.inner.default_endpoint()
    }
}
