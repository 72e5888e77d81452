//! `http`: one request with an idempotency key. The host stands in the file;
//! data may only fill in the rest. No redirect is followed.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, StringArray};
use arrow::datatypes::DataType;
use async_trait::async_trait;
use reqwest::header::{HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, StatusCode, Url};
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::secret::SecretRef;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::template::{Template, leaves_its_place};
use tidegate_engine::time::Time;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Text;

use super::parts::{done, render, render_encoded, result};

const KEYS: &[Key] = &[
    optional("get", Kind::Template, "URL to get"),
    optional("post", Kind::Template, "URL to post to"),
    optional("put", Kind::Template, "URL to put to"),
    optional("delete", Kind::Template, "URL to delete"),
    optional(
        "json",
        Kind::Map(&Kind::AnyOf(&[Kind::Template, Kind::Number, Kind::Bool])),
        "the body as a JSON object",
    ),
    optional(
        "headers",
        Kind::Map(&Kind::Template),
        "more headers; a value is a template or a secret:// reference",
    ),
    optional("output", Kind::Map(&Kind::Text), "column = path into the answer, e.g. \"body.rain.mm\""),
    optional(
        "fallback",
        Kind::Map(&Kind::AnyOf(&[Kind::Number, Kind::Text])),
        "values of `output` when the request fails",
    ),
];

pub(super) const ROW: Row<BuildTask> = Row {
    name: "http",
    summary: "sends an HTTP request with an idempotency key",
    keys: &[KEYS],
    example: r#"[[flow.warn.task]]
id   = "tell"
type = "http"
post = "https://cmms.example/api/orders"
json = { device = "{device}" }
"#,
    build,
};

/// The header by which a peer can tell a repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest wait for an answer; the task's own `timeout` may be shorter.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait that a peer's `Retry-After` is granted.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Largest answer that is read.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let methods =
        [("get", Method::GET), ("post", Method::POST), ("put", Method::PUT), ("delete", Method::DELETE)];
    let mut chosen = methods.into_iter().filter_map(|(key, method)| table.text(key).map(|url| (method, url)));
    let (Some((method, url)), None) = (chosen.next(), chosen.next()) else {
        let message = format!("task `{}` needs exactly one of get, post, put, delete", config.name);
        return Err(Diagnostic::error("TG-F020", message).at(table.span.clone()).into());
    };
    if let Err(diagnostic) = fixed_host(url) {
        diagnostics.push(diagnostic);
    }
    let compile = |text: &Text| Template::compile(text, &scope.values, context.expressions.as_ref());
    let url = compile(url).map_err(|wrong| diagnostics.extend(wrong)).ok();
    let mut json = None;
    if let Some(fields) = table.table("json") {
        let mut parts = Vec::new();
        for entry in &fields.entries {
            match (entry.value.as_text(), entry.value.as_number()) {
                (Some(text), _) => match compile(text) {
                    Ok(template) => parts.push((entry.key.clone(), Field::Template(template))),
                    Err(wrong) => diagnostics.extend(wrong),
                },
                (None, Some(number)) => {
                    let whole = entry.value.as_int().map(serde_json::Value::from);
                    parts.push((entry.key.clone(), Field::Fixed(whole.unwrap_or_else(|| number.into()))));
                }
                (None, None) => parts.push((entry.key.clone(), Field::Fixed(fields.bool(&entry.key).into()))),
            }
        }
        json = Some(parts);
    }
    let pairs = |key: &str| -> Vec<(String, String)> {
        let entries = table.table(key).map(|table| table.entries.as_slice()).unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.value.as_text()?.value.clone())))
            .collect()
    };
    let headers = headers(config, &compile, &mut diagnostics);
    let (output, schema) = outputs(config, &pairs("output"));
    let client = client().map_err(|message| Diagnostic::error("TG-F021", message))?;
    let (Some(url), true) = (url, diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    let task = Http { client, method, url, json, headers, output, schema: schema.clone() };
    Ok(TaskPart { task: Box::new(task), result: schema })
}

/// The headers of `headers`; names are checked, values compiled.
fn headers(
    config: &NodeConfig,
    compile: &dyn Fn(&Text) -> Result<Template, Vec<Diagnostic>>,
    out: &mut Vec<Diagnostic>,
) -> Vec<(HeaderName, HeaderText)> {
    let mut headers = Vec::new();
    for entry in config.table.table("headers").map(|table| table.entries.as_slice()).unwrap_or_default() {
        let Some(text) = entry.value.as_text() else { continue };
        let wrong = |message: String| Diagnostic::error("TG-C034", message).at(entry.key_span.clone());
        let name = match HeaderName::try_from(entry.key.as_str()) {
            Ok(name) if name != IDEMPOTENCY_KEY => name,
            Ok(_) => {
                let help = "each request has one already, the same at every attempt";
                out.push(wrong(format!("`{}` cannot be set", entry.key)).help(help));
                continue;
            }
            Err(_) => {
                out.push(wrong(format!("`{}` is no header's name", entry.key)));
                continue;
            }
        };
        let secret = SecretRef::new(text.value.clone());
        if secret.is_reference() {
            headers.push((name, HeaderText::Secret(secret)));
            continue;
        }
        match compile(text) {
            Ok(template) => headers.push((name, HeaderText::Template(template))),
            Err(wrong) => out.extend(wrong),
        }
    }
    headers
}

