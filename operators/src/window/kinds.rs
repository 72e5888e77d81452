//! The table `window = { kind = …, … }`: which windows there are, and what each
//! kind needs to be told.

use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::time::micros;
use tidegate_engine::topology::key::{Key, Kind as Value, optional, required};
use tidegate_engine::topology::value::{Table, Text};

use super::calendar::{Calendar, Unit};
use super::count::Count;
use super::frame::{Frame, PANES_MAX};
use super::session::Session;

/// A time, or a number of rows.
const LENGTH: Value = Value::AnyOf(&[Value::Duration, Value::Int(1, i64::MAX)]);

pub(super) const WINDOW_KEYS: &[Key] = &[
    required(
        "kind",
        Value::Word(KIND_WORDS),
        "tumbling: one after the other; hopping: overlapping; calendar: days, weeks, months; session: until a key is silent; count: so many rows; sliding: one for each row, of those before it; state: from one condition to another",
    ),
    optional("size", LENGTH, "length of a window; with `count` its number of rows"),
    optional("slide", LENGTH, "from the start of one window to the next (hopping, count)"),
    optional("offset", Value::Duration, "moves all windows later by this much (tumbling, hopping, calendar)"),
    optional("unit", Value::Word(Unit::WORDS), "how long a calendar window is"),
    optional("zone", Value::Text, "whose calendar, e.g. \"Europe/Berlin\"; \"UTC\" if left out"),
    optional("gap", Value::Duration, "silence that ends a session"),
    optional("max", Value::Duration, "longest session; without end if left out"),
    optional("open", Value::Expression, "condition of the first row of a state window"),
    optional("close", Value::Expression, "condition of its last row"),
];

const KIND_WORDS: &[&str] = &["tumbling", "hopping", "calendar", "session", "count", "sliding", "state"];

/// What each kind must and may have beside `kind`.
const RULES: &[(&str, &[&str], &[&str], &str)] = &[
    ("tumbling", &["size"], &["offset"], "size = \"10s\""),
    ("hopping", &["size", "slide"], &["offset"], "size = \"10m\", slide = \"1m\""),
    ("calendar", &["unit"], &["zone", "offset"], "unit = \"day\", zone = \"Europe/Berlin\""),
    ("session", &["gap"], &["max"], "gap = \"5m\""),
    ("count", &["size"], &["slide"], "size = 100"),
    ("sliding", &["size"], &[], "size = \"10s\""),
    ("state", &["open", "close"], &[], "open = \"running\", close = \"NOT running\""),
];

/// A window's table, read.
pub(super) enum Kind {
    Panes(Frame),
    Session(Session),
    Count(Count),
    Sliding { size_us: i64 },
    State { open: Text, close: Text },
}

pub(super) fn read(table: &Table, out: &mut Vec<Diagnostic>) -> Option<Kind> {
    let word = table.str("kind")?;
    let (_, needs, may, example) = RULES.iter().find(|(kind, ..)| *kind == word)?;
    let before = out.len();
    for key in needs.iter().filter(|key| table.get(key).is_none()) {
        let diagnostic = Diagnostic::error("TG-C004", format!("a {word} window needs `{key}`"));
        out.push(diagnostic.at(table.span.clone()).help(format!("e.g. {example}")));
    }
    for key in WINDOW_KEYS.iter().map(|key| key.name).filter(|name| *name != "kind") {
        if table.get(key).is_some() && !needs.contains(&key) && !may.contains(&key) {
            let diagnostic = Diagnostic::error("TG-C006", format!("a {word} window has no `{key}`"));
            let all: Vec<&str> = needs.iter().chain(may.iter()).copied().collect();
            out.push(diagnostic.at(table.span_of(key)).help(format!("it has {}", all.join(", "))));
        }
    }
    for key in ["size", "slide"].into_iter().filter(|key| table.get(key).is_some()) {
        match table.int(key) {
            Some(number) if word != "count" => {
                let message = format!("`{key}` of a {word} window is a time, and {number} has no unit");
                let diagnostic = Diagnostic::error("TG-C010", message).at(table.span_of(key));
                out.push(diagnostic.help(format!("write \"{number}s\"")));
            }
            None if word == "count" => {
                let message = format!("`{key}` of a count window is a number of rows");
                out.push(Diagnostic::error("TG-C006", message).at(table.span_of(key)));
            }
            Some(_) | None => {}
        }
    }
    if out.len() > before {
        return None;
    }
    let time = |key: &str| table.duration(key).map(micros);
    let offset_us = time("offset").unwrap_or(0);
    let kind = match word {
        "tumbling" | "hopping" => {
            let size_us = time("size")?;
            Frame::even(size_us, time("slide").unwrap_or(size_us), offset_us).map(Kind::Panes)
        }
        "calendar" => calendar(table, offset_us).map(|calendar| Kind::Panes(Frame::calendar(calendar))),
        "session" => Session::new(time("gap")?, time("max").unwrap_or(i64::MAX)).map(Kind::Session),
        "count" => {
            let size = table.int_as("size")?;
            Count::new(size, table.int_as("slide").unwrap_or(size), PANES_MAX.unsigned_abs()).map(Kind::Count)
        }
        "sliding" => match time("size")? {
            0 => Err("a window is at least 1 µs long".into()),
            size_us => Ok(Kind::Sliding { size_us }),
        },
        "state" => Ok(Kind::State { open: table.text("open")?.clone(), close: table.text("close")?.clone() }),
        _ => return None,
    };
    kind.map_err(|message| out.push(Diagnostic::error("TG-C006", message).at(table.span.clone()))).ok()
}

fn calendar(table: &Table, offset_us: i64) -> Result<Calendar, String> {
    let unit = table.str("unit").and_then(Unit::of).ok_or("an unknown unit")?;
    let zone = table.str("zone").unwrap_or("UTC");
    let zone =
        zone.parse().map_err(|_| format!("there is no time zone `{zone}`; write e.g. \"Europe/Berlin\""))?;
    Calendar::new(unit, zone, offset_us)
}
