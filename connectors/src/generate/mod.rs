//! Rows made from a seed: to try a topology without a plant, and to measure
//! one. The same seed gives the same rows, wherever reading goes on; only
//! their pace is the clock's.

mod column;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Field;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart};
use tidegate_engine::time::{Clock, Time, micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::time::Instant;

use crate::format::{WATERMARK_KEYS, time_of, watermark_policy};
use column::{COLUMN_KEYS, Column};

const KEYS: &[Key] = &[
    optional("rate", Kind::Rate, "rows per time, e.g. \"100/s\"; without it as fast as they are taken"),
    optional("count", Kind::Int(0, i64::MAX), "rows before the end; without it there is none"),
    optional("seed", Kind::Int(0, i64::MAX), "another seed gives other random values, default 0"),
    optional("start", Kind::Text, "`ts` of the first row in RFC 3339; default the time of the first start"),
    optional("step", Kind::Duration, "time between the `ts` of two rows; default 1/rate, or \"1ms\""),
    optional(
        "columns",
        Kind::Map(&Kind::Table(COLUMN_KEYS)),
        "columns beside `ts`, default `n = { kind = \"sequence\" }`",
    ),
    optional("watermark", Kind::Table(WATERMARK_KEYS), "how far rows may be out of order"),
];

/// `[source.x] type = "generate"`.
pub(crate) const SOURCE: Row<BuildSource> = Row {
    name: "generate",
    summary: "makes rows from a seed, at a rate or as fast as they are taken",
    keys: &[KEYS],
    example: r#"[source.pumps]
type    = "generate"
rate    = "100/s"
count   = 1000
columns = {
  device = { kind = "words", words = ["pump-1", "pump-2"] },
  value  = { kind = "sine", mean = 50.0, amplitude = 30.0, period = "10s", noise = 2.0 },
}

[sink.out]
type = "stdout"
from = "pumps"
"#,
    build,
};

/// Rows of a batch at most.
const BATCH_ROWS_MAX: u64 = 8_192;
/// Between the times of two rows where no rate says it.
const STEP: Duration = Duration::from_millis(1);
/// Longest time between two rows: a thousand years.
const PACE_MAX: Duration = Duration::from_secs(31_557_600_000);
/// Name of the time column.
const TS: &str = "ts";

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let table = &config.table;
    let mut out = Vec::new();
    let columns = Column::all(config, &mut out);
    let rate = table.str("rate").and_then(tidegate_engine::topology::value::parse_rate);
    let count = table.int_as::<u64>("count");
    if context.once && count.is_none() {
        let message = format!("source `{}` never ends, but it is read to its end", config.name);
        let help = "say how many rows it has: count = 1000";
        out.push(Diagnostic::error("TG-C035", message).at(config.name_span.clone()).help(help));
    }
    let start = table.text("start").map(|text| {
        time_of(&text.value).ok_or_else(|| {
            let message = format!("`start` of source `{}` is no RFC 3339 time", config.name);
            Diagnostic::error("TG-C035", message).at(text.span.clone()).help("write \"2026-01-01T00:00:00Z\"")
        })
    });
    let start = start.transpose().unwrap_or_else(|wrong| {
        out.push(wrong);
        None
    });
    if !out.is_empty() {
        return Err(ConfigError(out));
    }
    // At a rate beyond a row in an age there is one row.
    let per_row =
        rate.map_or(STEP, |rate| Duration::try_from_secs_f64(1.0 / rate).unwrap_or(PACE_MAX).min(PACE_MAX));
    let step = table.duration("step").unwrap_or(per_row).max(Duration::from_micros(1));
    let mut fields = vec![Field::new(TS, time_type(), false)];
    fields.extend(columns.iter().map(Column::field));
    let stream = StreamSchema::new(fields, Some(TS));
    let mut watermark = watermark_policy(config);
    if rate.is_none() || start.is_some() {
        // Their times are not the clock's.
        watermark.max_future = None;
    }
    let source = Generate {
        columns,
        stream: stream.clone(),
        count: count.unwrap_or(u64::MAX),
        pace: rate.map(|_| per_row),
        step_us: micros(step),
        start,
        clock: Arc::clone(&context.clock),
        place: Place::default(),
        opened: None,
    };
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: true,
        commit_quickly: false,
        logged: false,
    })
}

