//! `anomaly`: scores each value against what is usual for its key, in
//! event-time order.

mod score;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, LargeListArray, RecordBatch, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, UInt64Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};

use crate::in_order::{FORGET, InOrder, KEY, Ordered, PerKey, Rows, Share, key_columns, ports, shape};
use crate::part::{number_columns, only_input, require_time};
use score::{Baseline, Memory, Method, Side, Spec};

const KEYS: &[Key] = &[
    KEY,
    required(
        "column",
        Kind::Text,
        "the number that is judged; NULL and what is not finite are not, and get NULL",
    ),
    required(
        "method",
        Kind::Word(&["zscore", "mad", "ewma", "cusum"]),
        "zscore: from the mean of the last `rows` values, in standard deviations; mad: from their median, in median absolute deviations, which outliers do not move; ewma: an exponentially weighted mean, for small shifts; cusum: the sum of what lies further than `drift` from the mean, for smaller ones. The last two compare with `mean` and `sigma`, or learn them from the first `rows` values",
    ),
    optional(
        "threshold",
        Kind::Number,
        "a score beyond this is an anomaly; if left out 3 (zscore, ewma), 3.5 (mad), 5 (cusum)",
    )
    .aside(),
    optional(
        "side",
        Kind::Word(&["both", "above", "below"]),
        "which values can be anomalies, both if left out",
    ),
    optional("rows", Kind::Int(2, ROWS_MAX), "values looked back on, or learned from, 100 if left out"),
    optional(
        "warmup",
        Kind::Int(2, ROWS_MAX),
        "zscore, mad: values of a key before its first score, at most `rows`; 20 or `rows` if left out",
    )
    .aside(),
    optional(
        "weight",
        Kind::Number,
        "ewma: weight of the newest value, above 0 and at most 1, 0.2 if left out",
    ),
    optional(
        "drift",
        Kind::Number,
        "cusum: half the shift to be found, in standard deviations, 0.5 if left out",
    ),
    optional(
        "restart",
        Kind::Bool,
        "cusum: true (default): sums begin at zero behind an anomaly; false: they go on",
    ),
    optional("mean", Kind::Number, "ewma, cusum: what is usual, with `sigma`"),
    optional("sigma", Kind::Number, "ewma, cusum: the usual standard deviation, with `mean`"),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "anomaly",
    summary: "scores values against what is usual for their key: z-score, robust median, EWMA, CUSUM",
    keys: &[KEYS],
    example: r#"[operator.odd]
type   = "anomaly"
from   = "rows"
key    = ["device"]
column = "value"
method = "mad"
rows   = 200
"#,
    build,
};

/// Most values of a key that are kept: all are looked at for each row.
const ROWS_MAX: i64 = 10_000;
const ROWS: usize = 100;
const WARMUP: usize = 20;
/// Usual weights of an EWMA chart are 0.2 to 0.3 (NIST e-Handbook 6.3.2.4).
const WEIGHT: f64 = 0.2;
/// Half of a shift by one standard deviation (NIST e-Handbook 6.3.2.3).
const DRIFT: f64 = 0.5;

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let column = number_columns(config, "column", &input.stream, &mut diagnostics).first().copied();
    let spec = read_spec(config, &mut diagnostics);
    let mut fields: Vec<Field> =
        input.stream.columns.fields().iter().map(|field| field.as_ref().clone()).collect();
    for (name, data_type) in [("score", DataType::Float64), ("anomaly", DataType::Boolean)] {
        if fields.iter().any(|field| field.name() == name) {
            let message = format!("`{}` has a column `{name}` already", input.name);
            let help = "give it another name with a `project` before";
            let diagnostic = Diagnostic::error("TG-T009", message).at(config.table.span_of("from"));
            diagnostics.push(diagnostic.help(help));
        }
        fields.push(Field::new(name, data_type, true));
    }
    let Some(column) = column.filter(|_| diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let stream = StreamSchema {
        time: input.stream.time,
        time_shift_us: input.stream.time_shift_us,
        ..StreamSchema::new(fields, None)
    };
    let ports = ports(stream.clone(), &input.stream);
    let core = Anomaly { output: stream, column, spec, memories: PerKey::default() };
    Ok(OperatorPart { operator: Box::new(InOrder::new(config, input, keys, core)?), ports })
}

