//! How near in event time the two sides of a join must be, as its conditions say
//! it: `a.ts BETWEEN b.ts - INTERVAL '5 seconds' AND b.ts`, `a.ts = b.ts`, or both
//! in one window.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};
use tidegate_engine::diagnostic::Diagnostic;

use super::interval::{self, Interval};
use super::place::Places;
use super::relation::{Relation, Role, Scope};
use super::window;

/// What the conditions of a join say of time: how far the right row lies behind
/// the left one, at least and at most.
#[derive(Default)]
pub(super) struct Near {
    pub(super) from_us: Option<i64>,
    pub(super) to_us: Option<i64>,
    /// Both rows lie in one tumbling window of this size.
    pub(super) window_us: Option<i64>,
    /// Some condition says more than the bound does.
    pub(super) is_inexact: bool,
}

impl Near {
    /// Takes a condition into account; answers whether it is about nothing but
    /// time.
    pub(super) fn take(
        &mut self,
        expr: &Expr,
        scope: &Scope<'_>,
        places: &Places,
    ) -> Result<bool, Diagnostic> {
        match expr {
            Expr::Nested(inner) => self.take(inner, scope, places),
            Expr::Between { expr, negated: false, low, high } => {
                let (Some(at), Some(low), Some(high)) =
                    (moment(expr, scope), moment(low, scope), moment(high, scope))
                else {
                    return Ok(false);
                };
                // BETWEEN is two conditions.
                let taken = self.compare(low, &BinaryOperator::LtEq, at)
                    & self.compare(at, &BinaryOperator::LtEq, high);
                Ok(taken)
            }
            Expr::BinaryOp { left, op, right } => {
                if *op == BinaryOperator::Eq && self.one_window(left, right, scope, places)? {
                    return Ok(true);
                }
                match (moment(left, scope), moment(right, scope)) {
                    (Some(left), Some(right)) => Ok(self.compare(left, op, right)),
                    (_, _) => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }

    fn compare(&mut self, left: Moment, op: &BinaryOperator, right: Moment) -> bool {
        if left.side == right.side {
            return false;
        }
        let is_turned = left.side == 1;
        // left + a <= right + b, so that right - left >= a - b.
        let apart_us = if is_turned {
            right.after_us.saturating_sub(left.after_us)
        } else {
            left.after_us.saturating_sub(right.after_us)
        };
        let (at_least, at_most) = match (op, is_turned) {
            (BinaryOperator::Eq, _) => (true, true),
            (BinaryOperator::LtEq | BinaryOperator::Lt, false)
            | (BinaryOperator::GtEq | BinaryOperator::Gt, true) => (true, false),
            (BinaryOperator::GtEq | BinaryOperator::Gt, false)
            | (BinaryOperator::LtEq | BinaryOperator::Lt, true) => (false, true),
            (_, _) => return false,
        };
        self.is_inexact |= matches!(op, BinaryOperator::Lt | BinaryOperator::Gt);
        if at_least {
            self.from_us = Some(self.from_us.map_or(apart_us, |from_us| from_us.max(apart_us)));
        }
        if at_most {
            self.to_us = Some(self.to_us.map_or(apart_us, |to_us| to_us.min(apart_us)));
        }
        true
    }

    /// `tumble(a.ts, '1m') = tumble(b.ts, '1m')`, or one of them the start of a
    /// window that rows are results of; and starts of equal windows.
    fn one_window(
        &mut self,
        left: &Expr,
        right: &Expr,
        scope: &Scope<'_>,
        places: &Places,
    ) -> Result<bool, Diagnostic> {
        let (Some(first), Some(second)) = (start(left, scope, places)?, start(right, scope, places)?) else {
            return Ok(false);
        };
        if first.side == second.side {
            return Ok(false);
        }
        if (first.size_us, first.slide_us) != (second.size_us, second.slide_us) {
            let message = "these are windows of different sizes, which never belong together";
            let diagnostic = Diagnostic::error("TG-S003", message).at(places.in_file(places.of(left)));
            return Err(diagnostic.help("make both with the same words"));
        }
        if first.is_result && second.is_result {
            // Their event times follow from their starts.
            self.from_us = Some(self.from_us.map_or(0, |from_us| from_us.max(0)));
            self.to_us = Some(self.to_us.map_or(0, |to_us| to_us.min(0)));
            return Ok(true);
        }
        if first.size_us != first.slide_us {
            return Ok(false);
        }
        // Of two sizes, the smaller one says it all if its windows never lie across the others'.
        let (size_us, known_us) = (first.size_us, self.window_us.unwrap_or(first.size_us));
        let (smaller_us, larger_us) = (size_us.min(known_us), size_us.max(known_us));
        if larger_us % smaller_us.max(1) != 0 {
            let message = "rows are joined in windows of one size";
            let diagnostic = Diagnostic::error("TG-S003", message).at(places.in_file(places.of(left)));
            return Err(diagnostic.help("leave one of them out"));
        }
        self.window_us = Some(smaller_us);
        Ok(true)
    }
}

/// An instant that is a side's event time, and so far behind it.
#[derive(Clone, Copy)]
struct Moment {
    side: usize,
    after_us: i64,
}

/// Event time of a side, with or without an interval.
fn moment(expr: &Expr, scope: &Scope<'_>) -> Option<Moment> {
    match expr {
        Expr::Nested(inner) => moment(inner, scope),
        Expr::Identifier(name) => time_of(std::slice::from_ref(name), scope),
        Expr::CompoundIdentifier(names) => time_of(names, scope),
        Expr::BinaryOp { left, op, right } => {
            let (at, length, sign) = match op {
                BinaryOperator::Plus => match (moment(left, scope), interval::of(right)) {
                    (Some(at), Some(length)) => (at, length, 1),
                    (_, _) => (moment(right, scope)?, interval::of(left)?, 1),
                },
                BinaryOperator::Minus => (moment(left, scope)?, interval::of(right)?, -1),
                _ => return None,
            };
            let Interval::Fixed(us) = length else { return None };
            Some(Moment { after_us: at.after_us.saturating_add(us.saturating_mul(sign)), ..at })
        }
        _ => None,
    }
}

fn time_of(names: &[datafusion::sql::sqlparser::ast::Ident], scope: &Scope<'_>) -> Option<Moment> {
    let found = scope.find(names);
    let [found] = found.as_slice() else { return None };
    let is_whole = found.names == names.len();
    // The column is that much earlier or later than event time.
    let after_us = found.relation.stream.time_shift_us.saturating_neg();
    (is_whole && found.relation.is_time(found.column)).then_some(Moment { side: found.side, after_us })
}

/// The start of a window.
struct Start {
    side: usize,
    size_us: i64,
    slide_us: i64,
    /// Rows are results of such windows, rather than rows in them.
    is_result: bool,
}

fn start(expr: &Expr, scope: &Scope<'_>, places: &Places) -> Result<Option<Start>, Diagnostic> {
    if let Some(call) = window::call(expr) {
        let (time, _) = window::arguments(call, "", places)?;
        let names = match time {
            Expr::Identifier(name) => std::slice::from_ref(name),
            Expr::CompoundIdentifier(names) => names,
            _ => &[],
        };
        let found = scope.find(names);
        let [found] = found.as_slice() else { return Ok(None) };
        let windows = window::read(call, found.relation, places)?;
        return Ok(windows.windowed.map(|windowed| Start {
            side: found.side,
            size_us: windowed.size_us,
            slide_us: windowed.slide_us,
            is_result: false,
        }));
    }
    let names = match expr {
        Expr::Identifier(name) => std::slice::from_ref(name),
        Expr::CompoundIdentifier(names) => names,
        _ => return Ok(None),
    };
    let found = scope.find(names);
    let [found] = found.as_slice() else { return Ok(None) };
    Ok(start_column(found.relation, found.column.role).map(|(size_us, slide_us)| Start {
        side: found.side,
        size_us,
        slide_us,
        is_result: true,
    }))
}

fn start_column(relation: &Relation, role: Role) -> Option<(i64, i64)> {
    let windowed = relation.windowed.filter(|_| role == Role::Start && relation.stream.time.is_some())?;
    Some((windowed.size_us, windowed.slide_us))
}
