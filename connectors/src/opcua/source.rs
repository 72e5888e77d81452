//! `source.opcua`: values of nodes. Columns: `ts`, `node`, the tags, `value`,
//! `quality` (good, uncertain, bad), `status` (the server's own word).

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use opcua::types::{DataValue, StatusCode};
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Committer, Polled, Position, Rows, Silence, Source, SourcePart};
use tidegate_engine::time::{Clock, Time, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::Table;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::connect::{SERVER_KEYS, Server, refuse_errors};
use super::gap::Owed;
use super::held::Place;
use super::link::{News, Wanted, run, until};
use super::nodes::{Item, NODE_KEYS, read};
use super::subscription::{Acknowledgements, sequence};
use super::value::{Timestamp, VALUE_TYPES, ValueType, number, quality, text, time, truth, whole};
use crate::format::{DURABLE_KEYS, durable, is_gap, watermark_policy};

const KEYS: &[Key] = &[
    required("nodes", Kind::List(&Kind::Table(NODE_KEYS)), "which nodes"),
    optional("sampling", Kind::Duration, "how often the server looks at a value, \"1s\" if left out"),
    optional(
        "publishing",
        Kind::Duration,
        "how often the server sends, \"100ms\" if left out; with `durable` it holds the subscription for 600 times as long, and a start within that time goes on with it",
    ),
    optional("queue", Kind::Int(1, 100_000), "values that the server keeps for each node, 100 if left out"),
    optional(
        "deadband",
        Kind::Table(&[
            optional("absolute", Kind::Number, "smaller changes are not sent"),
            optional("percent", Kind::Number, "smaller changes, in percent of the range, are not sent"),
        ]),
        "report by exception, at the server",
    ),
    optional(
        "poll",
        Kind::Duration,
        "read at this interval instead of subscribing; a start over three of them after the last row tells a gap",
    ),
    optional("value_type", Kind::Word(VALUE_TYPES), "type of the column `value`, \"float64\" if left out"),
    optional(
        "timestamp",
        Kind::Word(&["source", "server", "received"]),
        "the row's time, \"source\" if left out; falls back to the next",
    ),
    optional(
        "watermark",
        Kind::Table(&[
            optional("delay", Kind::Duration, "how late a row may be, none if left out"),
            optional("idle", Kind::Duration, "silence after which time goes on, \"30s\" if left out"),
            optional(
                "max_future",
                Kind::Duration,
                "rows further ahead of the clock are rejected, \"5m\" if left out",
            ),
        ]),
        "how event time advances",
    ),
];

pub(crate) const ROW: Row<BuildSource> = Row {
    name: "opcua",
    summary: "values of OPC UA nodes, by subscription or polling; a gap is a row of quality bad",
    keys: &[KEYS, SERVER_KEYS, DURABLE_KEYS],
    example: r#"[source.vibration]
type     = "opcua"
endpoint = "opc.tcp://127.0.0.1:4840"
nodes    = [{ browse = "Objects/*/Vibration", tags = { turbine = "{path[1]}" } }]
sampling = "100ms"

[sink.out]
type = "stdout"
from = "vibration"
"#,
    build,
};

/// Messages that wait between the session and the driver; then no publish
/// request is answered, and the server queues.
const NEWS_WAITING_MAX: usize = 16;
/// How long after a gap the first values of a silent server are waited for,
/// besides two of its intervals.
const GAP_WAITS: Duration = Duration::from_secs(2);
const GAP_WAITS_MAX: Duration = Duration::from_secs(60);

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let server = Server::read(config, context, &mut diagnostics);
    let (selections, tag_names) = read(&table.tables("nodes"), &mut diagnostics);
    let fixed = ["ts", "node", "value", "quality", "status"];
    if let Some(tag) = tag_names.iter().find(|tag| fixed.contains(&tag.as_str())) {
        let message = format!("a tag cannot be called `{tag}`");
        diagnostics.push(Diagnostic::error("TG-T009", message).at(table.span_of("nodes")));
    }
    let deadband = read_deadband(table.table("deadband"), &mut diagnostics);
    refuse_errors(&mut diagnostics)?;
    let value_type = ValueType::parse(table.str("value_type").unwrap_or("float64"));
    let stream = stream(value_type, &tag_names);
    let once_poll = context.once.then_some(Duration::from_millis(100));
    let mut wanted = Wanted {
        selections,
        tag_names,
        sampling_ms: table.duration("sampling").unwrap_or(Duration::from_secs(1)).as_secs_f64() * 1e3,
        publishing: table.duration("publishing").unwrap_or(Duration::from_millis(100)),
        queue_size: table.int_as("queue").unwrap_or(100),
        deadband,
        poll: table.duration("poll").or(once_poll),
        once: context.once,
        gap: None,
        held: None,
        holds: false,
    };
    let timestamp = match table.str("timestamp") {
        Some("server") => Timestamp::Server,
        Some("received") => Timestamp::Received,
        Some(_) | None => Timestamp::Source,
    };
    let subscribes = wanted.poll.is_none();
    let logged = durable(config, subscribes);
    // Without a log nobody knows after a crash what was read.
    wanted.holds = subscribes && logged;
    let source = OpcUaSource {
        server,
        wanted,
        value_type,
        timestamp,
        clock: Arc::clone(&context.clock),
        stream: stream.clone(),
        acknowledgements: Acknowledgements::default(),
        link: None,
        connected: Arc::default(),
        place: Place::default(),
        owed: Owed::default(),
        goes_on: false,
    };
    let part = SourcePart {
        source: Box::new(source),
        stream,
        watermark: watermark_policy(config),
        replayable: false,
        commit_quickly: subscribes,
        logged,
    };
    Ok(part)
}

