//! The sink `mqtt` and the task `mqtt.publish` against a real Mosquitto.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests fail by panicking, and measure real time"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use rumqttc::v5::mqttbytes::v5::Publish;
use support::mosquitto::{FORGETFUL, Mosquitto, Outside};
use support::topology::{build_context, node};
use support::{LIMIT, assert_each_once, sink};
use tidegate_connectors::TASKS;
use tidegate_engine::error::{ConnectorError, TaskError};
use tidegate_engine::expression::Scope;
use tidegate_engine::operator::Input;
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::task::{
    EffectLedger, Mode, Notice, TaskContext, TaskScope, TaskStep, Ticket, WriteIntent, WriteOutcome,
};
use tidegate_engine::time::{Clock, SystemClock, Time};

fn input() -> Input {
    let fields = vec![Field::new("device", DataType::Utf8, true), Field::new("n", DataType::Int64, false)];
    Input { name: "s".into(), stream: StreamSchema::new(fields, None) }
}

fn rows(device: &str, range: std::ops::Range<i64>) -> RecordBatch {
    let count = range.clone().count();
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(StringArray::from(vec![device; count])), Arc::new(Int64Array::from_iter_values(range))];
    RecordBatch::try_new(input().stream.columns, columns).expect("the columns fit")
}