/// How many rows there were, and the time of the first.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Place {
    rows: u64,
    start_us: Option<i64>,
}

struct Generate {
    columns: Vec<Column>,
    stream: StreamSchema,
    count: u64,
    /// Real time between two rows.
    pace: Option<Duration>,
    step_us: i64,
    start: Option<Time>,
    clock: Arc<dyn Clock>,
    place: Place,
    /// When the source was opened and at which row: rows are paced from there.
    opened: Option<(Instant, u64)>,
}

#[async_trait]
impl Source for Generate {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        self.place = resume.map(Position::read).transpose()?.unwrap_or_default();
        let start = self.start.unwrap_or_else(|| self.clock.now());
        self.place.start_us.get_or_insert(start.0);
        self.opened = Some((Instant::now(), self.place.rows));
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        let left = self.count.saturating_sub(self.place.rows);
        if left == 0 {
            return Ok(Polled::End);
        }
        let ready = self.due().await.min(left).min(BATCH_ROWS_MAX);
        let rows = self.place.rows..self.place.rows + ready;
        let batch = self.batch(rows.clone()).map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        self.place.rows = rows.end;
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&self.place),
            received: None,
        }))
    }
}

impl Generate {
    /// Waits until a row is due and answers how many are.
    async fn due(&self) -> u64 {
        let (Some(pace), Some((opened, first))) = (self.pace, self.opened) else { return u64::MAX };
        let since =
            |row: u64| pace.saturating_mul(u32::try_from(row.saturating_sub(first)).unwrap_or(u32::MAX));
        tokio::time::sleep_until(opened + since(self.place.rows)).await;
        rows_due(opened.elapsed(), pace).saturating_add(first).saturating_sub(self.place.rows).max(1)
    }

    fn batch(&self, rows: std::ops::Range<u64>) -> Result<RecordBatch, arrow::error::ArrowError> {
        let start = self.place.start_us.unwrap_or(0);
        let time = |row: u64| {
            start.saturating_add(i64::try_from(row).unwrap_or(i64::MAX).saturating_mul(self.step_us))
        };
        let times = TimestampMicrosecondArray::from_iter_values(rows.clone().map(time)).with_timezone("UTC");
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(times)];
        arrays.extend(self.columns.iter().map(|column| column.values(rows.clone(), self.step_us)));
        RecordBatch::try_new(Arc::clone(&self.stream.columns), arrays)
    }
}

