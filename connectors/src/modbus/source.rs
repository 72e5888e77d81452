//! `source.modbus`: polls points of one or many devices. Columns: `ts`,
//! `device`, `unit_id` (where there are several), `quality`, then the points.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder,
    TimestampMicrosecondArray, UInt64Builder,
};
use arrow::datatypes::{DataType, Field};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Polled, Position, Rows, Silence, Source, SourcePart};
use tidegate_engine::time::{Clock, Time, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::blocks::{Extent, Limits, overlaps};
use super::bus::Bus;
use super::config::{LINE_KEYS, line};
use super::decode::Value;
use super::point::{POINT_KEYS, Point};
use super::poller::{LINE_PAUSE_MIN, News, Poller, Reading};
use super::unit::Unit;
use crate::format::{DURABLE_KEYS, durable, is_gap, watermark_policy};

const KEYS: &[Key] = &[
    required(
        "device",
        Kind::List(&Kind::Text),
        "\"tcp://host:502\", \"rtu+tcp://host:port\" or \"rtu:///dev/ttyUSB0\"; several for equal devices",
    ),
    optional(
        "unit_id",
        Kind::List(&Kind::Int(0, 255)),
        "unit on the line, 1 if left out; several for equal units",
    ),
    required("every", Kind::Duration, "time between two polls"),
    required("points", Kind::List(&Kind::Table(POINT_KEYS)), "what is read"),
    optional("max_gap", Kind::Int(0, 120), "cells read in vain to save a request, 10 if left out"),
    optional("max_registers", Kind::Int(1, 125), "registers in one request, 125 if left out"),
    optional("max_bits", Kind::Int(1, 2_000), "bits in one request, 2000 if left out"),
    optional(
        "on_failure",
        Kind::Word(&["null", "skip"]),
        "a failed poll, or a start over three periods after the last row, gives a row of NULLs with quality bad (null, default) or no row (skip)",
    ),
    optional(
        "watermark",
        Kind::Table(&[
            optional("delay", Kind::Duration, "how late a row may be, none if left out"),
            optional("idle", Kind::Duration, "silence after which time goes on, \"30s\" if left out"),
        ]),
        "how event time advances",
    ),
];

pub(crate) const ROW: Row<BuildSource> = Row {
    name: "modbus",
    summary: "polls registers and bits of Modbus devices (TCP, RTU, RTU over TCP); a gap is a row of quality bad",
    keys: &[KEYS, LINE_KEYS, DURABLE_KEYS],
    example: r#"[source.press]
type    = "modbus"
device  = "tcp://127.0.0.1:502"
unit_id = 1
every   = "100ms"
points  = [
  { name = "pressure", register = "holding:0", type = "f32", eu = "bar" },
  { name = "running",  register = "coil:4" },
]

[sink.out]
type = "stdout"
from = "press"
"#,
    build,
};

/// Most points of a source.
const POINTS_MAX: usize = 10_000;
/// Rows that wait between the polls and the driver; then polls wait.
const ROWS_WAITING_MAX: usize = 1_024;

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let table = &config.table;
    let mut diagnostics = Vec::new();
    let points = read_points(config, &mut diagnostics);
    let units: Vec<u8> = table
        .get("unit_id")
        .map(tidegate_engine::topology::value::Value::items)
        .unwrap_or_default()
        .iter()
        .filter_map(|value| value.as_int().and_then(|unit| u8::try_from(unit).ok()))
        .collect();
    let units = if units.is_empty() { vec![1] } else { units };
    let mut lines = Vec::new();
    for device in table.texts("device") {
        match line(device, table, context) {
            Ok(bus) => lines.push((device.value.clone(), bus)),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    if units.contains(&0) && lines.iter().any(|(_, bus)| bus.has_broadcast()) {
        let message = "unit 0 of an RTU line is every unit, and cannot be read".to_owned();
        diagnostics.push(Diagnostic::error("TG-C006", message).at(table.span_of("unit_id")));
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let limits = Limits {
        gap_max: table.int_as("max_gap").unwrap_or(10),
        registers_max: table.int_as("max_registers").unwrap_or(125),
        bits_max: table.int_as("max_bits").unwrap_or(2_000),
    };
    let mut fields = vec![Field::new("ts", time_type(), false), Field::new("device", DataType::Utf8, false)];
    if units.len() > 1 {
        fields.push(Field::new("unit_id", DataType::Int64, false));
    }
    fields.push(Field::new("quality", DataType::Utf8, false));
    fields.extend(points.iter().map(Point::field));
    let stream = StreamSchema::new(fields, Some("ts"));
    let source = ModbusSource {
        name: config.name.clone(),
        lines,
        units,
        points: points.into(),
        limits,
        every: table.duration("every").unwrap_or(Duration::from_secs(1)).max(Duration::from_millis(1)),
        skip_failures: table.str("on_failure") == Some("skip"),
        once: context.once,
        clock: Arc::clone(&context.clock),
        stream: stream.clone(),
        polls: JoinSet::new(),
        news: None,
        answering: Vec::new(),
        connected: Arc::default(),
        last: None,
    };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark: watermark_policy(config),
        replayable: false,
        commit_quickly: false,
        logged: durable(config, false),
    })
}

fn read_points(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Vec<Point> {
    let tables = config.table.tables("points");
    if tables.is_empty() || tables.len() > POINTS_MAX {
        let message =
            format!("`{}` has {} points; from 1 to {POINTS_MAX} are possible", config.name, tables.len());
        out.push(Diagnostic::error("TG-M003", message).at(config.table.span_of("points")));
    }
    let mut points: Vec<Point> = Vec::new();
    for table in &tables {
        match Point::read(table) {
            Ok(point) => {
                let taken = ["ts", "device", "unit_id", "quality"].contains(&point.name.as_str());
                if taken || points.iter().any(|known| known.name == point.name) {
                    let message = format!("two columns of `{}` are called `{}`", config.name, point.name);
                    out.push(Diagnostic::error("TG-T009", message).at(table.span_of("name")));
                }
                points.push(point);
            }
            Err(diagnostic) => out.push(diagnostic),
        }
    }
    if points.len() == tables.len() {
        let extents: Vec<(Extent, bool)> =
            points.iter().map(|point| (point.extent(), point.bit.is_some())).collect();
        for (first, second) in overlaps(&extents) {
            let named = points.get(first).zip(points.get(second)).zip(tables.get(second));
            if let Some(((first, second), table)) = named {
                let message = format!("points `{}` and `{}` share a register", first.name, second.name);
                let help =
                    format!("`{}` takes {} cells from {}", first.name, first.extent().1, first.address);
                out.push(Diagnostic::error("TG-M004", message).at(table.span_of("register")).help(help));
            }
        }
    }
    points
}

struct ModbusSource {
    name: String,
    lines: Vec<(String, Arc<Bus>)>,
    units: Vec<u8>,
    points: Arc<[Point]>,
    limits: Limits,
    every: Duration,
    skip_failures: bool,
    once: bool,
    clock: Arc<dyn Clock>,
    stream: StreamSchema,
    polls: JoinSet<()>,
    news: Option<mpsc::Receiver<News>>,
    /// For each line, whether a unit of it answered the last time.
    answering: Vec<bool>,
    /// Whether any line does.
    connected: Arc<AtomicBool>,
    /// When the last row was made.
    last: Option<Time>,
}

/// Where a source stands: when its last row was made, in µs since 1970, if any was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Place {
    at: Option<i64>,
}

#[async_trait]
impl Source for ModbusSource {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        let has_gap = self.has_gap(resume);
        // A device that is off is a row of NULLs, not a source that is lost.
        self.polls.abort_all();
        let (sender, receiver) = mpsc::channel(ROWS_WAITING_MAX);
        let extents: Vec<Extent> = self.points.iter().map(Point::extent).collect();
        self.answering = vec![false; self.lines.len()];
        self.connected.store(false, Ordering::Release);
        for (line, (device, bus)) in self.lines.iter().enumerate() {
            let poller = Poller {
                line,
                answering: false,
                has_gap,
                source: self.name.clone(),
                device: device.as_str().into(),
                bus: Arc::clone(bus),
                units: self.units.iter().map(|id| Unit::new(*id, &extents, self.limits)).collect(),
                points: Arc::clone(&self.points),
                every: self.every,
                skip_failures: self.skip_failures,
                once: self.once,
                clock: Arc::clone(&self.clock),
                sender: sender.clone(),
                line_pause: LINE_PAUSE_MIN,
                line_down_until: None,
            };
            self.polls.spawn(poller.run());
        }
        self.news = Some(receiver);
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let Some(receiver) = &mut self.news else {
            return Err(ConnectorError::Fatal("the source was not opened".into()));
        };
        let mut news = Vec::new();
        if receiver.recv_many(&mut news, ROWS_WAITING_MAX).await == 0 {
            return Ok(Polled::End);
        }
        let mut readings = Vec::new();
        for one in news {
            match one {
                News::Reading(reading) => {
                    self.last = Some(reading.at);
                    readings.push(reading);
                }
                News::Answering { line, yes } => {
                    if let Some(answering) = self.answering.get_mut(line) {
                        *answering = yes;
                    }
                    self.connected.store(self.answering.contains(&true), Ordering::Release);
                }
            }
        }
        let batch = self.batch(&readings).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&Place { at: self.last.map(|last| last.0) }),
            received: None,
        }))
    }

    fn remembers(&self) -> bool {
        true
    }

    fn silence(&self) -> Option<Arc<dyn Silence>> {
        Some(Arc::clone(&self.connected) as Arc<dyn Silence>)
    }

    async fn close(&mut self) -> Result<(), ConnectorError> {
        self.polls.shutdown().await;
        Ok(())
    }
}

