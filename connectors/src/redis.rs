//! Look-ups in Redis. Its protocol is so small that a client is a page: commands
//! are written one after the other, replies read in that order.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde_json::Value;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::ConfigError;
use tidegate_engine::lookup::{Answers, Lookup, LookupError};
use tidegate_engine::secret::SecretRef;
use tidegate_engine::template::Template;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::format::RowFormat;
use crate::lookup::{Built, Collected, Question, key_texts};

/// Keys of one request.
const KEYS_MAX: usize = 256;
/// Longest value that is used, and that is read past for the sake of the others.
const VALUE_BYTES_MAX: usize = 4 << 20;
const SKIPPED_BYTES_MAX: u64 = 64 << 20;
/// Most bytes of answers to one request.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Redis listens there.
const PORT: u16 = 6379;

pub(crate) fn lookup(question: &Question<'_>) -> Result<Built, ConfigError> {
    let table = question.table;
    let wrong = |key: &str, message: &str, help: &str| {
        ConfigError::from(Diagnostic::error("TG-C006", message).at(table.span_of(key)).help(help))
    };
    let url = table.str("url").unwrap_or_default();
    let address = address(url).ok_or_else(|| {
        wrong("url", "this is no address of Redis", "write e.g. \"redis://localhost:6379/0\"")
    })?;
    let key = match (table.get("get"), table.get("hash")) {
        (Some(_), None) => "get",
        (None, Some(_)) => "hash",
        (_, _) => return Err(wrong("url", "Redis is asked for one thing", "write either `get` or `hash`")),
    };
    let template = question.template(key)?;
    let format = question.format(Some("coerce"))?;
    let columns = Arc::clone(format.decoder().schema());
    let fields: Vec<String> = columns.fields().iter().map(|field| field.name().clone()).collect();
    let what = match (key, fields.as_slice()) {
        ("hash", _) => What::Hash(fields),
        (_, [only]) => What::Value(only.clone()),
        (_, _) => What::Object,
    };
    let keys = template.expressions();
    let password = table.str("password").map(SecretRef::new);
    let lookup = RedisLookup { address, password, template, what, format, line: Mutex::default() };
    Ok((Arc::new(lookup), keys, columns))
}

/// Host, port and database.
type Address = (String, u16, u32);

fn address(url: &str) -> Option<Address> {
    let rest = url.strip_prefix("redis://")?;
    let (host, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = if database.is_empty() { 0 } else { database.parse().ok()? };
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (host, PORT),
    };
    (!host.is_empty() && !host.contains('@')).then(|| (host.to_owned(), port, database))
}

/// What a key holds.
enum What {
    /// A JSON object.
    Object,
    /// The value of this column, or a JSON object.
    Value(String),
    /// Fields of a hash.
    Hash(Vec<String>),
}

struct RedisLookup {
    address: Address,
    password: Option<SecretRef>,
    template: Template,
    what: What,
    format: RowFormat,
    /// One request at a time; one that fails, or is given up, leaves none behind.
    line: Mutex<Option<BufStream<TcpStream>>>,
}

#[async_trait]
impl Lookup for RedisLookup {
    fn keys_max(&self) -> usize {
        KEYS_MAX
    }

    fn at_once(&self) -> usize {
        1
    }

    async fn fetch(&self, keys: &RecordBatch) -> Result<Answers, LookupError> {
        let names: Vec<String> = key_texts(keys)?.iter().map(|values| self.template.fill(values)).collect();
        let mut kept = self.line.lock().await;
        let mut line = match kept.take() {
            Some(line) => line,
            None => self.connect().await?,
        };
        let mut commands = Vec::new();
        for name in &names {
            match &self.what {
                What::Object | What::Value(_) => command(&["GET", name], &mut commands),
                What::Hash(fields) => {
                    let words = ["HMGET", name].into_iter().chain(fields.iter().map(String::as_str));
                    command(&words.collect::<Vec<_>>(), &mut commands);
                }
            }
        }
        line.write_all(&commands).await.map_err(|error| lost(&error))?;
        line.flush().await.map_err(|error| lost(&error))?;
        let mut collected = Collected::new(&self.format);
        let mut bytes = 0;
        for key in 0..names.len() {
            match self.answer(&mut line).await? {
                Ok(None) => {}
                Ok(Some(json)) => {
                    bytes += json.len();
                    if bytes > ANSWER_BYTES_MAX {
                        return Err(LookupError::Never(format!(
                            "the values have more than {ANSWER_BYTES_MAX} bytes"
                        )));
                    }
                    collected.add(key, &json);
                }
                Err(reason) => collected.refuse(key, reason),
            }
        }
        *kept = Some(line);
        Ok(collected.finish())
    }
}

