//! `opcua.write`: sets a node and reads it back, over a session of its own
//! that ends with the task.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
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
use tokio::time::timeout;

use super::connect::{SERVER_KEYS, Server, refuse_errors};
use super::nodes::parse_node;
use super::session::{Connection, describe};
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
    let node = node.transpose().map_err(|more| diagnostics.extend(more)).ok().flatten();
    let value = table.text("value").map(|text| context.expressions.compile(text, &scope.values));
    let value = value.transpose().map_err(|diagnostic| diagnostics.push(diagnostic)).ok().flatten();
    if value.as_ref().is_some_and(|value| !value.data_type().is_numeric()) {
        let message = "the value to write must be a number".to_owned();
        diagnostics.push(Diagnostic::error("TG-O004", message).at(table.span_of("value")));
    }
    refuse_errors(&mut diagnostics)?;
    let (Some(node), Some(value)) = (node, value) else { return Err(ConfigError(diagnostics)) };
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
    connection: Connection,
    node: NodeId,
}

impl Visit {
    async fn leave(self) {
        self.connection.leave(None).await;
    }

    async fn value(&self) -> Result<Variant, Unread> {
        let wanted = [ReadValueId::from(self.node.clone())];
        let values = self.connection.session.read(&wanted, TimestampsToReturn::Neither, 0.0).await;
        let values = values.map_err(|error| Unread::Passing(error.to_string()))?;
        let value = values.into_iter().next().ok_or_else(|| Unread::Passing("an empty answer".into()))?;
        match (value.status.unwrap_or(StatusCode::Good), value.value) {
            (status, Some(value)) if !status.is_bad() => Ok(value),
            (status, _) if is_for_good(status) => Err(Unread::ForGood(refusal(status, "read"))),
            (status, _) => Err(Unread::Passing(refusal(status, "read"))),
        }
    }
}

/// Why a node could not be read.
enum Unread {
    /// It may be there the next time.
    Passing(String),
    /// Trying again is in vain.
    ForGood(String),
}

impl From<Unread> for NotWritten {
    fn from(unread: Unread) -> NotWritten {
        match unread {
            Unread::Passing(reason) => NotWritten::NotSent(reason),
            Unread::ForGood(reason) => NotWritten::Refused(reason),
        }
    }
}

impl Point<'_> {
    async fn visit(&self) -> Result<Visit, Unread> {
        let passing = |error: &dyn std::fmt::Display| Unread::Passing(error.to_string());
        let (uri, mut node) = parse_node(self.node).map_err(Unread::ForGood)?;
        let mut connection = self.server.connect().await.map_err(|error| passing(&error))?;
        connection.ready().await.map_err(|error| passing(&error))?;
        if let Some(uri) = uri {
            let namespaces = connection.session.read_namespace_array().await;
            let index = match namespaces {
                Ok(namespaces) => namespaces
                    .get_index(&uri)
                    .ok_or_else(|| Unread::ForGood(format!("the server has no namespace {uri}"))),
                Err(error) => Err(passing(&error)),
            };
            match index {
                Ok(index) => node.namespace = index,
                Err(unread) => {
                    connection.leave(None).await;
                    return Err(unread);
                }
            }
        }
        Ok(Visit { connection, node })
    }

    async fn read_value(&self) -> Result<Variant, Unread> {
        let visit = self.visit().await?;
        let value = visit.value().await;
        visit.leave().await;
        value
    }

    /// Once, over one session.
    async fn write_value(&self, visit: &Visit, value: f64) -> Result<(), NotWritten> {
        // A server takes only the type that the node has.
        let like = visit.value().await?;
        let variant = same_type(&like, value)
            .ok_or_else(|| NotWritten::Refused(format!("{value} does not fit into {}", self.node)))?;
        let wanted = WriteValue {
            node_id: visit.node.clone(),
            attribute_id: AttributeId::Value as u32,
            value: DataValue { value: Some(variant), ..DataValue::default() },
            ..WriteValue::default()
        };
        match visit.connection.session.write(&[wanted]).await {
            Ok(statuses) => match statuses.into_iter().next() {
                Some(status) if !status.is_bad() => Ok(()),
                Some(status) => {
                    Err(NotWritten::Refused(format!("{}: {}", self.node, refusal(status, "write"))))
                }
                None => Err(NotWritten::Unknown("an empty answer".into())),
            },
            Err(error) => {
                let reason = describe(&error, &self.server.endpoint);
                Err(match error.status() {
                    StatusCode::BadNotConnected => NotWritten::NotSent(reason),
                    StatusCode::BadUserAccessDenied | StatusCode::BadServiceUnsupported => {
                        NotWritten::Refused(reason)
                    }
                    // Sent, and nobody knows what became of it.
                    _ => NotWritten::Unknown(reason),
                })
            }
        }
    }
}

#[async_trait]
impl Device for Point<'_> {
    async fn read(&self) -> Result<f64, TaskError> {
        let read = timeout(self.timeout, self.read_value()).await;
        let read = read.unwrap_or_else(|_| Err(Unread::Passing("no answer in time".into())));
        let value = read.map_err(|unread| match unread {
            Unread::Passing(reason) => {
                TaskError::retry("network", format!("cannot read {}: {reason}", self.node))
            }
            Unread::ForGood(reason) => TaskError::Fatal(format!("cannot read {}: {reason}", self.node)),
        })?;
        number(&value).ok_or_else(|| TaskError::Fatal(format!("{} holds no number", self.node)))
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        let visit = self.visit().await?;
        let written = self.write_value(&visit, value).await;
        visit.leave().await;
        written
    }
}

/// Whether the server will say the same the next time.
fn is_for_good(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadNodeIdUnknown
            | StatusCode::BadNodeIdInvalid
            | StatusCode::BadAttributeIdInvalid
            | StatusCode::BadNotReadable
            | StatusCode::BadUserAccessDenied
    )
}

/// What a server means by a refusal to read or write.
fn refusal(status: StatusCode, what: &str) -> String {
    let meaning = match status {
        StatusCode::BadTypeMismatch => "the node has another type",
        StatusCode::BadNotWritable => "the node cannot be written",
        StatusCode::BadNotReadable => "the node cannot be read",
        StatusCode::BadUserAccessDenied => "our user may not",
        StatusCode::BadOutOfRange => "the value is out of the node's range",
        StatusCode::BadNodeIdUnknown => "there is no such node",
        _ => "the server refuses",
    };
    format!("{meaning} ({what}: {status})")
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
