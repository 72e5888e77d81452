//! What a case says: a topology, its rows, and lives that end badly.

use std::time::Duration;

use tidegate_engine::testing::disk::Fault;

use crate::case::{Case, LIVES_MAX, Part, ROWS_MAX};
use crate::source::DISORDER;
use crate::world::{Outside, Row, START_US};

/// A kind of source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Goes back to any position.
    List,
    /// Sends again what was not acknowledged; its rows are logged.
    Peer,
    /// As `Peer`, without a log.
    Quick,
}

/// A window, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) size: i64,
    pub(crate) slide: i64,
    pub(crate) offset: i64,
}

/// When a trigger fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Rise,
    Row,
    Hold,
    Absent,
}

/// What its flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Tell,
    WaitAndTell(i64),
    Write,
    WriteAndFinally,
}

/// A trigger and its flow.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) on: On,
    pub(crate) does: Does,
    pub(crate) overlap: &'static str,
    pub(crate) max_age_s: i64,
    pub(crate) every_min: Duration,
    pub(crate) on_fail: &'static str,
    /// Somebody answers when the flow needs a person.
    pub(crate) has_people: bool,
}

impl Flow {
    pub(crate) fn writes(&self) -> bool {
        matches!(self.does, Does::Write | Does::WriteAndFinally)
    }
}

/// How long a trigger's instants wait, in microseconds.
pub(crate) const HOLD_US: i64 = 3_000_000;

/// How a life goes on and ends.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) after: Duration,
    /// By a stop, not by a kill.
    pub(crate) stops: bool,
    /// Faults by the number of disk operations from its beginning.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// The clock is set by so many microseconds after a time.
    pub(crate) jump: Option<(Duration, i64)>,
    /// A byte changes before the next life.
    pub(crate) damage: bool,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) interval_ms: u64,
    pub(crate) sources: Vec<Kind>,
    pub(crate) has_filter: bool,
    pub(crate) window: Window,
    /// Sinks publish with their epoch, and never go back.
    pub(crate) exact: bool,
    pub(crate) flow: Option<Flow>,
    pub(crate) rows: Vec<Outside>,
    pub(crate) lives: Vec<Life>,
}

impl Scenario {
    pub(crate) fn of(case: &Case) -> Scenario {
        let mut seed = case.choices(1);
        let has_damage = seed.chance(25) && case.has(Part::Damage);
        let exact = seed.chance(if has_damage { 30 } else { 85 });
        let pause_ms = [400, 400, 400, 5_000, 60_000][seed.below(5)];
        let pause_ms = if case.has(Part::Quiet) { pause_ms } else { 400 };
        let intervals: &[u64] = match pause_ms {
            400 => &[250, 1_000, 4_000],
            5_000 => &[10_000],
            _ => &[60_000],
        };
        let interval_ms = intervals[seed.below(intervals.len())];
        let kinds = [Kind::List, Kind::List, Kind::List, Kind::Peer, Kind::Peer, Kind::Quick];
        let mut sources = vec![kinds[seed.below(6)]];
        let second = kinds[seed.below(6)];
        if seed.chance(40) && case.has(Part::Second) {
            sources.push(second);
        }
        let has_filter = seed.chance(50) && case.has(Part::Filter);
        let window = [
            Window { size: 2_000_000, slide: 2_000_000, offset: 0 },
            Window { size: 700_000, slide: 700_000, offset: 100_000 },
            Window { size: 4_000_000, slide: 1_000_000, offset: 0 },
        ][seed.below(3)];
        let flow = flow(case);
        let rows = (0..sources.len()).map(|index| rows(case, index, pause_ms)).collect();
        let lives = lives(case, pause_ms, has_damage);
        Scenario { interval_ms, sources, has_filter, window, exact, flow, rows, lives }
    }

    /// Whether a crash changes neither what is late nor what fires.
    pub(crate) fn is_determined(&self) -> bool {
        self.sources == [Kind::List]
    }

    /// Whether a row passes the filter.
    pub(crate) fn keeps(&self, row: &Row) -> bool {
        !self.has_filter || row.number % 3 != 1
    }

    /// The topology as a file.
    pub(crate) fn text(&self) -> String {
        let mut text =
            format!("[topology]\ncheckpoint_interval = \"{}ms\"\nkeep_runs = \"36500d\"\n", self.interval_ms);
        let sink = if self.exact { "exact" } else { "plain" };
        for (index, kind) in self.sources.iter().enumerate() {
            let kind = format!("{kind:?}").to_lowercase();
            text += &format!("[source.in{index}]\ntype = \"{kind}\"\n");
            text += &format!("[sink.rejects{index}]\ntype = \"{sink}\"\nfrom = \"in{index}.rejects\"\n");
        }
        let mut from = "in0";
        if self.sources.len() == 2 {
            text += "[operator.both]\ntype = \"union\"\nfrom = [\"in0\", \"in1\"]\n";
            from = "both";
        }
        if self.has_filter {
            text +=
                &format!("[operator.some]\ntype = \"filter\"\nfrom = \"{from}\"\nwhere = \"n % 3 <> 1\"\n");
            from = "some";
        }
        text += &format!("[operator.probe]\ntype = \"probe\"\nfrom = \"{from}\"\n");
        let Window { size, slide, offset } = self.window;
        let kind = if size == slide { "tumbling" } else { "hopping" };
        let slide = if size == slide { String::new() } else { format!(", slide = \"{}ms\"", slide / 1_000) };
        text += &format!(
            "[operator.sums]\ntype = \"window\"\nfrom = \"{from}\"\nkey = [\"key\"]\nwindow = {{ kind = \"{kind}\", size = \"{}ms\"{slide}, offset = \"{}ms\" }}\nselect = [\"count(*) AS rows\", \"sum(n) AS total\"]\n",
            size / 1_000,
            offset / 1_000
        );
        for (name, from) in [("raw", from), ("windows", "sums"), ("late", "sums.late")] {
            text += &format!("[sink.{name}]\ntype = \"{sink}\"\nfrom = \"{from}\"\n");
        }
        if let Some(flow) = &self.flow {
            text += &flow.text(from);
        }
        text
    }
}

