//! The clock as a source: a row at each time of a cron expression or interval.
//! Its event time is the time it was due, not the time it was noticed, so that
//! a replay gives the same row.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Field;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use tidegate_engine::catalog::{BuildSource, Row};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::error::{ConfigError, ConnectorError};
use tidegate_engine::schema::StreamSchema;
use tidegate_engine::source::{Polled, Position, Rows, Source, SourcePart, WatermarkPolicy};
use tidegate_engine::time::{Clock, Time, micros, time_type};
use tidegate_engine::topology::key::{Key, Kind, optional};
use tidegate_engine::topology::node::{BuildContext, NodeConfig};
use tokio::time::Instant;

const KEYS: &[Key] = &[
    optional(
        "every",
        Kind::Duration,
        "an interval, counted from 1970-01-01T00:00Z: \"1h\" is at each full hour",
    ),
    optional(
        "cron",
        Kind::Text,
        "a cron expression, e.g. \"0 6 * * MON-FRI\"; six fields begin with seconds",
    ),
    optional("zone", Kind::Text, "cron: the time zone, e.g. \"Europe/Berlin\", default \"UTC\""),
    optional(
        "missed",
        Kind::Word(&["skip", "run_latest", "run_all"]),
        "times that passed while nothing ran or the clock was set forward, default \"skip\"",
    ),
];

/// `[source.x] type = "schedule"`.
pub(crate) const SOURCE: Row<BuildSource> = Row {
    name: "schedule",
    summary: "gives a row at each time of a cron expression or interval",
    keys: &[KEYS],
    example: r#"[source.morning]
type = "schedule"
cron = "0 6 * * MON-FRI"
zone = "Europe/Berlin"

[sink.out]
type = "stdout"
from = "morning"
"#,
    build,
};

/// Missed times that are made up for at most; earlier ones are given up.
const MISSED_MAX: usize = 10_000;
/// How often the wall clock is looked at: it may be set.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// The clock was set, or the machine slept, where it moves so much further than
/// time passes. After less than that no time is missed, only late.
const LEAP_MIN: Duration = Duration::from_secs(60);
/// Name of the event-time column.
const SCHEDULED_FOR: &str = "scheduled_for";

fn build(config: &NodeConfig, context: &BuildContext) -> Result<SourcePart, ConfigError> {
    let times = Times::from_config(config)?;
    let missed = match config.table.str("missed") {
        Some("run_latest") => Missed::Latest,
        Some("run_all") => Missed::All,
        Some(_) | None => Missed::Skip,
    };
    let fields = vec![Field::new("ts", time_type(), false), Field::new(SCHEDULED_FOR, time_type(), false)];
    let stream = StreamSchema::new(fields, Some(SCHEDULED_FOR));
    let source = Schedule {
        times,
        missed,
        once: context.once,
        clock: Arc::clone(&context.clock),
        stream: stream.clone(),
        node: config.name.clone(),
        last: Time::MIN,
        due: VecDeque::new(),
        looked: None,
        is_behind: false,
    };
    let watermark = WatermarkPolicy::default();
    // A time that was given and lost again would count as missed: remember it soon.
    Ok(SourcePart {
        source: Box::new(source),
        stream,
        watermark,
        replayable: true,
        commit_quickly: true,
        logged: false,
    })
}

/// The times of a schedule.
enum Times {
    Every(i64),
    Cron(Box<Cron>, Tz),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    Skip,
    Latest,
    All,
}