/// Rows that are due after a time; the first is due at once.
fn rows_due(elapsed: Duration, pace: Duration) -> u64 {
    let steps = elapsed.as_nanos() / pace.as_nanos().max(1);
    u64::try_from(steps).unwrap_or(u64::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::testing::shown;
    use crate::testing::{build_context, node};

    const COLUMNS: &str = "columns = { n = { kind = \"sequence\", start = 5, step = -2 }, d = { kind = \"words\", words = [\"a\", \"b\", \"c\"] },
        r = { kind = \"random\", min = -1.0, max = 1.0 }, i = { kind = \"random\", min = 1, max = 6, whole = true }, s = { kind = \"sine\", mean = 10.0, amplitude = 5.0, period = \"4ms\" } }";

    async fn read(keys: &str, resume: Option<&Position>, batches: usize) -> (Vec<String>, Option<Position>) {
        let text = format!("[source.g]\ntype = \"generate\"\n{keys}\n{COLUMNS}\n");
        let mut source = (SOURCE.build)(&node(&text), &build_context()).expect("a right node").source;
        source.open(resume).await.expect("opens");
        let (mut rows, mut position) = (Vec::new(), None);
        for _ in 0..batches {
            let polled = tokio::time::timeout(Duration::from_secs(30), source.next()).await.expect("in time");
            let Polled::Rows(found) = polled.expect("reads") else { break };
            rows.extend(shown(&found.batch));
            position = Some(found.position);
        }
        (rows, position)
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_rows_wherever_it_goes_on() {
        let keys = "count = 20000\nseed = 7\nstart = \"2024-02-29T00:00:00Z\"";
        let (all, _) = read(keys, None, 10).await;
        assert_eq!(all.len(), 20_000);
        let fixed = |row: &str| row.split('|').take(3).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(fixed(&all[0]), ["2024-02-29T00:00:00Z", "5", "a"]);
        assert_eq!(fixed(&all[4]), ["2024-02-29T00:00:00.004Z", "-3", "b"]);
        // A sine of four rows a period stands at its mean, top, mean, bottom.
        let sine: Vec<f64> = all[..4]
            .iter()
            .map(|row| row.rsplit('|').next().expect("a cell").parse().expect("a float"))
            .collect();
        for (value, expected) in sine.iter().zip([10.0, 15.0, 10.0, 5.0]) {
            assert!((value - expected).abs() < 1e-9, "{sine:?}");
        }
        let (first, position) = read(keys, None, 1).await;
        let (rest, _) = read(keys, position.as_ref(), 10).await;
        assert!([first, rest].concat() == all, "other rows after the position");
        assert_ne!(read("count = 20000\nseed = 8\nstart = \"2024-02-29T00:00:00Z\"", None, 10).await.0, all);
    }

    #[tokio::test]
    async fn random_values_keep_their_limits_and_spread() {
        let (all, _) = read("count = 6000", None, 10).await;
        let cell = |row: &str, index: usize| row.split('|').nth(index).expect("a cell").to_owned();
        let floats: Vec<f64> = all.iter().map(|row| cell(row, 3).parse().expect("a float")).collect();
        assert!(floats.iter().all(|value| (-1.0..1.0).contains(value)));
        // The mean of 6,000 even values of -1 to 1 is within five standard errors of 0.
        let mean = floats.iter().sum::<f64>() / 6_000.0;
        assert!(mean.abs() < 5.0 * (1.0 / 3.0_f64).sqrt() / 6_000.0_f64.sqrt(), "{mean}");
        for face in 1..=6 {
            let count = all.iter().filter(|row| cell(row, 4) == face.to_string()).count();
            assert!((800..1_200).contains(&count), "{count} times {face}");
        }
    }

    #[tokio::test]
    async fn no_row_comes_before_its_time() {
        let pace = Duration::from_millis(10);
        for (elapsed, rows) in [(0, 1), (9, 1), (10, 2), (99, 10), (1_000, 101)] {
            assert_eq!(rows_due(Duration::from_millis(elapsed), pace), rows);
        }
        let text = format!("[source.g]\ntype = \"generate\"\nrate = \"1000/s\"\n{COLUMNS}\n");
        let mut source = (SOURCE.build)(&node(&text), &build_context()).expect("a right node").source;
        source.open(None).await.expect("opens");
        let started = Instant::now();
        let mut rows: usize = 0;
        while rows < 50 {
            let polled = tokio::time::timeout(Duration::from_secs(30), source.next()).await.expect("in time");
            let Polled::Rows(found) = polled.expect("reads") else { panic!("ended") };
            rows += found.batch.num_rows();
            let steps = started.elapsed().as_millis() + 1;
            assert!(rows <= usize::try_from(steps).expect("small") + 1, "{rows} rows after {steps} ms");
        }
    }

    #[tokio::test]
    async fn a_rate_may_be_tiny_or_huge() {
        for rate in ["0.000000000000000000000000000001/d", "1000000000000000000000000/s"] {
            let (rows, _) = read(&format!("rate = \"{rate}\"\ncount = 1"), None, 1).await;
            assert_eq!(rows.len(), 1);
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let mut context = build_context();
        context.once = true;
        let text = "[source.g]\ntype = \"generate\"\nstart = \"soon\"\ncolumns = { ts = { kind = \"sine\" }, r = { kind = \"random\", min = 2, max = 1 }, w = { kind = \"words\" } }\n";
        let errors = (SOURCE.build)(&node(text), &context).err().expect("is wrong");
        assert_eq!(errors.0.len(), 5, "{errors}");
        assert!(errors.0.iter().all(|error| error.code == "TG-C035" && error.span.is_some()), "{errors:?}");
    }
}