/// Type (1 absolute, 2 percent) and value of the deadband.
fn read_deadband(table: Option<&Table>, out: &mut Vec<Diagnostic>) -> Option<(u32, f64)> {
    let table = table?;
    let wrong = match (table.number("absolute"), table.number("percent")) {
        (Some(value), None) if value >= 0.0 => return Some((1, value)),
        (None, Some(value)) if (0.0..=100.0).contains(&value) => return Some((2, value)),
        (Some(_), None) => "`absolute` is not negative",
        (None, Some(_)) => "`percent` goes from 0 to 100",
        (_, _) => "a deadband has either `absolute` or `percent`",
    };
    out.push(Diagnostic::error("TG-C006", wrong).at(table.span.clone()));
    None
}

/// Columns: `ts`, `node`, the tags, `value`, `quality`, `status`.
fn stream(value_type: ValueType, tag_names: &[String]) -> StreamSchema {
    let data_type = match value_type {
        ValueType::Float => DataType::Float64,
        ValueType::Int => DataType::Int64,
        ValueType::Bool => DataType::Boolean,
        ValueType::Text => DataType::Utf8,
    };
    let mut fields = vec![Field::new("ts", time_type(), false), Field::new("node", DataType::Utf8, false)];
    fields.extend(tag_names.iter().map(|tag| Field::new(tag, DataType::Utf8, false)));
    fields.push(Field::new("value", data_type, true));
    fields.push(Field::new("quality", DataType::Utf8, false));
    fields.push(Field::new("status", DataType::Utf8, false));
    StreamSchema::new(fields, Some("ts"))
}

/// A link that runs: what it tells, and how it ended.
type RunningLink = (mpsc::Receiver<News>, JoinHandle<Result<(), ConnectorError>>);

struct OpcUaSource {
    server: Server,
    wanted: Wanted,
    value_type: ValueType,
    timestamp: Timestamp,
    clock: Arc<dyn Clock>,
    stream: StreamSchema,
    acknowledgements: Acknowledgements,
    link: Option<RunningLink>,
    connected: Arc<AtomicBool>,
    /// After the rows that were handed on last.
    place: Place,
    /// Gaps that are not told yet.
    owed: Owed,
    /// It was open before.
    goes_on: bool,
}

/// One row before it becomes one.
struct Sample {
    item: Arc<Item>,
    at: Time,
    value: Option<DataValue>,
    status: Cow<'static, str>,
    quality: &'static str,
}