impl Times {
    fn from_config(config: &NodeConfig) -> Result<Times, Diagnostic> {
        let table = &config.table;
        let wrong = |message: String, key: &str| Diagnostic::error("TG-C036", message).at(table.span_of(key));
        match (table.duration("every"), table.text("cron")) {
            (Some(_), Some(_)) => {
                Err(wrong(format!("source `{}` has both `every` and `cron`", config.name), "cron"))
            }
            (Some(every), None) if table.get("zone").is_some() => {
                let help = "every full hour is the same in every zone; days of a zone need `cron`";
                Err(wrong(format!("`zone` means nothing to `every` = {every:?}"), "zone").help(help))
            }
            (Some(every), None) if every < Duration::from_millis(1) => {
                Err(wrong("`every` is shorter than \"1ms\"".into(), "every"))
            }
            (Some(every), None) => Ok(Times::Every(micros(every))),
            (None, Some(cron)) => {
                let pattern = Cron::from_str(&cron.value).map_err(|error| {
                    wrong(format!("`{}` is no cron expression: {error}", cron.value), "cron")
                })?;
                let zone = table.str("zone").unwrap_or("UTC");
                let zone = Tz::from_str(zone).map_err(|_| {
                    let zones = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
                    wrong(format!("there is no time zone `{zone}`"), "zone").suggest(zone, zones)
                })?;
                let times = Times::Cron(Box::new(pattern), zone);
                match times.after(Time(0)) {
                    Some(_) => Ok(times),
                    None => Err(wrong(format!("`{}` never comes", cron.value), "cron")),
                }
            }
            (None, None) => {
                let message = format!("source `{}` has neither `every` nor `cron`", config.name);
                let help = "write every = \"1h\" or cron = \"0 6 * * *\"";
                Err(Diagnostic::error("TG-C004", message).at(config.name_span.clone()).help(help))
            }
        }
    }

    /// The first time after this one; `None` if there is none.
    fn after(&self, time: Time) -> Option<Time> {
        match self {
            Times::Every(every) => time.0.div_euclid(*every).checked_add(1)?.checked_mul(*every).map(Time),
            Times::Cron(pattern, zone) => {
                let from = DateTime::<Utc>::from_timestamp_micros(time.0)?.with_timezone(zone);
                let next = pattern.find_next_occurrence(&from, false).ok()?;
                Some(Time(next.timestamp_micros()))
            }
        }
    }

    /// The times after one and up to another.
    fn between(&self, after: Time, to: Time) -> impl Iterator<Item = Time> {
        std::iter::successors(self.after(after), |time| self.after(*time)).take_while(move |time| *time <= to)
    }

    /// A time, not before `last`, with so many times between it and `now`, if
    /// there are as many, and not with many more: the clock may stand years ahead.
    fn shortly_before(&self, now: Time, last: Time, count: usize) -> Time {
        let least_us = match self {
            Times::Every(every) => *every,
            Times::Cron(..) => 1_000_000,
        };
        let mut span_us = least_us.saturating_mul(i64::try_from(count).unwrap_or(i64::MAX));
        loop {
            let from = Time(now.0.saturating_sub(span_us)).max(last);
            if from == last || self.between(from, now).take(count).count() == count {
                return from;
            }
            span_us = span_us.saturating_mul(4);
        }
    }
}

struct Schedule {
    node: String,
    times: Times,
    missed: Missed,
    once: bool,
    clock: Arc<dyn Clock>,
    stream: StreamSchema,
    /// The last time that was given or passed over.
    last: Time,
    /// Times that are due, oldest first.
    due: VecDeque<Time>,
    /// What the clock said last, and when.
    looked: Option<(Time, Instant)>,
    /// Whether the clock stands before `last`, and that was said.
    is_behind: bool,
}

#[async_trait]
impl Source for Schedule {
    async fn open(&mut self, resume: Option<&Position>) -> Result<(), ConnectorError> {
        let now = self.clock.now();
        let last: Option<i64> = resume.map(Position::read).transpose()?;
        self.due.clear();
        self.looked = Some((now, Instant::now()));
        match last {
            Some(last) => self.miss(Time(last), now),
            None => self.last = now,
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Polled, ConnectorError> {
        while self.due.is_empty() {
            if self.once {
                return Ok(Polled::End);
            }
            self.wait().await;
        }
        let times: Vec<i64> = self.due.drain(..).map(|time| time.0).collect();
        let last = times.last().copied().unwrap_or(self.last.0);
        self.last = self.last.max(Time(last));
        let now = vec![self.clock.now().0; times.len()];
        let column = |times: Vec<i64>| {
            Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) as ArrayRef
        };
        let batch = RecordBatch::try_new(Arc::clone(&self.stream.columns), vec![column(now), column(times)]);
        let batch = batch.map_err(|error| ConnectorError::Fatal(error.to_string()))?;
        Ok(Polled::Rows(Rows {
            partition: 0,
            batch,
            rejects: None,
            position: Position::of(&last),
            received: None,
        }))
    }
}

impl Schedule {
    /// Passes over the times up to now, and makes up for those that are wanted.
    fn miss(&mut self, last: Time, now: Time) {
        // A clock that was set back gives no time twice.
        self.last = now.max(last);
        let kept = match self.missed {
            Missed::Skip => return,
            Missed::Latest => 1,
            Missed::All => MISSED_MAX,
        };
        let from = self.times.shortly_before(now, last, kept);
        for time in self.times.between(from, now) {
            self.due.push_back(time);
            if self.due.len() > kept {
                self.due.pop_front();
            }
        }
    }

