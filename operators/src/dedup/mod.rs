//! `dedup`: of rows with equal keys, one goes on. Which one does not depend on
//! how they came: the first within a time, or the last, which is told again when
//! a later one comes.

mod last;

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use arrow::datatypes::{Field, Int64Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::changelog::changelog_of;
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output, Port};
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{InOrder, Ordered, PerKey, Rows, check_kept, key_columns, places, ports, shape};
use crate::part::{check_names, only_input, require_time};
use last::Last;

const KEYS: &[Key] = &[
    required("key", Kind::List(&Kind::Text), "columns; rows equal in all of them are duplicates, also where they are NULL"),
    required(
        "ttl",
        Kind::Duration,
        "a row is a duplicate for this long after the last row of its key that went on, by event time; one that is further behind the watermark leaves by the port `late`; with keep = \"last\" a key without rows for this long is forgotten, and its last row stands",
    )
    .aside(),
    optional(
        "keep",
        Kind::Word(&["first", "last"]),
        "first: the first row goes on; last: each later row takes the place of the one before, with the columns `changed_at` and `change`: +I (new), -U and +U (was and is); \"first\" if left out",
    ),
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "dedup",
    summary: "lets one of several rows with equal keys through; the others leave by the port `duplicates`",
    keys: &[KEYS],
    example: r#"[operator.once]
type = "dedup"
from = "rows"
key  = ["device", "ts"]
ttl  = "1h"
"#,
    build,
};

const DUPLICATES_PORT: usize = 2;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let ttl_us = config.table.duration("ttl").map_or(0, micros);
    if ttl_us == 0 {
        let message = format!("`ttl` of `{}` is zero: no row would be a duplicate", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("ttl")));
    }
    if keys.is_empty() && diagnostics.is_empty() {
        let message = format!("`key` of `{}` is empty: all rows would be duplicates of one", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("key")));
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let stream = &input.stream;
    if config.table.str("keep") == Some("last") {
        return last(config, input, keys, ttl_us);
    }
    // Rows come up to `ttl` behind the watermark, to keys that are up to `ttl` older.
    let operator = InOrder::new(config, input, keys, Dedup { ttl_us, passed: PerKey::default() })?
        .with_forget(ttl_us.saturating_mul(2));
    let mut ports = ports(stream.clone(), stream);
    ports.push(Port { name: "duplicates".into(), stream: stream.clone() });
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

fn last(
    config: &NodeConfig,
    input: &Input,
    keys: Vec<usize>,
    ttl_us: i64,
) -> Result<OperatorPart, ConfigError> {
    let mut diagnostics = Vec::new();
    let stream = &input.stream;
    let all: Vec<usize> = (0..stream.columns.fields().len()).collect();
    check_kept(config, "from", input, &all, &mut diagnostics);
    let image = stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    let output = changelog_of(image).keyed_by(keys.clone());
    let named: Vec<Field> = output.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    check_names(config, "from", &named, &mut diagnostics);
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let core = Last::new(stream, output.clone());
    let core =
        core.map_err(|error| Diagnostic::error("TG-X003", error.0).at(config.table.span_of("from")))?;
    let operator = InOrder::new(config, input, keys, core)?.with_forget(ttl_us);
    let mut ports = ports(output, stream);
    ports.push(Port { name: "duplicates".into(), stream: stream.clone() });
    Ok(OperatorPart { operator: Box::new(operator), ports })
}

struct Dedup {
    ttl_us: i64,
    /// When the last row that went on was, by key.
    passed: PerKey<Option<i64>>,
}

impl Ordered for Dedup {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let mut mask = Vec::with_capacity(rows.times.len());
        for (at_us, key) in rows.iter() {
            let Some(passed) = self.passed.of(key) else { continue };
            let is_first = passed.is_none_or(|passed_us| at_us.saturating_sub(passed_us) >= self.ttl_us);
            if is_first {
                *passed = Some(at_us);
            }
            mask.push(is_first);
        }
        let mask = BooleanArray::from(mask);
        if mask.true_count() == mask.len() {
            out.emit(rows.batch.clone());
            return Ok(());
        }
        out.emit(filter_record_batch(rows.batch, &mask)?);
        out.emit_to(DUPLICATES_PORT, filter_record_batch(rows.batch, &not(&mask)?)?);
        Ok(())
    }

    /// So long the keys are known, and a row that is older than one of its key
    /// that went on is a duplicate of that one.
    fn late_before(&self, watermark_us: i64) -> Option<i64> {
        Some(watermark_us.saturating_sub(self.ttl_us).saturating_add(1))
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(Vec::new())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.passed.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let passed = keys.iter().map(|key| self.passed.get(*key).copied().flatten());
        let passed: ArrayRef = Arc::new(passed.collect::<Int64Array>());
        Ok(vec![RecordBatch::try_from_iter_with_nullable([
            ("key", places(keys), false),
            ("passed_us", passed, true),
        ])?])
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [_, passed] = batch.columns() else { return Err(shape()) };
        self.passed.load(passed.as_primitive_opt::<Int64Type>().ok_or_else(shape)?);
        Ok(())
    }
}
