//! `modbus.write`: sets a register or coil, reads it back. Shares the line
//! with the polls of the same device: one request at a time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate_engine::catalog::{BuildTask, Row};
use tidegate_engine::device_write::{Device, NotWritten, Wanted, WriteGate, result_schema, write};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, TaskError};
use tidegate_engine::expression::Expression;
use tidegate_engine::task::{Effect, Task, TaskContext, TaskPart, TaskScope, TaskStep, WriteRule};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio_modbus::ExceptionCode;

use super::address::{Address, Area, parse};
use super::bus::{Bus, BusError, Cells, Urgency};
use super::config::{LINE_KEYS, line};
use super::decode::{Order, TYPE_WORDS, Type, Value, decode, encode};
use crate::number::single_number;

const KEYS: &[Key] = &[
    required("device", Kind::Text, "\"tcp://host:502\", \"rtu+tcp://host:port\" or \"rtu:///dev/ttyUSB0\""),
    optional("unit_id", Kind::Int(0, 255), "unit on the line, 1 if left out; 0 is every unit of an RTU line"),
    optional("read_from", Kind::Int(1, 255), "the unit that is read back, for a write to every unit"),
    optional(
        "multiple",
        Kind::Bool,
        "write a single cell with function 15 or 16, for devices without 5 and 6",
    ),
    required("register", Kind::Text, "\"holding:0\" or \"coil:0\""),
    optional("value_type", Kind::Word(TYPE_WORDS), "how it is stored, u16 if left out"),
    optional("order", Kind::Text, "order of the bytes on the wire, \"ABCD\" (big-endian) if left out"),
    required("value", Kind::Expression, "the value to set"),
    optional(
        "deadline",
        Kind::Duration,
        "never sent later than this, \"10s\" if left out; a command that is lost is sent once more, three `timeout`s later at the earliest",
    ),
];

pub(crate) const ROW: Row<BuildTask> = Row {
    name: "modbus.write",
    summary: "sets a holding register or coil of a Modbus device and reads it back",
    keys: &[KEYS, LINE_KEYS],
    example: r#"[[flow.irrigate.task]]
id       = "open"
type     = "modbus.write"
device   = "tcp://127.0.0.1:502"
register = "holding:40"
value    = "600"
"#,
    build,
};

/// Never sent later than this, unless the file says otherwise.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

fn build(config: &NodeConfig, context: &BuildContext, scope: &TaskScope) -> Result<TaskPart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let wrong = |key: &str, message: String| Diagnostic::error("TG-M005", message).at(table.span_of(key));
    let address =
        parse(table.str("register").unwrap_or_default()).map_err(|message| wrong("register", message))?;
    if !matches!(address.area, Area::Holding | Area::Coil) {
        let message = format!("{} cells are read only; write `holding` or `coil`", address.area.word());
        diagnostics.push(wrong("register", message));
    }
    let word = table.str("value_type").unwrap_or(if address.area == Area::Coil { "bool" } else { "u16" });
    let value_type =
        Type::parse(word, None).filter(|value| (*value == Type::Bool) == (address.area == Area::Coil));
    if value_type.is_none() {
        diagnostics
            .push(wrong("value_type", format!("a value of type `{word}` cannot be written to {address}")));
    }
    let value_type = value_type.unwrap_or(Type::U16);
    let order = match table.str("order").map(|text| Order::parse(text, value_type)) {
        None => Order::big_endian(value_type),
        Some(Ok(order)) => order,
        Some(Err(message)) => return Err(wrong("order", message).into()),
    };
    let unit = table.int_as("unit_id").unwrap_or(1);
    let read_from = table.int_as("read_from").unwrap_or(unit);
    let device = table.text("device").cloned().unwrap_or_else(|| config.kind.clone());
    let bus = line(&device, table, context)?;
    if read_from == 0 && bus.has_broadcast() {
        let message = "a write to every unit is never answered".to_owned();
        diagnostics.push(wrong("unit_id", message).help("name the unit to read back: `read_from = 1`"));
    }
    let value =
        table.text("value").map(|text| context.expressions.compile(text, &scope.values)).transpose()?;
    let Some(value) = value.filter(|_| diagnostics.is_empty()) else { return Err(ConfigError(diagnostics)) };
    if !value.data_type().is_numeric() {
        return Err(wrong("value", "the value to write must be a number".into()).into());
    }
    let task = ModbusWrite {
        target: format!("{}/{unit}/{address}", device.value),
        point: Cell {
            bus,
            unit,
            read_from,
            multiple: table.bool("multiple") == Some(true),
            address,
            value_type,
            order,
        },
        value,
        deadline: table.duration("deadline").unwrap_or(DEADLINE),
        rules: Arc::clone(&context.writes),
        gate: context.shared.get_or_insert(&device.value, WriteGate::default),
    };
    Ok(TaskPart { task: Box::new(task), result: result_schema() })
}

