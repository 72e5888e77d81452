//! Text to one query, within limits, with every mistake at its word.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, visit_expressions};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use tidegate_engine::diagnostic::Diagnostic;
use tidegate_engine::topology::value::Text;

use super::place::Places;
use crate::expression::location_in;

/// Longest query, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Most words, values and signs of a query. A chain of operators makes a tree as deep
/// as it is long, and whoever walks over it recurses.
pub(super) const WORDS_MAX: usize = 4_000;
/// Deepest nesting of brackets and queries.
const DEPTH_MAX: usize = 50;

/// The query, and the places of its words.
pub(super) fn parse(text: &Text) -> Result<(Query, Places), Diagnostic> {
    let all = || text.span_of(0..text.value.len());
    if text.value.len() > BYTES_MAX {
        let message = format!("the query has {} bytes; at most {BYTES_MAX}", text.value.len());
        return Err(too_long(message).at(all()));
    }
    if text.value.trim().is_empty() {
        return Err(Diagnostic::error("TG-S001", "the query is empty").at(all()));
    }
    let places = Places::new(text);
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, &text.value).tokenize_with_location();
    let tokens = tokens.map_err(|error| wrong(&places, &error.message, Some(error.location)))?;
    let mut words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    if let Some(token) = words.nth(WORDS_MAX) {
        let message = format!("the query is too long: at most {WORDS_MAX} words, values and signs");
        return Err(too_long(message).at(places.in_file(places.of_span(token.span))));
    }
    let places = places.with_tokens(&tokens);
    let mut parser = Parser::new(&dialect).with_recursion_limit(DEPTH_MAX).with_tokens_with_locations(tokens);
    let parsed = parser.parse_query().and_then(|query| {
        // A semicolon at the end is a habit of many.
        while parser.consume_token(&Token::SemiColon) {}
        match parser.peek_token_ref().token {
            Token::EOF => Ok(query),
            _ => parser.expected("the end of the query", parser.peek_token()),
        }
    });
    match parsed {
        Ok(query) => {
            check_distinct_from(&query, &places)?;
            Ok((*query, places))
        }
        Err(ParserError::RecursionLimitExceeded) => {
            let message = format!("the query is nested too deeply: at most {DEPTH_MAX} levels");
            Err(too_long(message).at(all()))
        }
        Err(error) => {
            let message = error.to_string();
            Err(wrong(&places, &message, location_in(&message)))
        }
    }
}

/// `a IS DISTINCT FROM b AND c` is read as if `b AND c` stood in brackets, which nobody means.
fn check_distinct_from(query: &Query, places: &Places) -> Result<(), Diagnostic> {
    let is_weaker = |expr: &Expr| {
        let weaker = |op: &BinaryOperator| {
            matches!(op, BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Xor)
        };
        matches!(expr, Expr::BinaryOp { op, .. } if weaker(op))
    };
    let found = visit_expressions(query, |expr| match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) if is_weaker(right) => {
            ControlFlow::Break(places.of(expr))
        }
        _ => ControlFlow::Continue(()),
    });
    match found {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(place) => {
            let message = "what stands behind AND or OR would be part of what IS DISTINCT FROM compares";
            let help = "put brackets around the comparison: (a IS DISTINCT FROM b) AND …";
            Err(Diagnostic::error("TG-S001", message).at(places.in_file(place)).help(help))
        }
    }
}

fn too_long(message: String) -> Diagnostic {
    Diagnostic::error("TG-X005", message).help("split it over several operators of type `sql`")
}

fn wrong(places: &Places, message: &str, at: Option<Location>) -> Diagnostic {
    let said = message.trim_start_matches("sql parser error: ");
    let said = said.split(" at Line").next().unwrap_or(said);
    let start = at.and_then(|at| places.byte(at));
    let place = start.map_or_else(|| places.all(), |start| places.word_at(start));
    let mut said: String = said.to_owned();
    if let Some(first) = said.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    Diagnostic::error("TG-S001", format!("not a query: {said}"))
        .at(places.in_file(place))
        .label("here")
        .help("it is one SELECT over nodes of this file")
}
