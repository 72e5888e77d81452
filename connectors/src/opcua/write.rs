//! `opcua.write`: sets a node and reads it back, over a session of its own
//! that ends with the task.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, pin_mut};
use opcua::client::Session;
use opcua::types::{
    AttributeId, DataValue, NodeId, ReadValueId, StatusCode, TimestampsToReturn, Variant, WriteValue,
};
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::device_write::{Device, NotWritten, Wanted, WriteGate, result_schema, write};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::expression::Expression;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep, WriteRule};
use tidegate_engine::template::Template;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::task::JoinHandle;

use super::connect::{SERVER_KEYS, Server, describe};
use super::nodes::parse_node;
use super::value::number;
use crate::modbus::WRITE_DEADLINE;
use crate::number::single_number;

const KEYS: &[Key] = &[
    required(
        "node",
        Kind::Template,
        "\"ns=2;s={turbine}.PowerLimit\", or with the namespace's URI \"nsu=urn:plant;s=…\"",
    ),
    required("value", Kind::Expression, "the value to set, a number"),
    optional("deadline", Kind::Duration, "never sent later than this, \"10s\" if left out"),
];

pub(crate) const ROW: Row<BuildTask> = Row {
    name: "opcua.write",
    summary: "sets the value of an OPC UA node and reads it back",
    keys: &[KEYS, SERVER_KEYS],
    example: r#"[[flow.maintain.task]]
id       = "derate"
type     = "opcua.write"
endpoint = "opc.tcp://127.0.0.1:4840"
node     = "ns=2;s=WTG01.PowerLimit"
value    = "40"
"#,
    build,
};

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let server = Server::read(config, context, &mut diagnostics);
    let node =
        table.text("node").map(|text| Template::compile(text, &scope.values, context.expressions.as_ref()));
    let node = node.transpose().map_err(|diagnostic| diagnostics.push(diagnostic)).ok().flatten();
    let value = table.text("value").map(|text| context.expressions.compile(text, &scope.values));
    let value = value.transpose().map_err(|diagnostic| diagnostics.push(diagnostic)).ok().flatten();
    if value.as_ref().is_some_and(|value| !value.data_type().is_numeric()) {
        let message = "the value to write must be a number".to_owned();
        diagnostics.push(Diagnostic::error("TG-O004", message).at(table.span_of("value")));
    }
    let (Some(node), Some(value), true) = (node, value, diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let task = OpcUaWrite {
        gate: context.shared.get_or_insert(&server.endpoint, WriteGate::default),
        server,
        node,
        value,
        deadline: table.duration("deadline").unwrap_or(WRITE_DEADLINE),
        rules: Arc::clone(&context.writes),
    };
    Ok(TaskPart { task: Box::new(task), result: result_schema() })
}

struct OpcUaWrite {
    server: Server,
    node: Template,
    value: Arc<dyn Expression>,
    deadline: Duration,
    rules: Arc<Vec<WriteRule>>,
    gate: Arc<WriteGate>,
}

#[async_trait]
impl Task for OpcUaWrite {
    async fn start(&self, context: &TaskContext) -> Result<TaskStep, TaskError> {
        self.go(context, None).await
    }

    async fn resume(&self, context: &TaskContext, data: &[u8]) -> Result<TaskStep, TaskError> {
        self.go(context, Some(data)).await
    }

    fn effect(&self) -> Effect {
        Effect::Device
    }
}

impl OpcUaWrite {
    async fn go(&self, context: &TaskContext, waited: Option<&[u8]>) -> Result<TaskStep, TaskError> {
        let value = single_number(self.value.as_ref(), &context.values)?;
        let node =
            self.node.render(&context.values, &str::to_owned).map_err(|error| TaskError::Fatal(error.0))?;
        let node = node.into_iter().next().unwrap_or_default();
        let target = format!("{} {node}", self.server.endpoint);
        let point = Point { server: &self.server, node: &node, timeout: self.deadline };
        let wanted = Wanted { target: &target, value, deadline: self.deadline, waited };
        write(context, &point, &wanted, &self.rules, &self.gate).await
    }
}

/// A node of a server.
struct Point<'a> {
    server: &'a Server,
    node: &'a str,
    timeout: Duration,
}

/// A session that lives for one request.
struct Visit {
    session: Arc<Session>,
    driver: JoinHandle<()>,
    node: NodeId,
}

impl Visit {
    async fn leave(self) {
        if let Err(error) = self.session.disconnect().await {
            tracing::debug!("cannot take leave: {error}");
        }
        self.driver.abort();
    }
}

