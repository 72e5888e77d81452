//! The HTTP source, a webhook: each request is a payload. It is answered 200
//! when its rows are durable and not before; while stopping, or with too many
//! requests or bytes waiting, 503, so that a sender keeps what we do not have.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, StringBuilder};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request as HttpRequest, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::codec::Decoder;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::source::{Committer, Polled, Position, Source, SourcePart};
use tidegate_engine::time::Clock;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use super::door::{Bodies, Limited, Taken, unavailable};
use crate::format::{DURABLE_KEYS, Origin, ROW_KEYS, RowFormat, durable};

const KEYS: &[Key] = &[
    required("listen", Kind::Text, "address and port, e.g. \"127.0.0.1:8080\""),
    optional("path", Kind::Text, "path of the requests, default \"/\""),
    optional("token", Kind::Secret, "a request must say `Authorization: Bearer …` with it"),
    optional(
        "request_id",
        Kind::Text,
        "name of a column with the request's `Idempotency-Key` and the row's number in it, NULL without one; with `unique` a request that is sent again counts once",
    ),
];

/// `[source.x] type = "http"`.
pub(crate) const ROW: Row<BuildSource> = Row {
    name: "http",
    summary: "takes rows as HTTP requests (a webhook), answered when they are durable",
    keys: &[KEYS, ROW_KEYS, DURABLE_KEYS],
    example: r#"[source.orders]
type   = "http"
listen = "127.0.0.1:8080"
path   = "/orders"
schema = { id = "int64", amount = "decimal(10,2)" }

[sink.out]
type = "stdout"
from = "orders"
"#,
    build,
};

/// Requests that wait to be read; one more is answered 503.
const REQUESTS_MAX: usize = 256;
/// Rows after which a batch is handed on though more requests wait.
const BATCH_ROWS: usize = 8_192;
/// And bytes of bodies.
const BATCH_BYTES: usize = 4 << 20;
/// Longest `Idempotency-Key`.
const REQUEST_ID_BYTES_MAX: usize = 256;
/// Longest wait of a request for its rows to be durable.
const DURABLE_WITHIN: Duration = Duration::from_secs(30);

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let table = &config.table;
    let request_id = table.str("request_id").map(|name| Field::new(name, DataType::Utf8, true));
    let has_request_id = request_id.is_some();
    let format = RowFormat::from_config(config, request_id.into_iter().collect())?;
    let wrong = |key: &str, message: String| Diagnostic::error("TG-C034", message).at(table.span_of(key));
    let mut out = Vec::new();
    let listen = table.str("listen").unwrap_or_default();
    let address: Option<SocketAddr> = listen.parse().ok();
    if address.is_none() {
        let help = "write e.g. \"127.0.0.1:8080\", or \"0.0.0.0:8080\" for every network";
        out.push(wrong("listen", format!("`{listen}` is no address with a port")).help(help));
    }
    let path = table.str("path").unwrap_or("/").to_owned();
    if !path.starts_with('/') || path.contains(['{', '}', '*', '?', '#']) {
        out.push(wrong("path", format!("`{path}` is no path")).help("write e.g. \"/hooks/orders\""));
    }
    let token = table.str("token").map(SecretRef::new);
    if token.is_none() && address.is_some_and(|address| !address.ip().is_loopback()) {
        let message = format!("source `{}` takes rows from anybody who reaches {listen}", config.name);
        let help = "add token = \"secret://env/NAME\", or listen on 127.0.0.1";
        tracing::warn!(node = %config.name, "{message}; {help}");
    }
    let (Some(address), true) = (address, out.is_empty()) else { return Err(ConfigError(out)) };
    let stream = format.stream();
    let watermark = format.watermark();
    let source = HttpSource {
        node: config.name.clone(),
        address,
        path,
        token,
        decoder: format.decoder(),
        format,
        has_request_id,
        clock: Arc::clone(&context.clock),
        requests: None,
        taken: 0,
        unanswered: Arc::default(),
        stop: None,
    };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: false,
        commit_quickly: true,
        logged: durable(config, true),
    })
}