fn read_spec(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Spec {
    let table = &config.table;
    let method = table.str("method").unwrap_or_default();
    let mut wrong = |key: &str, is_wrong: bool, message: String, help: &str| {
        if is_wrong && table.get(key).is_some() {
            out.push(Diagnostic::error("TG-C006", message).at(table.span_of(key)).help(help));
        }
    };
    for (key, methods) in [
        ("warmup", &["zscore", "mad"][..]),
        ("weight", &["ewma"]),
        ("drift", &["cusum"]),
        ("restart", &["cusum"]),
        ("mean", &["ewma", "cusum"]),
        ("sigma", &["ewma", "cusum"]),
    ] {
        let message = format!("`{key}` is nothing to the method {method:?}");
        wrong(key, !methods.contains(&method), message, &format!("it belongs to {}", methods.join(" and ")));
    }
    let number = |key: &str| table.number(key);
    let rows = table.int_as::<usize>("rows").unwrap_or(ROWS);
    let warmup = table.int_as::<usize>("warmup");
    let message = format!("`warmup` is more than the {rows} values that are looked back on");
    wrong(
        "warmup",
        warmup.is_some_and(|warmup| warmup > rows),
        message,
        "make `rows` larger or `warmup` smaller",
    );
    let is_none = |key: &str, low: f64| number(key).is_some_and(|value| !(value > low && value.is_finite()));
    for key in ["threshold", "sigma"] {
        wrong(key, is_none(key, 0.0), format!("`{key}` must be above zero"), "write e.g. 3.0");
    }
    let too_large = number("weight").is_some_and(|weight| weight > 1.0);
    wrong(
        "weight",
        is_none("weight", 0.0) || too_large,
        "`weight` is above 0 and at most 1".into(),
        "write e.g. 0.2",
    );
    let is_below = number("drift").is_some_and(|drift| drift.is_nan() || drift < 0.0);
    wrong("drift", is_below, "`drift` cannot be below zero".into(), "write e.g. 0.5");
    let one = number("mean").is_some() != number("sigma").is_some();
    for key in ["mean", "sigma"] {
        let message = "only one of `mean` and `sigma` is there".to_owned();
        wrong(key, one, message, "give both, or none: then they are learned");
    }
    let (method, threshold) = match method {
        "mad" => (Method::Mad, 3.5),
        "ewma" => (Method::Ewma { weight: number("weight").unwrap_or(WEIGHT) }, 3.0),
        "cusum" => {
            let (drift, restarts) = (number("drift").unwrap_or(DRIFT), table.bool("restart").unwrap_or(true));
            (Method::Cusum { drift, restarts }, 5.0)
        }
        _ => (Method::ZScore, 3.0),
    };
    let side = match table.str("side") {
        Some("above") => Side::Above,
        Some("below") => Side::Below,
        _ => Side::Both,
    };
    Spec {
        method,
        side,
        threshold: number("threshold").unwrap_or(threshold),
        rows,
        warmup: warmup.unwrap_or(WARMUP.min(rows)),
        baseline: number("mean").zip(number("sigma")).map(|(mean, sigma)| Baseline { mean, sigma }),
    }
}

struct Anomaly {
    output: StreamSchema,
    column: usize,
    spec: Spec,
    memories: PerKey<Memory>,
}

impl Ordered for Anomaly {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let values = rows.batch.columns().get(self.column).ok_or_else(shape)?;
        let values = cast(values, &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let judged = values.iter().zip(rows.keys).map(|(value, key)| {
            let value = value.filter(|value| value.is_finite())?;
            self.memories.of(*key)?.judge(&self.spec, value)
        });
        let (scores, anomalies): (Vec<Option<f64>>, Vec<Option<bool>>) =
            judged.map(|judged| (judged.map(|(score, _)| score), judged.map(|(_, is)| is))).unzip();
        let mut columns = rows.batch.columns().to_vec();
        columns.push(Arc::new(Float64Array::from(scores)));
        columns.push(Arc::new(BooleanArray::from(anomalies)));
        out.emit(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?);
        Ok(())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.memories.forget(key);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.memories.bytes(|memory| memory.values.capacity() * size_of::<f64>())
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Aligned])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let nothing = Memory::default();
        let memories: Vec<&Memory> =
            keys.iter().map(|key| self.memories.get(*key).unwrap_or(&nothing)).collect();
        let floats = |of: fn(&Memory) -> Option<f64>| -> ArrayRef {
            Arc::new(memories.iter().map(|memory| of(memory)).collect::<Float64Array>())
        };
        let counts = UInt64Array::from_iter_values(memories.iter().map(|memory| memory.count));
        let values = memories.iter().map(|memory| Some(memory.values.iter().copied().map(Some)));
        let columns: [(&str, ArrayRef); 6] = [
            ("values", Arc::new(LargeListArray::from_iter_primitive::<Float64Type, _, _>(values))),
            ("mean", floats(|memory| memory.baseline.map(|usual| usual.mean))),
            ("sigma", floats(|memory| memory.baseline.map(|usual| usual.sigma))),
            ("count", Arc::new(counts)),
            ("upper", floats(|memory| Some(memory.upper))),
            ("lower", floats(|memory| Some(memory.lower))),
        ];
        Ok(vec![RecordBatch::try_from_iter(columns)?])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return if state.is_empty() { Ok(()) } else { Err(shape()) } };
        let [values, floats @ ..] = batch.columns() else { return Err(shape()) };
        let [mean, sigma, counts, upper, lower] = floats else { return Err(shape()) };
        let values = values.as_list_opt::<i64>().ok_or_else(shape)?;
        let counts = counts.as_primitive_opt::<UInt64Type>().ok_or_else(shape)?;
        let numbers = |column: &ArrayRef| column.as_primitive_opt::<Float64Type>().cloned().ok_or_else(shape);
        let (mean, sigma, upper, lower) = (numbers(mean)?, numbers(sigma)?, numbers(upper)?, numbers(lower)?);
        let mut memories = Vec::with_capacity(batch.num_rows());
        for (row, list) in values.iter().enumerate() {
            let list = list.ok_or_else(shape)?;
            let list = list.as_primitive_opt::<Float64Type>().ok_or_else(shape)?;
            let is_known = mean.is_valid(row) && sigma.is_valid(row);
            memories.push(Memory {
                values: list.values().iter().copied().collect(),
                baseline: is_known.then(|| Baseline { mean: mean.value(row), sigma: sigma.value(row) }),
                count: counts.value(row),
                upper: upper.value(row),
                lower: lower.value(row),
            });
        }
        self.memories.load(memories);
        Ok(())
    }
}