/// A client without redirects; TLS by rustls.
fn client() -> Result<Client, String> {
    let client = Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    client.map_err(|error| format!("cannot prepare HTTP: {error}"))
}

/// The host must stand in the file, not come from data.
fn fixed_host(url: &Text) -> Result<(), Diagnostic> {
    let wrong = |message: &str| {
        let help = "write the host out, e.g. \"https://cmms.example/api/{device}\"";
        Diagnostic::error("TG-F022", message).at(url.span.clone()).help(help)
    };
    let rest = url.value.strip_prefix("http://").or(url.value.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| wrong("a URL begins with http:// or https://"))?;
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains(['{', '}']) {
        return Err(wrong("the host of a request may not come from data"));
    }
    Ok(())
}

/// A value of `json`.
enum Field {
    Template(Template),
    Fixed(serde_json::Value),
}

/// A value of `headers`.
enum HeaderText {
    Template(Template),
    Secret(SecretRef),
}

/// A column of the result.
struct OutputColumn {
    path: Vec<String>,
    number: bool,
    fallback: Option<serde_json::Value>,
}

/// Columns of `output`: numbers where the fallback is one or the name ends in
/// a unit would be guesses, so text is the rule and a numeric fallback says
/// number.
fn outputs(config: &NodeConfig, output: &[(String, String)]) -> (Vec<OutputColumn>, StreamSchema) {
    let fallback = config.table.table("fallback");
    let mut columns = vec![("status", DataType::Int64)];
    let mut readers = Vec::new();
    for (name, path) in output {
        let value = fallback.and_then(|fallback| fallback.get(name));
        let number = value.and_then(tidegate_engine::topology::value::Value::as_number);
        let text = value.and_then(|value| value.as_text()).map(|text| text.value.clone().into());
        readers.push(OutputColumn {
            path: path.trim_start_matches("body.").split('.').map(str::to_owned).collect(),
            number: number.is_some(),
            fallback: number.map(Into::into).or(text),
        });
        columns.push((name, if number.is_some() { DataType::Float64 } else { DataType::Utf8 }));
    }
    (readers, result(&columns))
}

struct Http {
    client: Client,
    method: Method,
    url: Template,
    json: Option<Vec<(String, Field)>>,
    headers: Vec<(HeaderName, HeaderText)>,
    output: Vec<OutputColumn>,
    schema: StreamSchema,
}

#[async_trait]
impl Task for Http {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let answer = self.request(context).await;
        let falls_back =
            !self.output.is_empty() && self.output.iter().all(|column| column.fallback.is_some());
        match answer {
            Ok((status, body)) => self.finish(i64::from(status), &body),
            Err(error) if falls_back => {
                tracing::warn!(task = %context.task_id, "the request failed, the fallback is used: {error}");
                self.finish(0, &serde_json::Value::Null)
            }
            Err(error) => Err(error),
        }
    }

    fn effect(&self) -> Effect {
        if self.method == Method::GET { Effect::Pure } else { Effect::Keyed }
    }
}

impl Http {
    async fn request(&self, context: &TaskContext) -> Result<(u16, serde_json::Value), TaskError> {
        let url = render_encoded(&self.url, context, &|value| percent_encode(value))?;
        let ordinary = render_encoded(&self.url, context, &|_| "a".into())?;
        if let Some(reason) = leaves_its_place(&url, &ordinary) {
            return Err(TaskError::Fatal(format!("{url}: {reason}")));
        }
        let url = Url::parse(&url).map_err(|error| TaskError::Fatal(format!("{url}: {error}")))?;
        let mut request =
            self.client.request(self.method.clone(), url).header(IDEMPOTENCY_KEY, &context.idempotency_key);
        for (name, value) in &self.headers {
            let (text, secret) = match value {
                HeaderText::Template(template) => (render(template, context)?, false),
                HeaderText::Secret(secret) => {
                    (secret.resolve().map_err(TaskError::Fatal)?.expose().to_owned(), true)
                }
            };
            let mut header = HeaderValue::from_str(&text)
                .map_err(|_| TaskError::Fatal(format!("the value of header {name} cannot be sent")))?;
            header.set_sensitive(secret);
            request = request.header(name, header);
        }
        if let Some(fields) = &self.json {
            request = request.json(&body(fields, context)?);
        }
        let (status, bytes) = send(request, context).await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(serde_json::Value::Null)))
    }

    fn finish(&self, status: i64, body: &serde_json::Value) -> Result<TaskStep, TaskError> {
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![status]))];
        for column in &self.output {
            let found = column.path.iter().try_fold(body, |value, part| value.get(part));
            let value = found.or(column.fallback.as_ref());
            let array: ArrayRef = if column.number {
                Arc::new(Float64Array::from(vec![value.and_then(serde_json::Value::as_f64)]))
            } else {
                let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                Arc::new(StringArray::from(vec![text]))
            };
            if array.is_null(0) {
                let path = column.path.join(".");
                return Err(TaskError::Fatal(format!("the answer has no usable `{path}`")));
            }
            columns.push(array);
        }
        done(&self.schema, columns)
    }
}