/// A request's body and whom to tell.
struct Request {
    body: Bytes,
    /// Its `Idempotency-Key`.
    id: Option<String>,
    answer: oneshot::Sender<Outcome>,
    /// Of its body.
    room: OwnedSemaphorePermit,
}

/// What became of a request's rows.
#[derive(Clone, Debug)]
struct Outcome {
    rows: usize,
    rejected: usize,
    reason: Option<String>,
}

/// A request whose rows are on their way.
struct Waiting {
    number: u64,
    answer: oneshot::Sender<Outcome>,
    outcome: Outcome,
    /// Given back when the rows are durable, though the sender may be gone by then.
    _room: OwnedSemaphorePermit,
}

/// In order.
type Unanswered = Arc<Mutex<VecDeque<Waiting>>>;

struct HttpSource {
    node: String,
    address: SocketAddr,
    path: String,
    token: Option<SecretRef>,
    format: RowFormat,
    has_request_id: bool,
    decoder: Box<dyn Decoder>,
    clock: Arc<dyn Clock>,
    requests: Option<mpsc::Receiver<Request>>,
    /// Requests taken so far: the number of the last one is the position.
    taken: u64,
    unanswered: Unanswered,
    stop: Option<watch::Sender<bool>>,
}

#[async_trait]
impl Source for HttpSource {
    async fn open(&mut self, _resume: Option<&Position>) -> Result<(), ConnectorError> {
        // A listener of before ends when nobody holds its line.
        self.stop = None;
        let token = self.token.as_ref().map(SecretRef::resolve).transpose().map_err(ConnectorError::Lost)?;
        let listener = TcpListener::bind(self.address).await;
        let listener = listener
            .map_err(|error| ConnectorError::Lost(format!("cannot listen on {}: {error}", self.address)))?;
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (stop, stopped) = watch::channel(false);
        let door = Door {
            sender,
            stopped: stopped.clone(),
            token: token.map(|token| format!("Bearer {}", token.expose())),
            bodies: Bodies::new(self.format.payload_bytes_max()),
        };
        let router = Router::new()
            .route(&self.path, post(take))
            .layer(DefaultBodyLimit::max(self.format.payload_bytes_max()))
            .with_state(Arc::new(door));
        tracing::info!(node = %self.node, "listening on http://{}{}", self.address, self.path);
        tokio::spawn(serve(Limited::new(listener, &self.node), router, stopped));
        self.requests = Some(requests);
        self.stop = Some(stop);
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some(requests) = &mut self.requests else {
            return Err(ConnectorError::Lost("not open".into()));
        };
        let Some(first) = requests.recv().await else {
            return Err(ConnectorError::Lost("the listener has ended".into()));
        };
        let mut request = Some(first);
        let mut bad = Vec::new();
        let mut batches = Vec::new();
        let mut ids = StringBuilder::new();
        let mut bytes = 0;
        while let Some(Request { body, id, answer, room }) = request.take() {
            self.taken += 1;
            bytes += body.len();
            let number = self.taken;
            self.decoder.decode(&body, &|row| format!("request {number}, row {}", row + 1));
            let decoded = self.decoder.finish();
            let reason = decoded.bad.first().map(|row| row.reason.clone());
            let outcome = Outcome { rows: decoded.batch.num_rows(), rejected: decoded.bad.len(), reason };
            bad.extend(decoded.bad);
            for row in 0..outcome.rows {
                ids.append_option(id.as_ref().map(|id| format!("{id}#{row}")));
            }
            batches.push(decoded.batch);
            lock(&self.unanswered).push_back(Waiting { number, answer, outcome, _room: room });
            let rows: usize = batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
            if rows < BATCH_ROWS && bytes < BATCH_BYTES {
                request = requests.try_recv().ok();
            }
        }
        let batch = arrow::compute::concat_batches(self.decoder.schema(), &batches);
        let batch = batch.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        let decoded = tidegate_engine::codec::Decoded { batch, bad };
        let position = Position::of(&self.taken);
        let origin = Origin { node: &self.node, partition: 0, position, now: self.clock.now() };
        let own: Option<ArrayRef> = self.has_request_id.then(|| Arc::new(ids.finish()) as ArrayRef);
        Ok(Polled::Rows(self.format.rows(decoded, own.into_iter().collect(), origin)?))
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        Some(Box::new(Answers(Arc::clone(&self.unanswered))))
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        if let Some(stop) = self.stop.take() {
            stop.send_replace(true);
        }
        self.requests = None;
        // Their rows may not be durable: the senders are told so.
        lock(&self.unanswered).clear();
        Ok(())
    }
}

