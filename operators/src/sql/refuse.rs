//! What cannot run on a stream, or is not there yet: each at its word, with what
//! to write instead.

use std::ops::Range;

use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, Function, GroupByExpr, OrderBy, Query, Select, SetExpr, SetOperator, TableAlias,
};
use tidegate_engine::diagnostic::Diagnostic;

use super::place::Places;
use super::rewrite::name_of;
use super::window::call_place;

const TOP: &str = "the best rows of each window are SELECT … FROM (SELECT …, ROW_NUMBER() OVER (PARTITION BY tumble(ts, '1m') ORDER BY value DESC) AS n FROM …) WHERE n <= 10";
const ONCE: &str = "GROUP BY the columns and tumble(ts, '1h') gives each once in an hour; so does DISTINCT ON (column, tumble(ts, '1h'))";

/// A message that something cannot run.
pub(super) fn refused(place: Range<usize>, message: &str, help: &str, places: &Places) -> Diagnostic {
    Diagnostic::error("TG-S002", message).at(places.in_file(place)).label("here").help(help)
}

/// Something that cannot be done with results that are given again as they change.
pub(super) fn changes(place: Range<usize>, message: &str, help: &str, places: &Places) -> Diagnostic {
    Diagnostic::error("TG-T012", message).at(places.in_file(place)).label("here").help(help)
}

/// The first row of each key of a whole stream.
pub(super) fn first(place: Range<usize>, places: &Places) -> Diagnostic {
    refused(
        place,
        "without a window the first row of a key is never known, since an earlier one may still come, and every key would be kept for ever",
        "name a window too: DISTINCT ON (k, tumble(ts, '1m')); the last row is ORDER BY k, ts DESC, and an operator of type `dedup` lets the first one of a time through",
        places,
    )
}

/// The parts of a query around its SELECT.
pub(super) fn query(query: &Query, places: &Places) -> Result<(), Diagnostic> {
    if let Some(with) = query.with.as_ref().filter(|with| with.recursive) {
        let place = places.of_span(with.with_token.0.span);
        let place = places.word_behind("RECURSIVE", place.start).unwrap_or(place);
        let help = "a topology is a graph without cycles";
        return Err(refused(place, "a recursive query would go round for ever on a stream", help, places));
    }
    let behind = places.of(query.body.as_ref()).start;
    let at = |word: &str| places.word_behind(word, behind).unwrap_or_else(|| places.all());
    if let Some(limit) = &query.limit_clause {
        let place = places.of(limit);
        let word = places.word_before("LIMIT", place.end).or(places.word_before("OFFSET", place.end));
        let message = "a stream has no end, so a limit over all of it would only cut it off";
        return Err(refused(word.unwrap_or(place), message, TOP, places));
    }
    let others = [
        (query.fetch.is_some(), "FETCH"),
        (!query.locks.is_empty() || query.for_clause.is_some(), "FOR"),
        (query.settings.is_some(), "SETTINGS"),
        (query.format_clause.is_some(), "FORMAT"),
    ];
    if let Some((_, word)) = others.iter().find(|(is_there, _)| *is_there) {
        return Err(unknown(word, at(word), places));
    }
    if !query.pipe_operators.is_empty() {
        return Err(unknown("|>", places.all(), places));
    }
    Ok(())
}

/// ORDER BY where nothing is chosen by it.
pub(super) fn order(order: Option<&OrderBy>, places: &Places) -> Result<(), Diagnostic> {
    let Some(order) = order else { return Ok(()) };
    let place = places.of(order);
    let place = places.word_before("ORDER", place.end).unwrap_or(place);
    let message = "a stream has no end, so its rows can never be put in order as a whole";
    let help = format!("rows leave in the order of event time behind an operator of type `sort`; {TOP}");
    Err(refused(place, message, &help, places))
}

/// What is no SELECT.
pub(super) fn body(body: &SetExpr, places: &Places) -> Diagnostic {
    match body {
        SetExpr::SetOperation { op, right, .. } => {
            let word = match op {
                SetOperator::Union => "UNION",
                SetOperator::Except => "EXCEPT",
                SetOperator::Intersect => "INTERSECT",
                SetOperator::Minus => "MINUS",
            };
            let right = places.of(right.as_ref());
            let place = places.word_before(word, right.start).unwrap_or(right);
            let message = format!("`{word}` compares every row with all others, which a stream never has");
            refused(place, &message, "UNION ALL puts streams together as they are", places)
        }
        SetExpr::Values(_) => {
            let help = "rows that stand in a file come from a source of type `file`";
            let place = places.word_behind("VALUES", 0).unwrap_or_else(|| places.all());
            refused(place, "a query over streams reads nodes, not values", help, places)
        }
        _ => {
            refused(places.word_at(0), "only SELECT can run on a stream", "write SELECT … FROM node", places)
        }
    }
}

/// A query that reads no node.
pub(super) fn nothing(body: &SetExpr, places: &Places) -> Diagnostic {
    match body {
        SetExpr::Select(select) => match select.from.first() {
            Some(from) => table(places.of(from), places),
            None => no_from(select, places),
        },
        SetExpr::Query(query) => nothing(&query.body, places),
        SetExpr::SetOperation { left, .. } => nothing(left, places),
        other => self::body(other, places),
    }
}

