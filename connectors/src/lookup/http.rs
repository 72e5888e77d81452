//! Look-ups over HTTP: a GET for each key, whose answer is JSON. The host stands
//! in the file, and no redirect is followed.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::lookup::{Answers, Lookup, LookupError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::template::{Template, leaves_its_place};
use tokio::sync::OnceCell;

use super::{Built, Collected, Question, key_texts};
use crate::format::RowFormat;

/// Largest answer.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of an answer that a message shows.
const ANSWER_SHOWN: usize = 200;

pub(super) fn lookup(question: &Question<'_>) -> Result<Built, ConfigError> {
    let template = question.template("get")?;
    let wrong = |message: String, help: &str| {
        let diagnostic = Diagnostic::error("TG-C034", message);
        ConfigError::from(diagnostic.at(question.table.span_of("get")).help(help))
    };
    let with =
        |value: &str| Url::parse(&template.fill(&vec![value.to_owned(); template.expressions().len()]));
    let (Ok(one), Ok(other)) = (with("a"), with("b")) else {
        return Err(wrong(
            "`get` is no address".into(),
            "write e.g. \"https://example.com/devices/{device}\"",
        ));
    };
    if !matches!(one.scheme(), "http" | "https") || !one.has_host() {
        return Err(wrong("`get` is no http:// or https:// address".into(), "write the host in the file"));
    }
    if one.origin() != other.origin()
        || one.username() != other.username()
        || one.password() != other.password()
    {
        let message = "a value of the row may not choose the host that is asked".to_owned();
        return Err(wrong(message, "insert values behind the host only"));
    }
    let mut headers = Vec::new();
    for entry in question.table.table("headers").map_or(&[][..], |headers| &headers.entries) {
        let (Ok(name), Some(value)) = (HeaderName::try_from(entry.key.as_str()), entry.value.as_text())
        else {
            let message = format!("`{}` is no header's name", entry.key);
            return Err(Diagnostic::error("TG-C034", message).at(entry.key_span.clone()).into());
        };
        headers.push((name, SecretRef::new(value.value.clone())));
    }
    let format = question.format(None)?;
    let columns = Arc::clone(format.decoder().schema());
    let keys = template.expressions();
    let token = question.table.str("token").map(SecretRef::new);
    let lookup = HttpLookup { template, headers, token, format, client: OnceCell::new() };
    Ok((Arc::new(lookup), keys, columns))
}

struct HttpLookup {
    template: Template,
    headers: Vec<(HeaderName, SecretRef)>,
    token: Option<SecretRef>,
    format: RowFormat,
    client: OnceCell<Client>,
}

#[async_trait]
impl Lookup for HttpLookup {
    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let mut collected = Collected::new(&self.format);
        for (key, values) in key_texts(keys)?.iter().enumerate() {
            let values: Vec<String> = values.iter().map(|value| encoded(value)).collect();
            let url = self.template.fill(&values);
            let ordinary = self.template.fill(&vec!["a".to_owned(); values.len()]);
            if let Some(reason) = leaves_its_place(&url, &ordinary) {
                collected.refuse(key, reason);
                continue;
            }
            match self.get(&url).await? {
                Ok(answer) => collected.add(key, &answer),
                Err(reason) => collected.refuse(key, reason),
            }
        }
        Ok(collected.finish())
    }
}

impl HttpLookup {
    /// The answer, empty where nothing is known; or why it cannot be used.
    async fn get(&self, url: &str) -> Result<Result<Vec<u8>, String>, LookupError> {
        let later = |error: reqwest::Error| LookupError::Later(error.without_url().to_string());
        let client = self.client.get_or_try_init(|| async { client() }).await?;
        let mut request = client.get(url);
        for (name, value) in &self.headers {
            let value = value.resolve().map_err(LookupError::Later)?;
            let value = HeaderValue::from_str(value.expose());
            request = request.header(name, value.map_err(|error| LookupError::Never(error.to_string()))?);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.resolve().map_err(LookupError::Later)?.expose());
        }
        let mut response = request.send().await.map_err(later)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(later)? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES_MAX {
                return Ok(Err(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        if status == StatusCode::NOT_FOUND || status == StatusCode::NO_CONTENT {
            return Ok(Ok(Vec::new()));
        }
        if status.is_success() {
            return Ok(Ok(body));
        }
        let shown = String::from_utf8_lossy(body.get(..ANSWER_SHOWN.min(body.len())).unwrap_or_default())
            .into_owned();
        let reason = format!("the service answers {status}: {shown}");
        let may_pass = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        if may_pass { Err(LookupError::Later(reason)) } else { Ok(Err(reason)) }
    }
}

fn client() -> Result<Client, LookupError> {
    // Whoever is first chooses for the process; all of us choose ring.
    let chosen = rustls::crypto::ring::default_provider().install_default();
    tracing::trace!(first = chosen.is_ok(), "cryptography of TLS");
    let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    client.map_err(|error| LookupError::Never(format!("cannot prepare HTTP: {error}")))
}

/// A value in a URL: all but letters, digits and `-._~` as bytes.
fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
