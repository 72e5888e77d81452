//! The task `mqtt.publish`: one message, sent on a connection of its own and
//! done when the broker has it. A repeat carries the same idempotency key as a
//! user property (MQTT 5), so that a receiver can tell.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use bytes::Bytes;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError, OperatorError, TaskError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use super::link::Outgoing;
use super::sender::Sender;
use super::settings::Settings;
use super::sink::check_topic;
use super::topic::{as_topic_part, can_be_sent_to};
use crate::deliveries::Deliveries;
use crate::json_template::JsonTemplate;

/// Longest client id that every broker must take (MQTT 3.1.1, section 3.1.3.1).
const CLIENT_ID_BYTES: usize = 23;

pub(super) const PUBLISH_KEYS: &[Key] =
    &[optional("json", Kind::Any, "the payload as a JSON value; {expr} inserts values")];

pub(super) const PUBLISH_EXAMPLE: &str = r#"[topology]
name = "cold-chain"

[source.probe]
type   = "mqtt"
broker = "mqtt://localhost:1883"
topics = ["fleet/{truck}/temp"]
schema = { c = "float64" }

[trigger.too_warm]
from  = "probe"
key   = ["truck"]
when  = "c > 8"
start = "cool"
give  = { truck = "truck" }

[flow.cool]
params = { truck = "string" }

[[flow.cool.task]]
id     = "backup"
type   = "mqtt.publish"
broker = "mqtt://localhost:1883"
topic  = "fleet/{truck}/cmd"
json   = { backup_cooling = true, id = "{run.id}" }
"#;

/// Builds the task.
pub(super) fn build_publish(
    config: &NodeConfig,
    context: &BuildContext,
    scope: &TaskScope,
) -> Result<TaskPart, ConfigError> {
    let mut problems = Vec::new();
    let settings = Settings::from_config(config, context, &mut problems);
    let table = &config.table;
    let expressions = context.expressions.as_ref();
    let mut keep = |more: Vec<Diagnostic>| problems.extend(more);
    let topic = table.text("topic").map(|text| Template::compile(text, &scope.values, expressions));
    let topic = topic.and_then(|topic| topic.map_err(&mut keep).ok());
    let text = table.text("payload").map(|text| Template::compile(text, &scope.values, expressions));
    let text = text.and_then(|text| text.map_err(&mut keep).ok());
    let json = table.get("json").map(|value| JsonTemplate::compile(value, &scope.values, expressions));
    let json = json.and_then(|json| json.map_err(&mut keep).ok());
    check_topic(config, topic.as_ref(), &mut problems);
    if table.get("json").is_some() == table.get("payload").is_some() {
        let problem = Diagnostic::error("TG-Q004", "a message has either `json` or `payload`");
        problems.push(problem.at(table.span.clone()));
    }
    let payload = json.map(Payload::Json).or(text.map(Payload::Text));
    let (Some(topic), Some(payload), true) = (topic, payload, problems.is_empty()) else {
        return Err(ConfigError(problems));
    };
    let (qos, retain) = (table.int_as("qos").unwrap_or(1), table.bool("retain").unwrap_or(false));
    let task = Publish { settings, topic, payload, qos, retain };
    let result = StreamSchema::new(vec![Field::new("topic", DataType::Utf8, false)], None);
    Ok(TaskPart { task: Box::new(task), result })
}

struct Publish {
    settings: Settings,
    topic: Template,
    payload: Payload,
    qos: u8,
    retain: bool,
}

enum Payload {
    Json(JsonTemplate),
    Text(Template),
}

impl Publish {
    fn message(&self, context: &TaskContext) -> Result<Outgoing, TaskError> {
        let fatal = |error: OperatorError| TaskError::Fatal(format!("mqtt.publish: {error}"));
        let first = |all: Vec<String>| all.into_iter().next().unwrap_or_default();
        let topic = first(self.topic.render(&context.values, &as_topic_part).map_err(fatal)?);
        if !can_be_sent_to(&topic) {
            return Err(TaskError::Fatal(format!("no message can be sent to the topic `{topic}`")));
        }
        let payload = match &self.payload {
            Payload::Json(json) => json.render(&context.values).map_err(fatal)?.to_string(),
            Payload::Text(text) => first(text.render(&context.values, &str::to_owned).map_err(fatal)?),
        };
        let properties = vec![("idempotency-key".to_owned(), context.idempotency_key.clone())];
        Ok(Outgoing { topic, payload: Bytes::from(payload), qos: self.qos, retain: self.retain, properties })
    }

    async fn send(&self, message: Outgoing, client_id: String) -> Result<(), TaskError> {
        let mut settings = self.settings.clone();
        settings.client_id = client_id;
        settings.in_flight_max = 1;
        let deliveries = Arc::new(Deliveries::default());
        let sender = Sender::connect(&settings, self.qos, Arc::clone(&deliveries)).await.map_err(failed)?;
        sender.send(message, 0).map_err(TaskError::Fatal)?;
        deliveries.settle().await.map_err(failed)?;
        sender.close().await;
        Ok(())
    }
}

/// A broken connection may have lost the acknowledgement only: the repeat
/// carries the same key.
fn failed(error: ConnectorError) -> TaskError {
    match error {
        ConnectorError::Lost(reason) => TaskError::retry("network", reason),
        ConnectorError::Rejected(_) | ConnectorError::Fatal(_) => TaskError::Fatal(error.to_string()),
    }
}

/// One name for each run's task: an attempt that hangs at the broker is taken
/// over by the next one, and no two runs disturb each other.
fn client_id(key: &str) -> String {
    let mut id = String::from("tg");
    id.extend(key.chars().filter(char::is_ascii_alphanumeric).take(CLIENT_ID_BYTES - id.len()));
    id
}

#[async_trait]
impl Task for Publish {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        let message = self.message(context)?;
        let topic = message.topic.clone();
        let left: Duration = context.deadline.since(context.clock.now());
        let sent = tokio::time::timeout(left, self.send(message, client_id(&context.idempotency_key))).await;
        sent.map_err(|_| {
            let broker = self.settings.broker();
            TaskError::retry(
                "timeout",
                format!("the broker {broker} did not take the message before the deadline"),
            )
        })??;
        let schema = StreamSchema::new(vec![Field::new("topic", DataType::Utf8, false)], None).columns;
        let row = RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(vec![topic]))]);
        row.map(|row| TaskStep::Done(vec![row])).map_err(|error| TaskError::Fatal(error.to_string()))
    }

    fn effect(&self) -> Effect {
        Effect::Keyed
    }
}