fn body(fields: &[(String, Field)], context: &TaskContext) -> Result<serde_json::Value, TaskError> {
    let mut object = serde_json::Map::new();
    for (name, field) in fields {
        let value = match field {
            Field::Fixed(value) => value.clone(),
            Field::Template(template) => {
                let text = render_encoded(template, context, &str::to_owned)?;
                // Text that is one `{expr}` keeps its type.
                let typed = template.as_expression().filter(|expression| expression.data_type().is_numeric());
                typed.and_then(|_| serde_json::from_str(&text).ok()).unwrap_or(text.into())
            }
        };
        object.insert(name.clone(), value);
    }
    Ok(object.into())
}

/// Sends and classifies: what may pass, what will not.
async fn send(request: reqwest::RequestBuilder, context: &TaskContext) -> Result<(u16, Vec<u8>), TaskError> {
    let mut answer = request.send().await.map_err(|error| failure(&error))?;
    let status = answer.status();
    let host = host(answer.url());
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failure(&error))? {
        if bytes.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(TaskError::Fatal(format!("the answer is larger than {BODY_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok((status.as_u16(), bytes));
    }
    let shown: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
    let message = format!("{host}: the server answers {status}: {shown}");
    let class = match status {
        StatusCode::TOO_MANY_REQUESTS => "429",
        _ if status.is_server_error() => "5xx",
        _ => return Err(TaskError::Fatal(message)),
    };
    let not_before = answer.headers().get(RETRY_AFTER).and_then(|value| {
        let now = context.clock.now();
        retry_after(value.to_str().ok()?, now).map(|time| time.min(now.plus(RETRY_AFTER_MAX)))
    });
    Err(TaskError::Retry { class, message, not_before })
}

/// The host and the first cause. The rest of the URL may hold what is secret.
fn failure(error: &reqwest::Error) -> TaskError {
    let class = if error.is_timeout() { "timeout" } else { "network" };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let host = error.url().map(host).unwrap_or_default();
    TaskError::retry(class, format!("{host}: {cause}"))
}

/// Host and port of a URL.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A number of seconds, or a date as HTTP writes it (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: Time) -> Option<Time> {
    match text.trim().parse() {
        Ok(seconds) => Some(now.plus(Duration::from_secs(seconds))),
        Err(_) => chrono::DateTime::parse_from_rfc2822(text).ok().map(|date| Time(date.timestamp_micros())),
    }
}

/// Leaves only what no URL part can misread (RFC 3986, unreserved characters).
fn percent_encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Posts JSON to a fixed place, for tasks that push elsewhere too.
pub(super) struct Poster {
    client: Client,
    url: Url,
}

impl Poster {
    pub(super) fn new(url: &Text) -> Result<Poster, Diagnostic> {
        fixed_host(url)?;
        let parsed = Url::parse(&url.value)
            .map_err(|error| Diagnostic::error("TG-F022", format!("no URL: {error}")).at(url.span.clone()))?;
        let client = client().map_err(|message| Diagnostic::error("TG-F021", message))?;
        Ok(Poster { client, url: parsed })
    }

    pub(super) async fn post(
        &self,
        json: &serde_json::Value,
        context: &TaskContext,
    ) -> Result<(), TaskError> {
        let key = &context.idempotency_key;
        let request = self.client.post(self.url.clone()).header(IDEMPOTENCY_KEY, key).json(json);
        send(request, context).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_stands_in_the_file() {
        for good in ["http://a/b", "https://a.b:8080/{x}", "http://a?q={x}"] {
            assert!(fixed_host(&Text::loose(good)).is_ok(), "{good}");
        }
        for bad in ["{url}", "http://{host}/", "ftp://a/", "https://", "http://a{x}/"] {
            assert!(fixed_host(&Text::loose(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn inserted_values_cannot_leave_their_place() {
        assert_eq!(percent_encode("a/b?c=ä"), "a%2Fb%3Fc%3D%C3%A4");
    }
}
