//! `fft`: blocks of samples become features of vibration, such as rms,
//! kurtosis, crest and the energy in bands of frequencies.

mod block;
mod select;
mod spectrum;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, LargeListArray, RecordBatch, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use tidegate_engine::catalog::{BuildOperator, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, OperatorError};
use tidegate_engine::operator::{Input, OperatorPart, Output};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::time::time_type;
use tidegate_engine::topology::key::{Key, Kind, optional, required};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tidegate_engine::topology::value::parse_rate;

use crate::in_order::{FORGET, InOrder, KEY, Ordered, PerKey, Rows, Share, key_columns, ports, shape};
use crate::part::{number_columns, only_input, require_time};
use block::{Block, Frame};
use spectrum::{Feature, Spectrum};

const BLOCK_KEYS: &[Key] = &[
    required("rows", Kind::Int(8, 1 << 20), "samples of a block; powers of two are fastest"),
    optional(
        "overlap",
        Kind::Number,
        "part of a block that the next one has too, from 0 (default) to below 1",
    ),
    optional(
        "gap",
        Kind::Word(&["drop", "keep"]),
        "drop (default): where samples are more than 1.5 periods apart, or one is NULL, the block is given up and the next one begins behind; keep: samples count as evenly spaced, as bursts of one time are",
    ),
];

const KEYS: &[Key] = &[
    KEY,
    required("signal", Kind::Text, "the column of samples, evenly spaced in time"),
    required(
        "block",
        Kind::Table(BLOCK_KEYS),
        "how many samples make a block; what is no whole block at the end waits",
    ),
    optional(
        "rate",
        Kind::Rate,
        "samples in a second, e.g. \"1000/s\"; measured from the times of each block if left out",
    ),
    optional(
        "taper",
        Kind::Word(&["hann", "none"]),
        "hann (default): blocks fade out at both ends before their spectrum is made, so that frequencies do not spread",
    ),
    required(
        "select",
        Kind::List(&Kind::Text),
        "mean, rms, std, peak, peak_to_peak, crest, skewness, kurtosis (3 for noise), dominant (the strongest frequency), band(from, to): the part of the mean square in these Hz; envelope(from, to): the same of the envelope, envelope(from, to, low, high): of the envelope of what lies from low to high; each with `AS name`; NULL where it does not exist",
    ),
    FORGET,
];

pub(crate) const ROW: Row<BuildOperator> = Row {
    name: "fft",
    summary: "blocks of samples become features of vibration: rms, kurtosis, crest, bands, envelope",
    keys: &[KEYS],
    example: r#"[operator.features]
type   = "fft"
from   = "rows"
key    = ["device"]
signal = "value"
block  = { rows = 4096, overlap = 0.5, gap = "drop" }
select = ["rms", "kurtosis", "band(87, 91) AS outer_race"]
"#,
    build,
};

