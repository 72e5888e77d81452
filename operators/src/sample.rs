//! `sample`: a part of the rows. Every n-th row of a key, or all rows of a share
//! of the keys, which a hash chooses: always the same ones, in every process.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, Operator, OperatorPart, Output, Port, Progress};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use xxhash_rust::xxh3::xxh3_64;

use crate::in_order::{FORGET, InOrder, KEY, Ordered, PerKey, Rows, key_columns, places, ports, shape};
use crate::part::{key_texts, only_input, require_time};

const KEYS: &[Key] = &[
    KEY,
    optional(
        "every",
        Kind::Int(2, i64::MAX),
        "one of so many rows of a key, the first and so on, in event-time order",
    ),
    optional(
        "share",
        Kind::Number,
        "all rows of this share of the keys, e.g. 0.1, as they come; which keys these are does not change",
    )
    .aside(),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "sample",
    summary: "lets a part of the rows through: every n-th, or a share of the keys",
    keys: &[KEYS],
    example: r#"[operator.some]
type  = "sample"
from  = "rows"
key   = ["device"]
every = 10
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let (every, share) = (config.table.int("every"), config.table.number("share"));
    let mut wrong = |key: &str, message: String, help: &str| {
        let span = if key.is_empty() { config.name_span.clone() } else { config.table.span_of(key) };
        diagnostics.push(Diagnostic::error("TG-C006", message).at(span).help(help));
    };
    match (every, share) {
        (Some(_), Some(_)) => {
            wrong(
                "share",
                format!("`{}` has both `every` and `share`", config.name),
                "leave one of them out",
            );
        }
        (None, None) => wrong(
            "",
            format!("`{}` needs `every` or `share`", config.name),
            "every = 10 is one of ten rows, share = 0.1 all rows of a tenth of the keys",
        ),
        (None, Some(share)) if !(share > 0.0 && share < 1.0) => {
            wrong("share", format!("`share` of `{}` is not between 0 and 1", config.name), "0.1 is a tenth");
        }
        (None, Some(_)) if config.table.get("key").is_none() => wrong(
            "share",
            format!("`{}` takes a share of its keys, but has no `key`", config.name),
            "name the columns that are hashed, e.g. key = [\"device\"]",
        ),
        (Some(_), None) | (None, Some(_)) => {}
    }
    if !diagnostics.is_empty() {
        return Err(ConfigError(diagnostics));
    }
    let stream = &input.stream;
    if let Some(share) = share {
        let ports = vec![Port { name: String::new(), stream: stream.clone() }];
        return Ok(OperatorPart { operator: Box::new(Share { share, keys }), ports });
    }
    require_time(config, input)?;
    let core = Every { every: every.unwrap_or(1), counts: PerKey::default() };
    let operator = InOrder::new(config, input, keys, core)?;
    Ok(OperatorPart { operator: Box::new(operator), ports: ports(stream.clone(), stream) })
}

struct Every {
    every: i64,
    /// Rows since the last one that went on, itself included, by key.
    counts: PerKey<i64>,
}

impl Ordered for Every {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let mut mask = Vec::with_capacity(rows.keys.len());
        for key in rows.keys {
            let Some(count) = self.counts.of(*key) else { continue };
            mask.push(*count == 0);
            *count = (*count + 1) % self.every;
        }
        out.emit(filter_record_batch(rows.batch, &BooleanArray::from(mask))?);
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(Vec::new())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.counts.forget(key);
        Ok(())
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let counts = keys.iter().map(|key| Some(self.counts.get(*key).copied().unwrap_or(0)));
        let counts: ArrayRef = Arc::new(counts.collect::<Int64Array>());
        Ok(vec![RecordBatch::try_from_iter([("key", places(keys)), ("count", counts)])?])
    }

    fn is_by_key(&self) -> bool {
        true
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return Err(shape()) };
        let [_, counts] = batch.columns() else { return Err(shape()) };
        self.counts.load(counts.as_primitive_opt::<Int64Type>().ok_or_else(shape)?.values().iter().copied());
        Ok(())
    }
}

/// Looks at each row by itself, so rows need no order.
struct Share {
    share: f64,
    keys: Vec<usize>,
}

impl Operator for Share {
    fn on_batch(
        &mut self,
        _input: usize,
        batch: &RecordBatch,
        out: &mut Output,
    ) -> Result<Progress, OperatorError> {
        // A float has 53 bits: the upper ones of the hash.
        let place = |key: String| (xxh3_64(key.as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
        let mask = key_texts(batch, &self.keys)?.into_iter().map(|key| Some(place(key) < self.share));
        out.emit(filter_record_batch(batch, &mask.collect::<BooleanArray>())?);
        Ok(Progress::Done)
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.keys.clone())
    }
}
