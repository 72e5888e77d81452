//! The HTTP sink: rows leave as the bodies of requests at `flush`, in order. A
//! request that failed is repeated with the idempotency key it had, so that a
//! peer that knows it takes the rows once; those before it that were answered
//! are not. After a crash of ours rows since the last checkpoint come again
//! under new keys.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tidegate_engine::catalog::{BuildSink, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError, RejectedRow};
use tidegate_engine::operator::Input;
use tidegate_engine::secret::SecretRef;
use tidegate_engine::sink::{Sink, SinkPart};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::time::Instant;

use crate::format::encode::{ENCODE_KEYS, EncodeFormat};

const KEYS: &[Key] = &[
    required("url", Kind::Text, "where rows are sent, http:// or https://"),
    optional("method", Kind::Word(&["POST", "PUT"]), "default \"POST\""),
    optional("headers", Kind::Map(&Kind::Secret), "headers of every request"),
    optional("token", Kind::Secret, "sent as `Authorization: Bearer …`"),
    optional(
        "body",
        Kind::Word(&["lines", "array"]),
        "json: an object a line, or one array; default \"lines\"",
    ),
    optional("rows_max", Kind::Int(1, 1_000_000), "rows of one request, default 1000"),
    optional("timeout", Kind::Duration, "longest wait for an answer, default \"30s\""),
];

/// `[sink.x] type = "http"`.
pub(crate) const ROW: Row<BuildSink> = Row {
    name: "http",
    summary: "sends rows as HTTP requests: JSON lines, JSON arrays or CSV",
    keys: &[KEYS, ENCODE_KEYS],
    example: r#"[source.numbers]
type  = "generate"
count = 10

[sink.out]
type  = "http"
from  = "numbers"
url   = "https://example.com/rows"
token = "secret://env/ROWS_TOKEN"
"#,
    build,
};

const ROWS_MAX: usize = 1_000;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait that a peer's `Retry-After` is granted.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Bytes of an answer that a message shows.
const ANSWER_SHOWN: usize = 200;

fn build(config: &NodeConfig, context: &BuildContext, input: &Input) -> Result<SinkPart, ConfigError> {
    let table = &config.table;
    let format = EncodeFormat::from_config(config)?;
    let wrong = |key: &str, message: String| Diagnostic::error("TG-C034", message).at(table.span_of(key));
    let mut out = Vec::new();
    let text = table.str("url").unwrap_or_default();
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        Ok(_) | Err(_) => {
            let help = "write e.g. \"https://example.com/rows\"";
            out.push(wrong("url", format!("`{text}` is no http:// or https:// address")).help(help));
            None
        }
    };
    let mut headers = Vec::new();
    for entry in table.table("headers").map_or(&[][..], |headers| &headers.entries) {
        match (HeaderName::try_from(entry.key.as_str()), entry.value.as_text()) {
            (Ok(name), Some(value)) => headers.push((name, SecretRef::new(value.value.clone()))),
            (_, _) => {
                let message = format!("`{}` is no header's name", entry.key);
                out.push(Diagnostic::error("TG-C034", message).at(entry.key_span.clone()));
            }
        }
    }
    if let Err(reason) = format.header(&input.stream.columns) {
        out.push(wrong("format", reason));
    }
    let array = table.str("body") == Some("array");
    if array && format != EncodeFormat::Json {
        out.push(wrong("body", "`body` = \"array\" has a meaning for format `json` only".into()));
    }
    let (Some(url), true) = (url, out.is_empty()) else { return Err(ConfigError(out)) };
    let started = context.clock.now();
    let sink = HttpSink {
        method: if table.str("method") == Some("PUT") { Method::PUT } else { Method::POST },
        url,
        headers,
        token: table.str("token").map(SecretRef::new),
        format,
        array,
        rows_max: table.int_as("rows_max").unwrap_or(ROWS_MAX),
        timeout: table.duration("timeout").unwrap_or(TIMEOUT),
        key: format!("{}/{}/{:x}", context.topology, config.name, started.0),
        client: None,
        batches: Vec::new(),
        answered: Vec::new(),
        sent: 0,
        not_before: None,
    };
    Ok(SinkPart { sink: Box::new(sink) })
}

struct HttpSink {
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, SecretRef)>,
    token: Option<SecretRef>,
    format: EncodeFormat,
    array: bool,
    rows_max: usize,
    timeout: Duration,
    /// What the keys of this process begin with.
    key: String,
    client: Option<Client>,
    /// Rows since the last flush.
    batches: Vec<RecordBatch>,
    /// The requests that were answered before one failed, by key and body, and
    /// why their rows were refused, if they were.
    answered: Vec<(u64, Option<String>)>,
    /// Requests of earlier flushes.
    sent: u64,
    not_before: Option<Instant>,
}