fn build(
    config: &NodeConfig,
    _context: &BuildContext,
    inputs: &[Input],
) -> Result<OperatorPart, ConfigError> {
    let input = only_input(config, inputs)?;
    let time = require_time(config, input)?;
    let mut diagnostics = Vec::new();
    let keys = key_columns(config, input, &mut diagnostics);
    let signal = number_columns(config, "signal", &input.stream, &mut diagnostics).first().copied();
    let frame = read_frame(config, &mut diagnostics);
    let (mut names, mut features) = (Vec::new(), Vec::new());
    for text in config.table.texts("select") {
        match select::parse(text) {
            Ok((name, feature)) => {
                let nyquist = frame.rate.map(|rate| rate / 2.0);
                if let Some((highest, nyquist)) =
                    feature.highest().zip(nyquist).filter(|(high, half)| high > half)
                {
                    let message = format!(
                        "{highest} Hz is above half the `rate`, {nyquist} Hz: samples do not hold it"
                    );
                    diagnostics.push(Diagnostic::error("TG-C006", message).at(text.span.clone()));
                }
                names.push((name, text.span.clone()));
                features.push(feature);
            }
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    if features.is_empty() && diagnostics.is_empty() {
        let message = format!("`select` of `{}` is empty", config.name);
        diagnostics.push(Diagnostic::error("TG-C006", message).at(config.table.span_of("select")));
    }
    let fields = input.stream.columns.fields();
    let kept: Vec<usize> =
        [time].into_iter().chain(keys.iter().copied().filter(|key| *key != time)).collect();
    let mut output: Vec<Field> =
        kept.iter().filter_map(|index| fields.get(*index)).map(|field| field.as_ref().clone()).collect();
    output.insert(1.min(output.len()), Field::new("block_start", time_type(), false));
    for (name, span) in names {
        if output.iter().any(|field| *field.name() == name) {
            let message = format!("two columns of `{}` are called `{name}`", config.name);
            let diagnostic = Diagnostic::error("TG-T009", message).at(span);
            diagnostics.push(diagnostic.help("give one of them another name with AS"));
        }
        output.push(Field::new(name, DataType::Float64, true));
    }
    let Some(signal) = signal.filter(|_| diagnostics.is_empty()) else {
        return Err(ConfigError(diagnostics));
    };
    let mut stream = StreamSchema { time: Some(0), ..StreamSchema::new(output, None) };
    stream.time_shift_us = input.stream.time_shift_us;
    let ports = ports(stream.clone(), &input.stream);
    let hann = config.table.str("taper") != Some("none");
    let spectrum = Spectrum::new(frame.rows, hann);
    let core = Blocks { output: stream, kept, signal, frame, features, spectrum, blocks: PerKey::default() };
    Ok(OperatorPart { operator: Box::new(InOrder::new(config, input, keys, core)?), ports })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of the rows is between none and all of them"
)]
fn read_frame(config: &NodeConfig, out: &mut Vec<Diagnostic>) -> Frame {
    let block = config.table.table("block");
    let rows = block.and_then(|block| block.int_as::<usize>("rows")).unwrap_or(8);
    let overlap = block.and_then(|block| block.number("overlap")).unwrap_or(0.0);
    if !(0.0..1.0).contains(&overlap) {
        let span = block.map(|block| block.span_of("overlap")).unwrap_or_default();
        let message = "`overlap` is a part of the block: from 0 to below 1";
        let help = "overlap = 0.5: each sample is in two blocks";
        out.push(Diagnostic::error("TG-C006", message).at(span).help(help));
    }
    let rate = config.table.text("rate").and_then(|text| {
        let rate = parse_rate(&text.value);
        if rate.is_none() {
            let message = format!("`{}` is no rate", text.value);
            let diagnostic = Diagnostic::error("TG-C006", message).at(text.span.clone());
            out.push(diagnostic.help("write e.g. rate = \"1000/s\""));
        }
        rate
    });
    Frame {
        rows,
        hop: rows.saturating_sub((rows as f64 * overlap.clamp(0.0, 1.0)) as usize).max(1),
        drops_gaps: block.and_then(|block| block.str("gap")) != Some("keep"),
        rate,
    }
}

struct Blocks {
    output: StreamSchema,
    /// Event time and key.
    kept: Vec<usize>,
    signal: usize,
    frame: Frame,
    features: Vec<Feature>,
    spectrum: Spectrum,
    blocks: PerKey<Block>,
}

/// Blocks that became whole.
struct Made {
    /// The row of the last sample of each.
    rows: Vec<u32>,
    starts_us: Vec<i64>,
    /// The values of each feature.
    values: Vec<Vec<Option<f64>>>,
}

impl Ordered for Blocks {
    fn on_rows(&mut self, rows: &Rows<'_>, out: &mut Output) -> Result<(), OperatorError> {
        let samples = cast(rows.batch.columns().get(self.signal).ok_or_else(shape)?, &DataType::Float64)?;
        let samples = samples.as_primitive::<Float64Type>();
        let mut made =
            Made { rows: Vec::new(), starts_us: Vec::new(), values: vec![Vec::new(); self.features.len()] };
        for ((row, (at_us, key)), sample) in (0_u32..).zip(rows.iter()).zip(samples) {
            let whole = self.blocks.of(key).and_then(|block| block.push(&self.frame, at_us, sample));
            let Some(whole) = whole else { continue };
            let values = self.spectrum.features(&self.features, &whole.samples, whole.rate);
            made.rows.push(row);
            made.starts_us.push(whole.start_us.saturating_sub(self.output.time_shift_us));
            made.values.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        }
        if made.rows.is_empty() {
            return Ok(());
        }
        let last = UInt32Array::from(made.rows);
        let mut columns = Vec::with_capacity(self.output.columns.fields().len());
        for index in &self.kept {
            columns.push(take(rows.batch.columns().get(*index).ok_or_else(shape)?, &last, None)?);
        }
        let starts = TimestampMicrosecondArray::from(made.starts_us).with_timezone("UTC");
        columns.insert(1.min(columns.len()), Arc::new(starts));
        columns
            .extend(made.values.into_iter().map(|values| Arc::new(Float64Array::from(values)) as ArrayRef));
        out.emit(RecordBatch::try_new(Arc::clone(&self.output.columns), columns)?);
        Ok(())
    }

    fn reads(&self) -> Option<Vec<usize>> {
        Some(self.kept.iter().copied().chain([self.signal]).collect())
    }

    fn forget(&mut self, key: u32, _out: &mut Output) -> Result<(), OperatorError> {
        self.blocks.forget(key);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.blocks.bytes(|block| {
            block.times.capacity() * size_of::<i64>() + block.samples.capacity() * size_of::<f64>()
        })
    }

    fn shares(&self) -> Option<&'static [Share]> {
        Some(&[Share::Aligned])
    }

    fn save(&mut self, keys: &[u32]) -> Result<Vec<RecordBatch>, OperatorError> {
        let nothing = Block::default();
        let blocks = || keys.iter().map(|key| self.blocks.get(*key).unwrap_or(&nothing));
        let times = blocks().map(|block| Some(block.times.iter().copied().map(Some)));
        let samples = blocks().map(|block| Some(block.samples.iter().copied().map(Some)));
        let columns: [(&str, ArrayRef); 2] = [
            ("times", Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(times))),
            ("samples", Arc::new(LargeListArray::from_iter_primitive::<Float64Type, _, _>(samples))),
        ];
        Ok(vec![RecordBatch::try_from_iter(columns)?])
    }

    fn load(&mut self, state: &[RecordBatch]) -> Result<(), OperatorError> {
        let [batch] = state else { return if state.is_empty() { Ok(()) } else { Err(shape()) } };
        let [times, samples] = batch.columns() else { return Err(shape()) };
        let times = times.as_list_opt::<i64>().ok_or_else(shape)?;
        let samples = samples.as_list_opt::<i64>().ok_or_else(shape)?;
        let mut blocks = Vec::with_capacity(batch.num_rows());
        for (times, samples) in times.iter().zip(samples.iter()) {
            let (times, samples) = times.zip(samples).ok_or_else(shape)?;
            let times: &Int64Array = times.as_primitive_opt().ok_or_else(shape)?;
            let samples: &Float64Array = samples.as_primitive_opt().ok_or_else(shape)?;
            if times.len() != samples.len() || times.len() > self.frame.rows {
                return Err(shape());
            }
            blocks.push(Block {
                times: times.values().iter().copied().collect(),
                samples: samples.values().iter().copied().collect(),
            });
        }
        self.blocks.load(blocks);
        Ok(())
    }
}
