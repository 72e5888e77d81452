//! `limit_rate`: so many rows of a key go on within a time, and no more. Event
//! time counts, so that a replay lets the same rows through.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Int64Type, UInt32Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output, Port};
use tidegate_engine::topology::key::{Key, Kind, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{FORGET, InOrder, KEY, Ordered, PerKey, Rows, key_columns, ports, shape};
use crate::part::{only_input, require_time};

/// Most rows within a time: the time of each is remembered.
const ROWS_MAX: usize = 10_000;

const KEYS: &[Key] = &[
    KEY,
    required(
        "rate",
        Kind::Rate,
        "rows of a key that go on within a time, e.g. \"10/s\", \"6/h\": in no second, in no hour more, wherever it begins",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "limit_rate",
    summary: "lets at most so many rows through within a time; the others leave by the port `limited`",
    keys: &[KEYS],
    example: r#"[operator.few]
type = "limit_rate"
from = "rows"
key  = ["device"]
rate = "6/m"
"#,
    build,
};

const LIMITED_PORT: usize = 2;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let rate = config.table.str("rate").and_then(parse);
    if rate.is_none() {
        let message = format!("`rate` of `{}` is no count of rows in a time", config.name);
        let help = format!("write a whole number, at most {ROWS_MAX}: \"30/m\" instead of \"0.5/s\"");
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("rate")).help(help));
    }
    let Some((rows, within_us)) = rate.filter(|_| diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let stream = &input.stream;
    let core = LimitRate { rows, within_us, passed: PerKey::default() };
    let operator = InOrder::new(config, input, keys, core)?;
    let mut ports = ports(stream.clone(), stream);
    ports.push(Port { name: "limited".into(), stream: stream.clone() });
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

/// `"30/m"` → (30, a minute in microseconds).
fn parse(rate: &str) -> Option<(usize, i64)> {
    let (rows, unit) = rate.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let rows = rows.trim().parse().ok().filter(|rows| (1..=ROWS_MAX).contains(rows))?;
    Some((rows, seconds * 1_000_000))
}

struct LimitRate {
    rows: usize,
    within_us: i64,
    /// When the last rows went on, by key.
    passed: PerKey<VecDeque<i64>>,
}

impl Ordered for LimitRate {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let mut mask = Vec::with_capacity(rows.times.len());
        for (at_us, key) in rows.iter() {
            let Some(passed) = self.passed.of(key) else { continue };
            let oldest_us = at_us.saturating_sub(self.within_us);
            while passed.front().is_some_and(|passed_us| *passed_us <= oldest_us) {
                passed.pop_front();
            }
            let goes_on = passed.len() < self.rows;
            if goes_on {
                passed.push_back(at_us);
            }
            mask.push(goes_on);
        }
        let mask = BooleanArray::from(mask);
        if mask.true_count() == mask.len() {
            out.emit(rows.batch.clone());
            return Ok(());
        }
        out.emit(filter_record_batch(rows.batch, &mask)?);
        out.emit_to(LIMITED_PORT, filter_record_batch(rows.batch, &not(&mask)?)?);
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(Vec::new())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.passed.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let mut passed: Vec<(u32, i64)> = Vec::new();
        for (number, key) in (0..).zip(keys) {
            passed.extend(self.passed.get(*key).into_iter().flatten().map(|at_us| (number, *at_us)));
        }
        let columns: [(&str, ArrayRef); 2] = [
            ("key", Arc::new(passed.iter().map(|(key, _)| Some(*key)).collect::<UInt32Array>())),
            ("at_us", Arc::new(passed.iter().map(|(_, at_us)| Some(*at_us)).collect::<Int64Array>())),
        ];
        Ok(vec![RecordBatch::try_from_iter(columns)?])
    }

    fn bytes(&self) -> usize {
        self.passed.bytes(|times| times.capacity() * size_of::<i64>())
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [keys, times] = batch.columns() else { return Err(shape()) };
        let keys = keys.as_primitive_opt::<UInt32Type>().ok_or_else(shape)?;
        let times = times.as_primitive_opt::<Int64Type>().ok_or_else(shape)?;
        for (key, at_us) in keys.values().iter().zip(times.values()) {
            if let Some(passed) = self.passed.of(*key) {
                passed.push_back(*at_us);
            }
        }
        Ok(())
    }
}