impl RedisLookup {
    async fn connect(&self) -> Result<BufStream<TcpStream>, LookupError> {
        let (host, port, database) = &self.address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| lost(&error))?;
        stream.set_nodelay(true).map_err(|error| lost(&error))?;
        let mut line = BufStream::new(stream);
        let mut commands = Vec::new();
        if let Some(password) = &self.password {
            command(&["AUTH", password.resolve().map_err(LookupError::Later)?.expose()], &mut commands);
        }
        command(&["SELECT", &database.to_string()], &mut commands);
        line.write_all(&commands).await.map_err(|error| lost(&error))?;
        line.flush().await.map_err(|error| lost(&error))?;
        for _ in 0..1 + usize::from(self.password.is_some()) {
            if let Reply::Error(reason) = reply(&mut line).await? {
                return Err(LookupError::Later(reason));
            }
        }
        Ok(line)
    }

    /// What is known of the next key, as JSON, or why that cannot be used.
    async fn answer(
        &self,
        line: &mut BufStream<TcpStream>,
    ) -> Result<Result<Option<Vec<u8>>, String>, LookupError> {
        let reply = reply(line).await?;
        let json = match (&self.what, reply) {
            // It is loading its data, or has no more memory: that passes.
            (_, Reply::Error(reason)) if reason.starts_with("LOADING") || reason.starts_with("OOM") => {
                return Err(LookupError::Later(reason));
            }
            (_, Reply::Error(reason)) => return Ok(Err(reason)),
            (What::Hash(fields), Reply::List(count)) => {
                let (mut object, mut too_long) = (serde_json::Map::new(), None);
                for index in 0..count {
                    match (one(line).await?, fields.get(index)) {
                        (Ok(Some(value)), Some(field)) => {
                            object.insert(field.clone(), Value::String(value));
                        }
                        (Err(reason), _) => too_long = Some(reason),
                        (Ok(_), _) => {}
                    }
                }
                if let Some(reason) = too_long {
                    return Ok(Err(reason));
                }
                if object.is_empty() {
                    return Ok(Ok(None));
                }
                serde_json::to_vec(&object)
            }
            (What::Value(column), Reply::Text(Some(text))) if !text.trim_start().starts_with('{') => {
                let object = [(column.clone(), Value::String(text))];
                serde_json::to_vec(&serde_json::Map::from_iter(object))
            }
            (_, Reply::Text(Some(text))) => Ok(text.into_bytes()),
            (_, Reply::Text(None)) => return Ok(Ok(None)),
            (_, Reply::TooLong(bytes)) => return Ok(Err(too_long(bytes))),
            (_, Reply::List(_)) => return Err(LookupError::Later("Redis answers another question".into())),
        };
        Ok(json.map(Some).map_err(|error| error.to_string()))
    }
}

fn command(words: &[&str], to: &mut Vec<u8>) {
    to.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        to.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

enum Reply {
    Text(Option<String>),
    /// A value of so many bytes, which was read past.
    TooLong(u64),
    /// So many replies follow.
    List(usize),
    Error(String),
}

fn too_long(bytes: u64) -> String {
    format!("the value has {bytes} bytes, more than {VALUE_BYTES_MAX}")
}

/// A value of a list, or why it cannot be used.
async fn one(line: &mut BufStream<TcpStream>) -> Result<Result<Option<String>, String>, LookupError> {
    match reply(line).await? {
        Reply::Text(text) => Ok(Ok(text)),
        Reply::TooLong(bytes) => Ok(Err(too_long(bytes))),
        Reply::List(_) | Reply::Error(_) => Err(LookupError::Later("Redis answers another question".into())),
    }
}

async fn reply(line: &mut BufStream<TcpStream>) -> Result<Reply, LookupError> {
    let mut head = Vec::new();
    let limit = u64::try_from(VALUE_BYTES_MAX).unwrap_or(u64::MAX);
    let read = (&mut *line).take(limit).read_until(b'\n', &mut head).await.map_err(|error| lost(&error))?;
    let text = String::from_utf8_lossy(&head);
    let text = text.strip_suffix("\r\n").filter(|_| read > 0);
    let text = text.ok_or_else(|| LookupError::Later("Redis has closed the connection".into()))?;
    let wrong = || LookupError::Later(format!("this is no answer of Redis: {text:?}"));
    let mut chars = text.chars();
    let kind = chars.next().ok_or_else(wrong)?;
    let rest = chars.as_str();
    match kind {
        '+' | ':' => Ok(Reply::Text(Some(rest.to_owned()))),
        '-' => Ok(Reply::Error(rest.to_owned())),
        '*' => Ok(Reply::List(rest.parse().map_err(|_| wrong())?)),
        '$' if rest == "-1" => Ok(Reply::Text(None)),
        '$' => {
            let bytes: u64 = rest.parse().map_err(|_| wrong())?;
            let length = match usize::try_from(bytes) {
                Ok(length) if length <= VALUE_BYTES_MAX => length,
                _ if bytes <= SKIPPED_BYTES_MAX => {
                    skip(line, bytes + 2).await?;
                    return Ok(Reply::TooLong(bytes));
                }
                // Halved, until its key stands alone.
                _ => return Err(LookupError::Never(too_long(bytes))),
            };
            let mut value = vec![0; length + 2];
            line.read_exact(&mut value).await.map_err(|error| lost(&error))?;
            value.truncate(length);
            Ok(Reply::Text(Some(String::from_utf8_lossy(&value).into_owned())))
        }
        _ => Err(wrong()),
    }
}

async fn skip(line: &mut BufStream<TcpStream>, bytes: u64) -> Result<(), LookupError> {
    let mut rest = (&mut *line).take(bytes);
    let skipped = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(|error| lost(&error))?;
    if skipped == bytes { Ok(()) } else { Err(LookupError::Later("Redis has closed the connection".into())) }
}

fn lost(error: &std::io::Error) -> LookupError {
    LookupError::Later(error.to_string())
}