    /// Whether the clock was set forward since it was looked at, or the machine
    /// has slept: what passed meanwhile was missed and is not late.
    fn was_set_forward(&mut self, now: Time) -> bool {
        let before = self.looked.replace((now, Instant::now()));
        before.is_some_and(|(then, at)| now.since(then) > at.elapsed() + LEAP_MIN)
    }

    /// Says it once when the clock stands far before a time that was given.
    fn tell_if_set_back(&mut self, now: Time) {
        let ahead = self.last.since(now);
        let is_ahead = ahead > LEAP_MIN;
        if is_ahead && !self.is_behind {
            let last = self.last;
            tracing::warn!(node = %self.node, "the clock was set back: {last} was given already, and nothing is due for {ahead:?}");
        }
        self.is_behind = is_ahead;
    }

    /// Waits for the next time, or for a moment where it is far away.
    async fn wait(&mut self) {
        let Some(next) = self.times.after(self.last) else {
            // A cron expression such as 30 February has no time at all.
            return std::future::pending().await;
        };
        let now = self.clock.now();
        if self.was_set_forward(now) && now >= next {
            return self.miss(self.last, now);
        }
        self.tell_if_set_back(now);
        if now < next {
            tokio::time::sleep(next.since(now).min(LOOK_MAX)).await;
            return;
        }
        self.last = next;
        self.due.push_back(next);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use arrow::array::AsArray;
    use arrow::datatypes::TimestampMicrosecondType;

    use super::*;
    use crate::testing::{build_context, node};

    #[derive(Debug)]
    struct SetClock(AtomicI64);

    impl Clock for SetClock {
        fn now(&self) -> Time {
            Time(self.0.load(Ordering::SeqCst))
        }
    }

    fn times(keys: &str) -> Result<Times, Diagnostic> {
        Times::from_config(&node(&format!("[source.s]\ntype = \"schedule\"\n{keys}\n")))
    }

    fn at(text: &str) -> Time {
        crate::format::time_of(text).expect("a time")
    }

    fn following(keys: &str, from: &str, count: usize) -> Vec<String> {
        let times = times(keys).unwrap_or_else(|error| panic!("{error:?}"));
        let next = std::iter::successors(times.after(at(from)), |time| times.after(*time));
        next.take(count).map(|time| time.to_string().replace(":00.000000Z", "Z")).collect()
    }

    #[test]
    fn times_follow_the_calendar_of_their_zone() {
        assert_eq!(
            following("every = \"1h\"", "1969-12-31T22:30:00Z", 2),
            ["1969-12-31T23:00Z", "1970-01-01T00:00Z"]
        );
        assert_eq!(
            following("cron = \"*/20 6 * * *\"", "2024-01-01T06:20:00Z", 2),
            ["2024-01-01T06:40Z", "2024-01-02T06:00Z"]
        );
        // Berlin goes from UTC+1 to UTC+2 in the night of 2024-03-31 and back on 2024-10-27.
        let berlin = "cron = \"0 6 * * *\"\nzone = \"Europe/Berlin\"";
        assert_eq!(following(berlin, "2024-03-30T00:00:00Z", 2), ["2024-03-30T05:00Z", "2024-03-31T04:00Z"]);
        assert_eq!(following(berlin, "2024-10-26T00:00:00Z", 2), ["2024-10-26T04:00Z", "2024-10-27T05:00Z"]);
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        for (keys, word) in [
            ("", "neither"),
            ("every = \"1s\"\ncron = \"* * * * *\"", "both"),
            ("every = \"1s\"\nzone = \"UTC\"", "zone"),
            ("every = \"10us\"", "1ms"),
            ("cron = \"61 * * * *\"", "61 * * * *"),
            ("cron = \"* * * * *\"\nzone = \"Europe/Berln\"", "Berln"),
        ] {
            let error = times(keys).err().expect(keys);
            assert!(error.message.contains(word) && error.span.is_some(), "{error:?}");
        }
        assert_eq!(
            times("cron = \"* * * * *\"\nzone = \"Europe/Berln\"")
                .err()
                .and_then(|error| error.help)
                .as_deref(),
            Some("did you mean `Europe/Berlin`?")
        );
    }

    /// The hours that a source gives which stopped at 03:00 and goes on at 06:59:30.
    async fn after_a_night(missed: &str) -> Vec<i64> {
        let clock = Arc::new(SetClock(AtomicI64::new(at("2024-01-01T06:59:30Z").0)));
        let mut context = build_context();
        context.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let text = format!("[source.s]\ntype = \"schedule\"\nevery = \"1h\"\nmissed = \"{missed}\"\n");
        let mut source = (SOURCE.build)(&node(&text), &context).expect("a right node").source;
        source.open(Some(&Position::of(&at("2024-01-01T03:00:00Z").0))).await.expect("opens");
        clock.0.store(at("2024-01-01T07:00:01Z").0, Ordering::SeqCst);
        let mut hours = Vec::new();
        while hours.last() != Some(&7) {
            let polled = tokio::time::timeout(Duration::from_secs(30), source.next()).await.expect("in time");
            let Polled::Rows(rows) = polled.expect("reads") else { panic!("ended") };
            let due = rows.batch.column(1).as_primitive::<TimestampMicrosecondType>();
            hours.extend(due.values().iter().map(|time| time / 3_600_000_000 % 24));
        }
        hours
    }

    #[tokio::test]
    async fn missed_times_are_skipped_or_made_up_for() {
        assert_eq!(after_a_night("skip").await, [7]);
        assert_eq!(after_a_night("run_latest").await, [6, 7]);
        assert_eq!(after_a_night("run_all").await, [4, 5, 6, 7]);
    }

    /// How many rows a source gives whose clock leaps by a year, up to the first
    /// one behind it.
    async fn after_a_year(keys: &str) -> usize {
        let clock = Arc::new(SetClock(AtomicI64::new(at("2024-01-01T06:00:00Z").0)));
        let mut context = build_context();
        context.clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let text = format!("[source.s]\ntype = \"schedule\"\n{keys}\n");
        let mut source = (SOURCE.build)(&node(&text), &context).expect("a right node").source;
        source.open(None).await.expect("opens");
        clock.0.store(at("2024-12-31T06:00:00.5Z").0, Ordering::SeqCst);
        let (mut rows, behind) = (0, at("2024-12-31T06:00:01Z").0);
        loop {
            let ahead = Duration::from_millis(200);
            let Ok(polled) = tokio::time::timeout(ahead, source.next()).await else {
                clock.0.store(behind, Ordering::SeqCst);
                continue;
            };
            let Polled::Rows(found) = polled.expect("reads") else { panic!("ended") };
            rows += found.batch.num_rows();
            let due = found.batch.column(1).as_primitive::<TimestampMicrosecondType>();
            if due.values().contains(&behind) {
                return rows;
            }
        }
    }

    #[tokio::test]
    async fn a_clock_that_is_set_a_year_ahead_makes_no_storm() {
        for times in ["every = \"1s\"", "cron = \"* * * * * *\""] {
            for (missed, expected) in [("skip", 1), ("run_latest", 2), ("run_all", MISSED_MAX + 1)] {
                let keys = format!("{times}\nmissed = \"{missed}\"");
                let limit = Duration::from_secs(30);
                let rows = tokio::time::timeout(limit, after_a_year(&keys)).await.expect("in time");
                assert_eq!(rows, expected, "{keys}");
            }
        }
    }
}