impl Point<'_> {
    async fn visit(&self) -> Result<Visit, String> {
        let (session, event_loop) = self.server.session().await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(async move {
            let events = event_loop.enter();
            pin_mut!(events);
            while events.next().await.is_some() {}
        });
        let connected = tokio::time::timeout(self.timeout, session.wait_for_connection()).await;
        if !connected.unwrap_or(false) {
            driver.abort();
            return Err(format!("cannot connect to {}", self.server.endpoint));
        }
        let (uri, mut node) = parse_node(self.node)?;
        if let Some(uri) = uri {
            let namespaces = session.read_namespace_array().await.map_err(|error| error.to_string())?;
            node.namespace =
                namespaces.get_index(&uri).ok_or_else(|| format!("the server has no namespace {uri}"))?;
        }
        Ok(Visit { session, driver, node })
    }

    async fn value(visit: &Visit) -> Result<Variant, String> {
        let wanted = [ReadValueId::from(visit.node.clone())];
        let values = visit.session.read(&wanted, TimestampsToReturn::Neither, 0.0).await;
        let value = values.map_err(|error| error.to_string())?.into_iter().next().ok_or("an empty answer")?;
        match (value.status.unwrap_or(StatusCode::Good), value.value) {
            (status, Some(value)) if !status.is_bad() => Ok(value),
            (status, _) => Err(format!("{}: {status}", visit.node)),
        }
    }
}

#[async_trait]
impl Device for Point<'_> {
    async fn read(&self) -> Result<f64, TaskError> {
        let retry =
            |reason: String| TaskError::retry("network", format!("cannot read {}: {reason}", self.node));
        let visit = self.visit().await.map_err(retry)?;
        let value = Point::value(&visit).await;
        visit.leave().await;
        let value = value.map_err(retry)?;
        number(&value).ok_or_else(|| TaskError::Fatal(format!("{} holds no number", self.node)))
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        let visit = self.visit().await.map_err(NotWritten::NotSent)?;
        // A server takes only the type that the node has.
        let like = Point::value(&visit).await;
        let variant = match like.map(|like| same_type(&like, value)) {
            Ok(Some(variant)) => variant,
            Ok(None) => {
                visit.leave().await;
                return Err(NotWritten::Refused(format!("{value} does not fit into {}", self.node)));
            }
            Err(reason) => {
                visit.leave().await;
                return Err(NotWritten::NotSent(reason));
            }
        };
        let wanted = WriteValue {
            node_id: visit.node.clone(),
            attribute_id: AttributeId::Value as u32,
            value: DataValue { value: Some(variant), ..DataValue::default() },
            ..WriteValue::default()
        };
        let written = visit.session.write(&[wanted]).await;
        visit.leave().await;
        match written {
            Ok(statuses) => match statuses.into_iter().next() {
                Some(status) if !status.is_bad() => Ok(()),
                Some(status) => Err(NotWritten::Refused(refusal(status, self.node))),
                None => Err(NotWritten::Unknown("an empty answer".into())),
            },
            // Sent, and nobody knows what became of it.
            Err(error) => Err(NotWritten::Unknown(describe(error.status(), &self.server.endpoint))),
        }
    }
}

/// What a server means by a refusal.
fn refusal(status: StatusCode, node: &str) -> String {
    match status {
        StatusCode::BadTypeMismatch => format!("{node} has another type"),
        StatusCode::BadNotWritable => format!("{node} cannot be written"),
        StatusCode::BadUserAccessDenied => format!("our user may not write {node}"),
        StatusCode::BadOutOfRange => format!("the value is out of the range of {node}"),
        other => format!("{node}: {other}"),
    }
}

/// The number as a variant of the same type, if it fits.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked before each cast"
)]
#[allow(clippy::wildcard_enum_match_arm, reason = "everything else is no number")]
fn same_type(like: &Variant, value: f64) -> Option<Variant> {
    let whole =
        |low: f64, high: f64| (value.fract() == 0.0 && (low..=high).contains(&value)).then_some(value);
    Some(match like {
        Variant::Boolean(_) => Variant::Boolean(whole(0.0, 1.0)? != 0.0),
        Variant::SByte(_) => Variant::SByte(whole(f64::from(i8::MIN), f64::from(i8::MAX))? as i8),
        Variant::Byte(_) => Variant::Byte(whole(0.0, f64::from(u8::MAX))? as u8),
        Variant::Int16(_) => Variant::Int16(whole(f64::from(i16::MIN), f64::from(i16::MAX))? as i16),
        Variant::UInt16(_) => Variant::UInt16(whole(0.0, f64::from(u16::MAX))? as u16),
        Variant::Int32(_) => Variant::Int32(whole(f64::from(i32::MIN), f64::from(i32::MAX))? as i32),
        Variant::UInt32(_) => Variant::UInt32(whole(0.0, f64::from(u32::MAX))? as u32),
        // Whole numbers above 2^53 cannot be named exactly by a float.
        Variant::Int64(_) => Variant::Int64(whole(-9_007_199_254_740_992.0, 9_007_199_254_740_992.0)? as i64),
        Variant::UInt64(_) => Variant::UInt64(whole(0.0, 9_007_199_254_740_992.0)? as u64),
        Variant::Float(_) => Variant::Float(Some(value as f32).filter(|value| value.is_finite())?),
        Variant::Double(_) => Variant::Double(Some(value).filter(|value| value.is_finite())?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_the_nodes_type_or_is_refused() {
        assert_eq!(same_type(&Variant::Int16(0), 40.0), Some(Variant::Int16(40)));
        assert_eq!(same_type(&Variant::Byte(0), 256.0), None);
        assert_eq!(same_type(&Variant::Double(0.0), f64::NAN), None);
        assert_eq!(same_type(&Variant::from("x"), 1.0), None);
    }
}
