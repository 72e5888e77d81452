//! What fired, against a recomputation from the rows: nothing but them and
//! their order decides, whatever crashed in between.

use std::collections::BTreeMap;

use rusqlite::Connection;

use crate::scenario::{HOLD_US, On, Scenario};
use crate::source::DISORDER;
use crate::world::{Row, World};

use super::{bag, differences};

/// Firings of the journal are those of the rows, no more, no less.
pub(super) fn firings_equal_a_recomputation(scenario: &Scenario, world: &World) -> Result<(), String> {
    let Some(flow) = scenario.flow.as_ref().filter(|_| scenario.is_determined()) else { return Ok(()) };
    let journal = Connection::open(world.folder.journal()).expect("the journal");
    let mut firings = journal.prepare("SELECT key, fired_at, ordinal FROM firings").expect("a query");
    let firings = firings.query_map((), |row| {
        let (key, fired_at, ordinal): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(format!("{key} {fired_at} {ordinal}"))
    });
    let found: Vec<String> = firings.expect("a table").map(|line| line.expect("a row")).collect();
    let expected = Recomputation::new(flow.on).run(scenario, &world.lock().sources["in0"].rows);
    differences(&bag(&expected), &bag(&found))
        .map_or(Ok(()), |differ| Err(format!("firings differ: {differ}")))
}

/// What is known of a key.
#[derive(Default)]
struct Key {
    seen_us: i64,
    /// How far behind event time its last row was.
    behind_us: i64,
    active: bool,
    since_us: Option<i64>,
    silent: bool,
    count: i64,
}

struct Recomputation {
    on: On,
    keys: BTreeMap<String, Key>,
    fired: Vec<String>,
}

impl Recomputation {
    fn new(on: On) -> Recomputation {
        Recomputation { on, keys: BTreeMap::new(), fired: Vec::new() }
    }

    fn run(mut self, scenario: &Scenario, rows: &[Row]) -> Vec<String> {
        let (mut watermark, mut largest) = (i64::MIN, i64::MIN);
        let mut waiting: Vec<&Row> = Vec::new();
        for row in rows {
            if scenario.keeps(row) {
                if row.time_us <= watermark {
                    self.judge(row, watermark);
                } else {
                    waiting.push(row);
                }
            }
            largest = largest.max(row.time_us);
            let next = largest - DISORDER.as_micros() as i64;
            if next > watermark {
                self.pass(next, watermark, &mut waiting);
                watermark = next;
            }
        }
        // At the end event time comes to the largest row.
        self.pass(largest, watermark, &mut waiting);
        self.fired
    }

    /// Event time comes to `to_us`.
    fn pass(&mut self, to_us: i64, from_us: i64, waiting: &mut Vec<&Row>) {
        // The sort is stable: rows of one instant stay in the order they came.
        waiting.sort_by_key(|row| row.time_us);
        let due = waiting.partition_point(|row| row.time_us <= to_us);
        for row in waiting.drain(..due) {
            self.judge(row, from_us);
        }
        for name in self.keys.keys().cloned().collect::<Vec<_>>() {
            let key = &self.keys[&name];
            if let Some(due_us) = self.due(key).filter(|due| due + key.behind_us <= to_us) {
                self.fall_due(&name, due_us);
            }
        }
    }

    fn due(&self, key: &Key) -> Option<i64> {
        match self.on {
            On::Rise | On::Row => None,
            On::Hold => key.since_us.filter(|_| !key.active).map(|since| since + HOLD_US),
            On::Absent => (!key.silent).then_some(key.seen_us + HOLD_US),
        }
    }

    fn fall_due(&mut self, name: &str, due_us: i64) {
        let key = self.keys.get_mut(name).expect("is known");
        key.active = true;
        key.silent = true;
        self.fire(name, due_us);
    }

    fn fire(&mut self, name: &str, at_us: i64) {
        let key = self.keys.get_mut(name).expect("is known");
        key.count += 1;
        self.fired.push(format!("{name} {at_us} {}", key.count));
    }

    fn judge(&mut self, row: &Row, watermark: i64) {
        let name = row.key.clone();
        if let Some(key) = self.keys.get(&name)
            && let Some(due_us) = self.due(key).filter(|due| *due <= row.time_us)
        {
            self.fall_due(&name, due_us);
        }
        let key =
            self.keys.entry(name.clone()).or_insert_with(|| Key { seen_us: row.time_us, ..Key::default() });
        if row.time_us < key.seen_us {
            return;
        }
        key.seen_us = row.time_us;
        key.behind_us = watermark.saturating_sub(row.time_us).max(0);
        key.silent = false;
        let holds = match self.on {
            On::Rise => row.number % 4 < 2,
            On::Row => row.number % 6 == 0,
            On::Hold => row.number % 5 < 4,
            On::Absent => return,
        };
        if !holds {
            key.since_us = None;
            key.active = false;
            return;
        }
        key.since_us.get_or_insert(row.time_us);
        let was_active = key.active;
        key.active |= self.on != On::Hold;
        if self.on == On::Row || self.on == On::Rise && !was_active {
            self.fire(&name, row.time_us);
        }
    }
}