#[async_trait]
impl Source for OpcUaSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        self.close().await?;
        self.resume(resume);
        let (sender, receiver) = mpsc::channel(NEWS_WAITING_MAX);
        let link = run(self.server.clone(), self.wanted.clone(), Arc::clone(&self.acknowledgements), sender);
        let (receiver, link) = self.link.insert((receiver, tokio::spawn(link)));
        match receiver.recv().await {
            Some(first) => {
                self.connected.store(!matches!(first, News::Connected(false)), Ordering::Release);
                self.goes_on = true;
                Ok(())
            }
            None => ended(link).await,
        }
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some((receiver, link)) = &mut self.link else {
            return Err(ConnectorError::Fatal("the source was not opened".into()));
        };
        let mut news = Vec::new();
        let received = tokio::select! {
            biased;
            received = receiver.recv_many(&mut news, NEWS_WAITING_MAX) => received,
            () = until(self.owed.until()) => 1,
        };
        if received == 0 {
            self.connected.store(false, Ordering::Release);
            return ended(link).await.map(|()| Polled::End);
        }
        let now = self.clock.now();
        let mut samples = Vec::new();
        for one in news {
            match one {
                News::Connected(connected) => self.connected.store(connected, Ordering::Release),
                News::Held(held) => self.owed.hold(held, &mut self.place),
                News::Values { values, ticket } => {
                    if let Some((ticket, number)) = ticket {
                        self.place.ticket = ticket;
                        self.owed.read(number, &mut self.place);
                    }
                    for (item, value) in values {
                        let at = time(&value, self.timestamp, now);
                        if let Some((reason, at)) = self.owed.before(&item, at, now) {
                            samples.push(gap(Arc::clone(&item), &reason, at));
                        }
                        samples.push(self.sample(item, value, at));
                    }
                }
                News::Gap { items, reason } => {
                    tracing::warn!(endpoint = %self.server.endpoint, "values may be missing: {reason}");
                    self.owed.add(items, &reason, Instant::now() + self.gap_waits(), &self.place);
                }
                News::Unread { items, reason } => {
                    tracing::warn!(endpoint = %self.server.endpoint, "values are missing: {reason}");
                    samples.extend(items.into_iter().map(|item| gap(item, &reason, now)));
                }
            }
        }
        let silent = self.owed.rest(Instant::now());
        samples.extend(silent.into_iter().map(|(item, reason)| gap(item, &reason, now)));
        self.owed.settle(&mut self.place);
        let batch = self.batch(&samples).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        if !samples.is_empty() && !self.owed.is_any() {
            self.place.at = Some(now.0);
        }
        let position = Position::of(&self.place);
        Ok(Polled::Rows(Rows { partition: 0, batch, rejects: None, position, received: None }))
    }

    fn remembers(&self) -> bool {
        true
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        Some(Arc::clone(&self.connected) as Arc<dyn Silence>)
    }

    fn committer(&self) -> Option<Box<dyn Committer>> {
        Some(Box::new(Acknowledger(Arc::clone(&self.acknowledgements))))
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.connected.store(false, Ordering::Release);
        let Some((receiver, link)) = self.link.take() else { return Ok(()) };
        if link.is_finished() {
            // How it ended was told by `next`.
            return Ok(());
        }
        // The link takes leave of the server when nobody listens.
        drop(receiver);
        match link.await {
            Ok(Err(ConnectorError::Fatal(message))) => Err(ConnectorError::Fatal(message)),
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectorError::Fatal(error.to_string())),
        }
    }
}

/// An item's row that says that values are missing.
fn gap(item: Arc<Item>, reason: &str, at: Time) -> Sample {
    Sample { item, at, value: None, status: format!("Gap: {reason}").into(), quality: "bad" }
}

/// How a link ended of which no more news can come.
async fn ended(link: &mut JoinHandle<Result<(), ConnectorError>>) -> Result<(), ConnectorError> {
    link.await.unwrap_or_else(|error| Err(ConnectorError::Fatal(error.to_string())))
}

/// Lets the next publish acknowledge what is durable.
struct Acknowledger(Acknowledgements);