fn lock(unanswered: &Unanswered) -> MutexGuard<'_, VecDeque<Waiting>> {
    unanswered.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers requests whose rows are durable.
struct Answers(Unanswered);

#[async_trait]
impl Committer for Answers {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        let durable: u64 = position.read()?;
        let mut unanswered = lock(&self.0);
        while unanswered.front().is_some_and(|waiting| waiting.number <= durable) {
            if let Some(Waiting { answer, outcome, .. }) = unanswered.pop_front()
                && answer.send(outcome).is_err()
            {
                tracing::debug!("a sender did not wait for its answer");
            }
        }
        Ok(())
    }
}

async fn serve(listener: Limited, router: Router, mut stopped: watch::Receiver<bool>) {
    let stop = async move {
        // An error means that the source is gone, which is the same.
        stopped.wait_for(|stopped| *stopped).await.ok();
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!("the listener has ended: {error}");
    }
}

/// What requests meet first.
struct Door {
    sender: mpsc::Sender<Request>,
    stopped: watch::Receiver<bool>,
    /// The `Authorization` a request must have.
    token: Option<String>,
    bodies: Bodies,
}

async fn take(State(door): State<Arc<Door>>, request: HttpRequest) -> Response {
    let headers = request.headers();
    if let Some(token) = &door.token {
        let said = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
        if !same(said, token.as_bytes()) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
        }
    }
    if *door.stopped.borrow() {
        return unavailable("stopping");
    }
    let id = headers.get("idempotency-key").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    if id.as_ref().is_some_and(|id| id.len() > REQUEST_ID_BYTES_MAX) {
        return (StatusCode::BAD_REQUEST, "the Idempotency-Key is longer than 256 bytes").into_response();
    }
    let Taken { body, room } = match door.bodies.take(request).await {
        Ok(taken) => taken,
        Err(answer) => return *answer,
    };
    let (answer, answered) = oneshot::channel();
    if door.sender.try_send(Request { body, id, answer, room }).is_err() {
        return unavailable("too many requests are waiting");
    }
    match tokio::time::timeout(DURABLE_WITHIN, answered).await {
        Ok(Ok(outcome)) => outcome.into_response(),
        Ok(Err(_)) => unavailable("stopping; the rows may or may not have been taken"),
        Err(_) => unavailable("the rows are not durable yet"),
    }
}

impl IntoResponse for Outcome {
    fn into_response(self) -> Response {
        let nothing_right = self.rows == 0 && self.rejected > 0;
        let status = if nothing_right { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        let body = serde_json::json!({ "rows": self.rows, "rejected": self.rejected, "reason": self.reason });
        let media = [(header::CONTENT_TYPE, "application/json")];
        (status, media, Body::from(format!("{body}\n"))).into_response()
    }
}

/// Compares without telling by its time how much is right.
fn same(said: &[u8], expected: &[u8]) -> bool {
    let differences = said.iter().zip(expected).fold(0, |differences, (a, b)| differences | (a ^ b));
    said.len() == expected.len() && differences == 0
}