/// A SELECT without FROM.
pub(super) fn no_from(select: &Select, places: &Places) -> Diagnostic {
    let place = places.of_span(select.select_token.0.span);
    refused(place, "the query reads nothing", "write FROM and a node of this file", places)
}

/// The parts of a SELECT that no node does.
pub(super) fn select(select: &Select, places: &Places) -> Result<(), Diagnostic> {
    let start = places.of_span(select.select_token.0.span).start;
    let at = |word: &str| places.word_behind(word, start).unwrap_or_else(|| places.all());
    if matches!(select.distinct, Some(Distinct::Distinct)) {
        let message = "to leave out what came before, every row of the stream would have to be kept for ever";
        return Err(refused(at("DISTINCT"), message, ONCE, places));
    }
    if select.qualify.is_some() {
        let message = "`QUALIFY` is not known here";
        return Err(refused(at("QUALIFY"), message, TOP, places));
    }
    let others = [
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "INTO"),
        (!select.lateral_views.is_empty(), "LATERAL"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT"),
        (!select.cluster_by.is_empty(), "CLUSTER"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE"),
        (!select.sort_by.is_empty(), "SORT"),
        (!select.named_window.is_empty(), "WINDOW"),
        (select.value_table_mode.is_some(), "AS"),
        (select.exclude.is_some(), "EXCLUDE"),
        (select.select_modifiers.is_some(), "SELECT"),
    ];
    if let Some((_, word)) = others.iter().find(|(is_there, _)| *is_there) {
        return Err(unknown(word, at(word), places));
    }
    let modifiers = match &select.group_by {
        GroupByExpr::All(_) => true,
        GroupByExpr::Expressions(_, modifiers) => !modifiers.is_empty(),
    };
    if modifiers {
        let message = "`GROUP BY` names its columns and one window here";
        return Err(refused(at("GROUP"), message, "e.g. GROUP BY device, tumble(ts, '1m')", places));
    }
    Ok(())
}

fn unknown(word: &str, place: Range<usize>, places: &Places) -> Diagnostic {
    let message = format!("`{word}` is not known here");
    refused(place, &message, "`tidegate doc operator.sql` says what a query may be made of", places)
}

/// A query inside an expression.
pub(super) fn subquery(query: &Query, places: &Places) -> Diagnostic {
    let place = places.of(query);
    let place = places.word_before("SELECT", place.end).unwrap_or(place);
    refused(
        place,
        "a query inside an expression would have to be answered anew for each row",
        "join the two: FROM a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts",
        places,
    )
}

/// A function with OVER.
pub(super) fn over(call: &Function, places: &Places) -> Diagnostic {
    let name = name_of(call);
    let place = call_place(call, places);
    if name == "row_number" {
        return refused(
            place,
            "`ROW_NUMBER` of a stream is known up to a limit only: a row may change every number behind it",
            TOP,
            places,
        );
    }
    let message = format!("`{name}(…) OVER (…)` looks at rows of the whole stream");
    let help = match name.as_str() {
        "lag" | "lead" => "the previous row of a key is given by an operator of type `lag`",
        "rank" | "dense_rank" | "ntile" | "percent_rank" => TOP,
        _ => {
            "aggregates over the last so many seconds of each row are an operator of type `window` with kind = \"sliding\""
        }
    };
    refused(place, &message, help, places)
}

pub(super) fn misplaced_window(call: &Function, places: &Places) -> Diagnostic {
    let name = name_of(call);
    refused(
        call_place(call, places),
        &format!("`{name}` makes windows and is no value of a row"),
        "it belongs into GROUP BY, and then into SELECT in the same words; the start of an interval of a row is date_bin(INTERVAL '1 minute', ts)",
        places,
    )
}

pub(super) fn misplaced_unnest(call: &Function, places: &Places) -> Diagnostic {
    refused(
        call_place(call, places),
        "`unnest` makes rows and is no value of a row",
        "it stands alone as an item of SELECT, or in FROM: FROM node, UNNEST(node.list) AS item",
        places,
    )
}

/// Another number of names than there are columns.
pub(super) fn alias(alias: &TableAlias, columns: usize, places: &Places) -> Diagnostic {
    let message =
        format!("`{}` names {} columns, but there are {columns}", alias.name.value, alias.columns.len());
    Diagnostic::error("TG-S004", message).at(places.in_file(places.of_name(&alias.name)))
}

/// Something in FROM that is neither node nor query.
pub(super) fn table(place: Range<usize>, places: &Places) -> Diagnostic {
    let help = "FROM names nodes, tables, those of WITH, queries in brackets and UNNEST";
    refused(place, "a query over streams cannot read this", help, places)
}

/// The same column of a window twice, and other conditions that nothing can meet.
pub(super) fn condition(expr: &Expr, message: &str, help: &str, places: &Places) -> Diagnostic {
    refused(places.of(expr), message, help, places)
}