#[async_trait]
impl Committer for Acknowledger {
    async fn commit(&mut self, position: &Position) -> Result<(), ConnectorError> {
        // That of an earlier life may be of an earlier version.
        if let Ok(Place { ticket, .. }) = position.read() {
            sequence(&self.0).durable(ticket);
        }
        Ok(())
    }
}

impl OpcUaSource {
    /// Where it stood, in this life or an earlier one: what was missed since
    /// then is told, if it is not asked for again.
    fn resume(&mut self, resume: Option<&Position>) {
        // The place is before what is owed, so it is told again.
        self.owed = Owed::default();
        if let Some(position) = resume {
            // What cannot be read is of an earlier version, and an earlier life all the same.
            self.place = position.read().unwrap_or_default();
            sequence(&self.acknowledgements).tickets_after(self.place.ticket);
        }
        let is_known = resume.is_some() || self.goes_on;
        let last = self.place.at.map(Time);
        let is_short = match (self.wanted.poll, last) {
            (Some(every), Some(last)) => !is_gap(last, self.clock.now(), every),
            (_, _) => false,
        };
        self.wanted.gap = (is_known && !is_short && !self.wanted.once).then(|| {
            let since = last.map_or_else(String::new, |last| format!(" after {last}"));
            if self.goes_on {
                "the session with the server was lost".to_owned()
            } else {
                format!("nobody was reading{since}")
            }
        });
        self.wanted.held = self.place.held.clone().filter(|_| self.wanted.holds);
    }

    /// How long the first value of an item may take.
    fn gap_waits(&self) -> Duration {
        let interval = self.wanted.poll.unwrap_or(self.wanted.publishing);
        GAP_WAITS.saturating_add(interval.saturating_mul(2)).min(GAP_WAITS_MAX)
    }

    fn sample(&self, item: Arc<Item>, value: DataValue, at: Time) -> Sample {
        let status = value.status.unwrap_or(StatusCode::Good);
        let quality = quality(status);
        // A value that does not fit into the column is told, not left out.
        let misfit = value.value.as_ref().filter(|value| quality != "bad" && !self.value_type.holds(value));
        if let Some(misfit) = misfit {
            let status = format!("{:?} is no {}", misfit.type_id(), self.value_type.word());
            return Sample { item, at, value: Some(value), status: status.into(), quality: "bad" };
        }
        // Nearly all values are good: no text is made for them.
        let status = if status == StatusCode::Good { "Good".into() } else { status.to_string().into() };
        Sample { item, at, value: Some(value), status, quality }
    }

    fn batch(&self, samples: &[Sample]) -> Result<RecordBatch, arrow::error::ArrowError> {
        let times: Vec<i64> = samples.iter().map(|sample| sample.at.0).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(StringArray::from_iter_values(samples.iter().map(|sample| &*sample.item.name))),
        ];
        for index in 0..self.wanted.tag_names.len() {
            let tags = samples.iter().map(|sample| sample.item.tags.get(index).map_or("", |tag| tag));
            columns.push(Arc::new(StringArray::from_iter_values(tags)));
        }
        // A bad value is no value; what the server sent along is not trusted.
        let values = samples.iter().map(|sample| {
            sample.value.as_ref().filter(|_| sample.quality != "bad").and_then(|value| value.value.as_ref())
        });
        columns.push(match self.value_type {
            ValueType::Float => {
                Arc::new(values.map(|value| value.and_then(number)).collect::<Float64Array>()) as ArrayRef
            }
            ValueType::Int => Arc::new(values.map(|value| value.and_then(whole)).collect::<Int64Array>()),
            ValueType::Bool => Arc::new(values.map(|value| value.and_then(truth)).collect::<BooleanArray>()),
            ValueType::Text => Arc::new(values.map(|value| value.and_then(text)).collect::<StringArray>()),
        });
        columns.push(Arc::new(StringArray::from_iter_values(samples.iter().map(|sample| sample.quality))));
        columns.push(Arc::new(StringArray::from_iter_values(samples.iter().map(|sample| &sample.status))));
        RecordBatch::try_new(Arc::clone(&self.stream.columns), columns)
    }
}