#[async_trait]
impl Sink for HttpSink {
    async fn open(&mut self) -> Result<(), ConnectorError> {
        self.batches.clear();
        if let Some(not_before) = self.not_before.take() {
            tokio::time::sleep_until(not_before).await;
        }
        if self.client.is_none() {
            // Whoever is first chooses for the process; all of us choose ring.
            let chosen = rustls::crypto::ring::default_provider().install_default();
            tracing::trace!(first = chosen.is_ok(), "cryptography of TLS");
            let client = Client::builder().timeout(self.timeout).redirect(reqwest::redirect::Policy::none());
            let client = client.build();
            self.client =
                Some(client.map_err(|error| ConnectorError::Fatal(format!("cannot prepare HTTP: {error}")))?);
        }
        Ok(())
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), ConnectorError> {
        self.batches.push(batch.clone());
        Ok(())
    }

    async fn flush(&mut self, epoch: u64) -> Result<(), ConnectorError> {
        // The same rows are cut the same way again, so a repeated request has the key it had.
        let mut rejected = Vec::new();
        let (mut request, mut row) = (0, 0);
        let batches = std::mem::take(&mut self.batches);
        for batch in &batches {
            let mut start = 0;
            while start < batch.num_rows() {
                let rows = batch.slice(start, self.rows_max.min(batch.num_rows() - start));
                let key = format!("{}/{epoch}/{}", self.key, self.sent + request as u64);
                if let Some(reason) = self.send_once(request, &rows, &key).await? {
                    let rows = row..row + rows.num_rows();
                    rejected.extend(rows.map(|row| RejectedRow { row, reason: reason.clone() }));
                }
                request += 1;
                start += rows.num_rows();
                row += rows.num_rows();
            }
        }
        self.sent += request as u64;
        self.answered.clear();
        if rejected.is_empty() { Ok(()) } else { Err(ConnectorError::Rejected(rejected)) }
    }
}

impl HttpSink {
    /// Sends one request of a flush, unless it was answered when another one
    /// failed. Answers why the peer refused its rows, if it did.
    async fn send_once(
        &mut self,
        number: usize,
        rows: &RecordBatch,
        key: &str,
    ) -> Result<Option<String>, ConnectorError> {
        let body = self.body(rows).map_err(ConnectorError::Fatal)?;
        let mut hasher = DefaultHasher::new();
        (key, &body).hash(&mut hasher);
        let mark = hasher.finish();
        if let Some((_, reason)) = self.answered.get(number).filter(|(known, _)| *known == mark) {
            return Ok(reason.clone());
        }
        self.answered.truncate(number);
        let reason = self.send(body, key).await?;
        self.answered.push((mark, reason.clone()));
        Ok(reason)
    }

    async fn send(&mut self, body: Vec<u8>, key: &str) -> Result<Option<String>, ConnectorError> {
        let Some(client) = &self.client else {
            return Err(ConnectorError::Lost("not open".into()));
        };
        let media = if self.array { "application/json" } else { self.format.media_type() };
        let mut request = client
            .request(self.method.clone(), self.url.clone())
            .header(CONTENT_TYPE, media)
            .header("Idempotency-Key", key)
            .body(body);
        for (name, value) in &self.headers {
            request = request.header(name, header_value(name.as_str(), value, "")?);
        }
        if let Some(token) = &self.token {
            request = request.header("Authorization", header_value("Authorization", token, "Bearer ")?);
        }
        let lost = |error: reqwest::Error| {
            ConnectorError::Lost(format!(
                "no answer from {}: {}",
                self.url.authority(),
                with_causes(&error.without_url())
            ))
        };
        let answer = request.send().await.map_err(lost)?;
        self.judge(answer).await
    }

    async fn judge(&mut self, answer: Response) -> Result<Option<String>, ConnectorError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(None);
        }
        let retry_after =
            answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let message = format!("{} answered {status}: {}", self.url.authority(), shown(answer).await);
        if status.is_server_error()
            || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY]
                .contains(&status)
        {
            let wait = Duration::from_secs(retry_after.unwrap_or(0)).min(RETRY_AFTER_MAX);
            self.not_before = Instant::now().checked_add(wait);
            return Err(ConnectorError::Lost(message));
        }
        let wrong_address = [
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
        ];
        if !status.is_client_error() || wrong_address.contains(&status) {
            return Err(ConnectorError::Fatal(message));
        }
        Ok(Some(message))
    }

    fn body(&self, rows: &RecordBatch) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        self.format.encoder().encode(rows, &mut body)?;
        if self.array {
            // Each row is a line, and no row has a line end inside.
            body.pop();
            body.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b',');
            body.insert(0, b'[');
            body.push(b']');
        }
        Ok(body)
    }
}

fn header_value(name: &str, secret: &SecretRef, before: &str) -> Result<HeaderValue, ConnectorError> {
    // A secret that is not there yet may come: mounted late, or rotated.
    let value = secret.resolve().map_err(ConnectorError::Lost)?;
    let value = HeaderValue::from_str(&format!("{before}{}", value.expose()));
    let mut value =
        value.map_err(|_| ConnectorError::Fatal(format!("the value of header {name} cannot be sent")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The beginning of an answer, for a message.
async fn shown(mut answer: Response) -> String {
    let mut text = Vec::new();
    while text.len() < ANSWER_SHOWN
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        text.extend_from_slice(&chunk);
    }
    text.truncate(ANSWER_SHOWN);
    String::from_utf8_lossy(&text).trim().escape_debug().to_string()
}

/// An error with what caused it: the top one says "error sending request".
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