impl ModbusSource {
    /// Whether nobody has polled for too long, in this life or since an earlier one.
    fn has_gap(&mut self, resume: Option<&Position>) -> bool {
        let Some(resume) = resume else { return false };
        // What cannot be read is of an earlier version, and an earlier life all the same.
        let last = resume.read().ok().and_then(|Place { at }| at).map(Time);
        self.last = last.or(self.last);
        let is_long = last.is_none_or(|last| is_gap(last, self.clock.now(), self.every));
        if is_long && !self.once {
            let since = last.map_or_else(String::new, |last| format!(" after {last}"));
            tracing::warn!(node = self.name, "values are missing: nobody polled{since}");
        }
        is_long && !self.once
    }

    fn batch(&self, readings: &[Reading]) -> Result<RecordBatch, arrow::error::ArrowError> {
        let times: Vec<i64> = readings.iter().map(|reading| reading.at.0).collect();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")),
            Arc::new(arrow::array::StringArray::from_iter_values(
                readings.iter().map(|reading| &*reading.device),
            )),
        ];
        if self.units.len() > 1 {
            let units = readings.iter().map(|reading| i64::from(reading.unit));
            columns.push(Arc::new(arrow::array::Int64Array::from_iter_values(units)));
        }
        let qualities = readings.iter().map(|reading| reading.quality.word());
        columns.push(Arc::new(arrow::array::StringArray::from_iter_values(qualities)));
        for (index, point) in self.points.iter().enumerate() {
            let values = readings.iter().map(|reading| reading.values.get(index).and_then(Option::as_ref));
            columns.push(column(point.field().data_type(), values));
        }
        RecordBatch::try_new(Arc::clone(&self.stream.columns), columns)
    }
}

/// A column of values; a value of another type is NULL, which `Point::field` rules out.
fn column<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a Value>>) -> ArrayRef {
    macro_rules! fill {
        ($builder:ty, $value:ident => $($pattern:pat => $result:expr),+) => {{
            let mut builder = <$builder>::new();
            for $value in values {
                match $value {
                    $(Some($pattern) => builder.append_value($result),)+
                    Some(_) | None => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }};
    }
    if data_type == &DataType::Boolean {
        return fill!(BooleanBuilder, value => Value::Bool(flag) => *flag);
    }
    if data_type == &DataType::Int64 {
        return fill!(Int64Builder, value => Value::Int(number) => *number, Value::Unsigned(number) => i64::try_from(*number).unwrap_or(i64::MAX));
    }
    if data_type == &DataType::UInt64 {
        return fill!(UInt64Builder, value => Value::Unsigned(number) => *number);
    }
    if data_type == &DataType::Utf8 {
        return fill!(StringBuilder, value => Value::Text(text) => text);
    }
    fill!(Float64Builder, value => Value::Float(number) => *number)
}