impl Flow {
    fn text(&self, from: &str) -> String {
        let on = match self.on {
            On::Rise => "when = \"n % 4 < 2\"".to_owned(),
            On::Row => "when = \"n % 6 = 0\"\non = \"row\"".to_owned(),
            On::Hold => format!("when = \"n % 5 < 4\"\nhold = \"{}ms\"", HOLD_US / 1_000),
            On::Absent => format!("absent_for = \"{}ms\"", HOLD_US / 1_000),
        };
        let mut text = format!(
            "[trigger.sees]\nfrom = \"{from}\"\nkey = [\"key\"]\n{on}\nstart = \"acts\"\ngive = {{ v = \"n % 110\", k = \"key\" }}\n"
        );
        text += &format!(
            "[flow.acts]\nparams = {{ v = \"int64\", k = \"string\" }}\none_per = \"k\"\noverlap = \"{}\"\nmode = \"armed\"\nmax_age = \"{}s\"\n",
            self.overlap, self.max_age_s
        );
        let tell = "[[flow.acts.task]]\nid = \"tell\"\ntype = \"emit\"\nname = \"told\"\ntext = \"{v}\"\n";
        let write = format!(
            "[[flow.acts.task]]\nid = \"set\"\ntype = \"sim.write\"\nvalue = \"v\"\non_fail = \"{}\"\n",
            self.on_fail
        );
        text += &match self.does {
            Does::Tell => tell.to_owned(),
            Does::WaitAndTell(seconds) => {
                format!("[[flow.acts.task]]\nid = \"rest\"\ntype = \"wait\"\nfor = \"{seconds}s\"\n{tell}")
            }
            Does::Write => write + tell,
            Does::WriteAndFinally => format!(
                "{write}[[flow.acts.finally]]\nid = \"tell\"\ntype = \"emit\"\nname = \"told\"\ntext = \"{{v}}\"\n"
            ),
        };
        text
    }
}

fn flow(case: &Case) -> Option<Flow> {
    let mut seed = case.choices(2);
    let is_there = seed.chance(60) && case.has(Part::Flow);
    let flow = Flow {
        on: [On::Rise, On::Row, On::Hold, On::Absent][seed.below(4)],
        does: [
            Does::Tell,
            Does::WaitAndTell(2),
            Does::WaitAndTell(40),
            Does::Write,
            Does::Write,
            Does::WriteAndFinally,
        ][seed.below(6)],
        overlap: ["allow", "skip", "queue", "queue_one", "replace"][seed.below(5)],
        max_age_s: [5, 60, 3_600][seed.below(3)],
        every_min: Duration::from_millis([0, 0, 2_000][seed.below(3)]),
        on_fail: ["pause", "pause", "fail", "continue"][seed.below(4)],
        has_people: seed.chance(75),
    };
    is_there.then_some(flow)
}

fn rows(case: &Case, index: usize, pause_ms: usize) -> Outside {
    let mut seed = case.choices(3 + index as u64);
    let mut time_us = START_US;
    let mut outside = Outside { pause_ms, ..Outside::default() };
    for row in 0..1 + seed.below(ROWS_MAX) {
        time_us += seed.below(600_000) as i64;
        let most = DISORDER.as_micros() as usize;
        // Some rows come later than the source allows for.
        let most = if seed.chance(5) { 4 * most } else { most };
        let disorder = seed.below(most) as i64;
        let number = (index * 1_000_000 + row) as i64;
        let key = format!("k{}", seed.below(4));
        outside.rows.push(Row { number, key, time_us: time_us - disorder });
    }
    outside.rows.truncate(case.rows);
    outside
}

fn lives(case: &Case, pause_ms: usize, has_damage: bool) -> Vec<Life> {
    const HOUR_US: i64 = 3_600_000_000;
    let mut seed = case.choices(6);
    let jumps = seed.chance(15) && case.has(Part::Jumps);
    let mut lives = Vec::new();
    for _ in 0..seed.below(LIVES_MAX + 1) {
        let after = Duration::from_millis(seed.below(pause_ms * 50) as u64);
        let stops = seed.chance(25) && case.has(Part::Stops);
        let mut faults = Vec::new();
        let fault = [Fault::Crash, Fault::Crash, Fault::NoSpace, Fault::SyncError][seed.below(4)];
        let more =
            [Fault::Stall(Duration::from_secs(5)), Fault::Full(40), Fault::ReadOnly(40)][seed.below(3)];
        let (reach, more_reach) = ([40, 150, 600, 2_500][seed.below(4)], [40, 400][seed.below(2)]);
        let (at, more_at) = (seed.below(reach) as u64, seed.below(more_reach) as u64);
        if fault == Fault::Crash || case.has(Part::Disk) {
            faults.push((at, fault));
        }
        if seed.chance(30) && case.has(Part::Disk) {
            faults.push((more_at, more));
        }
        let by_us = [HOUR_US, -HOUR_US, 24 * 365 * HOUR_US][seed.below(3)];
        let jump = seed.chance(50).then(|| (after / (1 + seed.below(4) as u32), by_us)).filter(|_| jumps);
        let damage = seed.chance(50) && has_damage;
        lives.push(Life { after, stops, faults, jump, damage });
    }
    lives.truncate(case.lives);
    lives
}