struct ModbusWrite {
    target: String,
    point: Cell,
    value: Arc<dyn Expression>,
    deadline: Duration,
    rules: Arc<Vec<WriteRule>>,
    gate: Arc<WriteGate>,
}

#[async_trait]
impl Task for ModbusWrite {
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

impl ModbusWrite {
    async fn go(&self, context: &TaskContext, waited: Option<&[u8]>) -> Result<TaskStep, TaskError> {
        let value = single_number(self.value.as_ref(), &context.values)?;
        let wanted = Wanted { target: &self.target, value, deadline: self.deadline, waited };
        write(context, &self.point, &wanted, &self.rules, &self.gate).await
    }
}

/// A cell or a run of registers that holds one number.
struct Cell {
    bus: Arc<Bus>,
    unit: u8,
    /// The unit that is read, before and after.
    read_from: u8,
    multiple: bool,
    address: Address,
    value_type: Type,
    order: Order,
}

#[async_trait]
impl Device for Cell {
    /// As long again as an answer is waited for, twice: as for a late answer.
    fn settle(&self) -> Duration {
        self.bus.timeout().saturating_mul(2)
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "what is written is a float, so what is read back is compared as one"
    )]
    async fn read(&self) -> Result<f64, TaskError> {
        let count = if self.address.area.is_bits() { 1 } else { self.value_type.registers() };
        let cells = self.bus.read(self.read_from, self.address, count, Urgency::Write).await;
        let cells = cells
            .map_err(|error| TaskError::retry("network", format!("cannot read {}: {error}", self.address)))?;
        let value = match cells {
            Cells::Bits(bits) => bits.first().map(|bit| Value::Bool(*bit)),
            Cells::Registers(words) => decode(self.value_type, &self.order, None, &words),
        };
        match value {
            Some(Value::Bool(flag)) => Ok(f64::from(u8::from(flag))),
            Some(Value::Int(number)) => Ok(number as f64),
            Some(Value::Unsigned(number)) => Ok(number as f64),
            Some(Value::Float(number)) => Ok(number),
            Some(Value::Text(_)) | None => Err(TaskError::Fatal(format!("{} holds no number", self.address))),
        }
    }

    async fn write(&self, value: f64) -> Result<(), NotWritten> {
        let words = encode(self.value_type, &self.order, value)
            .ok_or_else(|| NotWritten::Refused(format!("{value} does not fit into {}", self.address)))?;
        let sent = if self.address.area == Area::Coil {
            self.bus.write_coil(self.unit, self.address.offset, value != 0.0, self.multiple).await
        } else {
            self.bus.write_registers(self.unit, self.address.offset, &words, self.multiple).await
        };
        sent.map_err(|error| match error {
            BusError::Unreachable(reason) => NotWritten::NotSent(reason),
            // Taken and not finished, failed half-way, or lost behind a gateway.
            BusError::Exception(
                ExceptionCode::Acknowledge
                | ExceptionCode::ServerDeviceFailure
                | ExceptionCode::GatewayTargetDevice,
            )
            | BusError::Timeout(_)
            | BusError::Garbled(_) => NotWritten::Unknown(error.to_string()),
            BusError::Exception(code) => NotWritten::Refused(format!("the device answers: {code}")),
        })
    }
}