fn number(message: &Publish) -> i64 {
    let value: serde_json::Value = serde_json::from_slice(&message.payload).expect("JSON");
    value.get("n").and_then(serde_json::Value::as_i64).expect("n")
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

#[tokio::test]
async fn every_row_is_a_message_with_both_versions_and_every_qos() {
    let broker = Mosquitto::start(FORGETFUL);
    let mut outside = Outside::new(broker.port, "outside");
    outside.subscribe("plant/#").await;
    for version in ["5", "3.1.1"] {
        for qos in 0..=2 {
            let keys = format!(
                "{}topic = \"plant/{{device}}/v\"\nqos = {qos}\nversion = \"{version}\"\n",
                broker.broker()
            );
            let mut part = sink("mqtt", &keys, &input(), &build_context());
            in_time(part.sink.open()).await.expect("opens");
            in_time(part.sink.write(&rows("a/b+c#", 0..150))).await.expect("is taken");
            in_time(part.sink.flush(1)).await.expect("arrives");
            let found = outside.messages(150).await;
            assert_eq!(
                found.iter().map(number).collect::<Vec<_>>(),
                (0..150).collect::<Vec<_>>(),
                "{version}, {qos}"
            );
            // A value stays within its level of the topic.
            assert_eq!(found[0].topic, "plant/a_b_c_/v");
            assert_eq!(found[0].qos as u8, qos.min(1));
            in_time(part.sink.close()).await.expect("closes");
        }
    }
}

#[tokio::test]
async fn kept_messages_and_plain_payloads() {
    let broker = Mosquitto::start(FORGETFUL);
    let keys =
        format!("{}topic = \"state/{{device}}\"\npayload = \"{{n}} bar\"\nretain = true\n", broker.broker());
    let mut part = sink("mqtt", &keys, &input(), &build_context());
    in_time(part.sink.open()).await.expect("opens");
    in_time(part.sink.write(&rows("p", 7..8))).await.expect("is taken");
    in_time(part.sink.flush(1)).await.expect("arrives");
    let mut late = Outside::new(broker.port, "late");
    late.subscribe("state/#").await;
    let kept = &late.messages(1).await[0];
    assert_eq!((kept.payload.as_ref(), kept.retain), (b"7 bar".as_slice(), true));
    in_time(part.sink.close()).await.expect("closes");
}

/// M2 for the sink: the broker dies with messages on their way; the driver
/// opens again and writes what was not flushed, and nothing is missing.
#[tokio::test]
async fn m2_unacknowledged_messages_are_sent_again_after_a_lost_session() {
    let mut broker = Mosquitto::start(FORGETFUL);
    let keys = format!("{}topic = \"t\"\nkeep_alive = \"5s\"\n", broker.broker());
    let mut part = sink("mqtt", &keys, &input(), &build_context());
    in_time(part.sink.open()).await.expect("opens");
    in_time(part.sink.write(&rows("a", 0..100))).await.expect("is taken");
    in_time(part.sink.flush(1)).await.expect("arrives");
    broker.signal("STOP");
    let written =
        tokio::time::timeout(Duration::from_millis(500), part.sink.write(&rows("a", 100..120))).await;
    broker.kill();
    let flushed = in_time(part.sink.flush(2)).await;
    assert!(matches!(flushed, Err(ConnectorError::Lost(_))), "{written:?}, then {flushed:?}");
    assert!(matches!(in_time(part.sink.open()).await, Err(ConnectorError::Lost(_))), "the broker is away");
    broker.restart();
    let mut outside = Outside::new(broker.port, "outside");
    outside.subscribe("t").await;
    in_time(part.sink.open()).await.expect("opens again");
    in_time(part.sink.write(&rows("a", 100..120))).await.expect("is taken");
    in_time(part.sink.flush(2)).await.expect("arrives");
    assert_each_once(outside.messages(20).await.iter().map(number), 100..120);
    in_time(part.sink.close()).await.expect("closes");
}

#[tokio::test]
async fn a_topic_without_a_value_is_a_refused_row() {
    let broker = Mosquitto::start(FORGETFUL);
    let keys = format!("{}topic = \"{{device}}\"\n", broker.broker());
    let mut part = sink("mqtt", &keys, &input(), &build_context());
    in_time(part.sink.open()).await.expect("opens");
    let written = in_time(part.sink.write(&rows("", 0..1))).await;
    assert!(matches!(&written, Err(ConnectorError::Rejected(rows)) if rows[0].row == 0), "{written:?}");
    in_time(part.sink.flush(1)).await.expect("nothing is left");
    in_time(part.sink.close()).await.expect("closes");
}

/// A journal that nothing asks for.
struct NoJournal;

#[async_trait]
impl EffectLedger for NoJournal {
    async fn intent(&self, _: &str, _: &WriteIntent, _: Duration) -> Result<Option<Time>, TaskError> {
        unreachable!("a message is no device write")
    }
    async fn writes(&self, _: &str) -> Result<Vec<(WriteIntent, Option<WriteOutcome>)>, TaskError> {
        unreachable!("a message is no device write")
    }
    async fn outcome(&self, _: &str, _: &WriteOutcome) -> Result<(), TaskError> {
        unreachable!("a message is no device write")
    }
    async fn not_sent(&self, _: &str, _: &WriteIntent, _: &WriteOutcome) -> Result<(), TaskError> {
        unreachable!("a message is no device write")
    }
    async fn open_ticket(&self, _: &str, _: &Ticket) -> Result<i64, TaskError> {
        unreachable!("a message is no ticket")
    }
    async fn notify(&self, _: &str, _: &Notice) -> Result<(), TaskError> {
        unreachable!("a message is no notice")
    }
}

fn task_context(left: Duration) -> TaskContext {
    let clock = Arc::new(SystemClock);
    TaskContext {
        values: rows("t-1", 8..9),
        trigger_rows: Vec::new(),
        results: Vec::new(),
        run_id: "r-1".into(),
        flow: "cool".into(),
        task_id: "backup".into(),
        attempt: 1,
        idempotency_key: "key-0123456789-abcdef".into(),
        fired_at: clock.now(),
        deadline: clock.now().plus(left),
        mode: Mode::DryRun,
        clock,
        ledger: Arc::new(NoJournal),
    }
}

#[tokio::test]
async fn the_task_is_done_when_the_broker_has_the_message() {
    let broker = Mosquitto::start(FORGETFUL);
    let mut outside = Outside::new(broker.port, "outside");
    outside.subscribe("fleet/#").await;
    let text = format!(
        "[sink.s]\ntype = \"mqtt.publish\"\n{}topic = \"fleet/{{device}}/cmd\"\njson = {{ cool = true, n = \"{{n}}\" }}\n",
        broker.broker()
    );
    let row = TASKS.iter().find(|row| row.name == "mqtt.publish").expect("is in the table");
    let scope = TaskScope {
        values: Scope::of(&input().stream.columns),
        trigger: None,
        results: Vec::new(),
        tables: Vec::new(),
    };
    let part = (row.build)(&node(&text), &build_context(), &scope).expect("builds");
    let done = in_time(part.task.start(&task_context(LIMIT))).await.expect("is sent");
    let TaskStep::Done(result) = done else { panic!("{done:?}") };
    assert_eq!(result[0].schema(), part.result.columns);
    assert_eq!(result[0].column(0).as_string::<i32>().value(0), "fleet/t-1/cmd");
    let message = &outside.messages(1).await[0];
    assert_eq!(message.payload.as_ref(), br#"{"cool":true,"n":8}"#);
    let properties = message.properties.as_ref().map(|all| all.user_properties.clone()).unwrap_or_default();
    assert_eq!(properties, [("idempotency-key".to_owned(), "key-0123456789-abcdef".to_owned())]);
    // A broker that is away, and one that hangs, are both worth another attempt.
    broker.signal("STOP");
    let hangs = in_time(part.task.start(&task_context(Duration::from_secs(1)))).await;
    assert!(matches!(&hangs, Err(TaskError::Retry { class: "timeout", .. })), "{hangs:?}");
    drop(broker);
    let away = in_time(part.task.start(&task_context(LIMIT))).await;
    assert!(matches!(&away, Err(TaskError::Retry { class: "network", .. })), "{away:?}");
}
