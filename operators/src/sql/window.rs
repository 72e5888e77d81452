//! `tumble(time, size)`, `hop(time, slide, size)` and `session(time, gap)`: which
//! windows a query means.

use datafusion::sql::sqlparser::ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::schema::StreamKind;

use super::interval::{self, Interval, written};
use super::place::Places;
use super::refuse;
use super::relation::{Relation, Scope, Windowed};
use super::rewrite::{name_of, one};

/// The functions that make windows.
const FUNCTIONS: &[(&str, &str)] = &[
    ("tumble", "tumble(time, size), e.g. tumble(ts, '1m')"),
    ("hop", "hop(time, slide, size), e.g. hop(ts, '10s', '1m')"),
    ("session", "session(time, gap), e.g. session(ts, '30s')"),
];

pub(super) fn is_window(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, _)| *known == name)
}

/// Windows, as the operator `window` says them.
pub(super) struct Windows {
    pub(super) words: Vec<(&'static str, String)>,
    /// Set if they are of one size.
    pub(super) windowed: Option<Windowed>,
}

/// The call of a window function, if the expression is one.
pub(super) fn call(expr: &Expr) -> Option<&Function> {
    match expr {
        Expr::Function(call) if is_window(&name_of(call)) => Some(call),
        Expr::Nested(inner) => self::call(inner),
        _ => None,
    }
}

/// The windows that a call means over the rows of a relation.
pub(super) fn read(call: &Function, relation: &Relation, places: &Places) -> Result<Windows, Diagnostic> {
    let name = name_of(call);
    let usage = FUNCTIONS.iter().find(|(known, _)| *known == name).map_or("", |(_, usage)| usage);
    let (time, lengths) = arguments(call, usage, places)?;
    check_time(time, &name, relation, places)?;
    let mut lengths = lengths.iter().map(|expr| length(expr, usage, places));
    let mut next = || lengths.next().unwrap_or_else(|| Err(arity(call, usage, places)));
    let windows = match name.as_str() {
        "tumble" => tumbling(next()?, call, places)?,
        "hop" => {
            let slide_us = fixed(next()?, call, places)?;
            let size_us = fixed(next()?, call, places)?;
            let words =
                vec![("kind", "hopping".into()), ("size", written(size_us)), ("slide", written(slide_us))];
            Windows { words, windowed: Some(Windowed { size_us, slide_us }) }
        }
        _ => {
            let gap_us = fixed(next()?, call, places)?;
            Windows { words: vec![("kind", "session".into()), ("gap", written(gap_us))], windowed: None }
        }
    };
    match lengths.next() {
        Some(_) => Err(arity(call, usage, places)),
        None => Ok(windows),
    }
}

fn tumbling(size: Interval, call: &Function, places: &Places) -> Result<Windows, Diagnostic> {
    let size_us = match size {
        Interval::Fixed(size_us) => size_us,
        Interval::Months(months) => {
            let units = [(1, "month"), (3, "quarter"), (12, "year")];
            let Some((_, unit)) = units.iter().find(|(length, _)| *length == months) else {
                let message = format!("there are no windows of {months} months");
                return Err(wrong(
                    call,
                    message,
                    "by the calendar there are '1 month', '1 quarter' and '1 year'",
                    places,
                ));
            };
            let words = vec![("kind", "calendar".into()), ("unit", (*unit).to_owned())];
            return Ok(Windows { words, windowed: None });
        }
    };
    let words = vec![("kind", "tumbling".into()), ("size", written(size_us))];
    Ok(Windows { words, windowed: Some(Windowed { size_us, slide_us: size_us }) })
}

/// Windows over the results of windows of one size: all results of one window
/// have one event time.
pub(super) fn again(windowed: Windowed) -> Windows {
    let Windowed { size_us, slide_us } = windowed;
    let mut words = vec![("kind", "tumbling".to_owned()), ("size", written(slide_us))];
    if size_us % slide_us.max(1) != 0 {
        words.push(("offset", written(size_us % slide_us.max(1))));
    }
    Windows { words, windowed: Some(windowed) }
}

/// The time and the lengths of a call.
pub(super) fn arguments<'a>(
    call: &'a Function,
    usage: &str,
    places: &Places,
) -> Result<(&'a Expr, Vec<&'a Expr>), Diagnostic> {
    let FunctionArguments::List(list) = &call.args else { return Err(arity(call, usage, places)) };
    let all = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    let all: Option<Vec<&Expr>> = all.collect();
    match all.as_deref() {
        Some([time, lengths @ ..]) => Ok((time, lengths.to_vec())),
        _ => Err(arity(call, usage, places)),
    }
}

fn check_time(time: &Expr, name: &str, relation: &Relation, places: &Places) -> Result<(), Diagnostic> {
    let place = places.in_file(places.of(time));
    let event_time = relation.time();
    let names = match time {
        Expr::Identifier(name) => std::slice::from_ref(name),
        Expr::CompoundIdentifier(names) => names,
        _ => {
            let message = format!("the first argument of `{name}` is the column of event time");
            return Err(Diagnostic::error("TG-S003", message).at(place));
        }
    };
    let found = one(names, &Scope::of(relation), places)?;
    if relation.stream.kind == StreamKind::Changelog {
        return Err(refuse::changes(
            places.of(time),
            &format!("`{name}` would close windows over results that may still change"),
            "group the rows themselves into windows, and what comes of that again",
            places,
        ));
    }
    let Some(event_time) = event_time else {
        let message = format!("`{name}` needs event time, but the rows here have none");
        return Err(Diagnostic::error("TG-T007", message).at(place).help(
            "let the inner SELECT keep the time column, or name one with `time = { column = … }` at the source",
        ));
    };
    if relation.is_time(found.column) {
        return Ok(());
    }
    let message = format!("`{}` is not the event time of these rows", found.column.name);
    let help =
        format!("event time is `{}`: windows follow it, since only it has a watermark", event_time.name);
    Err(Diagnostic::error("TG-S003", message).at(place).help(help))
}

fn length(expr: &Expr, usage: &str, places: &Places) -> Result<Interval, Diagnostic> {
    interval::of(expr).ok_or_else(|| {
        let message = "a length of time is due here, such as '10s', '5 minutes' or INTERVAL '1' HOUR";
        let diagnostic = Diagnostic::error("TG-S003", message).at(places.in_file(places.of(expr)));
        diagnostic.help(format!("it is {usage}"))
    })
}

fn fixed(length: Interval, call: &Function, places: &Places) -> Result<i64, Diagnostic> {
    match length {
        Interval::Fixed(us) => Ok(us),
        Interval::Months(_) => {
            let message = format!("months are of different lengths, and `{}` needs one", name_of(call));
            Err(wrong(call, message, "tumble(time, '1 month') makes windows by the calendar", places))
        }
    }
}

fn arity(call: &Function, usage: &str, places: &Places) -> Diagnostic {
    let message = format!("`{}` has other arguments", name_of(call));
    wrong(call, message, &format!("it is {usage}"), places)
}

fn wrong(call: &Function, message: String, help: &str, places: &Places) -> Diagnostic {
    Diagnostic::error("TG-S003", message).at(places.in_file(call_place(call, places))).help(help)
}

/// The function's name.
pub(super) fn call_place(call: &Function, places: &Places) -> std::ops::Range<usize> {
    super::place::parts(&call.name).next().map_or_else(|| places.all(), |name| places.of_name(name))
}
